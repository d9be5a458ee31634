// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// The image that is pulled and pushed: a GB of files in eight layers.
const (
	transferLayers = 8
	transferFiles  = 36_000
	limitTransfer  = 100 // MB of memory
)

// gzipLayers is how its layers are made.
func gzipLayers() compressor {
	return compressor{"gzip", "tar.gz", ocispec.MediaTypeImageLayerGzip, []string{"pigz", "-6", "-p2", "-n"}}
}

// transferImage makes the layout base-gzip of so many layers with so many files.
func transferImage(ctx context.Context, a *area, layers, files int) error {
	var tars []string
	for i := range layers {
		name := fmt.Sprintf("layer.%d.tar", i)
		extra := nothing
		if i == 0 {
			extra = func(w *tar.Writer) error { return addBusybox(w) }
		}
		if err := writeData(a.path(name), files*i/layers, files*(i+1)/layers, extra); err != nil {
			return err
		}
		tars = append(tars, name)
	}
	if err := baseLayout(ctx, a, gzipLayers(), tars); err != nil {
		return err
	}
	packed, err := filepath.Glob(a.path("base-gzip.*"))
	if err != nil {
		return err
	}
	for _, name := range append(packed, a.paths(tars)...) {
		if err := os.Remove(name); err != nil {
			return fmt.Errorf("remove layer: %w", err)
		}
	}
	return nil
}

func (a *area) paths(names []string) []string {
	var out []string
	for _, n := range names {
		out = append(out, a.path(n))
	}
	return out
}

// withServer runs a workload beside an empty registry.
func withServer(run func(ctx context.Context, b *bench, s *server) error) func(context.Context, *bench) error {
	return func(ctx context.Context, b *bench) error {
		s, err := startServer(ctx, b.area)
		if err != nil {
			return err
		}
		err = run(ctx, b, s)
		return errors.Join(err, s.stop())
	}
}

// skopeoCopy copies without a policy file and without TLS.
const skopeoCopy = "skopeo --insecure-policy copy -q --src-tls-verify=false --dest-tls-verify=false "

// benchPull measures how an image gets from a registry to files, as a plain user.
func benchPull(ctx context.Context, b *bench, s *server) error {
	a := b.area
	if err := transferImage(ctx, a, transferLayers, int(transferFiles*b.scale)); err != nil {
		return err
	}
	name := "docker://" + s.address + "/app:base"
	if _, err := a.shell(ctx, a.user, skopeoCopy+"oci:base-gzip:base "+name); err != nil {
		return err
	}
	if err := errors.Join(os.MkdirAll(a.path("ctx"), 0o755), a.write("ctx/Dockerfile", "FROM "+s.address+"/app:base\nRUN true\n")); err != nil {
		return err
	}
	files := row{
		name: "pull 1 GB in 8 layers to a directory of files", goal: goal{most: 0.5, ratio: true},
		ourCommand: "bin/stacker --state state --progress quiet unpack -o out " + name,
		otherName:  "skopeo copy, umoci unpack", otherCmd: skopeoCopy + name + " oci:other:base && umoci unpack --rootless --image other:base bundle >/dev/null",
		note: "Whole processes of a plain user, from the registry on loopback to files that are the user's own.",
	}
	store := row{
		name: "pull it into the storage, and run `true`", goal: goal{most: 0.7, ratio: true},
		ourCommand: "bin/stacker --state state --progress quiet build --output type=cacheonly ctx",
		otherName:  "podman pull", otherCmd: "podman pull -q --tls-verify=false " + strings.TrimPrefix(name, "docker://"),
		note: "Whole processes of a plain user. Ours runs a step on the image, for which it is unpacked; podman only pulls, into overlay storage.",
	}
	// A process of podman's that holds the namespaces stays, and keeps the user from being
	// removed; this command ends it.
	defer func() { _, _ = a.shell(context.WithoutCancel(ctx), a.user, "podman system migrate") }()
	memory := memoryRow("peak memory of both")
	memory.goal.most = limitTransfer
	for range b.runs {
		for _, r := range []*row{&files, &store} {
			ours, err := a.cold(ctx, r.ourCommand)
			if err != nil {
				return err
			}
			if _, err := a.shell(ctx, a.user, "podman rmi -a -f >/dev/null 2>&1 || true"); err != nil {
				return err
			}
			other, err := a.cold(ctx, r.otherCmd)
			if err != nil {
				return err
			}
			r.ours, r.other = append(r.ours, ours.took.Seconds()), append(r.other, other.took.Seconds())
			memory.ours = append(memory.ours, float64(ours.maxRSS)/1e6)
		}
	}
	b.report.add(files, store, memory)
	return nil
}

// cold runs a command when nothing is there of earlier ones.
func (a *area) cold(ctx context.Context, line string) (ran, error) {
	if err := a.remove("state", "out", "other", "bundle"); err != nil {
		return ran{}, err
	}
	return a.shell(ctx, a.user, line)
}

// curlPush is the least that a push needs, without knowing anything of the blobs: four
// at the same time, each sent by curl.
const curlPush = `ls -S base-gzip/blobs/sha256/* | head -n %d | xargs -P 4 -I F sh -ec 'u=$(curl -s -D - -o /dev/null -X POST http://%[2]s/v2/app/blobs/uploads/ | tr -d "\r" | sed -n "s/^Location: //p"); ` +
	`u=$(curl -s -D - -o /dev/null -X PATCH -T F "$u" | tr -d "\r" | sed -n "s/^Location: //p"); ` +
	`curl -sf -o /dev/null -X PUT "$u&digest=sha256:$(basename F)"'`

