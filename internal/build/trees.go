// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/worker"
)

// trees makes sure that all layers are unpacked and names their trees, bottom
// first. Several steps that need the same base unpack it once, also across
// processes. Layers in which nothing changed are left out: a stack of forty steps
// that wrote nothing is mounted as one tree.
func (b *Builder) trees(ctx context.Context, layers []cache.Layer, emit solve.Sink) ([]string, error) {
	all, err := b.allTrees(ctx, layers, emit)
	if err != nil {
		return nil, err
	}
	var trees []string
	for i, t := range all {
		if i == 0 || !layers[i].Unchanged() {
			trees = append(trees, t)
		}
	}
	return trees, nil
}

// allTrees is trees with one for each layer.
func (b *Builder) allTrees(ctx context.Context, layers []cache.Layer, emit solve.Sink) ([]string, error) {
	if trees, missing := b.present(layers); len(missing) == 0 {
		return trees, nil
	}
	chain := cache.Chain(layers)
	return b.unpacks.Do(ctx, chain, func() ([]string, error) {
		key := cache.Ingredients{{Name: "unpack", Value: chain}}.Key()
		unlock, err := b.State.Cache.Lock(ctx, key, func() { b.note(emit, solve.Waiting, "another build unpacks the same base") })
		if err != nil {
			return nil, err
		}
		defer unlock()
		trees, missing := b.present(layers)
		if len(missing) == 0 {
			return trees, nil
		}
		return b.unpack(ctx, unpacking{layers: layers, trees: trees, missing: missing}, emit)
	})
}

func (b *Builder) note(emit solve.Sink, kind solve.EventKind, text string) {
	if emit != nil {
		emit(solve.Event{Kind: kind, Cause: text})
	}
}

// present names the trees that exist and numbers the layers without one.
func (b *Builder) present(layers []cache.Layer) (trees []string, missing []int) {
	trees = cache.Trees(layers)
	for i, t := range trees {
		if !b.State.HasTree(t) {
			missing, trees[i] = append(missing, i), ""
		}
	}
	return trees, missing
}

// maxUnpack is how many layers are unpacked at the same time: as many open files as
// can go to the worker at once (worker.maxFiles), and downloads besides.
const maxUnpack = 200

// unpacking is a stack of layers of which some are to be unpacked.
type unpacking struct {
	layers  []cache.Layer
	trees   []string // of the layers that have one
	missing []int    // numbers of the others
	names   bool     // only their names: see snapshot.NamesTree
}

// unpack fetches and unpacks the missing layers, all at the same time.
func (b *Builder) unpack(ctx context.Context, u unpacking, emit solve.Sink) ([]string, error) {
	layers, trees, missing := u.layers, u.trees, u.missing
	if len(missing) > maxUnpack {
		next := missing[maxUnpack]
		below, err := b.unpack(ctx, unpacking{layers[:next], trees[:next], missing[:maxUnpack], u.names}, emit)
		if err != nil {
			return nil, err
		}
		return b.unpack(ctx, unpacking{layers, slices.Concat(below, trees[next:]), missing[maxUnpack:], u.names}, emit)
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return nil, err
	}
	files, err := b.fetch(ctx, layers, missing, emit)
	defer func() {
		for _, f := range files {
			if f != nil {
				_ = f.Close()
			}
		}
	}()
	if err != nil {
		return nil, err
	}
	req, total, err := unpackRequest(layers, trees, u.names)
	if err != nil {
		return nil, err
	}
	var sum progressSum
	reply, err := w.Unpack(ctx, req, files, func(e worker.UnpackEvent) {
		if emit != nil {
			emit(solve.Event{Kind: solve.Progress, Current: sum.set(e.Layer, e.Current), Total: total, Item: "unpack"})
		}
	})
	if err != nil && ctx.Err() == nil && slices.ContainsFunc(missing, func(i int) bool { return strings.HasPrefix(layers[i].Origin, source.CachePrefix) }) {
		err = fmt.Errorf("%w: %w", source.ErrLost, err)
	}
	if err != nil {
		return nil, err
	}
	for _, i := range missing {
		if err := b.State.Cache.SetVerified(layers[i].Blob.Digest, layers[i].DiffID, b.Now()); err != nil {
			return nil, err
		}
	}
	return reply.Trees, nil
}

// unpackRequest numbers the files in the order of the missing layers. The
// compression is detected: media types are sometimes wrong, and the bytes are
// verified anyway.
func unpackRequest(layers []cache.Layer, trees []string, names bool) (r worker.UnpackRequest, total int64, err error) {
	file := 0
	for i, l := range layers {
		u := worker.UnpackLayer{Tree: trees[i], Names: names, DiffID: l.DiffID, Chain: cache.Chain(layers[:i+1])}
		if trees[i] == "" {
			if u.Format, err = format(l.Blob.MediaType); err != nil {
				return r, 0, fmt.Errorf("layer %s: %w", l.Blob.Digest, err)
			}
			u.File, u.Name, u.Blob, u.Size = file, l.Blob.Digest.Encoded()[:12], l.Blob.Digest, l.Blob.Size
			total += u.Size
			file++
		}
		r.Layers = append(r.Layers, u)
	}
	return r, total, nil
}

// format tells how a layer's blob has to be read.
func format(mediaType string) (worker.Format, error) {
	t, ok := image.ParseLayerType(mediaType)
	if ok {
		switch t.Archive {
		case image.Tar:
			return worker.TarArchive, nil
		case image.Squashfs:
			return worker.Squashfs, nil
		case image.Erofs:
			return worker.Erofs, nil
		}
	}
	return "", fmt.Errorf("media type %s: only tar, squashfs and erofs layers can be unpacked", mediaType)
}

// fetch opens the blobs of the missing layers, downloading several at a time.
func (b *Builder) fetch(ctx context.Context, layers []cache.Layer, missing []int, emit solve.Sink) ([]*os.File, error) {
	const atOnce = 4
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	files := make([]*os.File, len(missing))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	var sum progressSum
	var total int64
	for _, i := range missing {
		if layers[i].Blob == nil {
			return files, fmt.Errorf("layer %s was made here and is gone: run the build again", layers[i].DiffID)
		}
		total += layers[i].Blob.Size
	}
	for n, i := range missing {
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			l := layers[i]
			f, err := b.Images.Layer(ctx, l.Origin, l.Insecure, *l.Blob, func(done int64) {
				if emit != nil {
					emit(solve.Event{Kind: solve.Progress, Current: sum.set(i, done), Total: total, Item: "pull"})
				}
			})
			if err != nil {
				cancel(err)
			}
			files[n] = f
		})
	}
	wg.Wait()
	return files, context.Cause(ctx)
}

// progressSum adds up parts that report on their own.
type progressSum struct {
	mu    sync.Mutex
	parts map[int]int64
	sum   int64
}

// set notes how far a part is and returns the sum of all.
func (p *progressSum) set(part int, done int64) int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.parts == nil {
		p.parts = map[int]int64{}
	}
	p.sum += done - p.parts[part]
	p.parts[part] = done
	return p.sum
}
