// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"os"
	"strings"
)

// dockerfile is a workload of `stacker build DIRECTORY`, run by the plain user.
type dockerfile struct {
	row
	text    string // the Dockerfile; bb.tar lies beside it
	files   int    // how many small files lie beside it, in the directory src
	size    int    // of each, in bytes
	flags   string // more flags of the build
	cold    bool   // nothing is known before each build
	clean   string // command before each run of the other program
	divisor float64
}

const (
	onBusybox = "FROM scratch\nADD bb.tar /\n"
	buildah   = "buildah build --quiet --layers --isolation chroot "
	forget    = "buildah rmi -a -f >/dev/null 2>&1 || true; rm -rf other other.tar"

	fiveSteps = `FROM scratch AS tool
ADD bb.tar /
RUN --mount=type=cache,target=/cache echo tool >/cache/tool && cp /cache/tool /tool
FROM scratch
ADD bb.tar /
COPY --from=tool /tool /etc/tool
RUN cat /etc/tool >/etc/copy
`
)

// dockerfiles are the workloads by name.
func dockerfiles() map[string][]dockerfile {
	five := dockerfile{text: fiveSteps, flags: "--output type=oci,dest=five.tar"}
	five.otherName, five.otherCmd = "buildah build --layers", buildah+"-t oci-archive:other.tar ctx"
	cold, unchanged := five, five
	cold.name, cold.goal, cold.cold, cold.clean = "cold build of 5 steps in 2 stages to an OCI archive", goal{most: 0.3}, true, forget
	unchanged.name, unchanged.goal = "that build once more, unchanged", goal{most: 0.03}

	read := dockerfile{text: onBusybox + "COPY src /src\nRUN test -d /src\n", files: 30_000, size: 10_000, flags: "--output type=cacheonly", cold: true, clean: forget}
	read.name, read.goal = "COPY of 30,000 files of 10 kB that a step can read", goal{most: 1.3, ratio: true}
	read.otherName, read.otherCmd = "cp -a", "cp -a ctx/src other"
	alone := read
	alone.text, alone.flags = "FROM scratch\nCOPY src /src\n", "--output type=image,name=alone,compression=uncompressed"
	alone.name, alone.goal = "COPY of 30,000 files of 10 kB to an image, no step reads them", goal{most: 1.2, ratio: true}
	alone.otherName, alone.otherCmd = "tar -c", "tar -c ctx/src | cat >other.tar"

	many := dockerfile{text: onBusybox + "COPY src /src\n", files: 50_000, size: 4000, flags: "--output type=cacheonly"}
	many.name, many.goal = "unchanged build with a context of 50,000 files", goal{most: 2, ratio: true}
	many.otherName, many.otherCmd = "find with size and time", "find ctx -printf '%s %T@\\n' >/dev/null"

	steps := dockerfile{text: onBusybox + strings.Repeat("RUN true\n", 40), flags: "--output type=cacheonly", cold: true, clean: forget, divisor: 40}
	steps.name, steps.goal = "one of 40 RUN steps of `true`, cold", goal{most: 0.005}
	steps.otherName, steps.otherCmd = "buildah build --layers", buildah+"ctx"

	stages := dockerfile{flags: "--output type=cacheonly", cold: true, clean: forget}
	stages.text = onBusybox + "RUN mkdir /all\n"
	for i := range 4 {
		stages.text = fmt.Sprintf("FROM scratch AS s%d\nADD bb.tar /\nRUN sleep 2 && echo %d >/out\n", i, i) + stages.text + fmt.Sprintf("COPY --from=s%d /out /all/%d\n", i, i)
	}
	stages.name, stages.goal = "four independent stages that sleep 2 s", goal{most: 2.5}
	stages.otherName, stages.otherCmd = "buildah build --layers --jobs 4", buildah+"--jobs 4 ctx"

	return map[string][]dockerfile{
		"dockerfile-cold": {cold}, "dockerfile-unchanged": {unchanged}, "copy-30000": {read, alone},
		"context-50000": {many}, "steps-40": {steps}, "stages-4": {stages},
	}
}

// benchDockerfile measures the workloads of one name.
func benchDockerfile(name string) workload {
	return workload{name, func(ctx context.Context, b *bench) error {
		for _, d := range dockerfiles()[name] {
			if err := d.measure(ctx, b); err != nil {
				return err
			}
		}
		return nil
	}}
}

func (d dockerfile) measure(ctx context.Context, b *bench) error {
	a := b.area
	if err := d.prepare(ctx, b); err != nil {
		return err
	}
	d.ourCommand = "bin/stacker --state state --progress quiet build " + d.flags + " ctx"
	if !d.cold {
		for _, line := range []string{d.ourCommand, d.otherCmd} {
			if _, err := a.shell(ctx, a.user, line); err != nil {
				return err
			}
		}
	}
	d.note = "Wall time of the whole process."
	if d.divisor == 0 {
		d.divisor = 1
	} else {
		d.note = fmt.Sprintf("Wall time of the whole process, divided by %.0f.", d.divisor)
	}
	memory := memoryRow("peak memory of: " + d.name)
	for range b.runs {
		if d.cold {
			if err := a.remove("state", "five.tar"); err != nil {
				return err
			}
		}
		ours, err := a.run(ctx, a.user, d.ourCommand)
		if err != nil {
			return err
		}
		if _, err := a.shell(ctx, a.user, d.clean+"\n:"); err != nil {
			return err
		}
		if err := a.sync(); err != nil {
			return err
		}
		other, err := a.shell(ctx, a.user, d.otherCmd)
		if err != nil {
			return err
		}
		d.ours = append(d.ours, ours.took.Seconds()/d.divisor)
		d.other = append(d.other, other.took.Seconds()/d.divisor)
		memory.ours = append(memory.ours, float64(ours.maxRSS)/1e6)
	}
	b.report.add(d.row, memory)
	return a.remove("ctx", "state", "other", "other.tar", "five.tar")
}

// prepare makes the build context.
func (d dockerfile) prepare(ctx context.Context, b *bench) error {
	a := b.area
	if err := busyboxTar(a); err != nil {
		return err
	}
	const filesPerDir = 100
	for i := range int(float64(d.files) * min(b.scale, 1)) {
		dir := a.path(fmt.Sprintf("ctx/src/d%03d", i/filesPerDir))
		if i%filesPerDir == 0 {
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return fmt.Errorf("make build context: %w", err)
			}
		}
		text := strings.Repeat(fmt.Sprintf("%08d\n", i), d.size/9)
		if err := os.WriteFile(fmt.Sprintf("%s/f%02d", dir, i%filesPerDir), []byte(text), 0o644); err != nil {
			return fmt.Errorf("make build context: %w", err)
		}
	}
	if err := os.MkdirAll(a.path("ctx"), 0o755); err != nil {
		return fmt.Errorf("make build context: %w", err)
	}
	if err := a.write("ctx/Dockerfile", d.text); err != nil {
		return err
	}
	// What is younger than a few seconds is hashed again by the next build.
	_, err := a.shell(ctx, nil, "cp bb.tar ctx/; sync -f .; sleep 4")
	return err
}
