// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// Provider opens blobs and manifests by their descriptor, verified.
type Provider interface {
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// PushOptions configure Push. The zero value is right where nobody watches.
type PushOptions struct {
	// MountFrom returns repositories of the same registry that may have a blob.
	MountFrom func(desc ocispec.Descriptor) []string
	// Known reports whether the caller has seen to it that the repository has a blob;
	// nil: it has not.
	Known func(desc ocispec.Descriptor) bool
	// Parallel is how many blobs go up at the same time; 4 when zero.
	Parallel int
	// Tags are given to the image besides that of the reference.
	Tags []string
	// Progress is told how many bytes of a blob were read so far. It is called from
	// several goroutines.
	Progress func(desc ocispec.Descriptor, done int64)
}

const (
	defaultUploads = 4
	// lookups is how many blobs are asked for at the same time: small requests, whose
	// cost is the way to the registry and back.
	lookups = 16
	// maxDepth bounds indexes within indexes.
	maxDepth = 8
)

// Push uploads an image, or an index with all of its images, and names it last:
// with the tag of ref, or with its digest only where ref has no tag. What the
// registry has already is not uploaded. A manifest with a subject becomes one of
// the subject's referrers.
func (c *Client) Push(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor, from Provider, opts PushOptions) error {
	if ref.Digest != "" && ref.Digest != desc.Digest {
		return fmt.Errorf("push %s: the image has the digest %s", ref, desc.Digest)
	}
	t := &tree{from: from, seen: map[digest.Digest]bool{}}
	if err := t.walk(ctx, desc, 0); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if err := c.push(ctx, ref, t, from, opts); err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	return nil
}

// push uploads what was collected. A registry has a manifest only with all that it
// names, and looks at that again when the manifest gets a name: where it has the last
// one, nothing else is asked for, unless it finds then that something is gone.
func (c *Client) push(ctx context.Context, ref reference.Reference, t *tree, from Provider, opts PushOptions) error {
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	last := t.documents[len(t.documents)-1]
	if r.hasManifest(ctx, last.desc) {
		err := c.name(ctx, ref, last, opts.Tags)
		var status *Error
		if !errors.As(err, &status) || status.Status != http.StatusNotFound && status.Status != http.StatusBadRequest {
			return err
		}
	}
	if err := c.pushBlobs(ctx, ref, t.blobs, from, opts); err != nil {
		return err
	}
	byDigest := ref
	byDigest.Tag = ""
	for _, d := range t.documents[:len(t.documents)-1] {
		if err := c.PutManifest(ctx, byDigest.WithDigest(d.desc.Digest), d.desc.MediaType, d.data); err != nil {
			return err
		}
	}
	return c.name(ctx, ref, last, opts.Tags)
}

// name uploads a manifest under the tag of ref, or its digest, and under more tags.
func (c *Client) name(ctx context.Context, ref reference.Reference, d document, more []string) error {
	for _, tag := range append([]string{ref.Tag}, more...) {
		ref.Tag = tag
		if err := c.PutManifest(ctx, ref, d.desc.MediaType, d.data); err != nil {
			return err
		}
	}
	return nil
}

// Attach uploads a manifest that has a subject, with its blobs, as a referrer of
// the image that the subject names, in the repository of ref. It gets no tag.
func (c *Client) Attach(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor, from Provider, opts PushOptions) error {
	data, err := readManifest(ctx, desc, from)
	if err != nil {
		return fmt.Errorf("attach to %s: %w", ref.Name(), err)
	}
	if d, err := describe(data, desc.MediaType); err != nil || d.subject == nil {
		return fmt.Errorf("attach to %s: manifest %s has no subject", ref.Name(), desc.Digest)
	}
	ref.Tag, ref.Digest, opts.Tags = "", "", nil
	return c.Push(ctx, ref, desc, from, opts)
}

// tree is what a manifest or an index needs, itself included.
type tree struct {
	from      Provider
	documents []document // those below before those above
	blobs     []ocispec.Descriptor
	seen      map[digest.Digest]bool
}

type document struct {
	desc ocispec.Descriptor
	data []byte
}

// walk collects what desc needs, each once.
func (t *tree) walk(ctx context.Context, desc ocispec.Descriptor, depth int) error {
	if t.seen[desc.Digest] {
		return nil
	}
	if depth > maxDepth {
		return fmt.Errorf("more than %d indexes within each other", maxDepth)
	}
	t.seen[desc.Digest] = true
	data, err := readManifest(ctx, desc, t.from)
	if err != nil {
		return err
	}
	if image.IsIndex(desc.MediaType) {
		idx, err := image.ParseIndex(data, desc.MediaType)
		if err != nil {
			return err
		}
		for _, m := range idx.Manifests {
			if err := t.walk(ctx, m, depth+1); err != nil {
				return err
			}
		}
	} else {
		m, err := image.ParseManifest(data, desc.MediaType)
		if err != nil {
			return err
		}
		for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if !t.seen[d.Digest] {
				t.seen[d.Digest] = true
				t.blobs = append(t.blobs, d)
			}
		}
	}
	t.documents = append(t.documents, document{desc, data})
	return nil
}

