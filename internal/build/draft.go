// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/worker"
)

// Drafts says which layers nobody reads in this build. They become blobs at once, and
// the layers below them are looked at by their names only. Such a layer is unpacked like
// that of a base image when a later build reads it.
type Drafts struct {
	// Read holds the IDs of the vertices of which somebody reads the files
	// (graph.Build.Read); nil: all are read.
	Read map[string]bool
	// Compression of the blobs, which should be that of the output.
	Compression compress.Algorithm
	Level       int
}

// unread tells whether a vertex makes a layer that nobody reads.
func (b *Builder) unread(v *graph.Vertex) bool { return b.Drafts.Read != nil && !b.Drafts.Read[v.ID()] }

// draft makes the layer of a Change as a blob. ok is false where only the files of the
// layers below can tell what it is.
func (b *Builder) draft(ctx context.Context, op graph.Change, in []cache.Result, base cache.Result, emit solve.Sink) (out cache.Result, ok bool, err error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return out, false, err
	}
	now := b.Now()
	r := worker.ChangeRequest{
		Chain: base.Chain(), Actions: op.Actions, Clamp: unixTime(op.Clamp),
		Draft: &worker.DraftRequest{Algorithm: b.Drafts.Compression, Level: b.Drafts.Level, Now: now.UnixNano()},
	}
	if _, ok := b.drafted.Load(r.Chain); ok {
		r.Draft.Under = r.Chain
	} else if r.Lower, ok, err = b.names(ctx, base.Layers, emit); err != nil || !ok {
		return out, false, err
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	for n := range copied(op.Actions) {
		input, err := b.input(ctx, n, in[n], &files, emit)
		if err != nil {
			return out, false, err
		}
		r.Inputs = append(r.Inputs, input)
	}
	blob, err := b.State.Blobs.Create()
	if err != nil {
		return out, false, err
	}
	defer func() { err = errors.Join(err, blob.Close()) }()
	r.Draft.Out = len(files)
	reply, err := w.Change(ctx, r, append(files[:len(files):len(files)], blob.File()))
	if err != nil || reply.Undecided {
		return out, false, err
	}
	d := ocispec.Descriptor{MediaType: mediaType(b.Drafts.Compression), Digest: reply.Blob.Digest, Size: reply.Blob.Size}
	if err := blob.CommitAs(d); err != nil {
		return out, false, err
	}
	if err := errors.Join(b.State.Cache.SetVerified(d.Digest, reply.DiffID, now), b.State.Written(d, now)); err != nil {
		return out, false, err
	}
	out = b.withLayer(base, reply.ApplyReply, cache.Layer{Clamp: r.Clamp, Blob: &d})
	b.drafted.Store(out.Chain(), true)
	return out, true, nil
}

func mediaType(a compress.Algorithm) string {
	t := image.LayerType{Archive: image.Tar, Compression: image.Uncompressed}
	switch a {
	case compress.Gzip:
		t.Compression = image.Gzip
	case compress.Zstd:
		t.Compression = image.Zstd
	case compress.None, compress.Bzip2, compress.Xz:
	}
	return t.MediaType()
}

// names gives trees of the layers that tell which names there are. ok is false where a
// layer has to be unpacked for that.
func (b *Builder) names(ctx context.Context, layers []cache.Layer, emit solve.Sink) (trees []string, ok bool, err error) {
	if trees, missing, ok := b.named(layers); !ok || len(missing) == 0 {
		return trees, ok, nil
	}
	chain := cache.Chain(layers)
	trees, err = b.unpacks.Do(ctx, "names "+chain, func() ([]string, error) {
		key := cache.Ingredients{{Name: "names", Value: chain}}.Key()
		unlock, err := b.State.Cache.Lock(ctx, key, func() { b.note(emit, solve.Waiting, "another build reads the same base") })
		if err != nil {
			return nil, err
		}
		defer unlock()
		trees, missing, _ := b.named(layers)
		if len(missing) == 0 {
			return trees, nil
		}
		return b.unpack(ctx, unpacking{layers: layers, trees: trees, missing: missing, names: true}, emit)
	})
	if errors.Is(err, worker.ErrNames) {
		return nil, false, nil
	}
	return trees, err == nil, err
}

// named gives the trees that there are, whole or of names, and numbers the layers
// without any. ok is false if one of them cannot be read as names.
func (b *Builder) named(layers []cache.Layer) (trees []string, missing []int, ok bool) {
	trees, missing = b.present(layers)
	still := missing[:0]
	for _, i := range missing {
		t := snapshot.NamesTree(cache.Chain(layers[:i+1]))
		if b.State.HasTree(t) {
			trees[i] = t
			continue
		}
		if l := layers[i]; l.Blob == nil {
			return trees, missing, false
		} else if f, err := format(l.Blob.MediaType); err != nil || f != worker.TarArchive {
			return trees, missing, false
		}
		still = append(still, i)
	}
	return trees, still, true
}
