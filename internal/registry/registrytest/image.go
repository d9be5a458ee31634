// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
)

// Image is what PushImage makes an image of.
type Image struct {
	Config image.Config // its RootFS is filled in from Layers when it is empty
	Layers []Layer
}

// Layer is one layer of an Image.
type Layer struct {
	Data      []byte        // as stored
	MediaType string        // that of an uncompressed tar when empty
	DiffID    digest.Digest // that of Data when empty
}

// PutBlob stores a blob.
func (s *Server) PutBlob(repo string, data []byte) ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(data)
	s.at(repo).blobs[d] = data
	return ocispec.Descriptor{MediaType: "application/octet-stream", Digest: d, Size: int64(len(data))}
}

// PutManifest stores a document under its digest, and under a tag if that is not
// empty. It is not checked.
func (s *Server) PutManifest(repo, tag, mediaType string, data []byte) ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := digest.FromBytes(data)
	s.at(repo).manifests[d] = manifest{mediaType, data}
	if tag != "" {
		s.at(repo).tags[tag] = d
	}
	return ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(data))}
}

// PushImage stores an image with its blobs. It panics on what cannot be JSON.
func (s *Server) PushImage(repo, tag string, img Image) ocispec.Descriptor {
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	config := img.Config
	fill := len(config.RootFS.DiffIDs) == 0
	config.RootFS.Type = "layers"
	for _, l := range img.Layers {
		d := s.PutBlob(repo, l.Data)
		d.MediaType = l.MediaType
		if d.MediaType == "" {
			d.MediaType = ocispec.MediaTypeImageLayer
		}
		m.Layers = append(m.Layers, d)
		if l.DiffID == "" {
			l.DiffID = d.Digest
		}
		if fill {
			config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, l.DiffID)
		}
	}
	if config.OS == "" {
		config.Platform = image.HostPlatform().OCI()
	}
	m.Config = s.PutBlob(repo, mustMarshal(config))
	m.Config.MediaType = ocispec.MediaTypeImageConfig
	d := s.PutManifest(repo, tag, m.MediaType, mustMarshal(m))
	d.Platform = &config.Platform
	return d
}

// PushIndex stores an index of images that are there already.
func (s *Server) PushIndex(repo, tag string, images ...ocispec.Descriptor) ocispec.Descriptor {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: images}
	idx.SchemaVersion = 2
	return s.PutManifest(repo, tag, idx.MediaType, mustMarshal(idx))
}

func mustMarshal(v any) []byte {
	data, err := image.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("registrytest: %v", err))
	}
	return data
}

// Blob returns a stored blob.
func (s *Server) Blob(repo string, d digest.Digest) ([]byte, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.at(repo).blobs[d]
	return data, ok
}

// RemoveBlob loses a blob.
func (s *Server) RemoveBlob(repo string, d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.at(repo).blobs, d)
}

// Blobs returns how many blobs a repository has.
func (s *Server) Blobs(repo string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.at(repo).blobs)
}

// Manifest returns the document that a tag names.
func (s *Server) Manifest(repo, tag string) (data []byte, mediaType string, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok := s.at(repo).manifests[s.at(repo).tags[tag]]
	return m.data, m.mediaType, ok
}

// Tags returns the tags of a repository, sorted.
func (s *Server) Tags(repo string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.at(repo).tags))
}

// contents is what the server reads of a manifest or an index.
type contents struct {
	Config            *ocispec.Descriptor
	Layers, Manifests []ocispec.Descriptor
	Subject           *ocispec.Descriptor
	ArtifactType      string
	Annotations       map[string]string
}

// parse reads a document; what is not JSON is empty.
func parse(data []byte) contents {
	var c contents
	if json.Unmarshal(data, &c) != nil {
		return contents{}
	}
	return c
}

// missing names something that a manifest or an index needs and that is not there.
func (r *repo) missing(data []byte) string {
	if !json.Valid(data) {
		return "not JSON"
	}
	doc := parse(data)
	if doc.Config != nil {
		doc.Layers = append(doc.Layers, *doc.Config)
	}
	for _, d := range doc.Layers {
		if _, ok := r.blobs[d.Digest]; !ok {
			return string(d.Digest)
		}
	}
	for _, d := range doc.Manifests {
		if _, ok := r.manifests[d.Digest]; !ok {
			return string(d.Digest)
		}
	}
	return ""
}
