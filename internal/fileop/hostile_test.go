// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/localtree"
)

// open opens a new directory as a root.
func open(t *testing.T, dir string) *rootfs.Root {
	t.Helper()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = root.Close() })
	return root
}

// setAttribute sets an attribute, where the file system has any.
func setAttribute(t *testing.T, file, name, value string) {
	t.Helper()
	err := unix.Setxattr(file, name, []byte(value), 0)
	if errors.Is(err, unix.ENOTSUP) && os.Getenv("CI") != "true" {
		t.Skip("needs a file system with extended attributes of users")
	}
	if err != nil {
		t.Fatal(err)
	}
}

// attributes lists NAME=VALUE of a file's attributes of users, sorted.
func attributes(t *testing.T, root *rootfs.Root, name string) string {
	t.Helper()
	names, err := root.Llistxattr(name)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, n := range names {
		if strings.HasPrefix(n, "user.") {
			v, err := root.Lgetxattr(name, n)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, n+"="+string(v))
		}
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

// Attributes of archives and other trees are never marks of this one: neither the
// kernel's, which would hide files from steps, nor this program's.
func TestMarks(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	hostile := map[string]string{
		"user.keep": "1", "user.overlay.opaque": "y", "user.overlay.redirect": "/x", "user.overlay.whiteout": "",
		"user.overlay.overlay.opaque": "z", "user.rootlesscontainers": "\xff", "user.stacker.node": "c 1 1 666",
	}
	f, err := os.Create(filepath.Join(from, "a.tar"))
	if err != nil {
		t.Fatal(err)
	}
	w := tar.NewWriter(f)
	h := &tar.Header{Typeflag: tar.TypeDir, Name: "dir/", Mode: 0o755, PAXRecords: map[string]string{}}
	for n, v := range hostile {
		h.PAXRecords["SCHILY.xattr."+n] = v
	}
	if err := errors.Join(w.WriteHeader(h), w.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
	tree := filepath.Join(from, "tree")
	if err := os.Mkdir(tree, 0o755); err != nil {
		t.Fatal(err)
	}
	setAttribute(t, tree, "user.keep", "1")
	setAttribute(t, tree, "user.overlay.opaque", "y")
	setAttribute(t, tree, "user.overlay.overlay.redirect", "/x")
	source := open(t, from)
	for _, tt := range []struct {
		name   string
		target bool // is one tree
		input  *Tree
		copy   action.Copy
		want   string
	}{
		{"archive to tree", true, RootTree(source), action.Copy{Src: "a.tar", Unpack: true}, "user.keep=1 user.overlay.overlay.opaque=y " +
			"user.overlay.overlay.overlay.opaque=z user.overlay.overlay.redirect=/x user.overlay.overlay.whiteout="},
		{"tree to tree", true, LayerTree(source), action.Copy{Src: "tree"}, "user.keep=1 user.overlay.overlay.redirect=/x"},
		{"overlay to tree", true, RootTree(source), action.Copy{Src: "tree"}, "user.keep=1 user.overlay.overlay.opaque=y user.overlay.overlay.overlay.redirect=/x"},
		{"tree to overlay", false, LayerTree(source), action.Copy{Src: "tree"}, "user.keep=1 user.overlay.redirect=/x"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp(to, "")
			if err != nil {
				t.Fatal(err)
			}
			root := open(t, dir)
			tt.copy.Dest, tt.copy.MakeDest, tt.copy.Input = "/", true, 1
			o := Options{Root: root, Inputs: map[int]*Tree{1: tt.input}, Tree: tt.target}
			if err := Do(t.Context(), o, []action.Action{{Copy: &tt.copy}}); err != nil {
				t.Fatal(err)
			}
			name := "tree"
			if tt.copy.Unpack {
				name = "dir"
			}
			if got := attributes(t, root, name); got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
		})
	}
}

// A copy of a file with two names is linked to the first copy only while that is
// still there.
func TestLinkedFileReplaced(t *testing.T) {
	from, to := t.TempDir(), t.TempDir()
	for _, dir := range []string{"a", "b", "c"} {
		if err := os.Mkdir(filepath.Join(from, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	err := errors.Join(
		os.WriteFile(filepath.Join(from, "a/one"), []byte("first"), 0o644),
		os.WriteFile(filepath.Join(from, "b/one"), []byte("second"), 0o644),
		os.Link(filepath.Join(from, "a/one"), filepath.Join(from, "c/two")),
		os.Link(filepath.Join(from, "a/one"), filepath.Join(from, "c/three")),
	)
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Root: open(t, to), Inputs: map[int]*Tree{1: RootTree(open(t, from))}}
	c := &action.Copy{Input: 1, Src: "*/*", Wildcard: true, Dest: "/", MakeDest: true}
	if err := Do(t.Context(), o, []action.Action{{Copy: c}}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{"one": "second", "two": "first", "three": "first"} {
		got, err := os.ReadFile(filepath.Join(to, name))
		if string(got) != want || err != nil {
			t.Errorf("%s has %q, %v, want %q", name, got, err, want)
		}
	}
	two, err := os.Stat(filepath.Join(to, "two"))
	if err != nil {
		t.Fatal(err)
	}
	three, err := os.Stat(filepath.Join(to, "three"))
	if err != nil || !os.SameFile(two, three) {
		t.Errorf("two and three are different files: %v", err)
	}
}

// A file of zeros in an archive takes no space, and one that is cut off is no file.
func TestSparse(t *testing.T) {
	const size = 1 << 30
	dir := t.TempDir()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	// The old GNU format of a file with no data, only a size.
	h := make([]byte, 512)
	copy(h, "big")
	copy(h[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00        S")
	copy(h[257:], "ustar  \x00")
	copy(h[386:], "10000000000\x0000000000000\x00")
	copy(h[483:], "10000000000\x00")
	sum := 0
	for _, c := range h {
		sum += int(c)
	}
	copy(h[148:], fmt.Sprintf("%06o\x00 ", sum))
	b.Write(h)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if err := Extract(t.Context(), bytes.NewReader(b.Bytes()), open(t, dir)); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "big"), &st); err != nil || st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("the file has %d bytes, which take %d, %v, want %d and few", st.Size, st.Blocks*512, err, size)
	}
	b.Reset()
	w = tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: "a", Typeflag: tar.TypeReg, Size: 3000, Mode: 0o644})
	if err != nil {
		t.Fatal(err)
	}
	b.WriteString("cut off")
	if err := Extract(t.Context(), bytes.NewReader(b.Bytes()), open(t, t.TempDir())); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("an archive that is cut off: %v, want %v", err, io.ErrUnexpectedEOF)
	}
}

