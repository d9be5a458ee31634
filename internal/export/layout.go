// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"sync"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// Layout exports the targets of a stacker.yaml to its OCI layout.
type Layout struct {
	Exporter *Exporter
	Layout   *layout.Layout
	Dir      string       // where Layout is: names its blobs in records
	Layers   LayerOptions // of layers made here
	// Archives are what the layers of each image shall be; none: Layers.Archive.
	// Each makes an image of its own, with a name of its own: see Suffix.
	Archives []image.Archive
	// Results gives what vertices produced.
	Results func(*graph.Vertex) (cache.Result, bool)

	mu     sync.Mutex
	images map[imageKey]made
}

// imageKey is one image of a target.
type imageKey struct {
	target  *graph.Target
	archive image.Archive
}

func (e *Layout) archives() []image.Archive {
	if len(e.Archives) == 0 {
		return []image.Archive{e.Layers.archive()}
	}
	return e.Archives
}

// Image writes everything of a target's images but their tags.
func (e *Layout) Image(ctx context.Context, t *graph.Target) error {
	p, err := Assemble(t, e.Results)
	if err != nil {
		return err
	}
	place := e.blobs()
	for _, a := range e.archives() {
		o := e.Layers
		o.Archive = a
		m, err := e.Exporter.image(ctx, p, place, Spec{Layers: o, layerSizes: true})
		if err != nil {
			return err
		}
		e.mu.Lock()
		if e.images == nil {
			e.images = map[imageKey]made{}
		}
		e.images[imageKey{t, a}] = m
		e.mu.Unlock()
	}
	return nil
}

// Put writes an image, of one or more platforms, but for its tag.
func (e *Layout) Put(ctx context.Context, products ...Product) (Outcome, error) {
	return e.Exporter.whole(ctx, products, e.blobs(), Spec{Layers: e.Layers})
}

// Outcome is what Image wrote for a target: of several images, the first.
func (e *Layout) Outcome(t *graph.Target) Outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.images[imageKey{t, e.archives()[0]}]
	return Outcome{Image: m.image, Config: m.config}
}

// Tag gives the images of the targets their names, all at once and in order, and
// puts what was attached to them beside them.
// Where every tag is right already nothing is written. Build-only targets have
// no image.
func (e *Layout) Tag(ctx context.Context, targets []*graph.Target, name func(*graph.Target) string) (changed bool, err error) {
	var entries []layout.Entry
	var images []made
	for _, t := range targets {
		for _, a := range e.archives() {
			m, ok := e.images[imageKey{t, a}]
			if !ok {
				continue
			}
			images = append(images, m)
			d := m.image
			d.Platform = nil
			tag := name(t) + Suffix(a)
			entries = append(entries, layout.Entry{Tag: tag, Descriptor: d})
			old, err := e.Layout.Resolve(ctx, tag)
			changed = changed || err != nil || old.Digest != d.Digest
		}
	}
	attached, old, err := e.attachedEntries(ctx, images)
	if err != nil {
		return false, err
	}
	if !changed && len(attached) == 0 && len(old) == 0 {
		return false, nil
	}
	if err := e.Layout.Tag(ctx, append(entries, attached...)...); err != nil {
		return true, err
	}
	return true, e.Layout.Forget(ctx, old...)
}
