// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// Referrers are the manifests that name another one as their subject: signatures,
// bills of materials. Registries of version 1.1 of the distribution specification
// list them; for older ones the list is an index under the tag "sha256-HEX", which
// the clients keep ("Referrers Tag Schema").

// maxPages bounds how many pages of a list are read, and maxListed how many entries.
const (
	maxPages  = 1000
	maxListed = 100_000
)

// Referrers lists the manifests in the repository of ref whose subject is the
// manifest with the digest, also one that the repository does not have. An
// artifactType that is not empty lists those of that type only.
func (c *Client) Referrers(ctx context.Context, ref reference.Reference, subject digest.Digest, artifactType string) ([]ocispec.Descriptor, error) {
	if err := image.CheckDigest(subject); err != nil {
		return nil, fmt.Errorf("referrers in %s: %w", ref.Name(), err)
	}
	r, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	list, supported, err := r.listReferrers(ctx, subject, artifactType)
	if err == nil && !supported {
		list, err = r.taggedReferrers(ctx, subject)
	}
	if err != nil {
		return nil, fmt.Errorf("referrers of %s@%s: %w", ref.Name(), subject, err)
	}
	if artifactType == "" {
		return list, nil
	}
	// Registries may leave the choice to us.
	return slices.DeleteFunc(list, func(d ocispec.Descriptor) bool { return d.ArtifactType != artifactType }), nil
}

// listReferrers asks the registry for the list; supported is false where it has none.
func (r *repository) listReferrers(ctx context.Context, subject digest.Digest, artifactType string) (list []ocispec.Descriptor, supported bool, err error) {
	req := &request{method: http.MethodGet, path: "referrers/" + string(subject), scopes: r.pullScopes(),
		header: http.Header{"Accept": {ocispec.MediaTypeImageIndex}}}
	if artifactType != "" {
		req.query = url.Values{"artifactType": {artifactType}}
	}
	supported = true
	err = r.pages(ctx, req, func(resp *http.Response, data []byte) (int, error) {
		mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		if mediaType != ocispec.MediaTypeImageIndex && len(list) == 0 {
			supported = false // some answer every path with a page for people
			return 0, nil
		}
		idx, err := image.ParseIndex(data, ocispec.MediaTypeImageIndex)
		list = append(list, idx.Manifests...)
		return len(list), err
	})
	var status *Error
	if errors.As(err, &status) && len(list) == 0 {
		switch status.Status {
		case http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusBadRequest, http.StatusNotImplemented:
			return nil, false, nil
		}
	}
	return list, supported, err
}

// referrersTag is the tag of the list that clients keep.
func referrersTag(subject digest.Digest) string {
	return subject.Algorithm().String() + "-" + subject.Encoded()
}

// taggedReferrers reads the list that clients keep; a missing one is empty.
func (r *repository) taggedReferrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	ref := r.ref
	ref.Tag, ref.Digest = referrersTag(subject), ""
	desc, data, err := r.manifest(ctx, ref)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	idx, err := image.ParseIndex(data, desc.MediaType)
	return idx.Manifests, err
}

// enterReferrer puts a manifest into the list that clients keep.
func (r *repository) enterReferrer(ctx context.Context, subject digest.Digest, d ocispec.Descriptor) error {
	return r.updateReferrers(ctx, subject, func(list []ocispec.Descriptor) []ocispec.Descriptor {
		if slices.ContainsFunc(list, func(o ocispec.Descriptor) bool { return o.Digest == d.Digest }) {
			return list
		}
		return append(list, d)
	})
}

// updateReferrers changes the list that clients keep. The protocol has no lock and
// no condition: of two processes that change one list at the same moment the last one
// to write wins, and takes away what the other has written since it read. Within this
// process they take turns. What was written is read again when everybody who has read
// the list before it, and is as fast as this process, has written, too: then it stays,
// for whoever reads later sees it.
func (r *repository) updateReferrers(ctx context.Context, subject digest.Digest, change func([]ocispec.Descriptor) []ocispec.Descriptor) error {
	unlock, err := r.host.lockToken(ctx, "referrers "+r.ref.Repository+" "+string(subject))
	if err != nil {
		return err
	}
	defer unlock()
	for range maxAttempts {
		begin := r.client.opts.Now()
		old, err := r.taggedReferrers(ctx, subject)
		if err != nil {
			return fmt.Errorf("list referrers of %s: %w", subject, err)
		}
		list := change(slices.Clone(old))
		if len(list) == len(old) {
			return nil // it is as it shall be
		}
		if err := r.putReferrers(ctx, subject, list); err != nil {
			return err
		}
		if err := r.client.opts.Wait(ctx, settle(r.client.opts.Now().Sub(begin))); err != nil {
			return err
		}
	}
	return fmt.Errorf("registry %s: the list of referrers of %s does not keep what is written to it", r.host.name, subject)
}

