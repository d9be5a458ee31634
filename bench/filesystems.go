// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
)

// benchFilesystems measures how a root file system becomes an image that the
// kernel mounts.
func benchFilesystems(ctx context.Context, b *bench) error {
	a := b.area
	if err := prepareData(a, b.scale); err != nil {
		return err
	}
	if err := a.write("image.yaml", "app:\n  from: {type: tar, url: in/data.tar}\n"); err != nil {
		return err
	}
	if _, err := a.shell(ctx, nil, "mkdir tree; tar -xf in/data.tar -C tree"); err != nil {
		return err
	}
	cases := []struct {
		archive, other, command string
		most                    float64 // ratio
	}{
		{"squashfs", "mksquashfs -comp zstd", "mksquashfs tree other -comp zstd -no-progress -quiet", 1.3},
		{"erofs", "mkfs.erofs -zlz4hc", "mkfs.erofs -zlz4hc other tree", 0},
	}
	for _, c := range cases {
		command := "bin/stacker --state state --progress rawjson build -f image.yaml --no-verity --layer-type " + c.archive
		took := row{
			name: "root file system to " + c.archive, goal: goal{most: c.most, ratio: true}, ourCommand: command, otherName: c.other, otherCmd: c.command,
			note: "The pack vertex of the export: reads the tree, verifies the layer's diffID, compresses at the other program's default level, hashes, writes the blob. " +
				"Beside it: from an equal tree to a file. Both use all processors that they can; neither waits for the disk.",
		}
		size := row{name: "size of that image", unit: megabytes, goal: goal{ratio: true}, otherName: c.other, note: "The blob in the layout, beside the file of the other program."}
		memory := memoryRow("peak memory of that build, largest process")
		for range b.runs {
			if err := filesystemPair(ctx, a, c.archive, &took, &size, &memory); err != nil {
				return err
			}
		}
		b.report.add(took, size, memory)
	}
	return a.remove("tree")
}

// filesystemPair makes an image with both programs.
func filesystemPair(ctx context.Context, a *area, archive string, took, size, memory *row) error {
	if err := a.remove("state", "oci", ".stacker", "other"); err != nil {
		return err
	}
	x, err := a.run(ctx, nil, took.ourCommand)
	if err != nil {
		return err
	}
	events, err := x.events()
	if err != nil {
		return err
	}
	pack, err := find(events, "[app] pack layer")
	if err != nil {
		return err
	}
	blob, err := largest(a.path("oci/blobs/sha256"))
	if err != nil {
		return err
	}
	if err := a.sync(); err != nil {
		return err
	}
	y, err := a.shell(ctx, nil, took.otherCmd)
	if err != nil {
		return err
	}
	info, err := os.Stat(a.path("other"))
	if err != nil {
		return fmt.Errorf("measure %s: %w", archive, err)
	}
	took.ours, took.other = append(took.ours, pack.ended.Sub(pack.started).Seconds()), append(took.other, y.took.Seconds())
	size.ours, size.other = append(size.ours, float64(blob)/1e6), append(size.other, float64(info.Size())/1e6)
	memory.ours = append(memory.ours, float64(x.maxRSS)/1e6)
	return a.remove("other")
}
