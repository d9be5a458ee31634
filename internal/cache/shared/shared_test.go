// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/registry/registrytest"
)

// record is a result of a base layer and two own ones, the second of which is made.
func record(name string) *cache.Record {
	base := describe([]byte("base"), ocispec.MediaTypeImageLayerGzip)
	return &cache.Record{
		Step: "web: " + name, Key: cache.Ingredients{{Name: "step", Value: name}}.Key(), Created: time.Unix(1e9, 0).UTC(), Duration: time.Second,
		Ingredients: cache.Ingredients{{Name: "step", Value: name}},
		Result: cache.Result{Layers: []cache.Layer{
			{DiffID: digest.FromString("b"), Blob: &base, Origin: "docker://r.io/base@" + string(base.Digest)},
			{DiffID: digest.FromString("own " + name), Size: 10, CreatedBy: "make " + name, Created: time.Unix(1e9, 0).UTC(), Start: 7},
		}},
	}
}

// newCache returns a Cache whose layers are their own diffIDs, and what it warned of.
func newCache(t *testing.T, o Options) (*Cache, func() string) {
	t.Helper()
	var mu sync.Mutex
	var warned strings.Builder
	o.Pack = func(_ context.Context, l cache.Layer, _ string) (ocispec.Descriptor, error) {
		return describe([]byte(l.DiffID), ocispec.MediaTypeImageLayerGzip), nil
	}
	o.Open = func(_ context.Context, l cache.Layer) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(string(l.DiffID))), nil
	}
	o.Warn = func(text string) {
		mu.Lock()
		defer mu.Unlock()
		warned.WriteString(text + "\n")
	}
	return New(t.Context(), o), func() string {
		mu.Lock()
		defer mu.Unlock()
		return warned.String()
	}
}

func repository(t testing.TB, s *registrytest.Server, o registry.Options) *Registry {
	t.Helper()
	ref, err := reference.Parse(s.Host() + "/cache")
	if err != nil {
		t.Fatal(err)
	}
	if o.Wait == nil {
		o.Wait = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	}
	c := registry.New(o)
	t.Cleanup(func() { _ = c.Close() })
	return &Registry{Client: c, Repository: ref}
}

// TestKeepAndLookup is the same for every kind of place.
func TestKeepAndLookup(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	for _, p := range []Place{repository(t, s, registry.Options{}), &Layout{Dir: t.TempDir() + "/shared"}} {
		r := record("run")
		writer, warned := newCache(t, Options{To: []Target{{Place: p}}, From: []Place{p}})
		if got := writer.Lookup(t.Context(), r.Key); got != nil {
			t.Errorf("%s: found %v before it was kept", p, got)
		}
		writer.Keep(r, false)
		writer.Keep(r, true) // once is enough
		if n := writer.Wait(); n != 1 || warned() != "" {
			t.Fatalf("%s: kept %d, warned %q", p, n, warned())
		}
		reader, warned := newCache(t, Options{From: []Place{p}})
		got := reader.Lookup(t.Context(), r.Key)
		if got == nil {
			t.Fatalf("%s: not found: %s", p, warned())
		}
		own := got.Result.Layers[1]
		if !strings.HasPrefix(own.Origin, OriginPrefix) || own.Blob == nil {
			t.Errorf("%s: own layer is %+v", p, own)
		}
		want := record("run")
		want.Ingredients = nil
		want.Result.Layers[0] = cache.Layer{DiffID: want.Result.Layers[0].DiffID}
		want.Result.Layers[1].Blob, want.Result.Layers[1].Origin = own.Blob, own.Origin
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got\n%+v, want\n%+v", p, got, want)
		}
		if reader.Lookup(t.Context(), record("other").Key) != nil || warned() != "" {
			t.Errorf("%s: another key: warned %q", p, warned())
		}
	}
	for _, r := range s.Requests() {
		if strings.Contains(r.Path, "referrers") {
			t.Errorf("%s %s", r.Method, r.Path)
		}
	}
}

// TestFinal keeps results of targets only.
func TestFinal(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	c, _ := newCache(t, Options{To: []Target{{Place: repository(t, s, registry.Options{}), Final: true}}})
	c.Keep(record("run"), false)
	c.Keep(record("last"), true)
	if n := c.Wait(); n != 1 || len(s.Tags("cache")) != 1 {
		t.Errorf("kept %d, tags %q", n, s.Tags("cache"))
	}
}

// TestNewLayout keeps many results at once in a directory that is not there yet, and
// looks others up.
func TestNewLayout(t *testing.T) {
	for range 3 {
		p := &Layout{Dir: t.TempDir() + "/shared"}
		c, warned := newCache(t, Options{From: []Place{p}, To: []Target{{Place: p}}, AtOnce: 8})
		for i := range 8 {
			c.Keep(record(fmt.Sprint(i)), false)
			c.Lookup(t.Context(), record("x").Key)
		}
		if n := c.Wait(); n != 8 || warned() != "" {
			t.Fatalf("kept %d, warned %q", n, warned())
		}
	}
}

