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

// scopes are what a token must allow; actions is one word or several with commas.
func (r *repository) scopes(actions string) []string {
	return []string{"repository:" + r.ref.Repository + ":" + actions}
}

// pullScopes are what reading needs.
func (r *repository) pullScopes() []string { return r.scopes("pull") }

// pushScopes are what writing needs.
func (r *repository) pushScopes() []string { return r.scopes("pull,push") }

// PutManifest uploads a manifest or an index under the tag of ref, or under its
// digest where ref has no tag. One with a subject is entered into the list of the
// subject's referrers where the registry does not do that itself.
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
	answer, err := r.putManifest(ctx, name, mediaType, data)
	if err != nil {
		return err
	}
	if got := digest.Digest(answer.Get("Docker-Content-Digest")); image.ValidDigest(got) && got != want {
		return fmt.Errorf("registry %s: it stored another manifest for %s: %s, want %s", r.host.name, ref, got, want)
	}
	if answer.Get("OCI-Subject") != "" {
		return nil // the registry lists it
	}
	d, err := describe(data, mediaType)
	if err != nil || d.subject == nil {
		return nil //nolint:nilerr // what the registry took and we cannot read has no subject for us
	}
	return r.enterReferrer(ctx, d.subject.Digest, d.descriptor)
}

// hasManifest asks for a manifest by its digest. A registry that does not answer as it
// should has not: what follows will tell, and be patient.
func (r *repository) hasManifest(ctx context.Context, d ocispec.Descriptor) bool {
	req := &request{method: http.MethodHead, path: "manifests/" + string(d.Digest), header: acceptManifests(), scopes: r.pushScopes(), once: true}
	resp, err := r.do(ctx, req)
	if err == nil && resp.StatusCode == http.StatusUnauthorized {
		discard(resp)
		resp, err = r.do(ctx, req) // it has said how it wants to be asked
	}
	if err != nil {
		return false
	}
	discard(resp)
	said := digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	return resp.StatusCode == http.StatusOK && (said == "" || said == d.Digest) && (resp.ContentLength < 0 || resp.ContentLength == d.Size)
}

// putManifest sends a document and returns the headers of the answer.
func (r *repository) putManifest(ctx context.Context, name, mediaType string, data []byte) (http.Header, error) {
	resp, err := r.do(ctx, &request{
		method: http.MethodPut, path: "manifests/" + name, scopes: r.pushScopes(),
		header: http.Header{"Content-Type": {mediaType}},
		body:   func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(data)), nil },
		size:   int64(len(data)),
	})
	if err != nil {
		return nil, fmt.Errorf("put manifest: %w", err)
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusOK && resp.StatusCode != http.StatusAccepted {
		return nil, fmt.Errorf("put manifest: %w", statusError(resp, r.host.name))
	}
	discard(resp)
	return resp.Header, nil
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
