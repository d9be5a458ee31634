// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"sync"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/layout"
)

// Layout exports the targets of a stacker.yaml to its OCI layout.
type Layout struct {
	Exporter *Exporter
	Layout   *layout.Layout
	Dir      string       // where Layout is: names its blobs in records
	Layers   LayerOptions // of layers made here
	// Results gives what vertices produced.
	Results func(*graph.Vertex) (cache.Result, bool)

	mu     sync.Mutex
	images map[*graph.Target]made
}

// Image writes everything of a target's image but its tag.
func (e *Layout) Image(ctx context.Context, t *graph.Target) error {
	p, err := Assemble(t, e.Results)
	if err != nil {
		return err
	}
	place := blobPlace{e.Exporter, e.Layout.Blobs(), e.Dir}
	m, err := e.Exporter.image(ctx, p, place, Spec{Layers: e.Layers, layerSizes: true})
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.images == nil {
		e.images = map[*graph.Target]made{}
	}
	e.images[t] = m
	return nil
}

// Outcome is what Image wrote for a target.
func (e *Layout) Outcome(t *graph.Target) Outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	return Outcome{Image: e.images[t].image, Config: e.images[t].config}
}

// Tag gives the images of the targets their names, all at once and in order.
// Where every tag is right already nothing is written. Build-only targets have
// no image.
func (e *Layout) Tag(ctx context.Context, targets []*graph.Target, name func(*graph.Target) string) (changed bool, err error) {
	var entries []layout.Entry
	for _, t := range targets {
		m, ok := e.images[t]
		if !ok {
			continue
		}
		d := m.image
		d.Platform = nil
		entries = append(entries, layout.Entry{Tag: name(t), Descriptor: d})
		old, err := e.Layout.Resolve(ctx, name(t))
		changed = changed || err != nil || old.Digest != d.Digest
	}
	if !changed {
		return false, nil
	}
	return true, e.Layout.Tag(ctx, entries...)
}