// settle is how long to wait until others have written who read before this process
// did, which took some time for both.
func settle(took time.Duration) time.Duration {
	return min(max(4*took, 200*time.Millisecond), 5*time.Second)
}

// putReferrers writes the list that clients keep.
func (r *repository) putReferrers(ctx context.Context, subject digest.Digest, list []ocispec.Descriptor) error {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: list}
	idx.SchemaVersion = 2
	if idx.Manifests == nil {
		idx.Manifests = []ocispec.Descriptor{}
	}
	data, err := image.Marshal(idx)
	if err != nil {
		return err
	}
	if len(data) > image.MaxManifestSize {
		return fmt.Errorf("list referrers of %s: there are too many: %d", subject, len(list))
	}
	if _, err := r.putManifest(ctx, referrersTag(subject), idx.MediaType, data); err != nil {
		return fmt.Errorf("list referrers of %s: %w", subject, err)
	}
	return nil
}

// described is what lists say about a manifest.
type described struct {
	descriptor ocispec.Descriptor
	subject    *ocispec.Descriptor
}

// describe makes the descriptor that a list of referrers has for a manifest: with
// its annotations and its artifact type, which is that of the config where the
// manifest does not state one (distribution-spec, "Listing Referrers").
func describe(data []byte, mediaType string) (described, error) {
	out := described{descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}}
	if image.IsIndex(mediaType) {
		idx, err := image.ParseIndex(data, mediaType)
		out.subject, out.descriptor.ArtifactType, out.descriptor.Annotations = idx.Subject, idx.ArtifactType, idx.Annotations
		return out, err
	}
	m, err := image.ParseManifest(data, mediaType)
	out.subject, out.descriptor.ArtifactType, out.descriptor.Annotations = m.Subject, m.ArtifactType, m.Annotations
	if out.descriptor.ArtifactType == "" {
		out.descriptor.ArtifactType = m.Config.MediaType
	}
	return out, err
}

// Tags lists the tags of the repository of ref, in the registry's order.
func (c *Client) Tags(ctx context.Context, ref reference.Reference) ([]string, error) {
	r, err := c.repository(ref)
	if err != nil {
		return nil, err
	}
	var tags []string
	req := &request{method: http.MethodGet, path: "tags/list", scopes: r.pullScopes()}
	err = r.pages(ctx, req, func(_ *http.Response, data []byte) (int, error) {
		var answer struct {
			Tags []string `json:"tags"`
		}
		if err := json.Unmarshal(data, &answer); err != nil {
			return 0, errors.New("the list of tags is malformed")
		}
		for _, t := range answer.Tags {
			if !reference.ValidTag(t) {
				return 0, fmt.Errorf("the list of tags has %.80q, which is no tag", t)
			}
		}
		tags = append(tags, answer.Tags...)
		return len(tags), nil
	})
	if err != nil {
		return nil, fmt.Errorf("list tags of %s: %w", ref.Name(), err)
	}
	return tags, nil
}

// pages sends a request and those for the pages that follow (RFC 5988, "next").
// page gets the body of each and returns how many entries there are so far.
func (r *repository) pages(ctx context.Context, req *request, page func(*http.Response, []byte) (int, error)) error {
	for range maxPages {
		resp, err := r.do(ctx, req)
		if err != nil {
			return err
		}
		if resp.StatusCode != http.StatusOK {
			return statusError(resp, r.host.name)
		}
		data, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxManifestSize+1))
		_ = resp.Body.Close()
		if err != nil {
			return fmt.Errorf("registry %s: read list: %w", r.host.name, err)
		}
		if len(data) > image.MaxManifestSize {
			return fmt.Errorf("registry %s: one page of the list has more than %d bytes", r.host.name, image.MaxManifestSize)
		}
		n, err := page(resp, data)
		if err != nil {
			return fmt.Errorf("registry %s: %w", r.host.name, err)
		}
		if n > maxListed {
			return fmt.Errorf("registry %s: the list has more than %d entries", r.host.name, maxListed)
		}
		next := nextPage(resp)
		if next == nil {
			return nil
		}
		origin := r.url(r.host.currentScheme(), "")
		if next.User != nil || !sameOrigin(origin, next) || !strings.HasPrefix(next.Path, origin.Path) {
			return fmt.Errorf("registry %s: the list goes on at %s://%s%s: not followed", r.host.name, next.Scheme, next.Host, next.Path)
		}
		req.url = next
	}
	return fmt.Errorf("registry %s: the list has more than %d pages", r.host.name, maxPages)
}

// nextPage returns where a list goes on; nil at its end.
func nextPage(resp *http.Response) *url.URL {
	for _, line := range resp.Header.Values("Link") {
		target, rest, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(line), "<"), ">")
		if !ok || !strings.Contains(strings.ReplaceAll(rest, `"`, ""), "rel=next") {
			continue
		}
		if next, err := resp.Request.URL.Parse(target); err == nil {
			return next
		}
	}
	return nil
}
