// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/registrytest"
)

type answer = func(w http.ResponseWriter, r *http.Request, next http.Handler)

// status answers with a status and headers given as name, value.
func status(code int, header ...string) answer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		for i := 0; i < len(header); i += 2 {
			w.Header().Set(header[i], header[i+1])
		}
		w.WriteHeader(code)
	}
}

func reset(http.ResponseWriter, *http.Request, http.Handler) { panic(http.ErrAbortHandler) }

// replace serves other bytes, claiming a length if that is not negative.
func replace(data []byte, length int) answer {
	return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		if length >= 0 {
			w.Header().Set("Content-Length", strconv.Itoa(length))
		}
		_, _ = w.Write(data)
		_ = http.NewResponseController(w).Flush()
		if length > len(data) {
			panic(http.ErrAbortHandler)
		}
	}
}

func isBlob(r *http.Request) bool { return strings.Contains(r.URL.Path, "/blobs/") }

func isManifest(r *http.Request) bool { return strings.Contains(r.URL.Path, "/manifests/") }

// TestPullFaults is the list of registry faults R01 to R36, as far as a download is
// concerned.
func TestPullFaults(t *testing.T) {
	layer := layerData(1 << 18)
	other := bytes.Clone(layer)
	other[5] = 'x'
	half := len(layer) / 2
	tests := []struct {
		name   string
		match  func(*http.Request) bool
		times  int
		answer answer
		want   string // of the error; empty is success
		most   int    // requests
	}{
		{"R01 one 500", nil, 1, status(500), "", 3},
		{"R02 always 500", nil, 0, status(500), "500", maxAttempts},
		{"R03 502, blob", isBlob, 2, status(502), "", 4},
		{"R03 503", nil, 2, status(503), "", 4},
		{"R03 504", nil, 2, status(504), "", 4},
		{"R04 429", nil, 1, status(429, "Retry-After", "2"), "", 3},
		{"R05 429 until a date", nil, 1, status(429, "Retry-After", "Thu, 01 Jan 2026 00:00:30 GMT"), "", 3},
		{"R06 429 for a day", nil, 0, status(429, "Retry-After", "86400"), "asks to wait for 24h", 1},
		{"R07 408", nil, 1, status(408), "", 3},
		{"R10 reset in headers", nil, 2, reset, "", 5},
		{"R10 always reset", nil, 0, reset, "EOF", 2 * maxAttempts},
		{"R11 reset in the body", isBlob, 1, replace(layer[:half], len(layer)), "", 3},
		{"R12 range ignored", isBlob, 2, replace(layer[:half], len(layer)), "", 4},
		{"R14 short body", isBlob, 1, replace(layer[:half], half), "", 3},
		{"R15 long body", isBlob, 0, replace(append(bytes.Clone(layer), 'x'), -1), "damaged", 2},
		{"R15 long body, announced", isBlob, 0, replace(append(bytes.Clone(layer), 'x'), len(layer)+1), "want", 2},
		{"R16 other bytes", isBlob, 0, replace(other, len(other)), "damaged", 2},
		{"R16 other manifest", isManifest, 0, replace([]byte("{}"), 2), "schemaVersion", 3},
		{"R17 no length", isBlob, 1, replace(layer, -1), "", 2},
		{"R20 wrong Docker-Content-Digest", isManifest, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&setHeader{w, "Docker-Content-Digest", "sha256:" + strings.Repeat("0", 64)}, r)
		}, "digest", 3},
		{"R20 malformed Docker-Content-Digest", isManifest, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&setHeader{w, "Docker-Content-Digest", "../../x"}, r)
		}, "", 2},
		{"R21 Content-Type of an index", isManifest, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&setHeader{w, "Content-Type", ocispec.MediaTypeImageIndex}, r)
		}, "announced", 1},
		{"R21 unknown Content-Type", isManifest, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(&setHeader{w, "Content-Type", "text/plain"}, r)
		}, "", 2},
		{"R22 hybrid", isManifest, 0, replace([]byte(`{"schemaVersion":2,"config":{},"layers":[],"manifests":[]}`), -1), "both", 1},
		{"R23 schema 1", isManifest, 0, status(200, "Content-Type", "application/vnd.docker.distribution.manifest.v1+prettyjws"), "schema 1", 1},
		{"R35 endless manifest", isManifest, 0, endless, "more than", 1},
		{"R35 endless error", isManifest, 0, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.WriteHeader(http.StatusTeapot)
			endless(w, r, next)
		}, "418", 1},
		{"R36 compressed error", isManifest, 0, status(418, "Content-Encoding", "gzip"), "418", 1},
		{"huge header", nil, 0, status(200, "X", strings.Repeat("x", 1<<20)), "header", maxAttempts},
		{"escapes in an error", isManifest, 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(w, `{"errors":[{"code":"X","message":"a\u001b[31mb"}]}`)
		}, "X: a [31mb", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: layer}}})
			s.Inject(registrytest.Fault{Match: tt.match, Times: tt.times, Answer: tt.answer})
			c := newClient(t, Options{Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }})
			_, data, err := pull(c, ref(t, s, "a:v1"))
			switch {
			case tt.want == "" && (err != nil || !bytes.Equal(data, layer)):
				t.Errorf("got %d bytes, %v, want success", len(data), err)
			case tt.want != "" && err == nil:
				t.Errorf("got success, want an error that says %q", tt.want)
			case tt.want != "" && !strings.Contains(err.Error(), tt.want):
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
			if n := len(s.Requests()); n > tt.most {
				t.Errorf("%d requests, want at most %d", n, tt.most)
			}
		})
	}
}

