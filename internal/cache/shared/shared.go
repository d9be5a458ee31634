// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package shared shares results of steps between machines, through any registry or
// a directory: what one machine built under a key, another one uses.
//
// A key is looked up with one request; layers are downloaded when somebody reads
// them, and uploaded while later steps run. It is a cache: what goes wrong here is
// told as a warning and makes no build fail, and a place that fails is not asked
// again. Who can write to a place decides what those who read from it build: keys
// cannot be checked without doing the step. The digests of layers are checked.
// What cache mounts hold is shared in the same places, where it is asked for.
package shared

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
)

// OriginPrefix begins the origin of layers that came from here. Who cannot get
// such a layer any more can make it again.
const OriginPrefix = "cache+"

// Target is a place that gets results.
type Target struct {
	Place Place
	// Final keeps only the results whose layers are in the targets of a build, not
	// those of every step.
	Final bool
}

// Options are what a Cache works with.
type Options struct {
	From []Place
	To   []Target
	// MountsFrom and MountsTo are for what cache mounts hold.
	MountsFrom, MountsTo []Mounts
	// Pack gives the blob of a layer made here, the one with the chainID, and opens
	// it later.
	Pack func(ctx context.Context, l cache.Layer, chain string) (ocispec.Descriptor, error)
	// Open opens the blob of a layer: one that Pack gave, or that has an origin.
	Open func(ctx context.Context, l cache.Layer) (io.ReadCloser, error)
	// Warn tells what went wrong. It is called from any goroutine.
	Warn func(text string)
	// AtOnce is how many results are kept at the same time; 4 when zero.
	AtOnce int
}

// Cache looks up and keeps results. It is safe for concurrent use.
type Cache struct {
	ctx   context.Context //nolint:containedctx // that of New, for what goes on in the background
	o     Options
	slots chan struct{}
	wg    sync.WaitGroup

	mu   sync.Mutex
	dead map[Place]bool
	kept map[cache.Key]bool
	sent int
}

// New returns a Cache. ctx ends what Keep began; Wait must be called at the end.
func New(ctx context.Context, o Options) *Cache {
	if o.AtOnce <= 0 {
		o.AtOnce = 4
	}
	return &Cache{ctx: ctx, o: o, slots: make(chan struct{}, o.AtOnce), dead: map[Place]bool{}, kept: map[cache.Key]bool{}}
}

// alive reports whether a place works as far as is known.
func (c *Cache) alive(p Place) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return !c.dead[p]
}

// fail tells that a place does not work, once, and asks it for nothing more.
func (c *Cache) fail(ctx context.Context, p Place, doing string, err error) {
	if ctx.Err() != nil {
		return // the build was stopped
	}
	c.mu.Lock()
	first := !c.dead[p]
	c.dead[p] = true
	c.mu.Unlock()
	if first {
		c.o.Warn(fmt.Sprintf("the shared cache %s is not used any more in this build: %s: %v", p, doing, err))
	}
}

// Lookup returns what a place has under a key, or nil. The places are asked all at
// the same time; the first one in their order that has it counts. The record has no
// ingredients, and of the layers of a base only the diffIDs.
func (c *Cache) Lookup(ctx context.Context, key cache.Key) *cache.Record {
	found := make([]*cache.Record, len(c.o.From))
	var wg sync.WaitGroup
	for i, p := range c.o.From {
		if c.alive(p) {
			wg.Go(func() { found[i] = c.find(ctx, p, key) })
		}
	}
	wg.Wait()
	for _, r := range found {
		if r != nil {
			return r
		}
	}
	return nil
}

func (c *Cache) find(ctx context.Context, p Place, key cache.Key) *cache.Record {
	data, err := p.Find(ctx, tagOf(key))
	if err != nil {
		c.fail(ctx, p, "look up a step", err)
		return nil
	}
	if data == nil {
		return nil
	}
	origin, insecure := p.Origin(digest.FromBytes(data))
	r, err := decode(data, key, OriginPrefix+origin, insecure)
	if err != nil {
		c.o.Warn(fmt.Sprintf("the shared cache %s: %s: %v: the step runs", p, tagOf(key), err))
		return nil
	}
	return r
}

