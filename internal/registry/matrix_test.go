// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/registry/hosts"
	"build.stacker.dev/internal/registry/registrytest"
)

// faultRows are those of R01 to R26 that may come at every request.
var faultRows = []struct {
	name   string
	times  int
	answer answer
	want   string // of the error; empty is success
}{
	{"R01 one 500", 1, status(500), ""},
	{"R02 always 500", 0, status(500), "500"},
	{"R03 502", 2, status(502), ""},
	{"R03 503", 2, status(503), ""},
	{"R03 504", 2, status(504), ""},
	{"R04 429", 1, status(429, "Retry-After", "2"), ""},
	{"R05 429 until a date", 1, status(429, "Retry-After", "Thu, 01 Jan 2026 00:00:30 GMT"), ""},
	{"R06 429 for a day", 0, status(429, "Retry-After", "86400"), "24h"},
	{"R07 408", 1, status(408), ""},
	{"R10 reset", 1, reset, ""},
	{"R10 always reset", 0, reset, ""}, // any error
	{"R26 always 401", 0, status(401), "nauthorized"},
	{"403 with the registry's words", 0, func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		w.WriteHeader(http.StatusForbidden)
		_, _ = w.Write([]byte(`{"errors":[{"code":"DENIED","message":"your plan ended"}]}`))
	}, "DENIED: your plan ended"},
}

// faultPlaces are the requests that a fault may hit.
func faultPlaces(config, layer digest.Digest) map[string]func(*http.Request) bool {
	of := func(d digest.Digest) func(*http.Request) bool {
		return func(r *http.Request) bool {
			return strings.HasSuffix(r.URL.Path, string(d)) || r.URL.Query().Get("digest") == string(d)
		}
	}
	return map[string]func(*http.Request) bool{"manifest": isManifest, "config": of(config), "layer": of(layer)}
}

// TestFaultMatrix puts every fault at every document and blob, of a pull and of a
// push. What fails stores nothing wrong, and the same again without the fault works.
func TestFaultMatrix(t *testing.T) {
	m := memory{}
	desc := m.putImage(t, layerData(1<<16))
	doc, err := image.ParseManifest(m[desc.Digest], desc.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	for place, match := range faultPlaces(doc.Config.Digest, doc.Layers[0].Digest) {
		for _, row := range faultRows {
			for _, direction := range []string{"pull", "push"} {
				t.Run(direction+" "+place+" "+row.name, func(t *testing.T) {
					t.Parallel()
					s := registrytest.New(t, registrytest.Options{})
					if direction == "pull" {
						for d, data := range m {
							if d != desc.Digest {
								s.PutBlob("a", data)
							}
						}
						s.PutManifest("a", "v1", desc.MediaType, m[desc.Digest])
					}
					s.Inject(registrytest.Fault{Match: match, Times: row.times, Answer: row.answer})
					err := transferImage(t, direction, s, m, desc)
					fails := row.times == 0
					if fails != (err != nil) || fails && !strings.Contains(err.Error(), row.want) {
						t.Errorf("got %v, want an error: %v, that says %q", err, fails, row.want)
					}
					if n := len(s.Requests()); n > 3*maxAttempts {
						t.Errorf("%d requests", n)
					}
					if fails && direction == "push" && len(s.Tags("a")) != 0 {
						t.Error("a push that failed has set the tag")
					}
					s.ClearFaults()
					if err := transferImage(t, direction, s, m, desc); err != nil {
						t.Errorf("again: %v", err)
					}
				})
			}
		}
	}
}

// transferImage pulls everything of an image into a store, or pushes it, with a new
// client.
func transferImage(t *testing.T, direction string, s *registrytest.Server, m memory, desc ocispec.Descriptor) error {
	t.Helper()
	c := newClient(t, Options{Now: func() time.Time { return time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC) }})
	name := ref(t, s, "a:v1")
	if direction == "push" {
		return c.Push(t.Context(), name, desc, m, PushOptions{})
	}
	got, data, err := c.Resolve(t.Context(), name)
	if err != nil {
		return err
	}
	doc, err := image.ParseManifest(data, got.MediaType)
	if err != nil {
		return err
	}
	for _, d := range append(doc.Layers, doc.Config) {
		data, err := readBlob(c, name, d)
		if err == nil && !bytes.Equal(data, m[d.Digest]) {
			t.Errorf("blob %s came wrong, without an error", d.Digest)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// TestDamagedBlobIsNotKept is R13 to R16 for a store: nothing wrong is stored, and
// the next run succeeds.
func TestDamagedBlobIsNotKept(t *testing.T) {
	data := layerData(1 << 16)
	wrong := bytes.Clone(data)
	wrong[77] ^= 1
	for name, a := range map[string]answer{
		"R14 short":      replace(data[:100], 100),
		"R15 long":       replace(append(bytes.Clone(data), 'x'), -1),
		"R16 wrong":      replace(wrong, len(wrong)),
		"R34 only HEAD":  status(404),
		"R16 compressed": replace([]byte("\x1f\x8b\x08"), -1),
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{})
			d := s.PutBlob("a", data)
			store, err := blob.Create(t.TempDir()+"/blobs", blob.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = store.Close() }()
			c := newClient(t, Options{})
			fetch := func() error { return c.Fetch(t.Context(), ref(t, s, "a"), d, store, nil) }
			s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return r.Method == http.MethodGet }, Answer: a})
			if has, err := c.HasBlob(t.Context(), ref(t, s, "a"), d); err != nil || !has {
				t.Fatalf("HEAD: got %v, %v", has, err)
			}
			if err := fetch(); err == nil || store.Has(d) {
				t.Errorf("got %v, stored: %v", err, store.Has(d))
			}
			if n := len(s.Requests()); n > 3*maxAttempts {
				t.Errorf("%d requests", n)
			}
			s.ClearFaults()
			if err := fetch(); err != nil || !store.Has(d) {
				t.Errorf("again: got %v, stored: %v", err, store.Has(d))
			}
		})
	}
}

