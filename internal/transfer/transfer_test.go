// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package transfer

import (
	"context"
	"errors"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
)

// place is a destination in memory that remembers the order.
type place struct {
	mu    sync.Mutex
	has   Bytes
	order []digest.Digest
	fail  digest.Digest
}

var errFull = errors.New("no room")

func (p *place) Has(_ context.Context, d ocispec.Descriptor) (bool, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	_, ok := p.has[d.Digest]
	return ok, nil
}

func (p *place) Put(ctx context.Context, d ocispec.Descriptor, from Source) error {
	if d.Digest == p.fail {
		return errFull
	}
	data, err := ReadAll(ctx, from, d, 1<<20)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.has[d.Digest] = data
	p.order = append(p.order, d.Digest)
	return nil
}

func add(t *testing.T, b Bytes, v any, mediaType string) ocispec.Descriptor {
	t.Helper()
	data, err := image.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b.Add(data, mediaType)
}

// picture is an image of one layer, text, for a platform.
func picture(t *testing.T, b Bytes, text, arch string) ocispec.Descriptor {
	t.Helper()
	layer := b.Add([]byte(text), ocispec.MediaTypeImageLayer)
	c := image.Config{Platform: ocispec.Platform{OS: "linux", Architecture: arch}}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: add(t, b, c, ocispec.MediaTypeImageConfig), Layers: []ocispec.Descriptor{layer}}
	m.SchemaVersion = 2
	d := add(t, b, m, m.MediaType)
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	return d
}

func index(t *testing.T, b Bytes, entries ...ocispec.Descriptor) ocispec.Descriptor {
	t.Helper()
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: entries}
	idx.SchemaVersion = 2
	return add(t, b, idx, idx.MediaType)
}

func TestImage(t *testing.T) {
	from := Bytes{}
	a, b := picture(t, from, "same", "amd64"), picture(t, from, "same", "arm64")
	root := index(t, from, a, b, index(t, from, b))
	to := &place{has: Bytes{}}
	if err := Image(t.Context(), from, root, to, Options{}); err != nil {
		t.Fatal(err)
	}
	if len(to.order) != len(from) {
		t.Errorf("%d blobs were copied, want each of %d once", len(to.order), len(from))
	}
	at := func(d ocispec.Descriptor) int { return slices.Index(to.order, d.Digest) }
	if at(root) != len(to.order)-1 || at(a) < 3 || at(b) < 3 {
		t.Errorf("order %v: documents must come after what they name", to.order)
	}
	to.order = nil
	if err := Image(t.Context(), from, root, to, Options{}); err != nil || len(to.order) != 0 {
		t.Errorf("again: %d blobs, %v, want none", len(to.order), err)
	}
	some := &place{has: Bytes{}}
	only := func(d ocispec.Descriptor) bool { return d.Platform != nil && d.Platform.Architecture == "arm64" }
	if err := Image(t.Context(), from, root, some, Options{Want: only}); err != nil || len(some.order) != 4 {
		t.Errorf("one platform: %d blobs, %v, want 4", len(some.order), err)
	}
}

func TestImageFails(t *testing.T) {
	from := Bytes{}
	d := picture(t, from, "layer", "amd64")
	deep := d
	for range maxDepth + 1 {
		deep = index(t, from, deep)
	}
	lost := picture(t, from, "lost", "amd64")
	delete(from, digest.FromString("lost"))
	for _, tt := range []struct {
		name string
		root ocispec.Descriptor
		fail digest.Digest
		want string
	}{
		{"full", d, digest.FromString("layer"), "no room"},
		{"manifest full", d, d.Digest, "no room"},
		{"deep", deep, "", "nested more than"},
		{"missing layer", lost, "", "no document"},
		{"wrong type", ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: d.Digest, Size: d.Size}, "", "parse index"},
		{"wrong size", ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size + 1}, "", "bytes"},
		{"huge", ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: 1 << 40}, "", "more than"},
	} {
		to := &place{has: Bytes{}, fail: tt.fail}
		err := Image(t.Context(), from, tt.root, to, Options{})
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: got %v, want %q", tt.name, err, tt.want)
		}
		if _, ok := to.has[tt.root.Digest]; ok {
			t.Errorf("%s: the image was put there", tt.name)
		}
	}
}

func TestChoose(t *testing.T) {
	from := Bytes{}
	a, b := picture(t, from, "a", "amd64"), picture(t, from, "b", "arm64")
	root := index(t, from, a, b)
	want, err := image.ParsePlatform("linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	if d, err := Choose(t.Context(), from, root, want); err != nil || d.Digest != b.Digest {
		t.Errorf("got %s, %v, want %s", d.Digest, err, b.Digest)
	}
	want.Architecture = "s390x"
	if _, err := Choose(t.Context(), from, root, want); !errors.Is(err, image.ErrNoPlatform) {
		t.Errorf("got %v, want %v", err, image.ErrNoPlatform)
	}
}

// counting is a source that counts what was opened.
type counting struct {
	Bytes
	opened map[digest.Digest]int
}

func (c counting) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	c.opened[d.Digest]++
	return c.Bytes.Open(ctx, d)
}

// TestDocuments copies an index; its documents are read once, one that is known not at all, and
// not what is too big to be kept.
func TestDocuments(t *testing.T) {
	from := counting{Bytes{}, map[digest.Digest]int{}}
	one, two := picture(t, from.Bytes, "a", "amd64"), picture(t, from.Bytes, "b", "arm64")
	idx := index(t, from.Bytes, one, two)
	docs := NewDocuments(from)
	docs.Keep(idx, from.Bytes[idx.Digest])
	for range 2 {
		if err := Image(t.Context(), docs, idx, &place{has: Bytes{}}, Options{}); err != nil {
			t.Fatal(err)
		}
	}
	for d, want := range map[digest.Digest]int{idx.Digest: 0, one.Digest: 1, two.Digest: 1} {
		if got := from.opened[d]; got != want {
			t.Errorf("document %s was read %d times, want %d", d, got, want)
		}
	}
	other := one
	other.Size++
	if _, err := ReadManifest(t.Context(), docs, other); err == nil {
		t.Error("a document of another size was taken for one that was read")
	}
	docs.size = maxKept
	three := picture(t, from.Bytes, "c", "s390x")
	for range 2 {
		if _, err := ReadManifest(t.Context(), docs, three); err != nil {
			t.Fatal(err)
		}
	}
	if got := from.opened[three.Digest]; got != 2 {
		t.Errorf("without room a document was read %d times, want 2", got)
	}
}
