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

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/registry/registrytest"
)

// making is content that grows a step whenever somebody waits for more.
type making struct {
	data []byte
	step int64
	have int64
	fail error // when all but the last step is there
}

func (m *making) More(_ context.Context, n int64) (int64, *ocispec.Descriptor, error) {
	size := int64(len(m.data))
	for m.have < min(n, size) {
		if m.fail != nil && m.have+m.step >= size {
			return 0, nil, m.fail
		}
		m.have = min(m.have+m.step, size)
	}
	if m.have < size || n < size && m.step < size {
		return m.have, nil, nil
	}
	d := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromBytes(m.data), Size: size}
	return size, &d, nil
}

func (m *making) Open(context.Context) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(m.data[:m.have])), nil
}

func isMethod(method string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.Method == method }
}

// later lets the first request that matches pass and answers the others.
func later(code int) answer {
	first := true
	return func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if first {
			first = false
			next.ServeHTTP(w, r)
			return
		}
		w.WriteHeader(code)
	}
}

func methods(list []registrytest.Request) string {
	var out []string
	for _, r := range list {
		out = append(out, r.Method)
	}
	return strings.Join(out, " ")
}

func TestPutGrowing(t *testing.T) {
	const mb = 1 << 20
	for _, tt := range []struct {
		name   string
		size   int
		fault  registrytest.Fault
		there  bool   // the registry has the blob
		want   string // methods of the requests
		failed string
	}{
		{name: "small", size: mb, want: "HEAD POST PUT"},
		{name: "empty", size: 0, want: "HEAD POST PUT"},
		{name: "small and there", size: mb, there: true, want: "HEAD"},
		{name: "large", size: 12 * mb, want: "POST PATCH PATCH PUT"},
		{name: "pieces refused", size: 12 * mb, fault: registrytest.Fault{Match: isMethod("PATCH"), Times: 2, Answer: later(404)},
			want: "POST PATCH PATCH HEAD POST PATCH PUT"},
		{name: "pieces not implemented", size: 12 * mb, fault: registrytest.Fault{Match: isMethod("PATCH"), Times: 1, Answer: status(501)},
			want: "POST PATCH HEAD POST PATCH PUT"},
		{name: "R01 one 500", size: 12 * mb, fault: registrytest.Fault{Match: isMethod("PATCH"), Times: 1, Answer: status(500)},
			want: "POST PATCH GET POST PATCH PATCH PUT"},
		{name: "R10 reset", size: 12 * mb, fault: registrytest.Fault{Match: isMethod("PATCH"), Times: 2, Answer: func(_ http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(discardWriter{}, r) // it took the piece, and the answer is lost
			panic(http.ErrAbortHandler)
		}}, want: "POST PATCH GET PATCH GET PUT"},
		{name: "R06 always 500", size: 12 * mb, fault: registrytest.Fault{Match: isMethod("PATCH"), Answer: status(500)},
			want: "POST PATCH GET POST PATCH GET POST PATCH GET POST PATCH GET POST PATCH GET POST PATCH DELETE", failed: "500"},
		{name: "forbidden", size: 12 * mb, fault: registrytest.Fault{Match: isMethod("POST"), Answer: status(403)}, want: "POST", failed: "403"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			m := &making{data: numbered(tt.size), step: 4 * mb}
			if tt.there {
				s.PutBlob("a", m.data)
			}
			if tt.fault.Answer != nil {
				s.Inject(tt.fault)
			}
			err := newClient(t, Options{}).PutGrowing(t.Context(), ref(t, s, "a"), m, nil)
			if tt.failed == "" && err != nil || tt.failed != "" && (err == nil || !strings.Contains(err.Error(), tt.failed)) {
				t.Errorf("got error %v, want %q", err, tt.failed)
			}
			if got := methods(s.Requests()); got != tt.want {
				t.Errorf("requests\n got %s\nwant %s", got, tt.want)
			}
			if data, ok := s.Blob("a", digest.FromBytes(m.data)); tt.failed == "" && (!ok || !bytes.Equal(data, m.data)) {
				t.Errorf("the registry has %d of %d bytes", len(data), len(m.data))
			}
		})
	}
}

// TestPutGrowingFails has a maker that fails: the registry keeps nothing, and is told.
func TestPutGrowingFails(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	torn := errors.New("torn")
	m := &making{data: numbered(20 << 20), step: 4 << 20, fail: torn}
	if err := newClient(t, Options{}).PutGrowing(t.Context(), ref(t, s, "a"), m, nil); !errors.Is(err, torn) {
		t.Errorf("got %v, want %v", err, torn)
	}
	if got := methods(s.Requests()); got != "POST PATCH PATCH DELETE" {
		t.Errorf("requests %s", got)
	}
}

// TestPutFile sends a file as it is: the registry is the one who verifies it, and we do
// where it says nothing. What is damaged is told as that.
func TestPutFile(t *testing.T) {
	data := numbered(5 << 20)
	d := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromBytes(data), Size: int64(len(data))}
	file := filepath.Join(t.TempDir(), "blob")
	take := registrytest.Fault{Match: isMethod("PUT"), Answer: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusCreated)
	}}
	for _, tt := range []struct {
		name    string
		damaged bool
		silent  bool // the registry takes anything
	}{{"whole", false, false}, {"whole, silent", false, true}, {"damaged", true, false}, {"damaged, silent", true, true}} {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			if tt.silent {
				s.Inject(take)
			}
			content := slices.Clone(data)
			if tt.damaged {
				content[3<<20]++
			}
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			var told int64
			err := newClient(t, Options{}).PutBlob(t.Context(), ref(t, s, "a"), d, func(context.Context) (io.ReadCloser, error) {
				f, err := os.Open(file)
				return blob.Verify(f, d), err
			}, BlobOptions{Progress: func(done int64) { told = max(told, done) }})
			if tt.damaged != errors.Is(err, blob.ErrCorrupt) || !tt.damaged && err != nil {
				t.Errorf("got %v", err)
			}
			if told != d.Size {
				t.Errorf("%d of %d bytes were told", told, d.Size)
			}
		})
	}
}

// TestFileStalls is R18 and R19 for a file that the kernel sends: nobody takes it, or
// nobody answers.
func TestFileStalls(t *testing.T) {
	file := filepath.Join(t.TempDir(), "blob")
	data := numbered(32 << 20) // more than the buffers of a connection
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	d := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromBytes(data), Size: int64(len(data))}
	for name, take := range map[string]func(*http.Request){
		"nothing taken": func(*http.Request) {},
		"no answer":     func(r *http.Request) { _, _ = io.Copy(io.Discard, r.Body) },
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			over := make(chan struct{})
			defer close(over) // a server sees that a connection is closed only when it has read the body
			s.Inject(registrytest.Fault{Match: isMethod("PATCH"), Answer: func(_ http.ResponseWriter, r *http.Request, _ http.Handler) {
				take(r)
				<-over
			}})
			err := newClient(t, Options{StallTimeout: impatient}).PutBlob(t.Context(), ref(t, s, "a"), d, func(context.Context) (io.ReadCloser, error) {
				return os.Open(file)
			}, BlobOptions{})
			if !errors.Is(err, errStalled) {
				t.Errorf("got %v, want %v", err, errStalled)
			}
		})
	}
}
