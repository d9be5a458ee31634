// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

func newStore(t *testing.T) (*Store, string) {
	t.Helper()
	dir := t.TempDir()
	blobs, err := blob.Create(filepath.Join(dir, "blobs"), blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = blobs.Close() })
	return Open(filepath.Join(dir, "images"), blobs), filepath.Join(dir, "images")
}

// put stores an image whose config is text.
func put(t *testing.T, s *Store, text string) ocispec.Descriptor {
	t.Helper()
	config, err := s.blobs.Put([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	data, err := image.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d, err := s.blobs.Put(data)
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = m.MediaType
	return d
}

func ref(t *testing.T, name string) reference.Reference {
	t.Helper()
	r, err := reference.Parse(name)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var now = time.Unix(1_700_000_000, 0)

func TestFind(t *testing.T) {
	s, _ := newStore(t)
	one, two := put(t, s, "one"), put(t, s, "two")
	for _, err := range []error{
		s.Set(one, now, ref(t, "a:1"), ref(t, "r.io/a:2")), s.Set(two, now, ref(t, "b")), s.Set(two, now),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	pinned := ref(t, "p@sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef")
	if err := s.Set(one, now, pinned); err != nil {
		t.Fatal(err)
	}
	config := s.ConfigOf(t.Context(), Image{Descriptor: one})
	tests := []struct {
		what string
		want ocispec.Descriptor
	}{
		{"a:1", one}, {"docker.io/library/a:1", one}, {"r.io/a:2", one}, {"b", two}, {"b:latest", two},
		{"a@" + string(one.Digest), one}, {string(one.Digest), one}, {one.Digest.Encoded()[:12], one},
		{"p:1@" + string(pinned.Digest), one}, {pinned.String(), one}, {config.Encoded()[:12], one}, {string(config), one},
	}
	for _, tt := range tests {
		if got, err := s.Find(t.Context(), tt.what); err != nil || got.Descriptor.Digest != tt.want.Digest {
			t.Errorf("Find(%q) = %+v, %v, want %s", tt.what, got, err, tt.want.Digest)
		}
	}
	for _, what := range []string{"a", "a:2", "c@" + string(one.Digest), "ffffffffffff", one.Digest.Encoded()[:3], "A", ""} {
		if got, err := s.Find(t.Context(), what); err == nil {
			t.Errorf("Find(%q) = %+v, want an error", what, got)
		}
	}
	all, err := s.List()
	if err != nil || len(all) != 5 {
		t.Errorf("List: %d images, %v, want 5", len(all), err)
	}
}

func TestSetAndRemove(t *testing.T) {
	s, _ := newStore(t)
	one, two := put(t, s, "one"), put(t, s, "two")
	if err := s.Set(one, now, ref(t, "a")); err != nil {
		t.Fatal(err)
	}
	later := now.Add(time.Hour)
	if err := s.Set(one, later, ref(t, "a")); err != nil {
		t.Fatal(err)
	}
	if i, err := s.Named(ref(t, "a")); err != nil || !i.Updated.Equal(now) {
		t.Errorf("the same image: %+v, %v, want it unchanged", i, err)
	}
	if err := s.Set(two, later, ref(t, "a")); err != nil {
		t.Fatal(err)
	}
	i, err := s.Named(ref(t, "a"))
	if err != nil || i.Descriptor.Digest != two.Digest || !i.Created.Equal(now) || !i.Updated.Equal(later) {
		t.Errorf("another image: %+v, %v", i, err)
	}
	for range 2 {
		if err := s.Remove(i); err != nil {
			t.Error(err)
		}
	}
	if _, err := s.Named(ref(t, "a")); !errors.Is(err, ErrNotFound) {
		t.Errorf("after Remove: %v, want %v", err, ErrNotFound)
	}
	missing := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: "sha256:" + one.Digest[7:63] + "00000000", Size: 3}
	if err := s.Set(missing, now, ref(t, "a")); !errors.Is(err, blob.ErrNotFound) {
		t.Errorf("an image without blobs: %v, want %v", err, blob.ErrNotFound)
	}
}

// TestDamage changes each byte of a record: it counts as absent, and RemoveDamaged
// takes it away.
func TestDamage(t *testing.T) {
	s, dir := newStore(t)
	if err := s.Set(put(t, s, "one"), now, ref(t, "a")); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, namesDir, fileName(ref(t, "a").String(), ocispec.Descriptor{}))
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for i := range good {
		bad := append([]byte(nil), good...)
		bad[i] ^= 1
		if r, err := parseRecord(bad, filepath.Base(path)); err == nil {
			t.Fatalf("byte %d: %+v was accepted", i, r)
		}
	}
	if _, err := parseRecord(good, fileName("other", ocispec.Descriptor{})); err == nil {
		t.Error("a record under another name was accepted")
	}
	if err := os.WriteFile(path, good[:len(good)-3], 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := s.List(); err != nil || len(all) != 0 {
		t.Errorf("List: %v, %v, want nothing", all, err)
	}
	if err := s.RemoveDamaged(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the damaged record is still there: %v", err)
	}
}

func TestConcurrent(t *testing.T) {
	s, _ := newStore(t)
	one, two := put(t, s, "one"), put(t, s, "two")
	var wg sync.WaitGroup
	for n := range 20 {
		wg.Go(func() {
			d := one
			if n%2 == 1 {
				d = two
			}
			if err := s.Set(d, now, ref(t, "same"), ref(t, fmt.Sprint("n", n))); err != nil {
				t.Error(err)
			}
			if _, err := s.List(); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if all, err := s.List(); err != nil || len(all) != 21 {
		t.Errorf("List: %d images, %v, want 21", len(all), err)
	}
}

func TestNeeds(t *testing.T) {
	s, _ := newStore(t)
	d := put(t, s, "one")
	i := Image{Descriptor: d}
	count := func() (n int) {
		if err := s.Needs(t.Context(), i, func(ocispec.Descriptor) { n++ }); err != nil {
			t.Fatal(err)
		}
		return n
	}
	if n := count(); n != 2 {
		t.Errorf("%d blobs are needed, want 2", n)
	}
	if size, err := s.Size(t.Context(), i); err != nil || size != d.Size+3 {
		t.Errorf("size is %d, %v, want %d", size, err, d.Size+3)
	}
	if err := s.blobs.Remove(d.Digest); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 1 {
		t.Errorf("without the manifest %d blobs are needed, want 1", n)
	}
}

func FuzzParseRecord(f *testing.F) {
	r := record{Name: "docker.io/library/a:1", Image: ocispec.Descriptor{MediaType: "a/b", Digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}}
	good, err := r.marshal()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good, fileName(r.Name, r.Image))
	f.Fuzz(func(t *testing.T, data []byte, file string) {
		r, err := parseRecord(data, file)
		if err == nil && fileName(r.Name, r.Image) != file {
			t.Errorf("%q was accepted for %s", data, file)
		}
	})
}