// Keep begins to put a result into the places that want it, and returns at once.
// final tells that its layers are in a target of the build.
func (c *Cache) Keep(r *cache.Record, final bool) {
	var to []Place
	for _, t := range c.o.To {
		if (final || !t.Final) && c.alive(t.Place) {
			to = append(to, t.Place)
		}
	}
	c.mu.Lock()
	again := c.kept[r.Key]
	c.kept[r.Key] = again || len(to) > 0
	c.mu.Unlock()
	if again || len(to) == 0 {
		return
	}
	c.wg.Go(func() {
		c.slots <- struct{}{}
		defer func() { <-c.slots }()
		c.keep(c.ctx, r, to)
	})
}

// Wait waits until all that was to be kept is, and returns how many results that
// were.
func (c *Cache) Wait() int {
	c.wg.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sent
}

// keep puts a result into places. Its layers are packed once, and only if a place
// needs them.
func (c *Cache) keep(ctx context.Context, r *cache.Record, to []Place) {
	var img *packed
	for _, p := range to {
		has, err := p.Has(ctx, tagOf(r.Key))
		if err == nil && !has {
			if img == nil {
				if img, err = c.pack(ctx, r); err != nil && ctx.Err() == nil {
					c.o.Warn(fmt.Sprintf("the result of %s is not shared: %v", r.Step, err))
				}
				if err != nil {
					return
				}
			}
			err = p.Keep(ctx, tagOf(r.Key), img.desc, img)
		}
		if err != nil {
			c.fail(ctx, p, "keep the result of "+r.Step, err)
			continue
		}
		if !has {
			c.mu.Lock()
			c.sent++
			c.mu.Unlock()
		}
	}
}

// packed is a result as an image. It implements Provider.
type packed struct {
	desc      ocispec.Descriptor
	documents map[digest.Digest][]byte
	layers    map[digest.Digest]cache.Layer
	open      func(ctx context.Context, l cache.Layer) (io.ReadCloser, error)
}

// pack makes the image of a result.
func (c *Cache) pack(ctx context.Context, r *cache.Record) (*packed, error) {
	layers := map[digest.Digest]cache.Layer{}
	own := make([]bool, len(r.Result.Layers))
	var blobs []ocispec.Descriptor
	for i, l := range r.Result.Layers {
		if l.Blob != nil && !l.Packed() && !strings.HasPrefix(l.Origin, OriginPrefix) {
			continue // of a base
		}
		own[i] = true
		if l.Blob == nil {
			d, err := c.o.Pack(ctx, l, cache.Chain(r.Result.Layers[:i+1]))
			if err != nil {
				return nil, err
			}
			l.Blob = &d
		}
		blobs = append(blobs, *l.Blob)
		layers[l.Blob.Digest] = l
	}
	manifest, config, err := encode(r, own, blobs)
	if err != nil {
		return nil, err
	}
	out := newPacked(manifest, config, c.o.Open)
	out.layers = layers
	return out, nil
}

// newPacked returns an image without layers.
func newPacked(manifest, config []byte, open func(context.Context, cache.Layer) (io.ReadCloser, error)) *packed {
	desc := describe(manifest, ocispec.MediaTypeImageManifest)
	return &packed{
		desc: desc, documents: map[digest.Digest][]byte{desc.Digest: manifest, digest.FromBytes(config): config},
		layers: map[digest.Digest]cache.Layer{}, open: open,
	}
}

// Open implements Provider.
func (p *packed) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if data, ok := p.documents[d.Digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	l, ok := p.layers[d.Digest]
	if !ok {
		return nil, errors.New("no such blob")
	}
	return p.open(ctx, l)
}

// Forget removes all kept results with layers that came from shared caches: one of
// them could not be had any more. The steps run again.
func Forget(s *cache.Store) error {
	var keys []cache.Key
	err := s.Walk(func(r *cache.Record, _ time.Time, _ int64) error {
		if slices.ContainsFunc(r.Result.Layers, func(l cache.Layer) bool { return strings.HasPrefix(l.Origin, OriginPrefix) }) {
			keys = append(keys, r.Key)
		}
		return nil
	})
	for _, k := range keys {
		err = errors.Join(err, s.Remove(k))
	}
	return err
}