// setHeader overrides a header of an answer.
type setHeader struct {
	http.ResponseWriter
	name, value string
}

func (s *setHeader) WriteHeader(code int) {
	s.Header().Set(s.name, s.value)
	s.ResponseWriter.WriteHeader(code)
}

func (s *setHeader) Write(p []byte) (int, error) {
	s.Header().Set(s.name, s.value)
	return s.ResponseWriter.Write(p)
}

// endless sends far more than anybody should take, and then breaks off, which
// would lead to another request.
func endless(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
	chunk := bytes.Repeat([]byte(" "), 1<<16)
	for range 1 << 10 {
		if _, err := w.Write(chunk); err != nil {
			return
		}
	}
	panic(http.ErrAbortHandler)
}

func TestResumeRanges(t *testing.T) {
	layer := layerData(1 << 18)
	half := len(layer) / 2
	rangeOf := func(from int, r string) answer {
		return func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
			w.Header().Set("Content-Range", r)
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(layer[from:])
		}
	}
	tests := []struct {
		name   string
		answer answer // to the request for the second half
	}{
		{"R11 honoured", nil},
		{"R12 ignored", replace(layer, len(layer))},
		{"R13 other offset", rangeOf(half-1, fmt.Sprintf("bytes %d-%d/%d", half-1, len(layer)-1, len(layer)))},
		{"R13 other size", rangeOf(half, fmt.Sprintf("bytes %d-%d/%d", half, len(layer)-1, len(layer)+1))},
		{"R13 none", rangeOf(half, "")},
		{"R32 416", status(416)},
		{"reset again", reset},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			d := s.PutBlob("a", layer)
			s.Inject(registrytest.Fault{Times: 1, Answer: replace(layer[:half], len(layer))})
			if tt.answer != nil {
				s.Inject(registrytest.Fault{Times: 1, Answer: tt.answer})
			}
			data, err := readBlob(newClient(t, Options{}), ref(t, s, "a"), d)
			if err != nil || !bytes.Equal(data, layer) {
				t.Errorf("got %d bytes, %v", len(data), err)
			}
			if r := s.Requests(); len(r) < 2 || r[1].Header.Get("Range") != fmt.Sprintf("bytes=%d-", half) {
				t.Errorf("the second request asks for %q", r[1].Header.Get("Range"))
			}
		})
	}
}

// TestStall covers R18 and R19: silence, and a trickle.
func TestStall(t *testing.T) {
	layer := layerData(1 << 16)
	silent := func(_ http.ResponseWriter, r *http.Request, _ http.Handler) { <-r.Context().Done() }
	tests := []struct {
		name   string
		answer answer
	}{
		{"silence", silent},
		{"silence after the headers", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			_ = http.NewResponseController(w).Flush()
			silent(w, r, next)
		}},
		{"trickle", func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
			w.Header().Set("Content-Length", strconv.Itoa(len(layer)))
			tick := time.NewTicker(5 * time.Millisecond)
			defer tick.Stop()
			for i := range layer {
				select {
				case <-r.Context().Done():
					return
				case <-tick.C:
					_, _ = w.Write(layer[i : i+1])
					_ = http.NewResponseController(w).Flush()
				}
			}
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := registrytest.New(t, registrytest.Options{})
			d := s.PutBlob("a", layer)
			s.Inject(registrytest.Fault{Times: 1, Answer: tt.answer})
			data, err := readBlob(newClient(t, Options{StallTimeout: patient}), ref(t, s, "a"), d)
			if err != nil || !bytes.Equal(data, layer) {
				t.Errorf("once: got %d bytes, %v", len(data), err)
			}
			s.Inject(registrytest.Fault{Answer: silent})
			if _, err := readBlob(newClient(t, Options{StallTimeout: impatient}), ref(t, s, "a"), d); !errors.Is(err, errStalled) {
				t.Errorf("for ever: got %v, want %v", err, errStalled)
			}
		})
	}
}

