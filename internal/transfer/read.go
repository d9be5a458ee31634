// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
)

// ReadAll reads a document of at most limit bytes.
func ReadAll(ctx context.Context, from Source, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("document %s has %d bytes, more than %d", d.Digest, d.Size, limit)
	}
	r, err := from.Open(ctx, d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read document %s: %w", d.Digest, err)
	}
	if int64(len(data)) != d.Size {
		return nil, fmt.Errorf("document %s has %d bytes, want %d", d.Digest, len(data), d.Size)
	}
	return data, nil
}

// ReadManifest reads a manifest.
func ReadManifest(ctx context.Context, from Source, d ocispec.Descriptor) (ocispec.Manifest, error) {
	data, err := ReadAll(ctx, from, d, image.MaxManifestSize)
	if err != nil {
		return ocispec.Manifest{}, err
	}
	m, err := image.ParseManifest(data, d.MediaType)
	if err != nil {
		return m, fmt.Errorf("image %s: %w", d.Digest, err)
	}
	return m, nil
}

// ReadIndex reads an index.
func ReadIndex(ctx context.Context, from Source, d ocispec.Descriptor) (ocispec.Index, error) {
	data, err := ReadAll(ctx, from, d, image.MaxManifestSize)
	if err != nil {
		return ocispec.Index{}, err
	}
	idx, err := image.ParseIndex(data, d.MediaType)
	if err != nil {
		return idx, fmt.Errorf("image %s: %w", d.Digest, err)
	}
	return idx, nil
}

// ReadConfig reads the config of an image, as it is and parsed.
func ReadConfig(ctx context.Context, from Source, m ocispec.Manifest) ([]byte, image.Config, error) {
	data, err := ReadAll(ctx, from, m.Config, image.MaxConfigSize)
	if err != nil {
		return nil, image.Config{}, err
	}
	c, err := image.ParseConfig(data)
	if err != nil {
		return nil, c, err
	}
	return data, c, image.CheckLayers(m, c)
}

// Choose finds the manifest for a platform below an index; a manifest is itself.
func Choose(ctx context.Context, from Source, d ocispec.Descriptor, want image.Platform) (ocispec.Descriptor, error) {
	for depth := 0; image.IsIndex(d.MediaType); depth++ {
		if depth == maxDepth {
			return d, fmt.Errorf("index %s: indexes are nested more than %d deep", d.Digest, maxDepth)
		}
		idx, err := ReadIndex(ctx, from, d)
		if err != nil {
			return d, err
		}
		if d, err = image.Choose(idx, want); err != nil {
			return d, err
		}
	}
	return d, nil
}

// Bytes is a Source of documents at hand, by their digest.
type Bytes map[digest.Digest][]byte

// Add puts a document in and describes it.
func (b Bytes) Add(data []byte, mediaType string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	b[d.Digest] = data
	return d
}

// Open implements Source.
func (b Bytes) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := b[d.Digest]
	if !ok {
		return nil, fmt.Errorf("no document %s", d.Digest)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// maxKept is how many bytes of documents Documents keeps at most.
const maxKept = 32 << 20

// Documents is a Source that reads each manifest and index of another one once, as far as
// they fit into a few megabytes. It is safe for concurrent use.
type Documents struct {
	from Source

	mu   sync.Mutex
	kept map[document][]byte
	size int
}

// document is what a descriptor says that a document is.
type document struct {
	digest    digest.Digest
	mediaType string
	size      int64
}

// NewDocuments gives the Documents of a source.
func NewDocuments(from Source) *Documents {
	return &Documents{from: from, kept: map[document][]byte{}}
}

// Keep puts in what was read already, and verified.
func (s *Documents) Keep(d ocispec.Descriptor, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := document{d.Digest, d.MediaType, d.Size}
	if s.kept[key] == nil && s.size+len(data) <= maxKept {
		s.kept[key] = data
		s.size += len(data)
	}
}

// Open implements Source.
func (s *Documents) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
		return s.from.Open(ctx, d)
	}
	s.mu.Lock()
	data := s.kept[document{d.Digest, d.MediaType, d.Size}]
	s.mu.Unlock()
	if data == nil {
		var err error
		if data, err = ReadAll(ctx, s.from, d, image.MaxManifestSize); err != nil {
			return nil, err
		}
		s.Keep(d, data)
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}
