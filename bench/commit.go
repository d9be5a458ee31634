// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// writer is a build file whose step writes the data and says when it has. The
// archive comes by a bind, so that no import is part of what is measured.
const writer = `app:
  from: {type: tar, url: bb.tar}
  binds: [{source: %s, dest: /in}]
  run: |
    #!/bin/sh -e
    mkdir /data
    tar -xf /in/data.tar -C /data
    echo written
`

const (
	hashTree = `tar -cf - -C copy . | openssl sha256`
	pigzFile = `pigz -6 -p2 -c in/data.tar >data.tar.gz`
)

// benchCommit measures what follows a step that wrote much: the layer's
// digest, and its blob in the layout.
func benchCommit(ctx context.Context, b *bench) error {
	a := b.area
	if err := prepareData(a, b.scale); err != nil {
		return err
	}
	if err := a.write("write.yaml", fmt.Sprintf(writer, a.path("in"))); err != nil {
		return err
	}
	const command = "bin/stacker --state state --progress rawjson build -f write.yaml"
	commit := row{
		name: "commit a step that wrote it all", goal: goal{most: 1.5, ratio: true}, ourCommand: command, otherName: "tar -c \\| openssl sha256", otherCmd: hashTree,
		note: "From the last line that the step printed, just before it exits, to the end of its vertex, which has the layer's diffID and its tree in the state directory. " +
			"Beside it: the same archive, unpacked by busybox as the step did it, just before.",
	}
	pack := row{
		name: "pack that layer with gzip, from files to blob", goal: goal{most: 1, ratio: true}, ourCommand: command, otherName: "pigz -6 -p2", otherCmd: pigzFile,
		note: "The pack vertex of the export: reads the tree, writes tar, verifies the diffID, compresses, hashes, writes the blob. Beside it: from the ready tar to a file. Neither waits for the disk.",
	}
	size := row{
		name: "size of that blob", unit: megabytes, goal: goal{most: 1.03, ratio: true}, otherName: pack.otherName,
		note: "The layer's blob in the layout, beside the file that pigz made.",
	}
	memory := memoryRow("peak memory of that build, largest process")
	for range b.runs {
		if err := a.remove("state", "oci", ".stacker", "copy", "data.tar.gz"); err != nil {
			return err
		}
		r, err := a.run(ctx, nil, command)
		if err != nil {
			return err
		}
		if err := addBuild(a, r, &commit, &pack, &size, &memory); err != nil {
			return err
		}
		if err := a.remove("state", "oci", ".stacker"); err != nil {
			return err
		}
		if _, err := a.shell(ctx, nil, "mkdir copy; "+busybox+" tar -xf in/data.tar -C copy"); err != nil {
			return err
		}
		h, err := a.shell(ctx, nil, hashTree)
		if err != nil {
			return err
		}
		if err := a.remove("copy"); err != nil {
			return err
		}
		p, err := a.shell(ctx, nil, pigzFile)
		if err != nil {
			return err
		}
		info, err := os.Stat(a.path("data.tar.gz"))
		if err != nil {
			return fmt.Errorf("measure blob: %w", err)
		}
		commit.other = append(commit.other, h.took.Seconds())
		pack.other = append(pack.other, p.took.Seconds())
		size.other = append(size.other, float64(info.Size())/1e6)
	}
	b.report.add(commit, pack, size, memory)
	return nil
}

// prepareData makes bb.tar and in/data.tar.
func prepareData(a *area, scale float64) error {
	if err := os.MkdirAll(a.path("in"), 0o755); err != nil {
		return fmt.Errorf("make data: %w", err)
	}
	if err := busyboxTar(a); err != nil {
		return err
	}
	return writeData(a.path("in/data.tar"), 0, fileCount(scale), nothing)
}

// addBuild adds what one build did to the rows.
func addBuild(a *area, r ran, commit, pack, size, memory *row) error {
	events, err := r.events()
	if err != nil {
		return err
	}
	step, err := find(events, "[app] run")
	if err != nil {
		return err
	}
	if step.logged.IsZero() {
		return fmt.Errorf("the step did not say when it was done:\n%s", r.output)
	}
	packed, err := packTime(events)
	if err != nil {
		return err
	}
	blob, err := largest(a.path("oci/blobs"))
	if err != nil {
		return err
	}
	commit.ours = append(commit.ours, step.ended.Sub(step.logged).Seconds())
	pack.ours = append(pack.ours, packed)
	size.ours = append(size.ours, float64(blob)/1e6)
	memory.ours = append(memory.ours, float64(r.maxRSS)/1e6)
	return nil
}

// packTime is the time of the longest pack: the base's layer, a busybox, is packed too.
func packTime(events map[string]span) (float64, error) {
	most := 0.0
	for name, s := range events {
		if strings.HasPrefix(name, "[app] pack layer ") {
			most = max(most, s.ended.Sub(s.started).Seconds())
		}
	}
	if most == 0 {
		return 0, fmt.Errorf("the build packed no layer")
	}
	return most, nil
}

// largest is the size of the largest file below a directory.
func largest(dir string) (most int64, err error) {
	err = filepath.WalkDir(dir, func(_ string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			most = max(most, info.Size())
		}
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("measure blobs: %w", err)
	}
	return most, nil
}
