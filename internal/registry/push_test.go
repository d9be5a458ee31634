// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/registrytest"
)

// memory is a Provider.
type memory map[digest.Digest][]byte

func (m memory) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	data, ok := m[d.Digest]
	if !ok {
		return nil, errors.New("no such blob")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m memory) put(mediaType string, data []byte) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	m[d.Digest] = data
	return d
}

func (m memory) putDocument(t *testing.T, mediaType string, v any) ocispec.Descriptor {
	t.Helper()
	data, err := image.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return m.put(mediaType, data)
}

// openFrom returns a function that opens a blob, as PutBlob wants it.
func openFrom(m memory, d ocispec.Descriptor) func(context.Context) (io.ReadCloser, error) {
	return func(ctx context.Context) (io.ReadCloser, error) { return m.Open(ctx, d) }
}

// putImage makes an image of layers.
func (m memory) putImage(t *testing.T, layers ...[]byte) ocispec.Descriptor {
	t.Helper()
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	doc.SchemaVersion = 2
	config := image.Config{RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		d := m.put(ocispec.MediaTypeImageLayer, l)
		doc.Layers = append(doc.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
	}
	doc.Config = m.putDocument(t, ocispec.MediaTypeImageConfig, config)
	return m.putDocument(t, doc.MediaType, doc)
}

// bigLayer is too large to go up in one request that is begun anew.
func bigLayer() []byte { return layerData(smallBlob + 1<<20) }

func TestPush(t *testing.T) {
	for name, opts := range map[string]registrytest.Options{
		"open":  {},
		"basic": {Auth: registrytest.Basic, Username: testUser, Password: testPassword},
		"token": {Auth: registrytest.Token, Username: testUser, Password: testPassword},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, opts)
			m := memory{}
			d := m.putImage(t, bigLayer(), []byte("small"), nil)
			c := newClient(t, Options{Credentials: credentials})
			to := ref(t, s, "a/b:v1")
			if err := c.Push(t.Context(), to, d, m, PushOptions{}); err != nil {
				t.Fatal(err)
			}
			if data, mediaType, ok := s.Manifest("a/b", "v1"); !ok || !bytes.Equal(data, m[d.Digest]) || mediaType != d.MediaType {
				t.Errorf("the tag names %q of %s", data, mediaType)
			}
			for dgst, want := range m {
				if got, ok := s.Blob("a/b", dgst); dgst != d.Digest && (!ok || !bytes.Equal(got, want)) {
					t.Errorf("blob %s: got %d bytes, want %d", dgst, len(got), len(want))
				}
			}
			s.Requests()
			if err := c.Push(t.Context(), to, d, m, PushOptions{}); err != nil {
				t.Fatal(err)
			}
			if got := methods(s.Requests()); got != "HEAD PUT" {
				t.Errorf("pushing again does %s, want the tag alone", got)
			}
			// A registry that has lost a blob says so when the tag is written.
			lost := slices.IndexFunc(layersOf(t, m, d), func(l ocispec.Descriptor) bool { return l.Size > 0 })
			s.RemoveBlob("a/b", layersOf(t, m, d)[lost].Digest)
			if err := c.Push(t.Context(), to, d, m, PushOptions{}); err != nil {
				t.Errorf("push to a registry that has lost a blob: %v", err)
			}
			if _, ok := s.Blob("a/b", layersOf(t, m, d)[lost].Digest); !ok {
				t.Error("the lost blob was not pushed again")
			}
		})
	}
}

// layersOf gives the layers of an image.
func layersOf(t *testing.T, m memory, d ocispec.Descriptor) []ocispec.Descriptor {
	t.Helper()
	doc, err := image.ParseManifest(m[d.Digest], d.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	return doc.Layers
}

func TestPushIndex(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	m := memory{}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	idx.Manifests = append(idx.Manifests, m.putImage(t, []byte("a"), []byte("shared")), m.putImage(t, []byte("b"), []byte("shared")))
	d := m.putDocument(t, idx.MediaType, idx)
	if err := newClient(t, Options{}).Push(t.Context(), ref(t, s, "a:v1"), d, m, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	requests := s.Requests()
	if last := requests[len(requests)-1]; last.Method != http.MethodPut || last.Path != "/v2/a/manifests/v1" {
		t.Errorf("the last request is %s %s, want the tag", last.Method, last.Path)
	}
	if tags := s.Tags("a"); len(tags) != 1 {
		t.Errorf("tags are %q, want v1", tags)
	}
	wrong := ref(t, s, "a@"+string(idx.Manifests[0].Digest))
	if err := newClient(t, Options{}).Push(t.Context(), wrong, d, m, PushOptions{}); err == nil {
		t.Error("pushed an image under the digest of another")
	}
}

func TestMount(t *testing.T) {
	data := bigLayer()
	tests := []struct {
		name   string
		answer answer // to the POST that asks for the mount
		upload bool
	}{
		{"R30 201", nil, false},
		{"R30 202", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.URL.RawQuery = ""
			next.ServeHTTP(w, r)
		}, true},
		{"R30 404", status(404), true},
		{"R30 403", status(403), true},
		{"R30 always 500", status(500), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			m := memory{}
			d := m.put("a/b", data)
			s.PutBlob("other", data)
			if tt.answer != nil {
				s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return r.URL.Query().Has("mount") }, Answer: tt.answer})
			}
			open := openFrom(m, d)
			if err := newClient(t, Options{}).PutBlob(t.Context(), ref(t, s, "a"), d, open, BlobOptions{MountFrom: []string{"a", "other"}}); err != nil {
				t.Fatal(err)
			}
			if _, ok := s.Blob("a", d.Digest); !ok {
				t.Error("the blob is not there")
			}
			uploaded := false
			for _, r := range s.Requests() {
				uploaded = uploaded || r.Method == http.MethodPatch
			}
			if uploaded != tt.upload {
				t.Errorf("uploaded: %v, want %v", uploaded, tt.upload)
			}
		})
	}
}

