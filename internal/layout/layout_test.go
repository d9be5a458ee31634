// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
)

func newLayout(t *testing.T) (*Layout, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a", "oci")
	l, err := Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l, dir
}

// putImage stores an image with one layer and returns its manifest's descriptor.
func putImage(t *testing.T, l *Layout, content string) ocispec.Descriptor {
	t.Helper()
	put := func(data []byte, mediaType string) ocispec.Descriptor {
		d, err := l.Blobs().Put(data)
		if err != nil {
			t.Fatal(err)
		}
		d.MediaType = mediaType
		return d
	}
	marshal := func(v any) []byte {
		data, err := image.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	layer := put([]byte(content), ocispec.MediaTypeImageLayer)
	config := put(marshal(image.Config{RootFS: ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}}), ocispec.MediaTypeImageConfig)
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{layer}}
	m.SchemaVersion = 2
	return put(marshal(m), ocispec.MediaTypeImageManifest)
}

func tags(t *testing.T, l *Layout) []string {
	t.Helper()
	idx, err := l.Index()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, d := range idx.Manifests {
		out = append(out, d.Annotations[ocispec.AnnotationRefName])
	}
	return out
}

func TestCreate(t *testing.T) {
	old := unix.Umask(0o077)
	_, dir := newLayout(t)
	unix.Umask(old)
	for name, want := range map[string]string{
		"oci-layout": markerContent,
		"index.json": `{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}`,
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(got) != want {
			t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
		}
	}
	for name, want := range map[string]os.FileMode{".": 0o755, "blobs": 0o755, "blobs/sha256": 0o755, "oci-layout": 0o644, "index.json": 0o644} {
		info, err := os.Stat(filepath.Join(dir, name))
		if err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s: got %v, %v, want %v", name, info.Mode(), err, want)
		}
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("layout holds %v, want three names", entries)
	}
}

func TestCreateRefusesOtherDirectory(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "x"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Create(t.Context(), dir); err == nil || !strings.Contains(err.Error(), "does not look like an OCI Layout") {
		t.Errorf("got %v, want \"not empty\"", err)
	}
	if _, err := Open(dir); !errors.Is(err, ErrNoLayout) {
		t.Errorf("Open: got %v, want ErrNoLayout", err)
	}
	if _, err := Open(filepath.Join(dir, "x")); !errors.Is(err, ErrNoLayout) {
		t.Errorf("Open of a file: got %v, want ErrNoLayout", err)
	}
	if _, err := Open(filepath.Join(dir, "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("Open of nothing: got %v, want os.ErrNotExist", err)
	}
}

func TestTagAndResolve(t *testing.T) {
	l, dir := newLayout(t)
	a, b, c := putImage(t, l, "a"), putImage(t, l, "b"), putImage(t, l, "c")
	ctx := t.Context()
	if err := l.Tag(ctx, Entry{"one", a}, Entry{"two", b}, Entry{"three", a}); err != nil {
		t.Fatal(err)
	}
	if err := l.Tag(ctx, Entry{"two", c}, Entry{"four", b}); err != nil {
		t.Fatal(err)
	}
	if got, want := tags(t, l), []string{"one", "two", "three", "four"}; !slices.Equal(got, want) {
		t.Errorf("tags are %q, want %q", got, want)
	}
	for name, want := range map[string]ocispec.Descriptor{"one": a, "two": c, "four": b, string(c.Digest): c} {
		got, err := l.Resolve(ctx, name)
		if err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType || got.Size != want.Size {
			t.Errorf("Resolve(%q): got %v, %v, want %v", name, got, err, want)
		}
	}
	_, err := l.Resolve(ctx, "fuor")
	if !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `"one", "two", "three", "four"`) {
		t.Errorf("got %v, want ErrNotFound with the tags", err)
	}
	if _, err := l.Resolve(ctx, ""); err == nil || !strings.Contains(err.Error(), "say which image") {
		t.Errorf("got %v, want \"say which image\"", err)
	}
	if err := l.Untag(ctx, "one", "three", "none"); err != nil {
		t.Fatal(err)
	}
	if got, want := tags(t, l), []string{"two", "four"}; !slices.Equal(got, want) {
		t.Errorf("tags are %q, want %q", got, want)
	}
	if got, err := l.Resolve(ctx, string(a.Digest)); err != nil || got.MediaType != ocispec.MediaTypeImageManifest {
		t.Errorf("untagged image: got %v, %v", got, err)
	}
	if err := l.Tag(ctx, Entry{"x", ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("?"), Size: 1}}); err == nil {
		t.Error("a tag for a blob that is not there was accepted")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 3 {
		t.Errorf("layout holds %v, want three names", entries)
	}
}

func TestResolveOnlyImage(t *testing.T) {
	l, _ := newLayout(t)
	a := putImage(t, l, "a")
	if err := l.Tag(t.Context(), Entry{"", a}); err != nil {
		t.Fatal(err)
	}
	got, err := l.Resolve(t.Context(), "")
	if err != nil || got.Digest != a.Digest || len(got.Annotations) != 0 {
		t.Errorf("got %v, %v, want %v", got, err, a)
	}
}

func TestPutBlob(t *testing.T) {
	l, _ := newLayout(t)
	d := ocispec.Descriptor{MediaType: "a/b", Digest: digest.FromString("hello"), Size: 5}
	for _, bad := range []string{"hell", "hello!", "hallo"} {
		if err := l.PutBlob(d, strings.NewReader(bad)); !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("%q: got %v, want blob.ErrCorrupt", bad, err)
		}
	}
	if err := l.PutBlob(d, strings.NewReader("hello")); err != nil {
		t.Error(err)
	}
	if !l.Blobs().Has(d) {
		t.Error("the blob is not there")
	}
}

