// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/transfer"
)

// Needs calls fn for every blob and document that an image needs, the image's own
// documents first. What is missing or damaged is passed over.
func (s *Store) Needs(ctx context.Context, i Image, fn func(ocispec.Descriptor)) error {
	seen := map[string]bool{}
	var walk func(d ocispec.Descriptor, depth int) error
	walk = func(d ocispec.Descriptor, depth int) error {
		if seen[string(d.Digest)] || depth > maxDepth {
			return nil
		}
		seen[string(d.Digest)] = true
		fn(d)
		switch {
		case image.IsIndex(d.MediaType):
			idx, err := transfer.ReadIndex(ctx, s.blobs, d)
			if err != nil {
				return passed(err)
			}
			for _, m := range idx.Manifests {
				if err := walk(m, depth+1); err != nil {
					return err
				}
			}
		case image.IsManifest(d.MediaType):
			m, err := transfer.ReadManifest(ctx, s.blobs, d)
			if err != nil {
				return passed(err)
			}
			for _, b := range append([]ocispec.Descriptor{m.Config}, m.Layers...) {
				fn(b)
			}
		}
		return nil
	}
	return walk(i.Descriptor, 0)
}

// maxDepth is how deep indexes may be nested.
const maxDepth = 3

// passed leaves out what a disk lost: an error here would keep prune from making room.
func passed(err error) error {
	if errors.Is(err, blob.ErrNotFound) || errors.Is(err, blob.ErrCorrupt) {
		return nil
	}
	return err
}

// Size is what an image takes: the sum of its blobs and documents, each once.
func (s *Store) Size(ctx context.Context, i Image) (int64, error) {
	var sum int64
	seen := map[string]bool{}
	err := s.Needs(ctx, i, func(d ocispec.Descriptor) {
		if !seen[string(d.Digest)] {
			seen[string(d.Digest)] = true
			sum += d.Size
		}
	})
	return sum, err
}

// RemoveDamaged removes files that are no records.
func (s *Store) RemoveDamaged() error {
	dir := filepath.Join(s.dir, namesDir)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list images: %w", err)
	}
	for _, e := range entries {
		_, err := s.read(e.Name())
		if errors.Is(err, errDamaged) || errors.Is(err, atomicfile.ErrDamaged) {
			if err := os.RemoveAll(filepath.Join(dir, e.Name())); err != nil {
				return fmt.Errorf("remove damaged record of an image: %w", err)
			}
		}
	}
	return nil
}
