// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// page cuts the part of a list that a request asks for, and says where it goes on.
func page[T any](s *Server, w http.ResponseWriter, r *http.Request, list []T) []T {
	if s.opts.PageSize == 0 {
		return list
	}
	from, _ := strconv.Atoi(r.URL.Query().Get("from"))
	from = min(max(from, 0), len(list))
	end := min(from+s.opts.PageSize, len(list))
	if end < len(list) {
		w.Header().Set("Link", fmt.Sprintf("<%s?from=%d>; rel=\"next\"", r.URL.Path, end))
	}
	return list[from:end]
}

// serveTags serves tags/list.
func (s *Server) serveTags(w http.ResponseWriter, r *http.Request, name string) {
	tags := page(s, w, r, s.Tags(name))
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"name": name, "tags": tags})
}

// serveReferrers serves referrers/DIGEST.
func (s *Server) serveReferrers(w http.ResponseWriter, r *http.Request, name string, subject digest.Digest) {
	if !s.opts.Referrers {
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
		return
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	idx.Manifests = append([]ocispec.Descriptor{}, page(s, w, r, s.Referrers(name, subject))...)
	w.Header().Set("Content-Type", idx.MediaType)
	_ = json.NewEncoder(w).Encode(idx)
}

// Referrers returns the manifests of a repository with a subject, by their digests.
func (s *Server) Referrers(name string, subject digest.Digest) []ocispec.Descriptor {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []ocispec.Descriptor
	repo := s.at(name)
	for _, d := range slices.Sorted(maps.Keys(repo.manifests)) {
		m := repo.manifests[d]
		doc := parse(m.data)
		if doc.Subject == nil || doc.Subject.Digest != subject {
			continue
		}
		if doc.ArtifactType == "" && doc.Config != nil {
			doc.ArtifactType = doc.Config.MediaType
		}
		out = append(out, ocispec.Descriptor{MediaType: m.mediaType, Digest: d, Size: int64(len(m.data)),
			ArtifactType: doc.ArtifactType, Annotations: doc.Annotations})
	}
	return out
}

// deleteManifest removes a tag, or an image with all of its tags. The caller holds s.mu.
func (s *Server) deleteManifest(w http.ResponseWriter, repo *repo, ref string) {
	d, tagged := repo.tags[ref]
	if tagged && !s.opts.DeleteTags {
		fail(w, http.StatusMethodNotAllowed, "UNSUPPORTED", "the operation is unsupported")
		return
	}
	if tagged {
		delete(repo.tags, ref)
		w.WriteHeader(http.StatusAccepted)
		return
	}
	d = digest.Digest(ref)
	if _, ok := repo.manifests[d]; !ok {
		fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
		return
	}
	delete(repo.manifests, d)
	maps.DeleteFunc(repo.tags, func(_ string, named digest.Digest) bool { return named == d })
	w.WriteHeader(http.StatusAccepted)
}
