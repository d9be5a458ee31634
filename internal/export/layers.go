// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/transfer"
	"build.stacker.dev/internal/worker"
)

// smallLayer is up to how many bytes of tar a layer is also kept in the state
// directory, where the output alone would not give it back: copying it costs
// nothing, and packing it again needs the worker.
const smallLayer = 16 << 20

// packVersion changes when the compressors give other bytes than before.
const packVersion = "1"

// layer puts one layer of a product into a place.
func (e *Exporter) layer(ctx context.Context, p Product, l cache.Layer, tree string, to transfer.Destination, o LayerOptions) (ocispec.Descriptor, error) {
	if l.Blob != nil && (!o.Force && !own(l) || sameCompression(l.Blob.MediaType, o.algorithm())) {
		return e.baseLayer(ctx, l, to)
	}
	return e.ownLayer(ctx, p, l, tree, to, o)
}

// own tells whether a step made the layer, here or on a machine that shares its
// results: it is not of the base, which is taken as it is.
func own(l cache.Layer) bool {
	return l.Blob == nil || l.Packed() || strings.HasPrefix(l.Origin, source.CachePrefix)
}

// sameCompression tells whether a layer is compressed so, or cannot be compressed
// otherwise.
func sameCompression(media string, a compress.Algorithm) bool {
	t, ok := image.ParseLayerType(media)
	return !ok || t.Archive != image.Tar || mediaType(a) == image.OCIMediaType(media)
}

// baseLayer copies a layer of the base image as it is.
func (e *Exporter) baseLayer(ctx context.Context, l cache.Layer, to transfer.Destination) (ocispec.Descriptor, error) {
	d := *l.Blob
	d.MediaType = image.OCIMediaType(d.MediaType)
	d.URLs = nil
	v, remote := to.(*virtual)
	if remote && !e.Images.Here(l.Origin, d) {
		// What a registry has and nobody reads stays unread; Open verifies the others.
		return d, v.reference(d, l)
	}
	if err := e.verify(ctx, l); err != nil {
		return d, err
	}
	if remote {
		return d, v.reference(d, l)
	}
	has, err := to.Has(ctx, d)
	if err != nil || has {
		return d, err
	}
	return d, to.Put(ctx, d, origin{e, l})
}

// origin is a transfer.Source of the blob of one layer.
type origin struct {
	e *Exporter
	l cache.Layer
}

// Open implements transfer.Source.
func (o origin) Open(ctx context.Context, _ ocispec.Descriptor) (io.ReadCloser, error) {
	return o.e.Images.Open(ctx, o.l.Origin, o.l.Insecure, *o.l.Blob)
}

// verify makes sure, once for each blob, that it is the layer that the image's
// config says: where that layer was unpacked from another blob before, or is
// needed by no step, nobody has looked.
func (e *Exporter) verify(ctx context.Context, l cache.Layer) error {
	t, ok := image.ParseLayerType(l.Blob.MediaType)
	if ok && t.Archive != image.Tar && l.DiffID != l.Blob.Digest {
		return lie(l, l.Blob.Digest)
	}
	if !ok || t.Archive != image.Tar || e.State.Cache.Verified(l.Blob.Digest, l.DiffID) {
		return nil
	}
	r, err := e.Images.Open(ctx, l.Origin, l.Insecure, *l.Blob)
	if err != nil {
		return err
	}
	defer r.Close()
	z, _, err := compress.NewReader(readerContext{ctx, r})
	if err != nil {
		return fmt.Errorf("read layer %s: %w", l.Blob.Digest, err)
	}
	defer z.Close()
	got, err := digest.FromReader(z)
	if err != nil {
		return fmt.Errorf("read layer %s: %w", l.Blob.Digest, err)
	}
	if got != l.DiffID {
		return lie(l, got)
	}
	return e.State.Cache.SetVerified(l.Blob.Digest, l.DiffID, e.Now())
}

// lie is the error for an image whose config does not tell what its layers are.
func lie(l cache.Layer, got digest.Digest) error {
	return fmt.Errorf("layer %s of %s unpacks to %s, but the image's config says %s: do not trust this image", l.Blob.Digest, l.Origin, got, l.DiffID)
}

// readerContext ends reading when the context does.
type readerContext struct {
	ctx context.Context
	r   io.Reader
}

// Read implements io.Reader.
func (r readerContext) Read(p []byte) (int, error) {
	if r.ctx.Err() != nil {
		return 0, context.Cause(r.ctx)
	}
	return r.r.Read(p)
}

// ownLayer packs a layer that was made here, or one of the base that is to be
// compressed otherwise, unless its blob is there.
func (e *Exporter) ownLayer(ctx context.Context, p Product, l cache.Layer, tree string, to transfer.Destination, o LayerOptions) (ocispec.Descriptor, error) {
	how := string(o.algorithm()) + " " + packVersion
	if o.Level != 0 {
		how += " level " + strconv.Itoa(o.Level)
	}
	in := cache.Ingredients{{Name: "pack", Value: string(l.DiffID)}, {Name: "compression", Value: how}}
	key := in.Key()
	if d, done, err := e.packed(ctx, key, to); err != nil || done {
		return d, err
	}
	e.packs.Lock()
	defer e.packs.Unlock()
	// Another output may have packed it while this one waited.
	d, done, err := e.packed(ctx, key, to)
	if err != nil || done {
		return d, err
	}
	d, err = e.makeLayer(ctx, p, l, tree, to, o)
	if err != nil {
		return d, err
	}
	l.Blob, l.Origin = &d, ""
	return d, e.State.Cache.Put(&cache.Record{Step: cache.PackStep, Key: key, Created: e.Now(), Ingredients: in, Result: cache.Result{Layers: []cache.Layer{l}}})
}

