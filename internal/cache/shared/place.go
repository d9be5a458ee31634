// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"context"
	"errors"
	"io"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/transfer"
)

// Provider opens blobs and documents by their descriptors, verified.
type Provider interface {
	Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Place keeps results under tags. It is safe for concurrent use.
type Place interface {
	// Find returns the manifest that a tag names, verified; nil if there is none.
	Find(ctx context.Context, tag string) ([]byte, error)
	// Has reports whether there is the tag. It may cost less than Find.
	Has(ctx context.Context, tag string) (bool, error)
	// Keep puts an image and gives it the tag last.
	Keep(ctx context.Context, tag string, image ocispec.Descriptor, from Provider) error
	// Origin is where layers of the image with the digest can be had, in the form of
	// package source.
	Origin(d digest.Digest) (origin string, insecure bool)
	// String names the place for people.
	String() string
}

// Registry is a repository as a Place.
type Registry struct {
	Client     *registry.Client
	Repository reference.Reference // its tag and its digest are not used
	Insecure   bool                // what Client was told
}

// named is the reference of a tag.
func (r *Registry) named(tag string) reference.Reference {
	ref := r.Repository
	ref.Tag, ref.Digest = tag, ""
	return ref
}

// Find implements Place.
func (r *Registry) Find(ctx context.Context, tag string) ([]byte, error) {
	_, data, err := r.Client.Resolve(ctx, r.named(tag))
	if errors.Is(err, registry.ErrNotFound) {
		return nil, nil
	}
	return data, err
}

// Has implements Place.
func (r *Registry) Has(ctx context.Context, tag string) (bool, error) {
	_, err := r.Client.Head(ctx, r.named(tag))
	if errors.Is(err, registry.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// Keep implements Place.
func (r *Registry) Keep(ctx context.Context, tag string, d ocispec.Descriptor, from Provider) error {
	return r.Client.Push(ctx, r.named(tag), d, from, registry.PushOptions{})
}

// Origin implements Place.
func (r *Registry) Origin(d digest.Digest) (string, bool) {
	return "docker://" + r.Repository.Name() + "@" + string(d), r.Insecure
}

// String implements Place.
func (r *Registry) String() string { return r.Repository.Name() }

// Layout is an OCI layout as a Place. It is made when something is kept.
type Layout struct {
	Dir string // absolute
}

// Find implements Place.
func (l *Layout) Find(ctx context.Context, tag string) ([]byte, error) {
	dir, err := layout.Open(l.Dir)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, layout.ErrNoLayout) {
		// Another result may be making it.
		if free, ferr := layout.Free(l.Dir); ferr == nil && free {
			return nil, nil
		}
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	d, err := dir.Resolve(ctx, tag)
	if errors.Is(err, layout.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return dir.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
}

// Has implements Place.
func (l *Layout) Has(ctx context.Context, tag string) (bool, error) {
	data, err := l.Find(ctx, tag)
	return data != nil, err
}

// Keep implements Place.
func (l *Layout) Keep(ctx context.Context, tag string, d ocispec.Descriptor, from Provider) error {
	dir, err := layout.Create(ctx, l.Dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	replaced, err := l.put(ctx, dir, tag, d, from)
	if err != nil || !replaced {
		return err
	}
	if _, err := dir.GC(ctx); err != nil && !errors.Is(err, layout.ErrBusy) {
		return err
	}
	return nil
}

// put tells whether the tag named something else before.
func (l *Layout) put(ctx context.Context, dir *layout.Layout, tag string, d ocispec.Descriptor, from Provider) (replaced bool, err error) {
	release, err := dir.Hold(ctx)
	if err != nil {
		return false, err
	}
	defer release()
	old, err := dir.Resolve(ctx, tag)
	if err != nil && !errors.Is(err, layout.ErrNotFound) {
		return false, err
	}
	replaced = err == nil && old.Digest != d.Digest
	if err := transfer.Image(ctx, from, d, dir, transfer.Options{}); err != nil {
		return false, err
	}
	return replaced, dir.Tag(ctx, layout.Entry{Tag: tag, Descriptor: d})
}

// Origin implements Place.
func (l *Layout) Origin(d digest.Digest) (string, bool) {
	return "oci:" + l.Dir + ":" + string(d), false
}

// String implements Place.
func (l *Layout) String() string { return l.Dir }