func TestTagConcurrently(t *testing.T) {
	l, dir := newLayout(t)
	a := putImage(t, l, "a")
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			other, err := Open(dir)
			if err != nil {
				t.Error(err)
				return
			}
			defer func() { _ = other.Close() }()
			if err := other.Tag(context.Background(), Entry{fmt.Sprint("t", i), a}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := tags(t, l); len(got) != 20 {
		t.Errorf("got %d tags, want 20: %q", len(got), got)
	}
}

func TestGC(t *testing.T) {
	l, dir := newLayout(t)
	ctx := t.Context()
	a, b, nested := putImage(t, l, "a"), putImage(t, l, "b"), putImage(t, l, "nested")
	idx := emptyIndex()
	idx.Manifests = append(idx.Manifests, nested,
		ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("absent"), Size: 6})
	data, err := json.Marshal(idx)
	if err != nil {
		t.Fatal(err)
	}
	i, err := l.Blobs().Put(data)
	if err != nil {
		t.Fatal(err)
	}
	i.MediaType = ocispec.MediaTypeImageIndex
	if err := l.Tag(ctx, Entry{"a", a}, Entry{"b", b}, Entry{"i", i}); err != nil {
		t.Fatal(err)
	}
	if err := l.Untag(ctx, "b"); err != nil {
		t.Fatal(err)
	}
	release, err := l.Hold(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := l.GC(ctx); !errors.Is(err, ErrBusy) {
		t.Errorf("while held: got %v, want ErrBusy", err)
	}
	release()
	freed, err := l.GC(ctx)
	if err != nil || freed == 0 {
		t.Fatalf("GC: freed %d, %v", freed, err)
	}
	left, err := os.ReadDir(filepath.Join(dir, "blobs", "sha256"))
	if err != nil || len(left) != 3+1+3 {
		t.Errorf("%d blobs are left, %v, want 7", len(left), err)
	}
	if freed, err := l.GC(ctx); freed != 0 || err != nil {
		t.Errorf("GC again: freed %d, %v", freed, err)
	}
}

func TestGCKeepsAllWhenDamaged(t *testing.T) {
	l, dir := newLayout(t)
	a := putImage(t, l, "a")
	putImage(t, l, "b")
	if err := l.Tag(t.Context(), Entry{"a", a}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "blobs", "sha256", a.Digest.Encoded())
	if err := os.WriteFile(path, make([]byte, a.Size), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := l.GC(t.Context()); !errors.Is(err, blob.ErrCorrupt) {
		t.Errorf("got %v, want blob.ErrCorrupt", err)
	}
	if left, _ := os.ReadDir(filepath.Join(dir, "blobs", "sha256")); len(left) != 6 {
		t.Errorf("%d blobs are left, want 6", len(left))
	}
}

// TestHostileFiles puts links, FIFOs and directories in the place of each name of
// a layout: nothing outside may be read or changed, and nothing may hang.
func TestHostileFiles(t *testing.T) {
	outside, outsideDir := newLayout(t)
	secret := putImage(t, outside, "secret")
	if err := outside.Tag(t.Context(), Entry{"secret", secret}); err != nil {
		t.Fatal(err)
	}
	before := snapshot(t, outsideDir)
	kinds := map[string]func(target, path string) error{
		"symlink":   os.Symlink,
		"fifo":      func(_, path string) error { return unix.Mkfifo(path, 0o600) },
		"directory": func(_, path string) error { return os.Mkdir(path, 0o700) },
	}
	for _, name := range []string{"oci-layout", "index.json", "blobs", "blobs/sha256", "blobs/sha256/" + secret.Digest.Encoded()} {
		for kind, plant := range kinds {
			if kind == "directory" && (name == "blobs" || name == "blobs/sha256") {
				continue
			}
			t.Run(name[:min(len(name), 14)]+"/"+kind, func(t *testing.T) {
				l, dir := newLayout(t)
				own := putImage(t, l, "secret")
				if err := l.Tag(t.Context(), Entry{"own", own}); err != nil {
					t.Fatal(err)
				}
				path := filepath.Join(dir, name)
				if err := os.RemoveAll(path); err != nil {
					t.Fatal(err)
				}
				if err := plant(filepath.Join(outsideDir, name), path); err != nil {
					t.Fatal(err)
				}
				if err := useLayout(t.Context(), dir, own); err == nil {
					t.Error("the layout was used as if it were whole")
				}
				if after := snapshot(t, outsideDir); after != before {
					t.Errorf("outside changed:\n%s\nbefore:\n%s", after, before)
				}
			})
		}
	}
}

// useLayout reads an image and writes to the layout; it returns the first error.
func useLayout(ctx context.Context, dir string, d ocispec.Descriptor) error {
	l, err := Open(dir)
	if err != nil {
		_, cerr := Create(ctx, dir)
		return errors.Join(err, cerr)
	}
	defer func() { _ = l.Close() }()
	_, err = l.Resolve(ctx, "own")
	_, rerr := l.Blobs().ReadAll(ctx, d, 1<<20)
	_, perr := l.Blobs().Put([]byte("new"))
	terr := l.Tag(ctx, Entry{"new", d})
	_, gerr := l.GC(ctx)
	return errors.Join(err, rerr, perr, terr, gerr)
}

// snapshot returns the names, modes, sizes and times below a directory.
func snapshot(t *testing.T, dir string) string {
	t.Helper()
	var b strings.Builder
	err := filepath.Walk(dir, func(path string, info os.FileInfo, err error) error {
		if err == nil {
			fmt.Fprintln(&b, path, info.Mode(), info.Size(), info.ModTime().UnixNano())
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return b.String()
}