// TestTrickle is R18 without a clock: progress is measured when the waiting adds up.
func TestTrickle(t *testing.T) {
	for got, want := range map[int64]error{minProgress - 2: errStalled, minProgress: nil} {
		ctx, cancel := context.WithCancelCause(t.Context())
		b := &guardedBody{body: io.NopCloser(strings.NewReader("xx")), ctx: ctx, cancel: cancel,
			guard: newGuard(time.Minute, cancel), waited: time.Minute, got: got}
		if _, err := b.Read(make([]byte, 1)); !errors.Is(err, want) {
			t.Errorf("%d bytes in a minute: got %v, want %v", got, err, want)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}

func TestHeadFallsBack(t *testing.T) {
	tests := []struct {
		name   string
		answer answer
		ok     bool
	}{
		{"R33 HEAD 405", status(405), true},
		{"HEAD says nothing", status(200), true},
		{"HEAD 404", status(404), false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			want := s.PushImage("a", "v1", registrytest.Image{})
			s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return r.Method == http.MethodHead }, Answer: tt.answer})
			d, err := newClient(t, Options{}).Head(t.Context(), ref(t, s, "a:v1"))
			if tt.ok && (err != nil || d.Digest != want.Digest) || !tt.ok && !errors.Is(err, ErrNotFound) {
				t.Errorf("got %v, %v", d, err)
			}
		})
	}
}

func TestPinnedDigestIsEnforced(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	good := s.PushImage("a", "v1", registrytest.Image{})
	other := s.PushImage("a", "v2", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	s.Inject(registrytest.Fault{Match: isManifest, Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.URL.Path = "/v2/a/manifests/" + string(other.Digest)
		next.ServeHTTP(w, r)
	}})
	c := newClient(t, Options{})
	pinned := ref(t, s, "a:v2@"+string(good.Digest))
	if d, _, err := c.Resolve(t.Context(), pinned); err == nil {
		t.Errorf("Resolve gave %v for %s", d.Digest, pinned)
	}
	if d, err := c.Head(t.Context(), pinned); err == nil {
		t.Errorf("Head gave %v for %s", d.Digest, pinned)
	}
}

// TestUnreachable is R08.
func TestUnreachable(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	r := ref(t, s, "a:v1")
	r.Registry = "127.0.0.1:1"
	waits := 0
	c := newClient(t, Options{Wait: func(context.Context, time.Duration) error { waits++; return nil }})
	if _, _, err := c.Resolve(t.Context(), r); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("got %v, want \"refused\"", err)
	}
	if waits == 0 || waits > maxAttempts {
		t.Errorf("%d pauses, want 1 to %d", waits, maxAttempts)
	}
	for _, bad := range []reference.Reference{{}, {Registry: "../x", Repository: "a"}, {Registry: "127.0.0.1:1", Repository: "a/../b"}, {Registry: "127.0.0.1:1", Repository: "a?b"}} {
		if _, _, err := c.Resolve(t.Context(), bad); err == nil {
			t.Errorf("%+v was accepted", bad)
		}
	}
	if _, err := c.Blob(t.Context(), r, ocispec.Descriptor{MediaType: "a/b", Digest: "sha256:../../x", Size: 1}); err == nil {
		t.Error("a malformed digest was accepted")
	}
}

func TestCancel(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	ctx, cancel := context.WithCancel(context.Background())
	s.Inject(registrytest.Fault{Answer: func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
		cancel()
		<-r.Context().Done()
	}})
	if _, _, err := newClient(t, Options{}).Resolve(ctx, ref(t, s, "a:v1")); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want context.Canceled", err)
	}
	if n := len(s.Requests()); n != 1 {
		t.Errorf("%d requests, want 1", n)
	}
}
