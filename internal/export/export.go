// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package export turns results into images and puts them where they are wanted:
// for now into OCI layouts.
//
// Layers are packed as soon as a stage's files are there, while other stages
// still run; tags appear together, after everything that they need is durable.
// The same result and the same settings give the same bytes.
package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/worker"
)

// uncompressedSize is the annotation by which other tools of stacker.yaml's
// users know the size of a layer's tar.
const uncompressedSize = "ci.umo.uncompressed_blob_size"

// Layout exports images to an OCI layout.
type Layout struct {
	State       *state.State
	Images      *source.Images
	Layout      *layout.Layout
	Dir         string             // where Layout is: names its blobs in records
	Compression compress.Algorithm // of layers made here
	Now         func() time.Time
	Events      solve.Sink
	// Results gives what vertices produced.
	Results func(*graph.Vertex) (cache.Result, bool)

	mu     sync.Mutex
	images map[*graph.Target]ocispec.Descriptor
	packs  sync.Mutex // one layer is packed at a time: it uses all cores
}

// Image writes everything of a target's image but its tag.
func (e *Layout) Image(ctx context.Context, t *graph.Target) error {
	a, err := assemble(t, e.Results)
	if err != nil {
		return err
	}
	if len(a.layers) == 0 {
		return e.emptyImage(a, t)
	}
	layers := make([]ocispec.Descriptor, len(a.layers))
	for i, l := range a.layers {
		if layers[i], err = e.layer(ctx, t, l, cache.Chain(a.layers[:i+1])); err != nil {
			return fmt.Errorf("export image %s: %w", t.Name, err)
		}
	}
	return e.finish(a, t, layers)
}

// emptyImage gives an image without files one layer without entries: the image
// specification's schema wants at least one.
func (e *Layout) emptyImage(a assembled, t *graph.Target) error {
	var packed bytes.Buffer
	z, err := compress.NewWriter(&packed, e.Compression, compress.WriterOptions{})
	if err == nil {
		_, err = z.Write(emptyArchive())
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return fmt.Errorf("export image %s: %w", t.Name, err)
	}
	d, err := e.putBytes(packed.Bytes())
	if err != nil {
		return fmt.Errorf("export image %s: %w", t.Name, err)
	}
	d.MediaType = mediaType(e.Compression)
	a.addEmptyLayer()
	return e.finish(a, t, []ocispec.Descriptor{d})
}

