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

// limitRSS is what no process of a build may exceed, in MB.
const limitRSS = 200

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
		decompress string
	}{
		{compressor{"gzip", "tar.gz", ocispec.MediaTypeImageLayerGzip, []string{"pigz", "-6", "-p2", "-n"}}, 0.7, "pigz -dc"},
		{compressor{"zstd", "tar.zst", ocispec.MediaTypeImageLayerZstd, []string{"zstd", "-3", "-T0", "-q"}}, 1.0, "zstd -dcq"},
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
		if err := unpackPairs(ctx, b, c.name, c.most, script); err != nil {
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

func unpackPairs(ctx context.Context, b *bench, name string, most float64, script string) error {
	a := b.area
	command := "bin/stacker --state state --progress rawjson build -f " + name + ".yaml"
	plain := row{
		name: "unpack a base of 3 layers, " + name, goal: goal{most: most, ratio: true},
		ourCommand: command, otherName: script[len("mkdir out; for l in "):], otherCmd: script,
		note: "From the start of the base to the end of the first step on it (from the events of the build), less the same with the base unpacked already: " +
			"blob digests, sizes and diffIDs are verified. Neither side waits for the disk.",
	}
	plain.otherName = map[string]string{"gzip": "pigz -dc \\| tar -x", "zstd": "zstd -dc \\| tar -x"}[name]
	durable := row{
		name: "the same until it is on disk, whole process", ourCommand: command, otherName: plain.otherName + "; sync", otherCmd: script + "; sync -f out",
		note: "From start to exit of a cold build, worker, step and syncfs included; beside it the same pipeline and `sync -f`.",
	}
	memory := row{name: "peak memory of it, largest process", unit: megabytes, goal: goal{most: limitRSS}, note: "Largest resident set (getrusage) of any process of the builds of the row before."}
	for range b.runs {
		if err := a.remove("state", "oci", ".stacker", "out"); err != nil {
			return err
		}
		cold, err := a.run(ctx, nil, command)
		if err != nil {
			return err
		}
		warm, err := a.run(ctx, nil, command+" --no-cache")
		if err != nil {
			return err
		}
		whole, err := baseTime(cold)
		if err != nil {
			return err
		}
		step, err := baseTime(warm)
		if err != nil {
			return err
		}
		if err := a.remove("state", "oci", ".stacker"); err != nil {
			return err
		}
		pipe, err := a.shell(ctx, nil, script)
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

// baseTime is the time from the start of the base to the end of the step on it.
func baseTime(r ran) (float64, error) {
	events, err := r.events()
	if err != nil {
		return 0, err
	}
	base, err := find(events, "[app] base")
	if err != nil {
		return 0, err
	}
	step, err := find(events, "[app] run")
	if err != nil {
		return 0, err
	}
	return step.ended.Sub(base.started).Seconds(), nil
}
