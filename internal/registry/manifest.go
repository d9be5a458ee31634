// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// acceptManifests lists what is understood. Docker's registries convert to schema 1
// when they are not told.
func acceptManifests() http.Header {
	return http.Header{"Accept": {strings.Join([]string{
		ocispec.MediaTypeImageIndex, ocispec.MediaTypeImageManifest,
		image.MediaTypeDockerIndex, image.MediaTypeDockerManifest,
	}, ", ")}}
}

// Head returns the descriptor of the manifest that a reference names, without
// downloading it where the registry can do that. It costs no pull where those are
// counted.
func (c *Client) Head(ctx context.Context, ref reference.Reference) (d ocispec.Descriptor, err error) {
	err = c.fromAny(ctx, ref, func(r *repository) error {
		d, err = r.head(ctx)
		return err
	})
	return d, err
}

// head is Head in one place.
func (r *repository) head(ctx context.Context) (ocispec.Descriptor, error) {
	ref := r.ref
	resp, err := r.do(ctx, &request{method: http.MethodHead, path: "manifests/" + ref.Identifier(),
		header: acceptManifests(), scopes: r.pullScopes()})
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if resp.StatusCode == http.StatusOK {
		discard(resp)
		mediaType, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
		d := ocispec.Descriptor{MediaType: strings.TrimSpace(mediaType),
			Digest: digest.Digest(resp.Header.Get("Docker-Content-Digest")), Size: resp.ContentLength}
		if ref.Digest != "" && d.Digest != "" && d.Digest != ref.Digest {
			return d, fmt.Errorf("registry %s: %s: it has the digest %.80q", r.host.name, ref, d.Digest)
		}
		if image.ValidDigest(d.Digest) && d.Size >= 0 && (image.IsIndex(d.MediaType) || image.IsManifest(d.MediaType)) {
			return d, nil
		}
	} else if resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusUnauthorized {
		return ocispec.Descriptor{}, notFoundHint(statusError(resp, r.host.name), ref)
	} else {
		discard(resp)
	}
	// HEAD is not supported or does not say enough.
	d, _, err := r.manifest(ctx, ref)
	return d, err
}

// Resolve returns the manifest or the index that a reference names: its descriptor
// and its bytes, verified. Where the reference has a digest, that decides, and the
// tag is not looked at.
func (c *Client) Resolve(ctx context.Context, ref reference.Reference) (d ocispec.Descriptor, data []byte, err error) {
	err = c.fromAny(ctx, ref, func(r *repository) error {
		d, data, err = r.manifest(ctx, r.ref)
		return err
	})
	return d, data, err
}

// Manifest returns the bytes of the manifest or the index that desc names, in the
// repository of ref. They have the digest, the size and the media type of desc.
func (c *Client) Manifest(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor) ([]byte, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return nil, fmt.Errorf("manifest of %s: %w", ref, err)
	}
	got, data, err := c.Resolve(ctx, ref.WithDigest(desc.Digest))
	if err != nil {
		return nil, err
	}
	if got.Size != desc.Size || got.MediaType != desc.MediaType {
		return nil, fmt.Errorf("manifest %s of %s: it is %s of %d bytes, the index says %.100q of %d",
			desc.Digest, ref.Name(), got.MediaType, got.Size, desc.MediaType, desc.Size)
	}
	return data, nil
}

// manifest downloads and checks a manifest or an index. Damaged bytes are asked for
// again, a few times.
func (r *repository) manifest(ctx context.Context, ref reference.Reference) (ocispec.Descriptor, []byte, error) {
	const tries = 3
	for try := 1; ; try++ {
		desc, data, err := r.manifestOnce(ctx, ref)
		var damaged *damagedError
		if err == nil || !errors.As(err, &damaged) || try == tries {
			return desc, data, err
		}
		if werr := r.client.opts.Wait(ctx, pause(try)); werr != nil {
			return desc, nil, fmt.Errorf("%w (stopped after: %w)", werr, err)
		}
	}
}

// damagedError is an answer that came in a state in which it cannot have been sent.
type damagedError struct{ error }

func (e *damagedError) Unwrap() error { return e.error }

func (r *repository) manifestOnce(ctx context.Context, ref reference.Reference) (ocispec.Descriptor, []byte, error) {
	var none ocispec.Descriptor
	resp, err := r.do(ctx, &request{method: http.MethodGet, path: "manifests/" + ref.Identifier(),
		header: acceptManifests(), scopes: r.pullScopes()})
	if err != nil {
		return none, nil, err
	}
	if resp.StatusCode != http.StatusOK {
		return none, nil, notFoundHint(statusError(resp, r.host.name), ref)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(io.LimitReader(resp.Body, image.MaxManifestSize+1))
	if err != nil {
		return none, nil, &damagedError{fmt.Errorf("registry %s: read manifest of %s: %w", r.host.name, ref, err)}
	}
	if len(data) > image.MaxManifestSize {
		return none, nil, fmt.Errorf("registry %s: manifest of %s has more than %d bytes", r.host.name, ref, image.MaxManifestSize)
	}
	desc := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	want := ref.Digest
	if want == "" {
		// The header is a checksum only; other algorithms than ours are passed over.
		if said := digest.Digest(resp.Header.Get("Docker-Content-Digest")); image.ValidDigest(said) {
			want = said
		}
	}
	if want != "" && want != desc.Digest {
		return none, nil, &damagedError{fmt.Errorf("registry %s: manifest of %s has the digest %s, want %s", r.host.name, ref, desc.Digest, want)}
	}
	if desc.MediaType, err = image.MediaType(data, resp.Header.Get("Content-Type")); err != nil {
		return none, nil, fmt.Errorf("registry %s: manifest of %s: %w", r.host.name, ref, err)
	}
	return desc, data, nil
}

// notFoundHint says which image it is that is missing.
func notFoundHint(err error, ref reference.Reference) error {
	if errors.Is(err, ErrNotFound) {
		return fmt.Errorf("image %s does not exist: %w", ref.Familiar(), err)
	}
	return err
}