// breakAfter takes some bytes of an upload and then breaks the connection.
func breakAfter(n int64) answer {
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Body = io.NopCloser(io.LimitReader(r.Body, n))
		next.ServeHTTP(discardWriter{}, r)
		panic(http.ErrAbortHandler)
	}
}

// discardWriter is an answer that nobody gets.
type discardWriter struct{}

func (discardWriter) Header() http.Header         { return http.Header{} }
func (discardWriter) Write(p []byte) (int, error) { return len(p), nil }
func (discardWriter) WriteHeader(int)             {}

func TestUploadFaults(t *testing.T) {
	isPatch := func(r *http.Request) bool { return r.Method == http.MethodPatch }
	isPut := func(r *http.Request) bool { return r.Method == http.MethodPut }
	isPost := func(r *http.Request) bool { return r.Method == http.MethodPost }
	isStatus := func(r *http.Request) bool { return r.Method == http.MethodGet }
	size := int64(len(bigLayer()))
	tests := []struct {
		name   string
		faults []registrytest.Fault
		chunk  int64
		want   string
		sent   int64 // most bytes of content; 0 is not checked
	}{
		{"none", nil, 0, "", size},
		{"chunks", nil, 1 << 20, "", size},
		{"R11 broken in the middle", []registrytest.Fault{{Match: isPatch, Times: 1, Answer: breakAfter(size / 2)}}, 0, "", size/2 + 1},
		{"broken in the middle, status unknown", []registrytest.Fault{
			{Match: isPatch, Times: 1, Answer: breakAfter(size / 2)}, {Match: isStatus, Times: 1, Answer: status(404)}}, 0, "", size},
		{"R01 500 on POST", []registrytest.Fault{{Match: isPost, Times: 1, Answer: status(500)}}, 0, "", size},
		{"500 on PATCH", []registrytest.Fault{{Match: isPatch, Times: 2, Answer: status(500)}}, 0, "", size},
		{"500 on PUT", []registrytest.Fault{{Match: isPut, Times: 2, Answer: status(500)}}, 0, "", size},
		{"R02 always 500", []registrytest.Fault{{Match: isPatch, Answer: status(500)}}, 0, "500", 0},
		{"R31 no Location", []registrytest.Fault{{Match: isPost, Answer: status(202)}}, 0, "no location", 0},
		{"R32 416", []registrytest.Fault{{Match: isPatch, Times: 1, Answer: status(416)}}, 0, "", size},
		{"413 for all at once", []registrytest.Fault{{Match: func(r *http.Request) bool {
			return isPatch(r) && r.ContentLength > 2<<20
		}, Answer: status(413)}}, 4 << 20, "", 0},
		{"404 in the middle", []registrytest.Fault{{Match: func(r *http.Request) bool {
			return isPatch(r) && strings.HasPrefix(r.Header.Get("Content-Range"), "2097152-")
		}, Times: 1, Answer: status(404)}, {Match: isStatus, Times: 1, Answer: status(404)}}, 2 << 20, "", 0},
		{"answer to the last PUT is lost", []registrytest.Fault{{Match: isPut, Times: 1, Answer: func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(discardWriter{}, r)
			panic(http.ErrAbortHandler)
		}}}, 0, "", size},
		{"status says too much, 400 at the end", []registrytest.Fault{
			{Match: isPatch, Times: 1, Answer: breakAfter(size / 2)},
			{Match: isStatus, Times: 1, Answer: status(204, "Range", "0-4194303")},
		}, 0, "", 0},
		{"always 400 at the end", []registrytest.Fault{{Match: isPatch, Times: 1, Answer: breakAfter(size / 2)}, {Match: isPut, Answer: status(400)}}, 0, "400", 0},
		{"403", []registrytest.Fault{{Match: isPost, Answer: status(403)}}, 0, "do not allow", 0},
		{"R29 Location with http elsewhere", []registrytest.Fault{{Match: isPost, Answer: status(202, "Location", "http://127.0.0.2:9/up")}}, 0, "wants the upload at", 0},
		{"R29 Location on another port", []registrytest.Fault{{Match: isPost, Answer: status(202, "Location", "http://127.0.0.1:9/up")}}, 0, "wants the upload at", 0},
		{"R29 Location with another scheme", []registrytest.Fault{{Match: isPost, Answer: status(202, "Location", "https://127.0.0.1/up")}}, 0, "wants the upload at", 0},
		{"redirected PATCH", []registrytest.Fault{{Match: isPatch, Answer: status(307, "Location", "http://127.0.0.2:9/up")}}, 0, "not followed", 0},
	}
	m := memory{}
	d := m.put("a/b", bigLayer())
	file := filepath.Join(t.TempDir(), "blob")
	if err := os.WriteFile(file, m[d.Digest], 0o600); err != nil {
		t.Fatal(err)
	}
	// What goes up: bytes, a file that the kernel sends, and what is still being made.
	ways := map[string]func(c *Client, to reference.Reference) error{
		"bytes": func(c *Client, to reference.Reference) error {
			return c.PutBlob(t.Context(), to, d, openFrom(m, d), BlobOptions{})
		},
		"file": func(c *Client, to reference.Reference) error {
			return c.PutBlob(t.Context(), to, d, func(context.Context) (io.ReadCloser, error) { return os.Open(file) }, BlobOptions{})
		},
		"growing": func(c *Client, to reference.Reference) error {
			return c.PutGrowing(t.Context(), to, &making{data: m[d.Digest], step: d.Size}, nil)
		},
	}
	for way, put := range ways {
		for _, tt := range tests {
			t.Run(way+" "+tt.name, func(t *testing.T) {
				s := registrytest.New(t, registrytest.Options{})
				for _, f := range tt.faults {
					s.Inject(f)
				}
				err := put(newClient(t, Options{ChunkSize: tt.chunk}), ref(t, s, "a"))
				_, stored := s.Blob("a", d.Digest)
				switch {
				case tt.want == "" && (err != nil || !stored):
					t.Errorf("got %v, stored %v, want success", err, stored)
				case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
					t.Errorf("got %v, want an error that says %q", err, tt.want)
				}
				requests := s.Requests()
				if len(requests) > 4*maxAttempts {
					t.Errorf("%d requests", len(requests))
				}
				if sent := accepted(requests); tt.sent > 0 && sent > tt.sent {
					t.Errorf("%d bytes went up in requests that were taken, want at most %d", sent, tt.sent)
				}
			})
		}
	}
}

