// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"time"
)

// cachedBuilds are the builds in one measurement: a single one is too short to time well.
const cachedBuilds = 10

// fourStages and fourStagesFile say the same in both languages.
const fourStages = `base:
  from: {type: tar, url: bb.tar}
  run: |
    mkdir -p /etc
    echo base >/etc/one
  build_only: true
tool:
  from: {type: built, tag: base}
  imports: [{path: input, dest: /etc/input}]
  run: echo tool >/etc/two
  build_only: true
check:
  from: {type: built, tag: base}
  imports: ["stacker://tool/etc/two"]
  run: |
    #!/bin/sh -e
    read word </stacker/imports/two
    echo "$word" >/etc/three
  build_only: true
app:
  from: {type: built, tag: check}
  run: echo app >/etc/four
  cmd: /bin/sh
`

const fourStagesFile = `FROM scratch AS base
ADD bb.tar /
RUN mkdir -p /etc && echo base >/etc/one
FROM base AS tool
COPY input /etc/input
RUN echo tool >/etc/two
FROM base AS check
COPY --from=tool /etc/two /imports/two
RUN read word </imports/two && echo "$word" >/etc/three
FROM check AS app
RUN echo app >/etc/four
CMD ["/bin/sh"]
`

// benchCached measures a build in which nothing changed, as a plain user.
func benchCached(ctx context.Context, b *bench) error {
	a := b.area
	const (
		ours  = "bin/stacker --state state --progress quiet build -f four.yaml"
		other = "buildah build --quiet --layers --isolation chroot -f Containerfile -t app ."
	)
	err := busyboxTar(a)
	for name, text := range map[string]string{"four.yaml": fourStages, "Containerfile": fourStagesFile, "input": "input\n", ".containerignore": "*\n!bb.tar\n!input\n"} {
		if err == nil {
			err = a.write(name, text)
		}
	}
	if err != nil {
		return err
	}
	for _, line := range []string{ours, other} {
		if _, err := a.run(ctx, a.user, line); err != nil {
			return err
		}
	}
	r := row{
		name: "unchanged build of a 4-stage file, whole process, plain user", goal: goal{most: 0.030},
		ourCommand: ours, otherName: "buildah build --layers", otherCmd: other,
		note: fmt.Sprintf("From start to exit of the process, the mean of %d builds in which nothing changed since the one before; one of buildah's.", cachedBuilds),
	}
	for range b.runs {
		var took time.Duration
		for range cachedBuilds {
			one, err := a.run(ctx, a.user, ours)
			if err != nil {
				return err
			}
			took += one.took
		}
		one, err := a.run(ctx, a.user, other)
		if err != nil {
			return err
		}
		r.ours = append(r.ours, took.Seconds()/cachedBuilds)
		r.other = append(r.other, one.took.Seconds())
	}
	b.report.add(r)
	return nil
}