// finish writes the documents of an image whose layers are there.
func (e *Layout) finish(a assembled, t *graph.Target, layers []ocispec.Descriptor) error {
	desc, err := e.documents(a, t, layers)
	if err != nil {
		return fmt.Errorf("export image %s: %w", t.Name, err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.images == nil {
		e.images = map[*graph.Target]ocispec.Descriptor{}
	}
	e.images[t] = desc
	return nil
}

// documents writes config and manifest.
func (e *Layout) documents(a assembled, t *graph.Target, layers []ocispec.Descriptor) (ocispec.Descriptor, error) {
	created, err := e.created(a, t)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	a.date(created)
	config, err := e.put(a.config)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: layers, Annotations: a.annotations}
	m.SchemaVersion = 2
	desc, err := e.put(m)
	desc.MediaType = ocispec.MediaTypeImageManifest
	return desc, err
}

// put writes a document, unless the layout has it.
func (e *Layout) put(v any) (ocispec.Descriptor, error) {
	data, err := image.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return e.putBytes(data)
}

// putBytes writes a small blob, unless the layout has it.
func (e *Layout) putBytes(data []byte) (ocispec.Descriptor, error) {
	d := descriptorOf(data)
	if kept, err := e.Layout.Blobs().ReadAll(context.Background(), d, d.Size); err == nil && bytes.Equal(kept, data) {
		return d, nil
	}
	return e.Layout.Blobs().Put(data)
}

// created is when this very image was made first: building it again changes
// nothing. With SOURCE_DATE_EPOCH it is that.
func (e *Layout) created(a assembled, t *graph.Target) (time.Time, error) {
	if t.Config.SourceEpoch != nil {
		return t.Config.SourceEpoch.UTC(), nil
	}
	config, err := image.Marshal(a.config)
	if err != nil {
		return time.Time{}, err
	}
	notes, err := image.Marshal(a.annotations)
	if err != nil {
		return time.Time{}, err
	}
	in := cache.Ingredients{{Name: "image", Value: t.Name}, {Name: "config", Value: string(config)}, {Name: "annotations", Value: string(notes)}}
	key := in.Key()
	if r := e.State.Cache.Lookup(key); r != nil {
		e.State.Cache.Touch(key, e.Now())
		return r.Created.UTC(), nil
	}
	now := e.Now().UTC().Truncate(time.Second)
	err = e.State.Cache.Put(&cache.Record{Step: "image " + t.Name, Key: key, Created: now, Ingredients: in})
	return now, err
}

// layer makes sure that the layout has a layer's blob. chain is the layer's chainID.
func (e *Layout) layer(ctx context.Context, t *graph.Target, l cache.Layer, chain string) (ocispec.Descriptor, error) {
	if l.Blob != nil {
		return e.baseLayer(ctx, l)
	}
	return e.ownLayer(ctx, t, l, chain)
}

// baseLayer copies a layer of the base image as it is.
func (e *Layout) baseLayer(ctx context.Context, l cache.Layer) (ocispec.Descriptor, error) {
	d := *l.Blob
	d.MediaType = image.OCIMediaType(d.MediaType)
	d.URLs = nil
	if err := e.verify(ctx, l); err != nil {
		return d, err
	}
	if e.has(ctx, d) {
		return d, nil
	}
	r, err := e.Images.Open(ctx, l.Origin, l.Insecure, *l.Blob)
	if err != nil {
		return d, err
	}
	defer r.Close()
	if err := e.Layout.PutBlob(d, readerContext{ctx, r}); err != nil {
		return d, err
	}
	return d, e.written(d)
}

// has tells whether the layout has a blob, whole. One that was not touched since
// it was written or read here is taken to be; else it is read once. A damaged
// one is removed, to be written again.
func (e *Layout) has(ctx context.Context, d ocispec.Descriptor) bool {
	now, err := e.stat(d)
	if err != nil {
		return false
	}
	if e.State.Cache.Seen(e.place(d)) == now {
		return true
	}
	r, err := e.Layout.Blobs().Open(ctx, d)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, readerContext{ctx, r})
	_ = r.Close()
	if errors.Is(err, blob.ErrCorrupt) {
		_ = e.Layout.Blobs().Remove(d.Digest)
	}
	return err == nil && e.State.Cache.SetSeen(e.place(d), now, e.Now()) == nil
}

// written remembers a blob as it is now.
func (e *Layout) written(d ocispec.Descriptor) error {
	now, err := e.stat(d)
	if err != nil {
		return err
	}
	return e.State.Cache.SetSeen(e.place(d), now, e.Now())
}

func (e *Layout) place(d ocispec.Descriptor) string { return e.Dir + " " + string(d.Digest) }

// stat says what changes when a file is written to.
func (e *Layout) stat(d ocispec.Descriptor) (string, error) {
	f, size, err := e.Layout.Blobs().File(d.Digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat blob %s: %w", d.Digest, err)
	}
	if size != d.Size {
		return "", fmt.Errorf("blob %s: %w", d.Digest, blob.ErrCorrupt)
	}
	return fmt.Sprintln(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()), nil
}

