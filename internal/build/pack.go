// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/worker"
)

// Pack puts the blob of a layer that was made here, gzip compressed, into the state
// directory, where OpenLayer finds it. chain is the layer's chainID.
func (b *Builder) Pack(ctx context.Context, l cache.Layer, chain string) (d ocispec.Descriptor, err error) {
	return b.packs.Do(ctx, chain, func() (ocispec.Descriptor, error) { return b.pack(ctx, l, chain) })
}

func (b *Builder) pack(ctx context.Context, l cache.Layer, chain string) (d ocispec.Descriptor, err error) {
	// One at a time: it uses all cores.
	b.packing.Lock()
	defer b.packing.Unlock()
	w, err := b.State.Worker(ctx)
	if err != nil {
		return d, err
	}
	out, err := b.State.Blobs.Create()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	tree := l.Tree
	if tree == "" {
		tree = snapshot.LayerTree(chain)
	}
	reply, err := w.Pack(ctx, worker.PackRequest{
		Tree: tree, DiffID: l.DiffID, Clamp: l.Clamp, Start: l.Start, WithRoot: l.WithRoot, Algorithm: compress.Gzip,
	}, out.File())
	if err != nil {
		return d, err
	}
	d = ocispec.Descriptor{MediaType: image.LayerType{Archive: image.Tar, Compression: image.Gzip}.MediaType(), Digest: reply.Digest, Size: reply.Size}
	return d, out.CommitAs(d)
}

// OpenLayer opens the blob of a layer: one that Pack made, or that has an origin.
func (b *Builder) OpenLayer(ctx context.Context, l cache.Layer) (io.ReadCloser, error) {
	if l.Origin == "" {
		return b.State.Blobs.Open(ctx, *l.Blob)
	}
	return b.Images.Open(ctx, l.Origin, l.Insecure, *l.Blob)
}
