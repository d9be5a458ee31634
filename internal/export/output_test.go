// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

// newExporter has a state directory, and no worker: its layers have blobs.
func newExporter(t *testing.T) *Exporter {
	t.Helper()
	s, err := state.Open(t.Context(), state.Options{Dir: filepath.Join(t.TempDir(), "state")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	return &Exporter{
		State: s, Images: &source.Images{Blobs: s.Blobs, Local: s.Images}, Now: func() time.Time { return time.Unix(1_700_000_000, 0) },
		Stdout: os.Stdout,
	}
}

// product is an image for one architecture with a layer of an empty archive.
func product(t *testing.T, e *Exporter, arch string) Product {
	t.Helper()
	d, err := e.State.Blobs.Put(emptyArchive())
	if err != nil {
		t.Fatal(err)
	}
	d.MediaType = ocispec.MediaTypeImageLayer
	return Product{
		Name:   arch,
		Config: image.Config{Platform: ocispec.Platform{OS: "linux", Architecture: arch}, History: []ocispec.History{{CreatedBy: "x"}}},
		Layers: []cache.Layer{{DiffID: digest.FromBytes(emptyArchive()), Blob: &d, Origin: source.StorePrefix + "x"}},
	}
}

func spec(t *testing.T, text string) Spec {
	t.Helper()
	s, err := ParseSpec(text)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// export writes images, and ends the output with an error or without.
func (e *Exporter) export(t *testing.T, text string, failed error, names []string, products ...Product) (Outcome, error) {
	t.Helper()
	o, err := e.Open(t.Context(), spec(t, text))
	if err != nil {
		return Outcome{}, err
	}
	out, err := o.Add(t.Context(), names, products...)
	if failed == nil {
		failed = err
	}
	return out, errors.Join(err, o.Close(t.Context(), failed))
}

func TestSeveralPlatforms(t *testing.T) {
	e := newExporter(t)
	a, b := product(t, e, "amd64"), product(t, e, "arm64")
	path := filepath.Join(t.TempDir(), "x.tar")
	keys := ",annotation.m=1,annotation[linux/arm64].arm=2,annotation-index.i=3,annotation-manifest-descriptor.d=4"
	out, err := e.export(t, "type=oci,dest="+path+keys, nil, []string{"docker.io/library/a:1"}, a, b)
	if err != nil {
		t.Fatal(err)
	}
	if out.Config != "" || !image.IsIndex(out.Image.MediaType) {
		t.Errorf("outcome is %+v, want an index", out)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	r, err := archive.Open(f)
	if err != nil {
		t.Fatal(err)
	}
	i, err := r.Resolve("a:1")
	if err != nil || i.Descriptor.Digest != out.Image.Digest {
		t.Fatalf("archive has %+v, %v, want %s", i, err, out.Image.Digest)
	}
	idx, err := transfer.ReadIndex(t.Context(), r, i.Descriptor)
	if err != nil || len(idx.Manifests) != 2 || idx.Annotations["i"] != "3" || idx.Manifests[0].Annotations["d"] != "4" {
		t.Fatalf("index is %+v, %v", idx, err)
	}
	for n, want := range []string{"", "2"} {
		m, err := transfer.ReadManifest(t.Context(), r, idx.Manifests[n])
		if err != nil || m.Annotations["m"] != "1" || m.Annotations["arm"] != want {
			t.Errorf("manifest %d has the annotations %v, %v", n, m.Annotations, err)
		}
		_, c, err := transfer.ReadConfig(t.Context(), r, m)
		if err != nil || c.Architecture != idx.Manifests[n].Platform.Architecture || c.Created == nil || c.History[0].Created == nil {
			t.Errorf("config %d is %+v, %v", n, c, err)
		}
	}
	// The same into the store, complete.
	out2, err := e.export(t, "type=image,annotation.m=1,annotation[linux/arm64].arm=2,annotation-index.i=3,annotation-manifest-descriptor.d=4",
		nil, []string{"a:1"}, a, b)
	if err != nil || out2.Image.Digest != out.Image.Digest {
		t.Errorf("the store has %s, %v, want %s", out2.Image.Digest, err, out.Image.Digest)
	}
	stored, err := e.State.Images.Find(t.Context(), "a:1")
	if err != nil {
		t.Fatal(err)
	}
	if err := transfer.Image(t.Context(), e.State.Blobs, stored.Descriptor, archive.NewWriter(discard{}, false), transfer.Options{}); err != nil {
		t.Errorf("what the store has is not complete: %v", err)
	}
	if _, err := e.export(t, "type=docker,dest="+path, nil, nil, a, b); err == nil || !strings.Contains(err.Error(), "several platforms") {
		t.Errorf("docker archive of two platforms: %v", err)
	}
}

type discard struct{}

func (discard) Write(p []byte) (int, error) { return len(p), nil }

// TestFailedBuild leaves everything as it was.
func TestFailedBuild(t *testing.T) {
	e := newExporter(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "x.tar")
	if err := os.WriteFile(path, []byte("old"), 0o600); err != nil {
		t.Fatal(err)
	}
	lay := filepath.Join(dir, "lay")
	for _, text := range []string{"type=oci,dest=" + path, "type=docker,dest=" + path, "type=image", "type=oci,tar=false,dest=" + lay} {
		if _, err := e.export(t, text, errors.New("failed"), []string{"a:1"}, product(t, e, "amd64")); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	if data, err := os.ReadFile(path); string(data) != "old" || err != nil {
		t.Errorf("the file is %q, %v, want it as it was", data, err)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 {
		t.Errorf("left over: %v, %v", entries, err)
	}
	if all, err := e.State.Images.List(); err != nil || len(all) != 0 {
		t.Errorf("the store has %v, %v", all, err)
	}
	l, err := layout.Open(lay)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if idx, err := l.Index(); err != nil || len(idx.Manifests) != 0 {
		t.Errorf("the layout has %v, %v", idx.Manifests, err)
	}
}

func TestRecompress(t *testing.T) {
	e := newExporter(t)
	p := product(t, e, "amd64")
	for _, tt := range []struct{ keys, want string }{
		{"", ocispec.MediaTypeImageLayer}, {",compression=zstd", ocispec.MediaTypeImageLayer},
		{",compression=zstd,force-compression=true", ocispec.MediaTypeImageLayerZstd},
		{",force-compression=true", ocispec.MediaTypeImageLayerGzip},
		{",force-compression=true,oci-mediatypes=false", image.MediaTypeDockerLayerGzip},
	} {
		out, err := e.export(t, "type=image"+tt.keys, nil, nil, p)
		if err != nil {
			t.Errorf("%s: %v", tt.keys, err)
			continue
		}
		m, err := transfer.ReadManifest(t.Context(), e.State.Blobs, out.Image)
		if err != nil || len(m.Layers) != 1 || m.Layers[0].MediaType != tt.want {
			t.Errorf("%s: manifest is %+v, %v, want a layer of %s", tt.keys, m, err, tt.want)
		}
	}
	p.Layers[0].DiffID = digest.FromString("a lie")
	for _, keys := range []string{"", ",force-compression=true"} {
		if _, err := e.export(t, "type=image"+keys, nil, nil, p); err == nil || !strings.Contains(err.Error(), "do not trust") {
			t.Errorf("%s: a layer that is not what the config says: %v", keys, err)
		}
	}
}