// TestNoSuchHost is R09: a name that does not exist is asked for once.
func TestNoSuchHost(t *testing.T) {
	waits := 0
	c := newClient(t, Options{Wait: func(context.Context, time.Duration) error { waits++; return nil }})
	_, _, err := c.Resolve(t.Context(), parse(t, "no-such-host.invalid/a:v1"))
	if err == nil || !strings.Contains(err.Error(), "no-such-host.invalid") {
		t.Errorf("got %v, want an error that names the host", err)
	}
	if waits > maxAttempts {
		t.Errorf("%d pauses", waits)
	}
}

// TestProxy is R38: requests go through the proxy that is given, but not to it what
// is excepted.
func TestProxy(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	var mu sync.Mutex
	var asked []string
	proxy := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		asked = append(asked, r.Method+" "+r.URL.Host)
		mu.Unlock()
		to := *r.URL
		to.Host = s.Host()
		req, _ := http.NewRequestWithContext(r.Context(), r.Method, to.String(), nil)
		req.Header = r.Header
		resp, err := http.DefaultTransport.RoundTrip(req)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer func() { _ = resp.Body.Close() }()
		for name, values := range resp.Header {
			w.Header()[name] = values
		}
		w.WriteHeader(resp.StatusCode)
		var buf bytes.Buffer
		_, _ = buf.ReadFrom(resp.Body)
		_, _ = w.Write(buf.Bytes())
	}))
	defer proxy.Close()
	at, err := url.Parse(proxy.URL)
	if err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Options{Insecure: func(string) bool { return true }, Proxy: func(r *http.Request) (*url.URL, error) {
		if r.URL.Scheme == "https" {
			return nil, nil //nolint:nilnil // no proxy for it
		}
		return at, nil
	}})
	h, err := c.hostFor(hosts.Place{Registry: "registry.example:80"})
	if err != nil {
		t.Fatal(err)
	}
	h.usePlain()
	if _, _, err := pull(c, parse(t, "registry.example:80/a:v1")); err != nil {
		t.Fatal(err)
	}
	if len(asked) == 0 || slices.ContainsFunc(asked, func(a string) bool { return a != "GET registry.example:80" }) {
		t.Errorf("the proxy was asked for %q", asked)
	}
}

// TestPushGoesOn is R39: of a push that was killed half-way only what is missing goes
// up, and the tag comes last.
func TestPushGoesOn(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	m := memory{}
	layers := make([][]byte, 6)
	for i := range layers {
		layers[i] = fmt.Appendf(nil, "layer %d", i)
	}
	desc := m.putImage(t, layers...)
	ctx, kill := context.WithCancel(t.Context())
	puts := 0
	s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return r.Method == http.MethodPut },
		Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			next.ServeHTTP(w, r)
			if puts++; puts == 3 {
				kill()
			}
		}})
	err := newClient(t, Options{}).Push(ctx, ref(t, s, "a:v1"), desc, m, PushOptions{Parallel: 1})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v, want context.Canceled", err)
	}
	if tags := s.Tags("a"); len(tags) != 0 {
		t.Errorf("half an image has the tags %q", tags)
	}
	s.ClearFaults()
	s.Requests()
	if err := newClient(t, Options{}).Push(t.Context(), ref(t, s, "a:v1"), desc, m, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	requests := s.Requests()
	uploads := 0
	for _, r := range requests {
		if r.Method == http.MethodPut && strings.Contains(r.Path, "/uploads/") {
			uploads++
		}
	}
	if uploads != len(layers)+1-3 {
		t.Errorf("%d blobs went up, want %d", uploads, len(layers)+1-3)
	}
	if last := requests[len(requests)-1]; last.Path != "/v2/a/manifests/v1" {
		t.Errorf("the last request is %s %s", last.Method, last.Path)
	}
}

// TestTagMoves is R40: what Head said stays what is pulled, whatever the tag names
// by then.
func TestTagMoves(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	first := s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("first")}}})
	c, name := newClient(t, Options{}), ref(t, s, "a:v1")
	d, err := c.Head(t.Context(), name)
	if err != nil || d.Digest != first.Digest {
		t.Fatalf("got %v, %v", d, err)
	}
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("second")}}})
	data, err := c.Manifest(t.Context(), name, d)
	if err != nil || digest.FromBytes(data) != first.Digest {
		t.Errorf("got %s, %v, want %s", digest.FromBytes(data), err, first.Digest)
	}
}
