// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package registrytest is a registry in memory for tests: it speaks the OCI
// distribution protocol on loopback, serves and takes images, asks for
// authentication if told so, records every request, and misbehaves on demand.
//
// It is for tests only and checks what a careful registry checks: digests, ranges
// and that a manifest's blobs are there.
package registrytest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
)

// Auth is how a Server wants clients to authenticate.
type Auth int

// The ways to authenticate. With Token, the server is its own token service, at
// /token, which wants the user and the password of the Options if there are any.
const (
	Open Auth = iota
	Basic
	Token
)

// Options configure a Server.
type Options struct {
	Auth               Auth
	Username, Password string
	// TokenLife is how long a token is accepted; forever when zero. Tokens always
	// say that they live an hour: a client must cope with one that ends early.
	TokenLife time.Duration
	// Realm is the token service to name in place of the server's own.
	Realm string
	// TLS makes the server speak HTTPS, with a certificate of CAs.
	TLS bool
	// Referrers makes the server list referrers, as version 1.1 of the specification
	// wants it. Without, clients keep the lists.
	Referrers bool
	// DeleteTags makes the server remove tags alone, and not only images.
	DeleteTags bool
	// PageSize is how many entries of a list one answer has; all when zero.
	PageSize int
	// Address to listen on in place of a free port of 127.0.0.1.
	Address string
}

// Request is one recorded request.
type Request struct {
	Method, Path, Query string
	Header              http.Header
	Length              int64 // of the body, as announced
	Status              int
}

// Fault replaces the answers to some requests.
type Fault struct {
	// Match selects requests; nil is all.
	Match func(r *http.Request) bool
	// Times is how many requests to answer before the fault is over; forever when 0.
	Times int
	// Answer answers in place of the registry, which is next.
	Answer func(w http.ResponseWriter, r *http.Request, next http.Handler)
}

// Server is a registry on loopback. It is safe for concurrent use.
type Server struct {
	opts Options
	http *httptest.Server

	mu        sync.Mutex
	repos     map[string]*repo
	uploads   map[string]*incoming // by the path of their location
	faults    []*Fault
	requests  []Request
	tokens    map[string]grant
	nextID    int
	challenge string // replaces WWW-Authenticate when not empty
}

// repo is one repository.
type repo struct {
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]manifest
	tags      map[string]digest.Digest
}

// incoming is a blob on its way up. Requests for it take turns: one whose connection
// broke is over before the next one is answered.
type incoming struct {
	turn sync.Mutex
	bytes.Buffer
}

type manifest struct {
	mediaType string
	data      []byte
}

// New starts a server that is stopped at the end of the test.
func New(t testing.TB, opts Options) *Server {
	t.Helper()
	s := &Server{opts: opts, repos: map[string]*repo{}, uploads: map[string]*incoming{}, tokens: map[string]grant{}}
	s.http = httptest.NewUnstartedServer(http.HandlerFunc(s.serve))
	if opts.Address != "" {
		l, err := listen(opts.Address)
		if err != nil {
			t.Fatalf("listen on %s: %v", opts.Address, err)
		}
		_ = s.http.Listener.Close()
		s.http.Listener = l
	}
	s.http.Config.ErrorLog = log.New(io.Discard, "", 0) // refused handshakes are part of tests
	if opts.TLS {
		s.http.StartTLS()
	} else {
		s.http.Start()
	}
	t.Cleanup(s.http.Close)
	return s
}

// Host returns host:port, which is the registry in references.
func (s *Server) Host() string { return s.http.Listener.Addr().String() }

// URL returns the address of the server without a slash at the end.
func (s *Server) URL() string { return s.http.URL }

// CAs returns the authorities that a client must trust when the server speaks TLS.
func (s *Server) CAs() *x509.CertPool {
	pool := x509.NewCertPool()
	if cert := s.http.Certificate(); cert != nil {
		pool.AddCert(cert)
	}
	return pool
}

