// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/transfer"
)

// sample is a small image: its blobs, and its manifest.
func sample(t *testing.T, text string) (transfer.Bytes, ocispec.Descriptor) {
	t.Helper()
	b := transfer.Bytes{}
	layer := b.Add([]byte(text), ocispec.MediaTypeImageLayer)
	c := image.Config{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}}
	c.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{layer.Digest}}
	config, err := image.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: b.Add(config, ocispec.MediaTypeImageConfig), Layers: []ocispec.Descriptor{layer}}
	m.SchemaVersion = 2
	manifest, err := image.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	return b, b.Add(manifest, m.MediaType)
}

func tempFile(t *testing.T, data []byte) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = f.Close() })
	if _, err := f.Write(data); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	return f
}

// write puts two images into an archive.
func write(t *testing.T, w *Writer) {
	t.Helper()
	ctx := t.Context()
	for _, text := range []string{"one", strings.Repeat("two", 1000)} {
		from, d := sample(t, text)
		if err := transfer.Image(ctx, from, d, w, transfer.Options{AtOnce: 1}); err != nil {
			t.Fatal(err)
		}
		w.Add(d, "docker.io/library/"+text[:3]+":1", "r.io/x:"+text[:3])
	}
	if err := w.Finish(ctx); err != nil {
		t.Fatal(err)
	}
}

func TestWriteAndRead(t *testing.T) {
	for _, docker := range []bool{false, true} {
		var buf bytes.Buffer
		write(t, NewWriter(&buf, docker))
		f := tempFile(t, nil)
		write(t, NewWriter(f, docker))
		if data, _ := os.ReadFile(f.Name()); !bytes.Equal(data, buf.Bytes()) {
			t.Errorf("docker %v: a file and a stream differ", docker)
		}
		r, err := Open(f)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, i := range r.Images() {
			names = append(names, i.Name+" "+i.Tag)
		}
		want := []string{"docker.io/library/one:1 1", "r.io/x:one one", "docker.io/library/two:1 1", "r.io/x:two two"}
		if !slices.Equal(names, want) {
			t.Errorf("images are %q, want %q", names, want)
		}
		i, err := r.Resolve("two:1")
		if err != nil {
			t.Fatal(err)
		}
		got := transfer.Bytes{}
		if err := transfer.Image(t.Context(), r, i.Descriptor, into(got), transfer.Options{}); err != nil || len(got) != 3 {
			t.Errorf("read %d blobs, %v, want 3", len(got), err)
		}
		for _, what := range []string{"", "1", "nothing"} {
			if i, err := r.Resolve(what); err == nil {
				t.Errorf("Resolve(%q) = %+v, want an error", what, i)
			}
		}
	}
}

// taking is a destination in memory. Blobs are put beside each other.
type taking struct {
	mu *sync.Mutex
	to transfer.Bytes
}

// into returns a destination that puts what it gets into b.
func into(b transfer.Bytes) taking { return taking{new(sync.Mutex), b} }

func (taking) Has(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }

func (d taking) Put(ctx context.Context, desc ocispec.Descriptor, from transfer.Source) error {
	data, err := transfer.ReadAll(ctx, from, desc, 1<<20)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.to[desc.Digest] = data
	return err
}

