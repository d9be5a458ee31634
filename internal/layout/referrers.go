// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
)

// A referrer is a manifest that names another one, its subject: a signature, a bill
// of materials. In a layout it is an entry of index.json without a tag.

// Referrers returns the entries of index.json without a tag whose subject is the
// manifest with that digest, in their order.
func (l *Layout) Referrers(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return nil, err
	}
	var out []ocispec.Descriptor
	for _, d := range idx.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] != "" {
			continue
		}
		s, err := l.subject(ctx, d)
		if err != nil {
			return nil, fmt.Errorf("referrers in layout %s: %w", l.path, err)
		}
		if s != nil && s.Digest == subject {
			out = append(out, d)
		}
	}
	return out, nil
}

// subject returns what an entry is about; nil for an image. A missing entry is
// about nothing.
func (l *Layout) subject(ctx context.Context, d ocispec.Descriptor) (*ocispec.Descriptor, error) {
	if !image.IsManifest(d.MediaType) && !image.IsIndex(d.MediaType) {
		return nil, nil
	}
	data, err := l.blobs.ReadAll(ctx, d, image.MaxManifestSize)
	if errors.Is(err, blob.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if image.IsIndex(d.MediaType) {
		idx, err := image.ParseIndex(data, d.MediaType)
		return idx.Subject, err
	}
	m, err := image.ParseManifest(data, d.MediaType)
	return m.Subject, err
}

// Forget takes entries without a tag out of index.json, all in one step. The blobs
// stay until GC.
func (l *Layout) Forget(ctx context.Context, digests ...digest.Digest) error {
	if len(digests) == 0 {
		return nil
	}
	return l.update(ctx, func(idx *ocispec.Index) {
		idx.Manifests = slices.DeleteFunc(idx.Manifests, func(d ocispec.Descriptor) bool {
			return d.Annotations[ocispec.AnnotationRefName] == "" && slices.Contains(digests, d.Digest)
		})
	})
}