// Authority returns those of CAs in PEM form.
func (s *Server) Authority() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.http.Certificate().Raw})
}

// Inject adds a fault. Of several that match a request the first one added counts.
func (s *Server) Inject(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = append(s.faults, &f)
}

// ClearFaults removes all faults.
func (s *Server) ClearFaults() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = nil
}

// Requests returns what was asked so far, and forgets it.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := s.requests
	s.requests = nil
	return out
}

// serve records a request, and answers it by a fault or by the registry.
func (s *Server) serve(w http.ResponseWriter, r *http.Request) {
	rec := &recorder{ResponseWriter: w, status: http.StatusOK}
	s.mu.Lock()
	index := len(s.requests)
	s.requests = append(s.requests, Request{Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery, Header: r.Header.Clone(), Length: r.ContentLength})
	fault := s.takeFault(r)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if index < len(s.requests) && s.requests[index].Path == r.URL.Path {
			s.requests[index].Status = rec.status
		}
	}()
	if fault != nil {
		fault.Answer(rec, r, http.HandlerFunc(s.route))
		return
	}
	s.route(rec, r)
}

// takeFault returns the fault for a request, counted down. The caller holds s.mu.
func (s *Server) takeFault(r *http.Request) *Fault {
	for i, f := range s.faults {
		if f.Match != nil && !f.Match(r) {
			continue
		}
		if f.Times > 0 {
			if f.Times--; f.Times == 0 {
				s.faults = slices.Delete(s.faults, i, i+1)
			}
		}
		return f
	}
	return nil
}

// recorder notes the status of an answer.
type recorder struct {
	http.ResponseWriter
	status int
}

func (r *recorder) WriteHeader(status int) {
	r.status = status
	r.ResponseWriter.WriteHeader(status)
}

// Unwrap lets http.ResponseController reach the connection.
func (r *recorder) Unwrap() http.ResponseWriter { return r.ResponseWriter }

// route answers a request as a registry does.
func (s *Server) route(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path == "/token" {
		s.serveToken(w, r)
		return
	}
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok {
		http.NotFound(w, r)
		return
	}
	name, kind, rest := splitPath(path)
	if !s.authorize(w, r, name) {
		return
	}
	switch kind {
	case "":
		w.WriteHeader(http.StatusOK)
	case "manifests":
		s.serveManifest(w, r, name, rest)
	case "blobs":
		s.serveBlob(w, r, name, digest.Digest(rest))
	case "uploads":
		s.serveUpload(w, r, name)
	case "tags":
		s.serveTags(w, r, name)
	case "referrers":
		s.serveReferrers(w, r, name, digest.Digest(rest))
	default:
		fail(w, http.StatusNotFound, "UNSUPPORTED", "no such endpoint")
	}
}

// splitPath divides NAME/manifests/REF, NAME/blobs/DIGEST, NAME/blobs/uploads/ID,
// NAME/tags/list and NAME/referrers/DIGEST.
func splitPath(path string) (name, kind, rest string) {
	for _, k := range []string{"/blobs/uploads/", "/blobs/", "/manifests/", "/tags/", "/referrers/"} {
		if i := strings.LastIndex(path, k); i >= 0 {
			parts := strings.Split(strings.Trim(k, "/"), "/")
			return path[:i], parts[len(parts)-1], path[i+len(k):]
		}
	}
	return "", strings.Trim(path, "/"), ""
}

// fail answers with an error of the protocol.
func fail(w http.ResponseWriter, status int, code, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, `{"errors":[{"code":"`+code+`","message":"`+message+`"}]}`)
}

// at returns a repository, made on first use. The caller holds s.mu.
func (s *Server) at(name string) *repo {
	r := s.repos[name]
	if r == nil {
		r = &repo{blobs: map[digest.Digest][]byte{}, manifests: map[digest.Digest]manifest{}, tags: map[string]digest.Digest{}}
		s.repos[name] = r
	}
	return r
}
