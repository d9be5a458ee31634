// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
)

// Inventory finds out what the files of a stack of layers are. What was found is
// kept under the stack's chain: the same files are looked through once, whatever
// image has them. found tells whether it was kept.
func (b *Builder) Inventory(ctx context.Context, layers []cache.Layer, emit solve.Sink) (inv bom.Inventory, found bool, err error) {
	in := cache.Ingredients{{Name: "inventory", Value: cache.Chain(layers)}, {Name: "version", Value: bom.Version}}
	key := in.Key()
	if inv, ok := b.keptInventory(key); ok {
		return inv, true, nil
	}
	unlock, err := b.State.Cache.Lock(ctx, key, func() { b.note(emit, solve.Waiting, "another build looks through the same files") })
	if err != nil {
		return inv, false, err
	}
	defer unlock()
	if inv, ok := b.keptInventory(key); ok {
		return inv, true, nil
	}
	start := b.Now()
	data, err := b.scan(ctx, layers, emit)
	if err != nil {
		return inv, false, err
	}
	if err := json.Unmarshal(data, &inv); err != nil {
		return inv, false, fmt.Errorf("decode inventory: %w", err)
	}
	list, err := b.State.Cache.PutList(data)
	if err != nil {
		return inv, false, err
	}
	return inv, false, b.State.Cache.Put(&cache.Record{
		Step: "inventory", Key: key, Created: start, Duration: b.Now().Sub(start), Ingredients: in, Result: cache.Result{List: list},
	})
}

// keptInventory finds what an earlier build found.
func (b *Builder) keptInventory(key cache.Key) (inv bom.Inventory, ok bool) {
	r := b.State.Cache.Lookup(key)
	if r == nil {
		return inv, false
	}
	data := b.State.Cache.List(r.Result.List) // prune removes it
	if data == nil || json.Unmarshal(data, &inv) != nil {
		return inv, false
	}
	b.State.Cache.Touch(key, b.Now())
	return inv, true
}

// scan asks the worker, which can read every file, and returns its answer.
func (b *Builder) scan(ctx context.Context, layers []cache.Layer, emit solve.Sink) ([]byte, error) {
	trees, err := b.trees(ctx, layers, emit)
	if err != nil {
		return nil, err
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(b.State.Path(""), "tmp-inventory-*")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	defer f.Close()
	if err := os.Remove(f.Name()); err != nil { // the open file stays
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	if err := w.Scan(ctx, trees, f); err != nil {
		return nil, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	data, err := io.ReadAll(f)
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	return data, nil
}

// Layers finds the image that a reference names, and its layers as an Image op
// gives them.
func (b *Builder) Layers(ctx context.Context, reference string) (source.Image, []cache.Layer, error) {
	img, err := b.Images.Resolve(ctx, reference, false, image.HostPlatform())
	if err != nil {
		return img, nil, err
	}
	layers, err := layersOf(reference, img)
	return img, layers, err
}