// verify makes sure, once for each blob, that it is the layer that the image's
// config says: where that layer was unpacked from another blob before, or is
// needed by no step, nobody has looked.
func (e *Layout) verify(ctx context.Context, l cache.Layer) error {
	if t, ok := image.ParseLayerType(l.Blob.MediaType); !ok || t.Archive != image.Tar || e.State.Cache.Verified(l.Blob.Digest, l.DiffID) {
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
		return fmt.Errorf("layer %s of %s unpacks to %s, but the image's config says %s: do not trust this image", l.Blob.Digest, l.Origin, got, l.DiffID)
	}
	return e.State.Cache.SetVerified(l.Blob.Digest, l.DiffID, e.Now())
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

// ownLayer packs a layer that was made here, unless its blob is there.
func (e *Layout) ownLayer(ctx context.Context, t *graph.Target, l cache.Layer, chain string) (ocispec.Descriptor, error) {
	in := cache.Ingredients{{Name: "pack", Value: string(l.DiffID)}, {Name: "compression", Value: string(e.Compression) + " " + packVersion}}
	key := in.Key()
	if r := e.State.Cache.Lookup(key); r != nil && len(r.Result.Layers) == 1 && r.Result.Layers[0].Blob != nil {
		d := *r.Result.Layers[0].Blob
		if e.has(ctx, d) {
			e.State.Cache.Touch(key, e.Now())
			return d, nil
		}
	}
	e.packs.Lock()
	defer e.packs.Unlock()
	d, err := e.pack(ctx, t, l, chain)
	if err != nil {
		return d, err
	}
	l.Blob = &d
	return d, e.State.Cache.Put(&cache.Record{Step: "pack", Key: key, Created: e.Now(), Ingredients: in, Result: cache.Result{Layers: []cache.Layer{l}}})
}

// packVersion changes when the compressors give other bytes than before.
const packVersion = "1"

func (e *Layout) pack(ctx context.Context, t *graph.Target, l cache.Layer, chain string) (d ocispec.Descriptor, err error) {
	v := solve.Vertex{ID: "pack " + string(l.DiffID), Stage: t.Name, Name: "pack layer " + l.DiffID.Encoded()[:12]}
	start := e.Now()
	e.Events(solve.Event{Kind: solve.Started, Vertex: v, Time: start})
	defer func() {
		end := solve.Event{Kind: solve.Done, Vertex: v, Dur: e.Now().Sub(start)}
		if err != nil {
			end.Kind, end.Err = solve.Failed, err
			if ctx.Err() != nil { // stopped by another's failure, or by the user
				end.Err = context.Canceled
			}
		}
		e.Events(end)
	}()
	w, err := e.State.Worker(ctx)
	if err != nil {
		return d, err
	}
	out, err := e.Layout.Blobs().Create()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	tree := snapshot.LayerTree(chain)
	reply, err := w.Pack(ctx, worker.PackRequest{
		Tree: tree, DiffID: l.DiffID, Clamp: l.Clamp, Start: l.Start, WithRoot: l.WithRoot, Algorithm: e.Compression,
	}, out.File())
	if errors.Is(err, worker.ErrMismatch) {
		// What is kept is damaged: it must not be served again.
		// Nor what was made on top of it.
		return d, fmt.Errorf("%w: it was removed, and so were all kept results: run the build again",
			errors.Join(err, w.Remove(ctx, []string{tree}), e.State.Cache.Clear()))
	}
	if err != nil {
		return d, err
	}
	d = ocispec.Descriptor{MediaType: mediaType(e.Compression), Digest: reply.Digest, Size: reply.Size}
	if e.Compression == compress.Gzip {
		d.Annotations = map[string]string{uncompressedSize: strconv.FormatInt(l.Size, 10)}
	}
	if err := out.CommitAs(d); err != nil {
		return d, err
	}
	return d, e.written(d)
}

func mediaType(a compress.Algorithm) string {
	c := image.Uncompressed
	switch a {
	case compress.Gzip:
		c = image.Gzip
	case compress.Zstd:
		c = image.Zstd
	}
	return image.LayerType{Archive: image.Tar, Compression: c}.MediaType()
}

// Tag gives the images of the targets their names, all at once and in order.
// Where every tag is right already nothing is written. Build-only targets have
// no image.
func (e *Layout) Tag(ctx context.Context, targets []*graph.Target, name func(*graph.Target) string) (changed bool, err error) {
	var entries []layout.Entry
	for _, t := range targets {
		d, ok := e.images[t]
		if !ok {
			continue
		}
		entries = append(entries, layout.Entry{Tag: name(t), Descriptor: d})
		old, err := e.Layout.Resolve(ctx, name(t))
		changed = changed || err != nil || old.Digest != d.Digest
	}
	if !changed {
		return false, nil
	}
	return true, e.Layout.Tag(ctx, entries...)
}

func descriptorOf(data []byte) ocispec.Descriptor {
	return ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
}