// TestFaults: a place that fails is a warning, once, and the others go on.
func TestFaults(t *testing.T) {
	broken, good := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
	broken.Inject(registrytest.Fault{Answer: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) { w.WriteHeader(http.StatusForbidden) }})
	bad, fine := repository(t, broken, registry.Options{}), repository(t, good, registry.Options{})
	c, warned := newCache(t, Options{From: []Place{bad, fine}, To: []Target{{Place: bad}, {Place: fine}}})
	for i := range 5 {
		c.Keep(record(fmt.Sprint(i)), false)
	}
	c.Wait()
	for i := range 5 {
		if c.Lookup(t.Context(), record(fmt.Sprint(i)).Key) == nil {
			t.Errorf("result %d is not found in the place that works", i)
		}
	}
	if n := strings.Count(warned(), "\n"); n != 1 {
		t.Errorf("%d warnings, want 1:\n%s", n, warned())
	}
	stopped, cancel := context.WithCancel(t.Context())
	cancel()
	other := registrytest.New(t, registrytest.Options{})
	c, warned = newCache(t, Options{From: []Place{repository(t, other, registry.Options{})}})
	if c.Lookup(stopped, record("x").Key) != nil || warned() != "" {
		t.Errorf("a build that was stopped warned %q", warned())
	}
}

// TestHostile reads documents that nobody wrote here.
func TestHostile(t *testing.T) {
	r := record("run")
	blob := describe([]byte("x"), ocispec.MediaTypeImageLayerGzip)
	good, _, err := encode(r, []bool{false, true}, []ocispec.Descriptor{blob})
	if err != nil {
		t.Fatal(err)
	}
	replace := func(old, new string) []byte { return bytes.ReplaceAll(good, []byte(old), []byte(new)) }
	for name, data := range map[string][]byte{
		"nothing":         nil,
		"not JSON":        []byte("{"),
		"no annotation":   replace(resultAnnotation, "x"),
		"other version":   replace(`\"version\":1`, `\"version\":2`),
		"other key":       replace(string(r.Key), strings.Repeat("0", 64)),
		"bad diffID":      replace(string(r.Result.Layers[0].DiffID), "sha256:../../etc/passwd"),
		"too few layers":  replace(`\"size\":0`, `\"size\":0,\"own\":true`),
		"too many layers": replace(`\"own\":true`, `\"own\":false`),
		"no layer":        replace(ocispec.MediaTypeImageLayerGzip, "text/plain"),
	} {
		if got, err := decode(data, r.Key, "cache+docker://r.io/x", false); err == nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		}
	}
	if _, err := decode(good, r.Key, "", false); err != nil {
		t.Errorf("the good one: %v", err)
	}
}

func FuzzDecode(f *testing.F) {
	r := record("run")
	good, _, err := encode(r, []bool{false, true}, []ocispec.Descriptor{describe([]byte("x"), ocispec.MediaTypeImageLayerGzip)})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Fuzz(func(t *testing.T, data []byte) {
		got, err := decode(data, r.Key, "cache+oci:/x:y", false)
		if err != nil {
			return
		}
		for _, l := range got.Result.Layers {
			if !image.ValidDigest(l.DiffID) || l.Blob != nil && (!image.ValidDigest(l.Blob.Digest) || l.Blob.Size < 0) {
				t.Errorf("accepted %+v", l)
			}
		}
	})
}

func TestForget(t *testing.T) {
	store, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	own, theirs := record("own"), record("theirs")
	blob := describe([]byte("x"), ocispec.MediaTypeImageLayerGzip)
	theirs.Result.Layers[1].Blob, theirs.Result.Layers[1].Origin = &blob, OriginPrefix+"docker://r.io/x"
	if err := errors.Join(store.Put(own), store.Put(theirs), Forget(store)); err != nil {
		t.Fatal(err)
	}
	if store.Lookup(own.Key) == nil || store.Lookup(theirs.Key) != nil {
		t.Errorf("kept: own %v, theirs %v, want only own", store.Lookup(own.Key) != nil, store.Lookup(theirs.Key) != nil)
	}
}

// BenchmarkLookupMissing looks 100 keys up that a registry does not have, when each
// answer takes 20 ms.
func BenchmarkLookupMissing(b *testing.B) {
	s := registrytest.New(b, registrytest.Options{})
	s.Inject(registrytest.Fault{Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		time.Sleep(20 * time.Millisecond)
		next.ServeHTTP(w, r)
	}})
	for b.Loop() {
		c := New(b.Context(), Options{From: []Place{repository(b, s, registry.Options{})}, Warn: func(text string) { b.Error(text) }})
		var wg sync.WaitGroup
		for i := range 100 {
			wg.Go(func() { c.Lookup(b.Context(), record(fmt.Sprint(i)).Key) })
		}
		wg.Wait()
	}
}
