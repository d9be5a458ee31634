// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"strings"
)

const (
	wideStages = 10
	wideRounds = 300000 // of a shell's loop in each stage: about half a second
)

// wide is a build file of stages that need only the busybox archive. The loop keeps
// one processor busy, without a pipe that would use two.
func wide() string {
	var b strings.Builder
	for i := range wideStages {
		fmt.Fprintf(&b, "s%d:\n  from: {type: tar, url: bb.tar}\n  run: |\n    #!/bin/sh\n    i=0; while [ $i -lt %d ]; do i=$((i+1)); done\n    echo %d > /done\n",
			i, wideRounds, i)
	}
	return b.String()
}

// benchParallel measures stages that do not need each other, as a plain user: at once,
// and by the same program one at a time.
func benchParallel(ctx context.Context, b *bench) error {
	a := b.area
	const (
		ours  = "bin/stacker --state state --progress quiet build -f wide.yaml"
		other = ours + " --on-run-failure /bin/true"
	)
	if err := busyboxTar(a); err != nil {
		return err
	}
	if err := a.write("wide.yaml", wide()); err != nil {
		return err
	}
	cold := func(line string) (float64, error) {
		if err := a.remove("state", "oci", ".stacker", "roots"); err != nil {
			return 0, err
		}
		r, err := a.run(ctx, a.user, line)
		return r.took.Seconds(), err
	}
	r := row{
		name: fmt.Sprintf("%d stages that do not need each other, plain user", wideStages), goal: goal{most: 0.6, ratio: true},
		ourCommand: ours, otherName: "stacker, one at a time", otherCmd: other,
		note: "A cold build, whole process; each stage keeps one processor busy. Beside it the same build with one slot, which is what --on-run-failure makes of it. " +
			"The ratio cannot be below one part in as many as there are processors.",
	}
	for range b.runs {
		one, err := cold(ours)
		if err != nil {
			return err
		}
		two, err := cold(other)
		if err != nil {
			return err
		}
		r.ours, r.other = append(r.ours, one), append(r.other, two)
	}
	b.report.add(r)
	return nil
}
