// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/reference"
)

// ErrUnsupported is returned where a registry does not offer what is asked of it.
var ErrUnsupported = errors.New("the registry does not support that")

// deleteScopes are what removing needs.
func (r *repository) deleteScopes() []string { return r.scopes("pull,push,delete") }

// DeleteTag removes the tag of ref. The image stays, with its other tags. A registry
// that can only remove images is ErrUnsupported: nothing is removed then.
func (c *Client) DeleteTag(ctx context.Context, ref reference.Reference) error {
	if ref.Tag == "" {
		return fmt.Errorf("delete tag of %s: it has none", ref)
	}
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	err = r.remove(ctx, ref.Tag)
	if errors.Is(err, ErrUnsupported) {
		return fmt.Errorf("delete tag %s: %w: it may remove images by digest, which removes all of their tags", ref, err)
	}
	if err != nil {
		return fmt.Errorf("delete tag %s: %w", ref, err)
	}
	return nil
}

// DeleteManifest removes the manifest or the index that the digest of ref names, and
// so all tags that name it. Where it has a subject and the list of referrers is kept
// by clients, it is taken from there first.
func (c *Client) DeleteManifest(ctx context.Context, ref reference.Reference) error {
	if ref.Digest == "" {
		return fmt.Errorf("delete image %s: name it by its digest", ref)
	}
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	desc, data, err := r.manifest(ctx, ref)
	if err != nil {
		return fmt.Errorf("delete image %s: %w", ref, err)
	}
	if d, err := describe(data, desc.MediaType); err == nil && d.subject != nil {
		if err := r.leaveReferrers(ctx, *d.subject, desc); err != nil {
			return fmt.Errorf("delete image %s: %w", ref, err)
		}
	}
	if err := r.remove(ctx, string(ref.Digest)); err != nil {
		return fmt.Errorf("delete image %s: %w", ref, err)
	}
	return nil
}

// leaveReferrers takes a manifest from the list of referrers that clients keep.
func (r *repository) leaveReferrers(ctx context.Context, subject, d ocispec.Descriptor) error {
	if _, supported, err := r.listReferrers(ctx, subject.Digest, ""); err != nil || supported {
		return err
	}
	return r.updateReferrers(ctx, subject.Digest, func(list []ocispec.Descriptor) []ocispec.Descriptor {
		return slices.DeleteFunc(list, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest })
	})
}

// remove deletes what a tag or a digest names.
func (r *repository) remove(ctx context.Context, name string) error {
	resp, err := r.do(ctx, &request{method: http.MethodDelete, path: "manifests/" + name, scopes: r.deleteScopes()})
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusAccepted, http.StatusOK, http.StatusNoContent:
		discard(resp)
		return nil
	}
	failure := statusError(resp, r.host.name)
	var status *Error
	if errors.As(failure, &status) && (status.Status == http.StatusMethodNotAllowed || status.Status == http.StatusNotImplemented ||
		status.Code == "UNSUPPORTED" || status.Code == "DIGEST_INVALID") {
		return fmt.Errorf("%w: %w", ErrUnsupported, failure)
	}
	return failure
}
