// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"
	"slices"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
)

// NewProduct makes the product of a frontend that gives all of an image's config,
// as that of Dockerfiles does. What it cannot know is added: the times, and what
// the history says about layers.
func NewProduct(name string, config []byte, layers []cache.Layer, epoch *time.Time) (Product, error) {
	c, err := image.ParseConfig(config)
	if err != nil {
		return Product{}, fmt.Errorf("assemble image %s: %w", name, err)
	}
	p := Product{Name: name, Config: c, Annotations: map[string]string{}, Layers: layers, Epoch: epoch}
	p.Config.Created = nil
	if c.OS == "" {
		p.Config.Platform = image.HostPlatform().OCI()
	}
	p.matchHistory()
	p.dateHistory()
	p.OwnHistory = len(p.Config.History)
	return p, nil
}

// matchHistory makes the entries that are not empty as many as the layers are,
// in the way of BuildKit (exporter/containerimage, normalizeLayersAndHistory),
// and dates those of layers made here.
func (p *Product) matchHistory() {
	h := slices.Clone(p.Config.History)
	n := 0
	for _, e := range h {
		if !e.EmptyLayer {
			n++
		}
	}
	for i := 0; n > len(p.Layers); i++ {
		if !h[i].EmptyLayer {
			h[i].EmptyLayer = true
			n--
		}
	}
	for ; n < len(p.Layers); n++ {
		h = append(h, ocispec.History{CreatedBy: p.Layers[n].CreatedBy, Comment: "stacker"})
	}
	layer := 0
	for i := range h {
		if h[i].EmptyLayer {
			continue
		}
		if l := p.Layers[layer]; h[i].Created == nil && !l.Created.IsZero() {
			created := clamped(l.Created, p.Epoch)
			h[i].Created = &created
		}
		layer++
	}
	p.Config.History = h
}

// dateHistory dates the entries that made no layer: as the one before them, or,
// before the first that was made here, as that one. The image was made when its
// last entry was; where no entry has a time, that is left to the exporter.
func (p *Product) dateHistory() {
	h := p.Config.History
	var at *time.Time
	missing := false
	for i := range h {
		if h[i].Created == nil {
			missing = true
			continue
		}
		at = h[i].Created
		if missing {
			break
		}
	}
	missing = false
	for i := range h {
		if h[i].Created == nil {
			missing = true
			h[i].Created = at
		} else if missing {
			at = h[i].Created
		}
	}
	if len(h) > 0 {
		p.Config.Created = h[len(h)-1].Created
	}
	if p.Epoch != nil {
		at := p.Epoch.UTC()
		p.Config.Created = &at
	}
}
