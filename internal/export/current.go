// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// Current tells whether the images that the layout has under a target's name are
// those that Image would make, however tars are compressed. It writes nothing; of e
// it needs Layout, Layers, Archives and Results, and of the Exporter its State.
func (e *Layout) Current(ctx context.Context, t *graph.Target) (bool, error) {
	p, err := Assemble(t, e.Results)
	if err != nil {
		return false, err
	}
	for _, a := range e.archives() {
		if ok, err := e.current(ctx, t, p.complete(), a); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

func (e *Layout) current(ctx context.Context, t *graph.Target, p Product, a image.Archive) (bool, error) {
	name := t.Name + Suffix(a)
	m, raw, err := e.kept(ctx, name)
	if errors.Is(err, layout.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read image %s: %w", name, err)
	}
	c, err := image.ParseConfig(raw)
	if err != nil {
		return false, fmt.Errorf("read image %s: %w", name, err)
	}
	o := e.Layers
	o.Archive = a
	ids, ok := e.Exporter.expected(p, o)
	if !ok {
		return false, nil
	}
	if len(p.Layers) > 0 {
		p.Config.RootFS.DiffIDs = ids
	} else if a != image.Tar {
		p.Config.RootFS.DiffIDs = c.RootFS.DiffIDs // an image without files
	}
	created := t.Config.SourceEpoch
	if created == nil {
		created = c.Created // when it was made first is not a part of what it is
	}
	if created == nil {
		return false, nil
	}
	p.date(created.UTC())
	want, err := image.Marshal(p.Config)
	return bytes.Equal(want, raw) && maps.Equal(p.Annotations, m.Annotations), err
}

// kept reads the manifest and the config that a tag names.
func (e *Layout) kept(ctx context.Context, tag string) (m ocispec.Manifest, config []byte, err error) {
	d, err := e.Layout.Resolve(ctx, tag)
	if err != nil {
		return m, nil, err
	}
	raw, err := e.Layout.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		return m, nil, err
	}
	if m, err = image.ParseManifest(raw, d.MediaType); err != nil {
		return m, nil, err
	}
	config, err = e.Layout.Blobs().ReadAll(ctx, m.Config, image.MaxConfigSize)
	return m, config, err
}
