// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/registry/registrytest"
)

var mountName = strings.Repeat("7f", 32)

// saved is the archive of a cache mount.
func saved(content string) func(context.Context, func(cache.Layer, io.ReaderAt) error) error {
	return func(_ context.Context, keep func(cache.Layer, io.ReaderAt) error) error {
		d := describe([]byte(content), ocispec.MediaTypeImageLayerZstd)
		return keep(cache.Layer{DiffID: digest.FromString("tar of " + content), Blob: &d}, strings.NewReader(content))
	}
}

// TestMounts: what is kept is found by its name, in the places that are for its id;
// who writes last wins.
func TestMounts(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	for _, p := range []Place{repository(t, s, registry.Options{}), &Layout{Dir: t.TempDir() + "/shared"}} {
		mine := []Mounts{{Place: p, IDs: []string{"go"}}}
		c, warned := newCache(t, Options{MountsFrom: mine, MountsTo: mine})
		load := func(id, name string) (got cache.Layer) {
			c.LoadMount(t.Context(), id, name, func(_ context.Context, l cache.Layer) error {
				got = l
				return nil
			})
			return got
		}
		if got := load("go", mountName); got.Blob != nil {
			t.Errorf("%s: got %+v before it was kept", p, got)
		}
		c.SaveMount(t.Context(), "go", mountName, saved("first"))
		c.SaveMount(t.Context(), "go", mountName, saved("second"))
		c.SaveMount(t.Context(), "secret", mountName, func(context.Context, func(cache.Layer, io.ReaderAt) error) error {
			t.Errorf("%s: a mount was packed that nobody asked for", p)
			return nil
		})
		got := load("go", mountName)
		if got.DiffID != digest.FromString("tar of second") || got.Blob.Digest != digest.FromString("second") || got.Origin == "" {
			t.Errorf("%s: got %+v, want the second", p, got)
		}
		if got := load("secret", mountName); got.Blob != nil {
			t.Errorf("%s: got %+v of a mount that is not wanted", p, got)
		}
		if got := load("go", strings.Repeat("0", 64)); got.Blob != nil || warned() != "" {
			t.Errorf("%s: another mount of the id: got %+v, warned %q", p, got, warned())
		}
	}
}

// TestMountFaults: what goes wrong is a warning, and the next place is asked.
func TestMountFaults(t *testing.T) {
	bad, good := &Layout{Dir: t.TempDir() + "/bad"}, &Layout{Dir: t.TempDir() + "/good"}
	both := []Mounts{{Place: bad, IDs: []string{"go"}}, {Place: good, IDs: []string{"go"}}}
	c, warned := newCache(t, Options{MountsFrom: both, MountsTo: both})
	c.SaveMount(t.Context(), "go", mountName, saved("x"))
	tries := 0
	c.LoadMount(t.Context(), "go", mountName, func(_ context.Context, l cache.Layer) error {
		if tries++; tries == 1 {
			return errors.New("it is damaged")
		}
		if !strings.Contains(l.Origin, "/good:") {
			t.Errorf("the second one comes from %s", l.Origin)
		}
		return nil
	})
	if tries != 2 || strings.Count(warned(), "\n") != 1 || !strings.Contains(warned(), "stays empty: it is damaged") {
		t.Errorf("%d tries, warned %q", tries, warned())
	}
	c.SaveMount(t.Context(), "go", mountName, func(context.Context, func(cache.Layer, io.ReaderAt) error) error {
		return errors.New("it is in use")
	})
	if !strings.Contains(warned(), "the cache mount go is not shared: it is in use") {
		t.Errorf("warned %q", warned())
	}
}

// TestHostileMount reads documents that nobody wrote here.
func TestHostileMount(t *testing.T) {
	d := describe([]byte("x"), ocispec.MediaTypeImageLayerZstd)
	l := cache.Layer{DiffID: digest.FromString("x"), Blob: &d}
	img, err := packMount("go", mountName, l, strings.NewReader("x"))
	if err != nil {
		t.Fatal(err)
	}
	good := img.documents[img.desc.Digest]
	replace := func(old, new string) []byte { return bytes.ReplaceAll(good, []byte(old), []byte(new)) }
	for name, data := range map[string][]byte{
		"nothing":       nil,
		"no annotation": replace(mountAnnotation, "x"),
		"other version": replace(`\"version\":1`, `\"version\":2`),
		"other mount":   replace(mountName, strings.Repeat("0", 64)),
		"bad diffID":    replace(string(l.DiffID), "sha256:../../etc/passwd"),
		"no layer":      replace(ocispec.MediaTypeImageLayerZstd, "text/plain"),
		"index":         []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[]}`),
	} {
		if got, err := decodeMount(data, mountName); err == nil {
			t.Errorf("%s: got %+v, want an error", name, got)
		}
	}
	if got, err := decodeMount(good, mountName); err != nil || got.Blob.Digest != d.Digest {
		t.Errorf("the good one: %+v, %v", got, err)
	}
}

func FuzzDecodeMount(f *testing.F) {
	d := describe([]byte("x"), ocispec.MediaTypeImageLayerZstd)
	img, err := packMount("go", mountName, cache.Layer{DiffID: digest.FromString("x"), Blob: &d}, strings.NewReader("x"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(img.documents[img.desc.Digest])
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := decodeMount(data, mountName)
		if err == nil && (!image.ValidDigest(l.DiffID) || !image.ValidDigest(l.Blob.Digest) || l.Blob.Size < 0 || l.Blob.URLs != nil) {
			t.Errorf("accepted %+v", l)
		}
	})
}
