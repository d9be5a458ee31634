// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// Provider opens blobs and manifests by their descriptor, verified.
type Provider interface {
	Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error)
}

// PushOptions configure Push.
type PushOptions struct {
	// MountFrom are repositories of the same registry that may have the blobs.
	MountFrom []string
	// Blob uploads one blob; nil means PutBlob, one after the other. Push waits for
	// it; the caller who wants several at once uploads them before.
	Blob func(ctx context.Context, desc ocispec.Descriptor) error
}

// Push uploads an image, or an index with all of its images, and names it last:
// with the tag of ref, or with its digest only where ref has no tag. What the
// registry has already is not uploaded.
func (c *Client) Push(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor, from Provider, opts PushOptions) error {
	if ref.Digest != "" && ref.Digest != desc.Digest {
		return fmt.Errorf("push %s: the image has the digest %s", ref, desc.Digest)
	}
	if opts.Blob == nil {
		opts.Blob = func(ctx context.Context, d ocispec.Descriptor) error {
			open := func(ctx context.Context) (io.ReadCloser, error) { return from.Open(ctx, d) }
			return c.PutBlob(ctx, ref, d, open, opts.MountFrom...)
		}
	}
	return c.pushTree(ctx, ref, desc, from, opts, map[digest.Digest]bool{})
}

// pushTree uploads what a manifest or an index needs, and then itself.
func (c *Client) pushTree(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor, from Provider, opts PushOptions, done map[digest.Digest]bool) error {
	data, err := readManifest(ctx, desc, from)
	if err != nil {
		return fmt.Errorf("push %s: %w", ref, err)
	}
	if image.IsIndex(desc.MediaType) {
		idx, err := image.ParseIndex(data, desc.MediaType)
		if err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		byDigest := ref
		byDigest.Tag = ""
		for _, m := range idx.Manifests {
			if done[m.Digest] {
				continue
			}
			if err := c.pushTree(ctx, byDigest.WithDigest(m.Digest), m, from, opts, done); err != nil {
				return err
			}
			done[m.Digest] = true
		}
	} else {
		m, err := image.ParseManifest(data, desc.MediaType)
		if err != nil {
			return fmt.Errorf("push %s: %w", ref, err)
		}
		for _, d := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
			if done[d.Digest] {
				continue
			}
			if err := opts.Blob(ctx, d); err != nil {
				return fmt.Errorf("push %s: %w", ref, err)
			}
			done[d.Digest] = true
		}
	}
	return c.PutManifest(ctx, ref, desc.MediaType, data)
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

// pushScopes are what writing needs.
func (r *repository) pushScopes() []string {
	return []string{"repository:" + r.ref.Repository + ":pull,push"}
}

// PutManifest uploads a manifest or an index under the tag of ref, or under its
// digest where ref has no tag.
func (c *Client) PutManifest(ctx context.Context, ref reference.Reference, mediaType string, data []byte) error {
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	want := digest.FromBytes(data)
	if ref.Digest != "" && ref.Digest != want {
		return fmt.Errorf("put manifest of %s: it has the digest %s", ref, want)
	}
	name := ref.Tag
	if name == "" {
		name = string(want)
	}
	resp, err := r.do(ctx, &request{
		method: http.MethodPut, path: "manifests/" + name, scopes: r.pushScopes(),
		header: http.Header{"Content-Type": {mediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		size:   int64(len(data)),
	})
	if err != nil {
		return fmt.Errorf("put manifest: %w", err)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return fmt.Errorf("put manifest: %w", statusError(resp, r.host.name))
	}
	discard(resp)
	if got := digest.Digest(resp.Header.Get("Docker-Content-Digest")); image.ValidDigest(got) && got != want {
		return fmt.Errorf("registry %s: it stored another manifest for %s: %s, want %s", r.host.name, ref, got, want)
	}
	return nil
}

// HasBlob reports whether the repository has a blob.
func (c *Client) HasBlob(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor) (bool, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return false, err
	}
	r, err := c.repository(ref)
	if err != nil {
		return false, err
	}
	return r.hasBlob(ctx, desc, r.pullScopes())
}

// hasBlob asks for a blob. A registry that answers neither yes nor no means no: the
// upload will tell what is wrong.
func (r *repository) hasBlob(ctx context.Context, desc ocispec.Descriptor, scopes []string) (bool, error) {
	resp, err := r.do(ctx, &request{method: http.MethodHead, path: "blobs/" + string(desc.Digest), scopes: scopes})
	if err != nil {
		return false, fmt.Errorf("look for blob %s: %w", desc.Digest, err)
	}
	if resp.StatusCode == http.StatusUnauthorized || resp.StatusCode == http.StatusForbidden {
		return false, fmt.Errorf("look for blob %s: %w", desc.Digest, statusError(resp, r.host.name))
	}
	discard(resp)
	return resp.StatusCode == http.StatusOK && (resp.ContentLength < 0 || resp.ContentLength == desc.Size), nil
}
