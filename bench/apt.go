// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
)

// aptPackages are 39 packages with what they need, on a Debian 12 of the variant minbase: programs
// that start others, users of their own, set-group-id files, and many small files.
const aptPackages = "openssh-client dbus man-db python3"

// aptBase is the file that the steps install into. Its packages are in it, so that no network is timed.
const aptBase = "debian.tar"

// aptFetch makes it.
const aptFetch = `mmdebstrap --quiet --variant=minbase --skip=cleanup/apt ` +
	`--customize-hook='chroot "$1" apt-get install -y --no-install-recommends --download-only ` + aptPackages + `' bookworm `

// aptFile is built once with a number for the base, and then with others. Its last line is the processor
// time of the step in ticks: of the shell and all that it waited for, and of the first process, which answers calls.
const aptFile = `debian:
  from: {type: tar, url: ` + aptBase + `}
  run: |
    export DEBIAN_FRONTEND=noninteractive
    if [ ${{N}} != 0 ]; then
      apt-get install -y --no-download --no-install-recommends ` + aptPackages + ` >/dev/null 2>&1
    fi
    awk '{sub(/.*\) /, ""); t += $12 + $13 + (FILENAME == "/proc/1/stat" ? 0 : $14 + $15)} END {print "ticks=" t}' /proc/1/stat /proc/$$/stat
`

// level is a level of privilege, what it took per run, and its processor time.
type level struct {
	name  string
	user  *account
	took  []float64
	ticks []float64
}

func (l *level) command(n int) string {
	return fmt.Sprintf("bin/stacker --state state-%s --level %s --progress rawjson build -f apt.yaml --substitute N=%d", l.name, l.name, n)
}

// benchApt measures how much longer packages take to install with fewer rights.
func benchApt(ctx context.Context, b *bench) error {
	a := b.area
	if err := aptPrepare(ctx, b); err != nil {
		return err
	}
	levels := []*level{{name: "root"}, {name: "subid", user: a.user}, {name: "single", user: a.user}}
	for n := range b.runs + 1 { // the first is for the base
		for _, l := range levels {
			if err := a.remove("oci", "roots", ".stacker"); err != nil {
				return err
			}
			r, err := a.run(ctx, l.user, l.command(n))
			if err != nil {
				return err
			}
			took, ticks, err := aptResult(r)
			if err != nil {
				return err
			}
			if n > 0 {
				l.took, l.ticks = append(l.took, took), append(l.ticks, ticks)
			}
		}
	}
	for i, most := range []float64{1.1, 1.3} {
		l, above := levels[i+1], levels[i]
		what := row{
			name: "`apt-get install` of 39 packages, level " + l.name, ours: l.took, other: above.took, goal: goal{most: most, ratio: true},
			ourCommand: l.command(1), otherName: "level " + above.name, otherCmd: above.command(1),
			note: "The vertex of the step, whose packages are in the base's cache; the base is unpacked before.",
		}
		processor := what
		processor.name, processor.ours, processor.other = "processor time of that step", l.ticks, above.ticks
		processor.note = "Of the step's commands and its first process, which answers system calls at the level `single`. Steadier than the time where other work runs."
		b.report.add(what, processor)
	}
	return nil
}

// aptPrepare makes the base, or takes the one that was made before.
func aptPrepare(ctx context.Context, b *bench) error {
	if b.debian == "" {
		if _, err := b.area.shell(ctx, nil, aptFetch+aptBase); err != nil {
			return err
		}
	} else if err := copyFile(b.area.path(aptBase), b.debian, 0o644); err != nil {
		return err
	}
	return b.area.write("apt.yaml", aptFile)
}

var ticksLine = regexp.MustCompile(`(?m)^ticks=(\d+)\r?$`)

// aptResult gives how long the step took, in seconds, and its processor time.
func aptResult(r ran) (took, processor float64, err error) {
	events, err := r.events()
	if err != nil {
		return 0, 0, err
	}
	s, err := find(events, "[debian] run")
	if err != nil {
		return 0, 0, err
	}
	var out bytes.Buffer
	for line := range bytes.Lines(r.output) {
		var e struct{ Logs []struct{ Data []byte } }
		if err := json.Unmarshal(line, &e); err != nil {
			return 0, 0, fmt.Errorf("read progress %q: %w", line, err)
		}
		for _, l := range e.Logs {
			out.Write(l.Data)
		}
	}
	m := ticksLine.FindSubmatch(out.Bytes())
	if m == nil {
		return 0, 0, errors.New("the step printed no processor time:\n" + out.String())
	}
	const perSecond = 100 // USER_HZ, the same on all our architectures
	n, err := strconv.Atoi(string(m[1]))
	return s.ended.Sub(s.started).Seconds(), float64(n) / perSecond, err
}
