// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"slices"
	"strings"
	"testing"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// conformanceBase is the image that cases start from: its layers, and its
// directories as lines.
type conformanceBase struct {
	layers []string
	dirs   map[string]bool
}

// conformanceImage is what a case made: its files beyond those of its base, as the
// lines of cases, and its config, as describeConfig has it.
type conformanceImage struct {
	files, config []string
	created       time.Time
}

// conformanceMax is how much of a file's content a line has, in bytes.
const conformanceMax = 200

// readConformanceManifest gives an image of a layout.
func readConformanceManifest(t *testing.T, l *layout.Layout, tag string) (ocispec.Manifest, []byte, ocispec.Image) {
	t.Helper()
	ctx := context.Background()
	d, err := l.Resolve(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	if d.MediaType == ocispec.MediaTypeImageIndex {
		var i ocispec.Index
		if err := json.Unmarshal(raw, &i); err != nil {
			t.Fatal(err)
		}
		if raw, err = l.Blobs().ReadAll(ctx, i.Manifests[0], image.MaxManifestSize); err != nil {
			t.Fatal(err)
		}
	}
	var m ocispec.Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		t.Fatal(err)
	}
	config, err := l.Blobs().ReadAll(ctx, m.Config, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	var c ocispec.Image
	if err := json.Unmarshal(config, &c); err != nil {
		t.Fatal(err)
	}
	return m, config, c
}

func readConformanceBase(t *testing.T, dir, tag string) conformanceBase {
	t.Helper()
	l, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, _, c := readConformanceManifest(t, l, tag)
	b := conformanceBase{dirs: map[string]bool{"d 0755 0:0 /": true}}
	files := conformanceTree{}
	for i, d := range m.Layers {
		b.layers = append(b.layers, string(c.RootFS.DiffIDs[i]))
		files.layer(t, l, d)
	}
	for _, line := range files.lines() {
		if line[0] == 'd' {
			b.dirs[line] = true
		}
	}
	return b
}

func readConformanceImage(t *testing.T, dir, tag string, base conformanceBase) (out conformanceImage) {
	t.Helper()
	l, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	m, config, c := readConformanceManifest(t, l, tag)
	if out.config, err = describeConfig(config); err != nil {
		t.Fatal(err)
	}
	if c.Created != nil {
		out.created = c.Created.UTC()
	}
	files := conformanceTree{}
	for i, d := range m.Layers {
		if !slices.Contains(base.layers, string(c.RootFS.DiffIDs[i])) {
			files.layer(t, l, d)
		}
	}
	for _, line := range files.lines() {
		if !base.dirs[line] {
			out.files = append(out.files, line)
		}
	}
	return out
}

// conformanceTree are files by their name, each as the words of its line before and
// behind the name.
type conformanceTree map[string][2]string

// layer puts a layer on top.
func (f conformanceTree) layer(t *testing.T, l *layout.Layout, d ocispec.Descriptor) {
	t.Helper()
	blob, err := l.Open(context.Background(), d)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	z, err := asTar(d.MediaType, blob)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err == nil {
			err = f.entry(h, r)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

// entry adds one entry of a layer. What is removed and was not made above the base
// is of the base.
func (f conformanceTree) entry(h *tar.Header, r io.Reader) error {
	name := path.Join("/", h.Name)
	dir, base := path.Split(name)
	if hidden, ok := strings.CutPrefix(base, ".wh."); ok {
		of := path.Join(dir, hidden)
		itself := [2]string{"-", ""}
		if base == ".wh..wh..opq" {
			of, itself = path.Clean(dir), [2]string{}
		}
		known := false
		for n := range f {
			if n == of && itself[0] != "" || strings.HasPrefix(n, strings.TrimSuffix(of, "/")+"/") {
				known = true
				delete(f, n)
			}
		}
		if !known && itself[0] != "" {
			f[of] = itself
		}
		return nil
	}
	owner := fmt.Sprintf("%d:%d", h.Uid, h.Gid)
	mode := fmt.Sprintf("%04o ", h.Mode&0o7777)
	switch h.Typeflag {
	case tar.TypeDir:
		f[name] = [2]string{"d " + mode + owner, ""}
	case tar.TypeSymlink:
		f[name] = [2]string{"l " + owner, " -> " + h.Linkname}
	case tar.TypeLink:
		f[name] = [2]string{"h", " = " + path.Join("/", h.Linkname)}
	case tar.TypeReg:
		data, err := io.ReadAll(io.LimitReader(r, conformanceMax))
		if err != nil {
			return err
		}
		f[name] = [2]string{"f " + mode + owner, fmt.Sprintf(" %q", data)}
	default:
		f[name] = [2]string{string(h.Typeflag) + " " + mode + owner, ""}
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			f[name] = [2]string{f[name][0], f[name][1] + fmt.Sprintf(" %s=%q", x, h.PAXRecords[k])}
		}
	}
	return nil
}

// lines gives the lines of cases, by name.
func (f conformanceTree) lines() []string {
	var out []string
	for _, n := range slices.Sorted(maps.Keys(f)) {
		out = append(out, f[n][0]+" "+n+f[n][1])
	}
	return out
}