// accepted sums up the content of the requests that succeeded.
func accepted(requests []registrytest.Request) (sum int64) {
	for _, r := range requests {
		if r.Method == http.MethodPatch && r.Status == http.StatusAccepted {
			sum += r.Length
		}
	}
	return sum
}

// TestUploadSurvivesLostToken is R25: a token that ends in mid-push is replaced, and
// what is there already is not sent again.
func TestUploadSurvivesLostToken(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword})
	m := memory{}
	d := m.put("a/b", bigLayer())
	patches := 0
	s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return r.Method == http.MethodPatch },
		Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if patches++; patches == 3 {
				s.RevokeTokens()
			}
			next.ServeHTTP(w, r)
		}})
	s.Inject(registrytest.Fault{Times: 1, Match: func(r *http.Request) bool { return r.Method == http.MethodPut },
		Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			s.RevokeTokens()
			next.ServeHTTP(w, r)
		}})
	open := openFrom(m, d)
	c := newClient(t, Options{Credentials: credentials, ChunkSize: 1 << 20})
	if err := c.PutBlob(t.Context(), ref(t, s, "a"), d, open, BlobOptions{}); err != nil {
		t.Fatal(err)
	}
	if sent := accepted(s.Requests()); sent != d.Size {
		t.Errorf("%d bytes were taken, want %d", sent, d.Size)
	}
}

func TestPushWithMissingBlob(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	m := memory{}
	d := m.putImage(t, []byte("a"))
	delete(m, digest.FromString("a"))
	if err := newClient(t, Options{}).Push(t.Context(), ref(t, s, "a:v1"), d, m, PushOptions{}); err == nil {
		t.Error("pushed an image whose layer is missing")
	}
	if tags := s.Tags("a"); len(tags) != 0 {
		t.Errorf("tags are %q, want none", tags)
	}
}
