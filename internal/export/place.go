// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/transfer"
)

// blobPlace is a directory of blobs as a transfer.Destination and transfer.Maker.
type blobPlace struct {
	e     *Exporter
	blobs *blob.Store
	dir   string    // where it is: names its blobs in records
	tee   *follower // sends what is made here while it is made; nil: nobody
}

// store is the blob store of the state directory.
func (e *Exporter) store() blobPlace {
	return blobPlace{e: e, blobs: e.State.Blobs, dir: filepath.Join(e.State.Dir, "blobs")}
}

// smallBlob is up to how many bytes a blob is read each time it is asked for.
const smallBlob = 64 << 10

// Has implements transfer.Destination. A blob that was not touched since it was
// written or read here is taken to be whole; else it is read once. A damaged one
// is removed, to be written again.
func (b blobPlace) Has(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	now, err := b.stat(d)
	if err != nil {
		return false, nil // missing or of another size: it is written anew
	}
	if d.Size > smallBlob && b.e.State.Cache.Seen(b.place(d)) == now {
		return true, nil
	}
	r, err := b.blobs.Open(ctx, d)
	if err != nil {
		return false, nil
	}
	_, err = io.Copy(io.Discard, readerContext{ctx, r})
	_ = r.Close()
	if errors.Is(err, blob.ErrCorrupt) {
		return false, b.blobs.Remove(d.Digest)
	}
	if err != nil || d.Size <= smallBlob {
		return err == nil, ctx.Err()
	}
	return true, b.e.State.Cache.SetSeen(b.place(d), now, b.e.Now())
}

// Put implements transfer.Destination.
func (b blobPlace) Put(ctx context.Context, d ocispec.Descriptor, from transfer.Source) error {
	r, err := from.Open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	w, err := b.blobs.Create()
	if err != nil {
		return err
	}
	defer w.Close()
	if _, err := io.Copy(w, io.LimitReader(readerContext{ctx, r}, max(d.Size, d.Size+1))); err != nil {
		return fmt.Errorf("write blob %s: %w", d.Digest, err)
	}
	if _, err := w.Commit(d.Digest, d.Size); err != nil {
		return err
	}
	return b.written(d)
}

// Make implements transfer.Maker.
func (b blobPlace) Make(_ context.Context, write func(*os.File) (ocispec.Descriptor, error)) (d ocispec.Descriptor, err error) {
	w, err := b.blobs.Create()
	if err != nil {
		return d, err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	d, err = b.write(w.File(), write)
	if err != nil {
		return d, err
	}
	if err := w.CommitAs(d); err != nil {
		return d, err
	}
	return d, b.written(d)
}

// write writes a blob, and lets those who send it follow.
func (b blobPlace) write(f *os.File, write func(*os.File) (ocispec.Descriptor, error)) (ocispec.Descriptor, error) {
	if b.tee == nil {
		return write(f)
	}
	end := b.tee.follow(f)
	d, err := write(f)
	end(d, err)
	return d, err
}

// written remembers a blob as it is now.
func (b blobPlace) written(d ocispec.Descriptor) error {
	if d.Size <= smallBlob {
		return nil
	}
	now, err := b.stat(d)
	if err != nil {
		return err
	}
	return b.e.State.Cache.SetSeen(b.place(d), now, b.e.Now())
}

func (b blobPlace) place(d ocispec.Descriptor) string { return b.dir + " " + string(d.Digest) }

// stat says which file a blob is, and in which state.
func (b blobPlace) stat(d ocispec.Descriptor) (string, error) {
	return b.blobs.Look(d)
}

// archivePlace is an archive that is a file: layers are made in it.
type archivePlace struct{ *archive.Writer }

// streamPlace is an archive that cannot be sought: it takes whole blobs only.
type streamPlace struct{ w *archive.Writer }

// Has implements transfer.Destination.
func (s streamPlace) Has(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	return s.w.Has(ctx, d)
}

// Put implements transfer.Destination.
func (s streamPlace) Put(ctx context.Context, d ocispec.Descriptor, from transfer.Source) error {
	return s.w.Put(ctx, d, from)
}

// virtual holds the documents of an image, and knows where its layers are: what
// goes to a registry is read from there, and not at all where the registry has it.
// It is a transfer.Destination, and a transfer.Source of all that was put in.
type virtual struct {
	e            *Exporter
	store        blobPlace
	names        string // of the image; tells one from the other
	repositories []reference.Reference
	uploads      *uploads // of the output; nil: nothing is pushed

	mu        sync.Mutex
	documents transfer.Bytes
	origins   map[digest.Digest]cache.Layer
}

func newVirtual(e *Exporter) *virtual {
	return &virtual{e: e, store: e.store(), documents: transfer.Bytes{}, origins: map[digest.Digest]cache.Layer{}}
}

// send makes what is packed go to repositories while it is.
func (v *virtual) send(u *uploads, repos []reference.Reference) {
	v.uploads, v.repositories = u, repos
	v.store.tee = &follower{u, repos}
}

// reference notes a layer of the base.
func (v *virtual) reference(d ocispec.Descriptor, l cache.Layer) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.origins[d.Digest] = l
	return nil
}

// Has implements transfer.Destination: layers are looked for in the store, in the
// layout at hand, and where they shall go.
func (v *virtual) Has(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	has, err := v.store.Has(ctx, d)
	if _, layer := image.ParseLayerType(d.MediaType); err != nil || has || !layer {
		return has, err
	}
	if v.e.Near != nil && v.e.Near.Has(d) {
		return true, nil
	}
	return v.uploads != nil && v.uploads.everywhere(ctx, d, v.repositories), nil
}

// Put implements transfer.Destination.
func (v *virtual) Put(ctx context.Context, d ocispec.Descriptor, from transfer.Source) error {
	if d.Size > smallBlob {
		return v.store.Put(ctx, d, from)
	}
	data, err := transfer.ReadAll(ctx, from, d, smallBlob)
	if err != nil {
		return err
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	v.documents[d.Digest] = data
	return nil
}

// Make implements transfer.Maker: a registry wants to know the digest, and may want
// the bytes again.
func (v *virtual) Make(ctx context.Context, write func(*os.File) (ocispec.Descriptor, error)) (ocispec.Descriptor, error) {
	return v.store.Make(ctx, write)
}

// Open implements transfer.Source. A layer of the base is seen to be what its
// image says before it is passed on.
func (v *virtual) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	v.mu.Lock()
	l, base := v.origins[d.Digest]
	_, document := v.documents[d.Digest]
	v.mu.Unlock()
	switch {
	case document:
		return v.documents.Open(ctx, d)
	case base:
		if err := v.e.verify(ctx, l); err != nil {
			return nil, err
		}
		return origin{v.e, l}.Open(ctx, d)
	}
	if v.e.Near != nil && !v.store.blobs.Has(d) {
		return v.e.Near.Open(ctx, d)
	}
	return v.store.blobs.Open(ctx, d)
}
