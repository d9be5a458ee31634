// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// listen opens a listener on host or host:port.
func listen(address string) (net.Listener, error) {
	if _, _, err := net.SplitHostPort(address); err != nil {
		address = net.JoinHostPort(strings.Trim(address, "[]"), "0")
	}
	return net.Listen("tcp", address)
}

// serveManifest serves manifests/REF.
func (s *Server) serveManifest(w http.ResponseWriter, r *http.Request, name, ref string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	repo := s.at(name)
	switch r.Method {
	case http.MethodGet, http.MethodHead:
		d := digest.Digest(ref)
		if tagged, ok := repo.tags[ref]; ok {
			d = tagged
		}
		m, ok := repo.manifests[d]
		if !ok {
			fail(w, http.StatusNotFound, "MANIFEST_UNKNOWN", "manifest unknown")
			return
		}
		w.Header().Set("Content-Type", m.mediaType)
		w.Header().Set("Docker-Content-Digest", string(d))
		w.Header().Set("Content-Length", strconv.Itoa(len(m.data)))
		if r.Method == http.MethodGet {
			_, _ = w.Write(m.data)
		}
	case http.MethodPut:
		data, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		d := digest.FromBytes(data)
		if strings.Contains(ref, ":") && ref != string(d) {
			fail(w, http.StatusBadRequest, "DIGEST_INVALID", "digest does not match")
			return
		}
		if missing := repo.missing(data); missing != "" {
			fail(w, http.StatusNotFound, "MANIFEST_BLOB_UNKNOWN", missing)
			return
		}
		repo.manifests[d] = manifest{r.Header.Get("Content-Type"), data}
		if !strings.Contains(ref, ":") {
			repo.tags[ref] = d
		}
		w.Header().Set("Docker-Content-Digest", string(d))
		w.Header().Set("Location", "/v2/"+name+"/manifests/"+string(d))
		if doc := parse(data); s.opts.Referrers && doc.Subject != nil {
			w.Header().Set("OCI-Subject", string(doc.Subject.Digest))
		}
		w.WriteHeader(http.StatusCreated)
	case http.MethodDelete:
		s.deleteManifest(w, repo, ref)
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// serveBlob serves blobs/DIGEST, with ranges.
func (s *Server) serveBlob(w http.ResponseWriter, r *http.Request, name string, d digest.Digest) {
	s.mu.Lock()
	data, ok := s.at(name).blobs[d]
	s.mu.Unlock()
	if !ok {
		fail(w, http.StatusNotFound, "BLOB_UNKNOWN", "blob unknown")
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("Docker-Content-Digest", string(d))
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
}

// serveUpload serves blobs/uploads/.
func (s *Server) serveUpload(w http.ResponseWriter, r *http.Request, name string) {
	if r.Method == http.MethodPost {
		s.beginUpload(w, r, name)
		return
	}
	s.mu.Lock()
	buf := s.uploads[r.URL.Path]
	s.mu.Unlock()
	if buf == nil {
		fail(w, http.StatusNotFound, "BLOB_UPLOAD_UNKNOWN", "upload unknown")
		return
	}
	buf.turn.Lock()
	defer buf.turn.Unlock()
	switch r.Method {
	case http.MethodGet:
		s.uploadStatus(w, r, buf, http.StatusNoContent)
	case http.MethodPatch:
		s.mu.Lock()
		next := fmt.Sprint(buf.Len(), "-")
		s.mu.Unlock()
		if span := r.Header.Get("Content-Range"); span != "" && !strings.HasPrefix(span, next) {
			s.uploadStatus(w, r, buf, http.StatusRequestedRangeNotSatisfiable)
			return
		}
		if s.receive(r, buf) == nil {
			s.uploadStatus(w, r, buf, http.StatusAccepted)
		}
	case http.MethodPut:
		if s.receive(r, buf) == nil {
			s.endUpload(w, r, name, buf)
		}
	default:
		w.WriteHeader(http.StatusMethodNotAllowed)
	}
}

// receive appends the body of a request to an upload; what came before it broke off
// is kept.
func (s *Server) receive(r *http.Request, buf *incoming) error {
	data, err := io.ReadAll(r.Body)
	s.mu.Lock()
	defer s.mu.Unlock()
	buf.Write(data)
	return err
}

// beginUpload answers a POST: it mounts a blob or opens an upload.
func (s *Server) beginUpload(w http.ResponseWriter, r *http.Request, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := r.URL.Query()
	if d := digest.Digest(q.Get("mount")); d != "" {
		if data, ok := s.at(q.Get("from")).blobs[d]; ok {
			s.at(name).blobs[d] = data
			w.Header().Set("Location", "/v2/"+name+"/blobs/"+string(d))
			w.WriteHeader(http.StatusCreated)
			return
		}
	}
	s.nextID++
	path := fmt.Sprintf("/v2/%s/blobs/uploads/%d", name, s.nextID)
	s.uploads[path] = &incoming{}
	w.Header().Set("Location", path+"?state=a%2Fb")
	w.WriteHeader(http.StatusAccepted)
}

// uploadStatus says how much of an upload is there.
func (s *Server) uploadStatus(w http.ResponseWriter, r *http.Request, buf *incoming, status int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	w.Header().Set("Location", r.URL.Path+"?state=a%2Fb")
	w.Header().Set("Range", fmt.Sprintf("0-%d", max(buf.Len()-1, 0)))
	w.WriteHeader(status)
}

// endUpload makes an upload a blob.
func (s *Server) endUpload(w http.ResponseWriter, r *http.Request, name string, buf *incoming) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.uploads, r.URL.Path)
	d := digest.FromBytes(buf.Bytes())
	if q := r.URL.Query(); q.Get("digest") != string(d) || q.Get("state") != "a/b" {
		fail(w, http.StatusBadRequest, "DIGEST_INVALID", "digest does not match")
		return
	}
	s.at(name).blobs[d] = buf.Bytes()
	w.Header().Set("Location", "/v2/"+name+"/blobs/"+string(d))
	w.WriteHeader(http.StatusCreated)
}