// benchPush measures how an image gets from a layout into an empty registry.
func benchPush(ctx context.Context, b *bench, s *server) error {
	a := b.area
	if err := transferImage(ctx, a, transferLayers, int(transferFiles*b.scale)); err != nil {
		return err
	}
	to := " oci:base-gzip:base docker://" + s.address + "/app:base"
	command := "bin/stacker --state state --progress quiet copy" + to
	push := row{
		name: "push 1 GB in 8 layers", goal: goal{most: 0.7, ratio: true}, ourCommand: command,
		otherName: "skopeo copy", otherCmd: strings.TrimSpace(skopeoCopy) + to,
		note: "Whole processes, from a layout to an empty registry on loopback, which shares the processors and writes what it gets to the disk.",
	}
	floor := row{
		name: "the same", ourCommand: command, otherName: "curl, 4 at once", otherCmd: fmt.Sprintf(curlPush, transferLayers, s.address),
		note: "What the registry itself takes: blobs are sent by curl, which digests nothing, and without manifest.",
	}
	memory := memoryRow("peak memory of it")
	memory.goal.most = limitTransfer
	for range b.runs {
		var took []float64
		for _, line := range []string{push.ourCommand, push.otherCmd, floor.otherCmd} {
			if err := s.empty(ctx); err != nil {
				return err
			}
			r, err := a.shell(ctx, a.user, line)
			if err != nil {
				return err
			}
			if len(took) == 0 {
				memory.ours = append(memory.ours, float64(r.maxRSS)/1e6)
			}
			took = append(took, r.took.Seconds())
		}
		push.ours, push.other = append(push.ours, took[0]), append(push.other, took[1])
		floor.ours, floor.other = append(floor.ours, took[0]), append(floor.other, took[2])
	}
	b.report.add(push, floor, memory)
	return nil
}

// existingPushes are the pushes in one measurement.
const existingPushes = 10

// benchPushExisting measures the push of an image that the registry has.
func benchPushExisting(ctx context.Context, b *bench, s *server) error {
	a := b.area
	if err := transferImage(ctx, a, 40, 400); err != nil {
		return err
	}
	to := " oci:base-gzip:base docker://" + s.address + "/app:base"
	r := row{
		name: "push 40 layers that are there", goal: goal{most: 0.1}, ourCommand: "bin/stacker --state state --progress quiet copy" + to,
		otherName: "skopeo copy", otherCmd: strings.TrimSpace(skopeoCopy) + to,
		note: fmt.Sprintf("From start to exit of the process, the mean of %d pushes.", existingPushes),
	}
	for _, line := range []string{r.ourCommand, r.otherCmd} {
		if _, err := a.run(ctx, a.user, line); err != nil {
			return err
		}
	}
	mean := func(line string) (float64, error) {
		var took time.Duration
		for range existingPushes {
			one, err := a.run(ctx, a.user, line)
			if err != nil {
				return 0, err
			}
			took += one.took
		}
		return took.Seconds() / existingPushes, nil
	}
	for range b.runs {
		ours, err := mean(r.ourCommand)
		if err != nil {
			return err
		}
		other, err := mean(r.otherCmd)
		if err != nil {
			return err
		}
		r.ours, r.other = append(r.ours, ours), append(r.other, other)
	}
	b.report.add(r)
	return nil
}

// The keys that a shared cache is asked for, and how far away it is.
const (
	missingKeys = 100
	cacheAway   = 20 * time.Millisecond
)

// benchCacheMissing measures what it costs to ask a shared cache for what it has not.
func benchCacheMissing(ctx context.Context, b *bench, s *server) error {
	a := b.area
	far, stop, err := distant(s.address, cacheAway)
	if err != nil {
		return err
	}
	defer func() { _ = stop() }()
	var text strings.Builder
	last := "FROM scratch\nADD bb.tar /\nRUN "
	if err := os.MkdirAll(a.path("ctx"), 0o755); err != nil {
		return fmt.Errorf("make build context: %w", err)
	}
	if err := errors.Join(busyboxTar(a), os.Rename(a.path("bb.tar"), a.path("ctx/bb.tar"))); err != nil {
		return err
	}
	for i := range missingKeys {
		if err := a.write(fmt.Sprintf("ctx/f%d", i), fmt.Sprintln(i)); err != nil {
			return err
		}
		fmt.Fprintf(&text, "FROM scratch AS s%d\nCOPY f%d /\n", i, i)
		last += fmt.Sprintf("--mount=from=s%d,target=/mnt/%d ", i, i)
	}
	if err := a.write("ctx/Dockerfile", text.String()+last+"true\n"); err != nil {
		return err
	}
	const command = "bin/stacker --state state --progress quiet build --output type=cacheonly "
	r := row{
		name: "look up 100 keys that a shared cache has not", goal: goal{most: 0.3}, ourCommand: command + "--cache-from type=registry,ref=" + far + "/cache ctx",
		note: fmt.Sprintf("A cold build of %d stages of one COPY each, and of a step that mounts all of them, each key asked for in a registry whose answers come %s later, "+
			"less the same build without the cache. Three requests at least follow each other: for the stages, the step's base and the step.", missingKeys, cacheAway),
	}
	for range b.runs {
		var took []float64
		for _, line := range []string{r.ourCommand, command + "ctx"} {
			one, err := a.cold(ctx, line)
			if err != nil {
				return err
			}
			took = append(took, one.took.Seconds())
		}
		r.ours = append(r.ours, took[0]-took[1])
	}
	b.report.add(r)
	return nil
}