// TestListedNotes copies a file of a build context whose attributes are called like notes of
// this program: they would make another owner of it, or a device.
func TestListedNotes(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "f"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	notes := map[string]string{"user.keep": "1", "user.rootlesscontainers": "\x08\x07\x10\x07", "user.stacker.node": "b 8 0 666", "user.stacker.capability": "x", "user.stacker.acl_access": "x"}
	d, err := NewDraft(DraftOptions{Now: time.Unix(0, 0)})
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	entries := []localtree.Entry{{Mode: unix.S_IFDIR | 0o755}, {Path: "f", Mode: unix.S_IFREG | 0o600, Digest: digest.FromString(""), Xattrs: notes}}
	o := Options{Draft: d, Inputs: map[int]*Tree{1: ListTree(entries, open(t, dir), "", "")}}
	none := uint32(0)
	if err := Do(t.Context(), o, []action.Action{{Copy: &action.Copy{Input: 1, Src: "/f", Dest: "/f", Mode: &none}}}); err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	if _, _, err := d.Archive(t.Context(), &b); err != nil {
		t.Fatal(err)
	}
	h, err := tar.NewReader(&b).Next()
	if err != nil {
		t.Fatal(err)
	}
	got := fmt.Sprintf("%s %c %d:%d %v", h.Name, h.Typeflag, h.Uid, h.Gid, h.PAXRecords)
	if want := "f 0 0:0 map[SCHILY.xattr.user.keep:1]"; got != want {
		t.Errorf("entry = %s, want %s", got, want)
	}
}
