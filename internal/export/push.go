// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/transfer"
)

// Push uploads everything of an image to a repository, and gives it the tag of the
// reference, if that has one.
func (e *Exporter) Push(ctx context.Context, from transfer.Source, ref reference.Reference, d ocispec.Descriptor, insecure bool) error {
	v := solve.Vertex{ID: "push " + ref.String(), Name: "push to " + ref.Name()}
	o := registry.PushOptions{Progress: func(b ocispec.Descriptor, done int64) { e.progress(v, b)(done) }}
	if f, ok := from.(*virtual); ok {
		o.MountFrom = func(b ocispec.Descriptor) []string { return f.mounts(b, ref) }
		if f.uploads != nil {
			o.Known = func(b ocispec.Descriptor) bool { return f.uploads.has(ref, b.Digest) }
		}
	}
	return e.Report(ctx, v, func() error { return e.Registry(insecure).Push(ctx, ref, d, from, o) })
}

// progress tells how much of a blob was sent. One without a digest is not known yet.
func (e *Exporter) progress(v solve.Vertex, d ocispec.Descriptor) func(done int64) {
	item := "push"
	if d.Digest != "" {
		item += " " + d.Digest.Encoded()[:12]
	}
	return func(done int64) {
		e.tell(solve.Event{Kind: solve.Progress, Vertex: v, Time: e.Now(), Item: item, Current: done, Total: d.Size})
	}
}

// mounts names the repository of the same registry from which a layer of the base
// came.
func (v *virtual) mounts(d ocispec.Descriptor, to reference.Reference) []string {
	v.mu.Lock()
	l, ok := v.origins[d.Digest]
	v.mu.Unlock()
	name, remote := strings.CutPrefix(l.Origin, source.DockerPrefix)
	if !ok || !remote {
		return nil
	}
	ref, err := reference.Parse(name)
	if err != nil || ref.Registry != to.Registry || ref.Repository == to.Repository {
		return nil
	}
	return []string{ref.Repository}
}

// Store is the local store's blobs, as a place that images are copied to.
func (e *Exporter) Store() transfer.Destination { return e.store() }