// readManifest reads a document of bounded size.
func readManifest(ctx context.Context, desc ocispec.Descriptor, from Provider) ([]byte, error) {
	if desc.Size > image.MaxManifestSize {
		return nil, fmt.Errorf("manifest %s has %d bytes, more than %d", desc.Digest, desc.Size, image.MaxManifestSize)
	}
	r, err := from.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return io.ReadAll(io.LimitReader(r, image.MaxManifestSize+1))
}

// pushBlobs uploads the blobs that the repository does not have.
func (c *Client) pushBlobs(ctx context.Context, ref reference.Reference, blobs []ocispec.Descriptor, from Provider, opts PushOptions) error {
	if opts.Known != nil {
		blobs = slices.DeleteFunc(blobs, opts.Known)
	}
	missing, err := c.missing(ctx, ref, blobs, "pull,push") // the actions of uploads
	if err != nil {
		return err
	}
	if opts.Parallel <= 0 {
		opts.Parallel = defaultUploads
	}
	return each(ctx, opts.Parallel, missing, func(ctx context.Context, d ocispec.Descriptor) error {
		var o BlobOptions
		if opts.MountFrom != nil {
			o.MountFrom = opts.MountFrom(d)
		}
		if opts.Progress != nil {
			o.Progress = func(done int64) { opts.Progress(d, done) }
		}
		open := func(ctx context.Context) (io.ReadCloser, error) { return from.Open(ctx, d) }
		return c.UploadBlob(ctx, ref, d, open, o)
	})
}

// watched is content whose reading is told to somebody.
type watched struct {
	io.ReadCloser
	done, last int64
	tell       func(int64)
}

// Read implements io.Reader.
func (w *watched) Read(p []byte) (int, error) {
	n, err := w.ReadCloser.Read(p)
	w.done += int64(n)
	if w.done-w.last >= 1<<20 || err != nil {
		w.last = w.done
		w.tell(w.done)
	}
	return n, err
}

// Seek implements io.Seeker where the content does; elsewhere it fails, and the
// caller reads over what it has sent already.
func (w *watched) Seek(offset int64, whence int) (int64, error) {
	s, ok := w.ReadCloser.(io.Seeker)
	if !ok {
		return 0, fmt.Errorf("seek: %w", errNoSeek)
	}
	n, err := s.Seek(offset, whence)
	w.done, w.last = n, n
	return n, err
}

// Missing returns the blobs that a repository does not have. Many are asked for at
// the same time.
func (c *Client) Missing(ctx context.Context, ref reference.Reference, blobs []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	return c.missing(ctx, ref, blobs, "pull")
}

// missing is Missing with the actions that a token must allow, so that what follows
// needs no other one.
func (c *Client) missing(ctx context.Context, ref reference.Reference, blobs []ocispec.Descriptor, actions string) ([]ocispec.Descriptor, error) {
	r, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	var mu sync.Mutex
	has := map[digest.Digest]bool{}
	err = each(ctx, lookups, blobs, func(ctx context.Context, d ocispec.Descriptor) error {
		if err := image.CheckDescriptor(d); err != nil {
			return err
		}
		found, err := r.hasBlob(ctx, d, r.scopes(actions))
		if actions != "pull" && errors.Is(err, ErrUnauthorized) {
			err = nil // the answer to HEAD has no words: that to the upload tells why
		}
		mu.Lock()
		defer mu.Unlock()
		has[d.Digest] = found
		return err
	})
	var out []ocispec.Descriptor
	for _, d := range blobs {
		if !has[d.Digest] {
			out = append(out, d)
		}
	}
	return out, err
}

// each calls f for every descriptor, some at the same time, and returns the first
// error, which stops the others.
func each(ctx context.Context, parallel int, list []ocispec.Descriptor, f func(context.Context, ocispec.Descriptor) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	slots := make(chan struct{}, parallel)
	var wg sync.WaitGroup
	for _, d := range list {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			if err := f(ctx, d); err != nil {
				cancel(err)
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