func TestMake(t *testing.T) {
	f := tempFile(t, nil)
	w := NewWriter(f, false)
	if !w.CanMake() {
		t.Fatal("a file cannot be sought")
	}
	content := strings.Repeat("x", 1000)
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(content), Size: 1000}
	failed := errors.New("failed")
	makes := []func(*os.File) (ocispec.Descriptor, error){
		func(f *os.File) (ocispec.Descriptor, error) { _, _ = io.WriteString(f, "half"); return d, failed },
		func(f *os.File) (ocispec.Descriptor, error) { _, err := io.WriteString(f, content); return d, err },
		func(f *os.File) (ocispec.Descriptor, error) { _, err := io.WriteString(f, content); return d, err },
		func(f *os.File) (ocispec.Descriptor, error) { _, err := io.WriteString(f, "short"); return d, err },
	}
	for i, wantErr := range []bool{true, false, false, true} {
		if _, err := w.Make(t.Context(), makes[i]); (err != nil) != wantErr {
			t.Errorf("make %d: %v, want an error: %v", i, err, wantErr)
		}
	}
	if err := w.Finish(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	var names []string
	for tr := tar.NewReader(f); ; {
		h, err := tr.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	if want := []string{"blobs/", "blobs/sha256/", blobName(d.Digest), "oci-layout", "index.json"}; !slices.Equal(names, want) {
		t.Errorf("members are %q, want %q", names, want)
	}
}

func TestPutRefuses(t *testing.T) {
	from := transfer.Bytes{}
	good := from.Add([]byte("hello"), "a/b")
	for name, d := range map[string]ocispec.Descriptor{
		"short":   {MediaType: "a/b", Digest: good.Digest, Size: 6},
		"long":    {MediaType: "a/b", Digest: good.Digest, Size: 4},
		"missing": {MediaType: "a/b", Digest: digest.FromString("x"), Size: 1},
		"digest":  {MediaType: "a/b", Digest: "sha256:../x", Size: 1},
	} {
		w := NewWriter(io.Discard, false)
		if err := w.Put(t.Context(), d, from); err == nil {
			t.Errorf("%s: got no error", name)
		}
		torn := name == "short" || name == "long"
		if err := w.Finish(t.Context()); (err != nil) != torn {
			t.Errorf("%s: Finish: %v, want an error: %v", name, err, torn)
		}
	}
}

// member of a test archive.
type testMember struct {
	header tar.Header
	body   string
}

func pack(t testing.TB, members ...testMember) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, m := range members {
		m.header.Size = int64(len(m.body))
		if m.header.Typeflag == 0 {
			m.header.Typeflag = tar.TypeReg
		}
		if err := w.WriteHeader(&m.header); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, m.body); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func file(name, body string) testMember { return testMember{tar.Header{Name: name}, body} }

func link(kind byte, name, to string) testMember {
	return testMember{tar.Header{Typeflag: kind, Name: name, Linkname: to}, ""}
}

// legacy is what docker save wrote: layers in directories, links between them.
func legacy(t testing.TB, change func([]testMember) []testMember) []byte {
	layer := string(make([]byte, 1024))
	config := `{"architecture":"amd64","os":"linux","config":{},"rootfs":{"type":"layers","diff_ids":["` +
		string(digest.FromString(layer)) + `","` + string(digest.FromString(layer)) + `"]}}`
	return pack(t, change([]testMember{
		file("a/layer.tar", layer), link(tar.TypeSymlink, "b/layer.tar", "../a/layer.tar"), file("c.json", config),
		file("manifest.json", `[{"Config":"c.json","RepoTags":["x:1","y/z:2"],"Layers":["a/layer.tar","b/layer.tar"]}]`),
	})...)
}

func TestLegacy(t *testing.T) {
	r, err := Open(tempFile(t, legacy(t, func(m []testMember) []testMember { return m })))
	if err != nil {
		t.Fatal(err)
	}
	if n := len(r.Images()); n != 2 || r.Images()[1].Name != "docker.io/y/z:2" {
		t.Errorf("images are %+v", r.Images())
	}
	got := transfer.Bytes{}
	if err := transfer.Image(t.Context(), r, r.Images()[0].Descriptor, into(got), transfer.Options{}); err != nil || len(got) != 3 {
		t.Errorf("read %d blobs, %v, want 3", len(got), err)
	}
}

func TestHostile(t *testing.T) {
	set := func(i int, m testMember) func([]testMember) []testMember {
		return func(list []testMember) []testMember { list[i] = m; return list }
	}
	more := func(m ...testMember) func([]testMember) []testMember {
		return func(list []testMember) []testMember { return append(list, m...) }
	}
	manifest := func(s string) func([]testMember) []testMember { return set(3, file("manifest.json", s)) }
	tests := []struct {
		name   string
		change func([]testMember) []testMember
		want   string
	}{
		{"absolute", more(file("/etc/x", "")), "leads out"},
		{"parent", more(file("a/../../x", "")), "leads out"},
		{"twice", more(file("c.json", "")), "twice"},
		{"twice, spelled otherwise", more(file("./c.json", "")), "twice"},
		{"link out", set(1, link(tar.TypeSymlink, "b/layer.tar", "../../x")), "link out"},
		{"absolute link", set(1, link(tar.TypeSymlink, "b/layer.tar", "/a/layer.tar")), "link out"},
		{"hard link out", set(1, link(tar.TypeLink, "b/layer.tar", "../x")), "link out"},
		{"link loop", set(1, link(tar.TypeSymlink, "b/layer.tar", "layer.tar")), "lead nowhere"},
		{"device", more(link(tar.TypeChar, "dev", "")), "is no file"},
		{"fifo", more(link(tar.TypeFifo, "fifo", "")), "is no file"},
		{"config path", manifest(`[{"Config":"../c.json","Layers":[]}]`), "lead nowhere"},
		{"layer path", manifest(`[{"Config":"c.json","Layers":["/etc/passwd","x"]}]`), "lead nowhere"},
		{"no layer", manifest(`[{"Config":"c.json","Layers":["x","y"]}]`), "not in the archive"},
		{"fewer layers", manifest(`[{"Config":"c.json","Layers":[]}]`), "2 diffIDs"},
		{"bad tag", manifest(`[{"Config":"c.json","RepoTags":["../x"],"Layers":["a/layer.tar","b/layer.tar"]}]`), "image name"},
		{"no image", manifest(`[]`), "lists 0 images"},
		{"no json", manifest(`x`), "manifest.json"},
		{"nothing", func([]testMember) []testMember { return nil }, "no index.json"},
		{"bad index", more(file("index.json", "{}")), "index.json"},
		{"digest in index", more(file("index.json", `{"schemaVersion":2,"manifests":[{"mediaType":"a/b","digest":"sha256:../../x","size":1}]}`)), "digest"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := Open(tempFile(t, legacy(t, tt.change)))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	t.Run("other bytes", func(t *testing.T) {
		r, err := Open(tempFile(t, legacy(t, set(0, file("a/layer.tar", strings.Repeat("x", 1024))))))
		if err != nil {
			t.Fatal(err)
		}
		err = transfer.Image(t.Context(), r, r.Images()[0].Descriptor, into(transfer.Bytes{}), transfer.Options{})
		if !errors.Is(err, blob.ErrCorrupt) {
			t.Errorf("got %v, want %v", err, blob.ErrCorrupt)
		}
	})
	t.Run("short", func(t *testing.T) {
		data := legacy(t, func(m []testMember) []testMember { return m })
		if _, err := Open(tempFile(t, data[:700])); err == nil {
			t.Error("got no error")
		}
	})
}

func TestDir(t *testing.T) {
	from, d := sample(t, "one")
	path := filepath.Join(t.TempDir(), "d")
	dir, err := OpenDir(path, true)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := transfer.Image(t.Context(), from, d, dir, transfer.Options{}); err != nil {
		t.Fatal(err)
	}
	if err := dir.Finish(d); err != nil {
		t.Fatal(err)
	}
	got, err := dir.Image()
	if err != nil || got.Digest != d.Digest || got.MediaType != d.MediaType {
		t.Errorf("image is %+v, %v, want %+v", got, err, d)
	}
	back := transfer.Bytes{}
	if err := transfer.Image(t.Context(), dir, got, into(back), transfer.Options{}); err != nil || len(back) != 3 {
		t.Errorf("read %d blobs, %v, want 3", len(back), err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "precious"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenDir(other, true); err == nil {
		t.Error("a directory with other files was taken")
	}
	layer := digest.FromString("one").Encoded()
	if err := os.Remove(filepath.Join(path, layer)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/passwd", filepath.Join(path, layer)); err != nil {
		t.Fatal(err)
	}
	if err := transfer.Image(t.Context(), dir, got, into(back), transfer.Options{}); err == nil {
		t.Error("a link was followed")
	}
}

func FuzzOpen(f *testing.F) {
	f.Add(legacy(f, func(m []testMember) []testMember { return m }))
	f.Add(pack(f, file("index.json", `{"schemaVersion":2,"manifests":[]}`)))
	temp, err := os.Create(filepath.Join(f.TempDir(), "a.tar"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		if _, err := temp.WriteAt(data, 0); err != nil || temp.Truncate(int64(len(data))) != nil {
			t.Fatal(err)
		}
		r, err := Open(temp)
		if err != nil {
			return
		}
		for _, i := range r.Images() {
			// Whatever it says, what comes out is what was asked for, or an error.
			_ = transfer.Image(t.Context(), r, i.Descriptor, into(transfer.Bytes{}), transfer.Options{})
		}
	})
}
