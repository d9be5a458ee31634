// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package transfer copies images from where they are to where they shall be.
//
// A Source gives blobs and documents by their descriptors, verified; a blob store,
// a layout, a registry and an archive are sources as they are. A Destination takes
// them. Anything goes from any source to any destination: [Image] walks an index
// or a manifest, gives blobs before the documents that name them, and everything
// once. What a destination has already is not read. Names are not given here:
// whoever owns the destination gives them last, when all is there.
//
// What the documents say is not trusted: they are parsed strictly, and indexes may
// be nested three deep.
package transfer

import (
	"context"
	"fmt"
	"io"
	"os"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
)

// Source opens blobs and documents. The reader ends with an error where the bytes
// are not those of the descriptor.
type Source interface {
	Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Destination takes blobs and documents. It is safe for concurrent use; one that
// can take only one at a time makes others wait.
type Destination interface {
	// Has reports whether it has a blob, undamaged.
	Has(ctx context.Context, d ocispec.Descriptor) (bool, error)
	// Put takes a blob. It may open it several times, to try again. The media type
	// says whether it is a manifest or an index.
	Put(ctx context.Context, d ocispec.Descriptor, from Source) error
}

// Maker is a Destination that can take a blob while it is made, so that its bytes
// are written once. The function writes it to the file, from the file's offset on,
// and says what it has written; an error drops it.
type Maker interface {
	Make(ctx context.Context, write func(f *os.File) (ocispec.Descriptor, error)) (ocispec.Descriptor, error)
}

// maxDepth is how deep indexes may be nested, and maxBlobs how many blobs and
// documents one image may have.
const (
	maxDepth = 3
	maxBlobs = 100_000
)

// Options say how an image is copied. The zero value is right.
type Options struct {
	// AtOnce is how many blobs are copied at the same time; 4 when zero.
	AtOnce int
	// Want chooses manifests of an index; nil: all. What is not wanted is left out
	// of the copy, so that the index names what the destination has not.
	Want func(ocispec.Descriptor) bool
	// Progress tells how much of a blob was read; may be nil. Called from any goroutine.
	Progress func(d ocispec.Descriptor, done int64)
}

// Image copies an image or an index with its images.
func Image(ctx context.Context, from Source, root ocispec.Descriptor, to Destination, o Options) error {
	c := &copying{from: from, to: to, options: o, seen: map[digest.Digest]bool{}}
	if c.options.AtOnce == 0 {
		c.options.AtOnce = 4
	}
	if err := c.collect(ctx, root, 0); err != nil {
		return err
	}
	if err := c.putBlobs(ctx); err != nil {
		return err
	}
	for _, d := range c.documents { // each after what it names
		if err := c.put(ctx, d); err != nil {
			return err
		}
	}
	return nil
}

// copying is one Image under way.
type copying struct {
	from      Source
	to        Destination
	options   Options
	seen      map[digest.Digest]bool
	blobs     []ocispec.Descriptor
	documents []ocispec.Descriptor
}

// collect lists what a document needs, and then itself.
func (c *copying) collect(ctx context.Context, d ocispec.Descriptor, depth int) error {
	if c.seen[d.Digest] {
		return nil
	}
	c.seen[d.Digest] = true
	if len(c.seen) > maxBlobs {
		return fmt.Errorf("image has more than %d blobs", maxBlobs)
	}
	switch {
	case image.IsIndex(d.MediaType):
		if depth == maxDepth {
			return fmt.Errorf("index %s: indexes are nested more than %d deep", d.Digest, maxDepth)
		}
		idx, err := ReadIndex(ctx, c.from, d)
		if err != nil {
			return err
		}
		for _, m := range idx.Manifests {
			if c.options.Want != nil && !c.options.Want(m) {
				continue
			}
			if err := c.collect(ctx, m, depth+1); err != nil {
				return err
			}
		}
	case image.IsManifest(d.MediaType):
		m, err := ReadManifest(ctx, c.from, d)
		if err != nil {
			return err
		}
		for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if !c.seen[b.Digest] {
				c.seen[b.Digest] = true
				c.blobs = append(c.blobs, b)
			}
		}
	default:
		// An index may name anything; what is not an image is carried along.
		c.blobs = append(c.blobs, d)
		return nil
	}
	c.documents = append(c.documents, d)
	return nil
}

// putBlobs copies several blobs at the same time. The first error stops all.
func (c *copying) putBlobs(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, c.options.AtOnce)
	var wg sync.WaitGroup
	for _, d := range c.blobs {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := c.put(ctx, d); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}

func (c *copying) put(ctx context.Context, d ocispec.Descriptor) error {
	has, err := c.to.Has(ctx, d)
	if err != nil || has {
		return err
	}
	return c.to.Put(ctx, d, c)
}

// Open implements Source: the real one, and tells how far a reader is.
func (c *copying) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := c.from.Open(ctx, d)
	if err != nil || c.options.Progress == nil {
		return r, err
	}
	return &told{ReadCloser: r, tell: func(n int64) { c.options.Progress(d, n) }}, nil
}

// told reports how far a reader is, every MB.
type told struct {
	io.ReadCloser
	done, last int64
	tell       func(int64)
}

// Read implements io.Reader.
func (t *told) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	t.done += int64(n)
	if t.done-t.last >= 1<<20 || err != nil {
		t.last = t.done
		t.tell(t.done)
	}
	return n, err
}
