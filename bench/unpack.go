// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// layerParts are where the layers of the base begin and end, in hundredths of the files.
var layerParts = [][2]int{{0, 60}, {60, 90}, {90, 100}}

// benchUnpack measures how a base image gets on disk.
func benchUnpack(ctx context.Context, b *bench) error {
	a := b.area
	tars, err := layerTars(a, b.scale)
	if err != nil {
		return err
	}
	cases := []struct {
		compressor
		most       float64
		decompress string // command
	}{
		{compressor{"gzip", "tar.gz", ocispec.MediaTypeImageLayerGzip, []string{"pigz", "-6", "-p2", "-n"}}, 0.7, "pigz -dc"},
		{compressor{"zstd", "tar.zst", ocispec.MediaTypeImageLayerZstd, []string{"zstd", "-3", "-T0", "-q"}}, 1.0, "zstd -dc"},
	}
	for _, c := range cases {
		if err := baseLayout(ctx, a, c.compressor, tars); err != nil {
			return err
		}
		if err := a.write(c.name+".yaml", fmt.Sprintf("app:\n  from: {type: oci, url: base-%s:base}\n  run: |\n    #!/bin/true\n  build_only: true\n", c.name)); err != nil {
			return err
		}
	}
	for _, name := range tars {
		if err := os.Remove(a.path(name)); err != nil {
			return fmt.Errorf("remove layer: %w", err)
		}
	}
	for _, c := range cases {
		script := fmt.Sprintf("mkdir out; for l in base-%s.*.%s; do %s $l | tar -xf - -C out; done", c.name, c.suffix, c.decompress)
		r := row{
			name: "unpack a base of 3 layers, " + c.name, goal: goal{most: c.most, ratio: true}, otherName: c.decompress + " \\| tar -x", otherCmd: script,
			ourCommand: "bin/stacker --state state --progress rawjson build -f " + c.name + ".yaml",
			note: "The first step on the base, which unpacks it (its vertex in the events of the build), less the same step when the base is unpacked already; " +
				"blob digests, sizes and diffIDs are verified. Neither side waits for the disk.",
		}
		if err := unpackPairs(ctx, b, r); err != nil {
			return err
		}
	}
	return nil
}

// layerTars makes the plain layers in the area and returns their names. Only
// the first one has the busybox.
func layerTars(a *area, scale float64) ([]string, error) {
	var names []string
	n := fileCount(scale)
	for i, p := range layerParts {
		name := fmt.Sprintf("layer.%d.tar", i)
		extra := func(w *tar.Writer) error { return addBusybox(w) }
		if i > 0 {
			extra = nothing
		}
		if err := writeData(a.path(name), n*p[0]/100, n*p[1]/100, extra); err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// unpackPairs measures the row, the same until it is on disk, and memory.
func unpackPairs(ctx context.Context, b *bench, plain row) error {
	a := b.area
	durable := row{
		name: "the same until it is on disk, whole process", ourCommand: plain.ourCommand, otherName: plain.otherName + "; sync", otherCmd: plain.otherCmd + "; sync -f out",
		note: "From start to exit of a cold build, worker, step and syncfs included; beside it the same pipeline and `sync -f`.",
	}
	memory := memoryRow("peak memory of that build, largest process")
	for range b.runs {
		if err := a.remove("state", "oci", ".stacker", "out"); err != nil {
			return err
		}
		cold, err := a.run(ctx, nil, plain.ourCommand)
		if err != nil {
			return err
		}
		warm, err := a.run(ctx, nil, plain.ourCommand+" --no-cache")
		if err != nil {
			return err
		}
		whole, err := stepTime(cold)
		if err != nil {
			return err
		}
		step, err := stepTime(warm)
		if err != nil {
			return err
		}
		if err := a.remove("state", "oci", ".stacker"); err != nil {
			return err
		}
		pipe, err := a.shell(ctx, nil, plain.otherCmd)
		if err != nil {
			return err
		}
		sync, err := a.shell(ctx, nil, "sync -f out")
		if err != nil {
			return err
		}
		plain.ours, plain.other = append(plain.ours, whole-step), append(plain.other, pipe.took.Seconds())
		durable.ours, durable.other = append(durable.ours, cold.took.Seconds()), append(durable.other, (pipe.took+sync.took).Seconds())
		memory.ours = append(memory.ours, float64(cold.maxRSS)/1e6)
	}
	b.report.add(plain, durable, memory)
	return a.remove("state", "out")
}

// stepTime is the time of the step, which unpacks the base first if that is not there.
func stepTime(r ran) (float64, error) {
	events, err := r.events()
	if err != nil {
		return 0, err
	}
	step, err := find(events, "[app] run")
	return step.ended.Sub(step.started).Seconds(), err
}
