// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// describeLayout and describeDirectory give an image as lines without names of
// images and without times: "file …" of each file of all layers together,
// "config …" of each field, "history …" of each step. The one is tag v1 of an OCI
// layout, the other what containers' tools call "dir:".
func describeLayout(t *testing.T, dir string) []string {
	t.Helper()
	ctx := context.Background()
	l, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := l.Resolve(ctx, "v1")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	return describeImage(t, raw, func(d ocispec.Descriptor) (io.ReadCloser, error) { return l.Open(ctx, d) })
}

func describeDirectory(t *testing.T, dir string) []string {
	t.Helper()
	raw, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
	if err != nil {
		t.Fatal(err)
	}
	return describeImage(t, raw, func(d ocispec.Descriptor) (io.ReadCloser, error) {
		return os.Open(filepath.Join(dir, d.Digest.Encoded()))
	})
}

func describeImage(t *testing.T, manifest []byte, open func(ocispec.Descriptor) (io.ReadCloser, error)) []string {
	t.Helper()
	var m ocispec.Manifest
	if err := json.Unmarshal(manifest, &m); err != nil {
		t.Fatal(err)
	}
	r, err := open(m.Config)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	config, err := io.ReadAll(r)
	if err != nil {
		t.Fatal(err)
	}
	lines, err := describeConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	files := mergedFiles{}
	for _, d := range m.Layers {
		r, err := open(d)
		if err != nil {
			t.Fatal(err)
		}
		err = files.add(d.MediaType, r)
		_ = r.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return append(lines, files.lines()...)
}

// mergedFile is an entry of a layer. Names of one file share it.
type mergedFile struct {
	text  string
	first string // of its names
	names int
}

// mergedFiles are the files of layers on top of each other, by name.
type mergedFiles map[string]*mergedFile

// add puts a layer on top.
func (m mergedFiles) add(mediaType string, blob io.Reader) error {
	z, err := asTar(mediaType, blob)
	if err != nil {
		return err
	}
	defer z.Close()
	added := mergedFiles{}
	tr := tar.NewReader(z)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		name := path.Join("/", h.Name)
		dir, base := path.Split(name)
		hidden, whiteout := strings.CutPrefix(base, ".wh.")
		switch {
		case base == ".wh..wh..opq":
			m.remove(path.Clean(dir), false)
		case whiteout:
			m.remove(path.Join(dir, hidden), true)
		case h.Typeflag == tar.TypeLink:
			target := path.Join("/", h.Linkname)
			if added[name] = added[target]; added[name] == nil {
				added[name] = m[target]
			}
			if added[name] == nil {
				return fmt.Errorf("%s is a link to %s, which is not there", name, target)
			}
		default:
			sum := sha256.New()
			if _, err := io.Copy(sum, tr); err != nil {
				return err
			}
			added[name] = &mergedFile{text: describeEntry(h, sum.Sum(nil))}
			if h.Typeflag != tar.TypeDir {
				m.remove(name, true)
			}
		}
	}
	maps.Copy(m, added)
	return nil
}

// remove takes a file away, or only what is in it.
func (m mergedFiles) remove(name string, itself bool) {
	for n := range m {
		if itself && n == name || strings.HasPrefix(n, strings.TrimSuffix(name, "/")+"/") && n != name {
			delete(m, n)
		}
	}
}

// describeEntry gives type, mode, owner, size, content, link and attributes.
func describeEntry(h *tar.Header, sum []byte) string {
	out := fmt.Sprintf("%c %04o %d:%d", h.Typeflag, h.Mode&0o7777, h.Uid, h.Gid)
	switch h.Typeflag {
	case tar.TypeReg:
		out += fmt.Sprintf(" %d bytes %x", h.Size, sum[:4])
	case tar.TypeSymlink:
		out += " -> " + h.Linkname
	case tar.TypeChar, tar.TypeBlock:
		out += fmt.Sprintf(" device %d,%d", h.Devmajor, h.Devminor)
	}
	for _, k := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		if x, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			out += fmt.Sprintf(" %s=%q", x, h.PAXRecords[k])
		}
	}
	return out
}

func (m mergedFiles) lines() []string {
	names := slices.Sorted(maps.Keys(m))
	for _, n := range names {
		if f := m[n]; f.names == 0 {
			f.first = n
		}
		m[n].names++
	}
	var out []string
	for _, n := range names {
		line := "file " + n + " " + m[n].text
		if m[n].names > 1 {
			line += fmt.Sprintf(" is %s, one of %d", m[n].first, m[n].names)
		}
		out = append(out, line)
	}
	return out
}

// describeConfig gives a line for each field of a config document, however deep,
// that is not empty, and one for each entry of its history. Fields that name the
// build are left out.
func describeConfig(config []byte) ([]string, error) {
	var c struct {
		History []struct {
			CreatedBy  string `json:"created_by"`
			Author     string `json:"author"`
			EmptyLayer bool   `json:"empty_layer"`
		} `json:"history"`
	}
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, err
	}
	var all map[string]any
	if err := json.Unmarshal(config, &all); err != nil {
		return nil, err
	}
	for _, k := range []string{"created", "history", "rootfs", "id", "parent", "container", "container_config", "docker_version"} {
		delete(all, k)
	}
	if c, ok := all["config"].(map[string]any); ok {
		delete(c, "Image")
		delete(c, "Hostname")
	}
	out := flatten("config", all)
	for i, h := range c.History {
		line := fmt.Sprintf("history %d: %s", i, describeStep(h.CreatedBy))
		if h.Author != "" {
			line += " by " + h.Author
		}
		if h.EmptyLayer {
			line += " (no layer)"
		}
		out = append(out, line)
	}
	return out, nil
}

// instruction matches what the two put before an instruction that is no RUN.
var instruction = regexp.MustCompile(`^(?:/bin/sh -c #\(nop\) +)?([A-Z]+)(?: .*)?$`)

// describeStep gives the instruction, and of RUN the command: the two write
// arguments of the others in different words.
func describeStep(createdBy string) string {
	createdBy = strings.TrimSuffix(createdBy, " # buildkit")
	if run, ok := strings.CutPrefix(createdBy, "RUN "); ok {
		return "RUN " + run
	}
	if m := instruction.FindStringSubmatch(createdBy); m != nil {
		return m[1]
	}
	if createdBy == "" {
		return "(base)"
	}
	return "RUN " + createdBy
}

// flatten gives the leaves of a document that are not empty, "PATH = VALUE".
func flatten(at string, v any) []string {
	switch v := v.(type) {
	case map[string]any:
		if len(v) == 0 && strings.Count(at, ".") > 2 {
			return []string{at} // of a set, as ExposedPorts
		}
		var out []string
		for _, k := range slices.Sorted(maps.Keys(v)) {
			out = append(out, flatten(at+"."+k, v[k])...)
		}
		return out
	case []any:
		if len(v) == 0 {
			return nil
		}
		text, _ := json.Marshal(v)
		return []string{at + " = " + string(text)}
	case nil:
		return nil
	}
	if v == false || v == "" || v == 0.0 {
		return nil
	}
	return []string{fmt.Sprintf("%s = %v", at, v)}
}
