// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"archive/tar"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
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