// packed puts a layer into a place that was packed before, under a key.
func (e *Exporter) packed(ctx context.Context, key cache.Key, to transfer.Destination) (d ocispec.Descriptor, done bool, err error) {
	r := e.State.Cache.Lookup(key)
	if r == nil || len(r.Result.Layers) != 1 || r.Result.Layers[0].Blob == nil {
		return d, false, nil
	}
	d = *r.Result.Layers[0].Blob
	d.Annotations = nil
	if done, err = e.kept(ctx, d, to); done {
		e.State.Cache.Touch(key, e.Now())
	}
	return d, done, err
}

// kept puts a layer that was packed before into a place, if it still is anywhere.
func (e *Exporter) kept(ctx context.Context, d ocispec.Descriptor, to transfer.Destination) (bool, error) {
	has, err := to.Has(ctx, d)
	if err != nil || has {
		return has, err
	}
	store := e.store()
	if has, err = store.Has(ctx, d); err != nil {
		return false, err
	}
	if has {
		return true, to.Put(ctx, d, store.blobs)
	}
	if e.Near == nil || !e.Near.Has(d) {
		return false, nil
	}
	err = to.Put(ctx, d, e.Near) // verified while it is read
	return err == nil, err
}

// makeLayer packs a layer straight into its place, where that can be.
func (e *Exporter) makeLayer(ctx context.Context, p Product, l cache.Layer, tree string, to transfer.Destination, o LayerOptions) (ocispec.Descriptor, error) {
	write := func(f *os.File) (ocispec.Descriptor, error) { return e.pack(ctx, p, l, tree, o, f) }
	size := l.Size
	if l.Blob != nil {
		size = l.Blob.Size
	}
	if m, ok := to.(transfer.Maker); ok && !(size <= smallLayer && spares(to)) && !(e.Several && !keeps(to)) {
		return m.Make(ctx, write)
	}
	store := e.store()
	d, err := store.Make(ctx, write)
	if err != nil {
		return d, err
	}
	return d, to.Put(ctx, d, store.blobs)
}

// spares tells whether a blob in that place cannot be used by the next build.
func spares(to transfer.Destination) bool {
	_, archive := to.(archivePlace)
	return archive
}

// keeps tells whether other outputs find what is made in a place: in the state
// directory, or in the layout at hand.
func keeps(to transfer.Destination) bool {
	switch p := to.(type) {
	case *virtual:
		return true
	case blobPlace:
		return p.blobs == p.e.State.Blobs || p.blobs == p.e.Near
	}
	return false
}

// pack writes the blob of a layer to a file.
func (e *Exporter) pack(ctx context.Context, p Product, l cache.Layer, tree string, o LayerOptions, out *os.File) (d ocispec.Descriptor, err error) {
	v := solve.Vertex{ID: "pack " + string(l.DiffID), Stage: p.Name, Name: "pack layer " + l.DiffID.Encoded()[:12]}
	err = e.Report(ctx, v, func() error {
		if l.Blob != nil {
			d, err = e.recompress(ctx, l, o, out)
		} else {
			d, err = e.packTree(ctx, l, tree, o, out)
		}
		return err
	})
	return d, err
}

// packTree packs the tree of a layer made here.
func (e *Exporter) packTree(ctx context.Context, l cache.Layer, tree string, o LayerOptions, out *os.File) (d ocispec.Descriptor, err error) {
	w, err := e.State.Worker(ctx)
	if err != nil {
		return d, err
	}
	reply, err := w.Pack(ctx, worker.PackRequest{
		Tree: tree, DiffID: l.DiffID, Clamp: l.Clamp, Start: l.Start, WithRoot: l.WithRoot, Algorithm: o.algorithm(), Level: o.Level,
	}, out)
	if errors.Is(err, worker.ErrMismatch) {
		return d, e.damaged(ctx, w, tree, err)
	}
	return ocispec.Descriptor{MediaType: mediaType(o.algorithm()), Digest: reply.Digest, Size: reply.Size}, err
}

// recompress packs a layer of the base with another compression.
func (e *Exporter) recompress(ctx context.Context, l cache.Layer, o LayerOptions, out *os.File) (d ocispec.Descriptor, err error) {
	r, err := e.Images.Open(ctx, l.Origin, l.Insecure, *l.Blob)
	if err != nil {
		return d, err
	}
	defer r.Close()
	plain, _, err := compress.NewReader(readerContext{ctx, r})
	if err != nil {
		return d, fmt.Errorf("read layer %s: %w", l.Blob.Digest, err)
	}
	defer plain.Close()
	sum, diff := digest.SHA256.Digester(), digest.SHA256.Digester()
	size := &counter{}
	z, err := compress.NewWriter(io.MultiWriter(out, sum.Hash(), size), o.algorithm(), compress.WriterOptions{Level: o.Level})
	if err != nil {
		return d, err
	}
	_, err = io.Copy(io.MultiWriter(z, diff.Hash()), plain)
	if err = errors.Join(err, z.Close()); err != nil {
		return d, fmt.Errorf("compress layer %s: %w", l.Blob.Digest, err)
	}
	if diff.Digest() != l.DiffID {
		return d, lie(l, diff.Digest())
	}
	return ocispec.Descriptor{MediaType: mediaType(o.algorithm()), Digest: sum.Digest(), Size: size.n}, nil
}

// counter counts bytes.
type counter struct{ n int64 }

// Write implements io.Writer.
func (c *counter) Write(p []byte) (int, error) {
	c.n += int64(len(p))
	return len(p), nil
}

func mediaType(a compress.Algorithm) string {
	return LayerOptions{Compression: a}.layerType().MediaType()
}
