// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// writeLayer runs Diff and returns the archive and the names in it.
func writeLayer(t *testing.T, tree string, o DiffOptions) (archive []byte, names string) {
	t.Helper()
	var out bytes.Buffer
	res, err := Diff(context.Background(), &out, tree, o)
	if err != nil {
		t.Fatal(err)
	}
	hashed, err := Diff(context.Background(), nil, tree, o)
	if err != nil || hashed != res {
		t.Errorf("hashed only: %+v, error %v, want %+v", hashed, err, res)
	}
	if res.Size != int64(out.Len()) {
		t.Errorf("Size = %d, want %d", res.Size, out.Len())
	}
	for hdr, err := range Entries(bytes.NewReader(out.Bytes())) {
		if err != nil {
			t.Fatal(err)
		}
		names += hdr.Name + " "
	}
	return out.Bytes(), strings.TrimSuffix(names, " ")
}

func TestDiffEmpty(t *testing.T) {
	archive, names := writeLayer(t, t.TempDir(), DiffOptions{})
	if !bytes.Equal(archive, make([]byte, 1024)) || names != "" {
		t.Errorf("%d bytes, names %q, want 1024 zeros", len(archive), names)
	}
	res, err := Diff(context.Background(), nil, t.TempDir(), DiffOptions{})
	if err != nil || !res.Empty || res.Entries != 0 {
		t.Errorf("%+v, error %v, want an empty layer", res, err)
	}
}

func TestDiffOrder(t *testing.T) {
	tree, _ := mustApply(t, pack(t,
		file("z", "1"), hardlink("b", "z"), dir("a", 0o755), file("a/x", "2"), file("a-b", "3"), file("a/.wh..wh..opq", ""),
		file(".wh.gone", ""), hardlink("a/y", "z"), symlink("l", "a"),
	))
	archive, names := writeLayer(t, tree, DiffOptions{})
	if want := "a a/.wh..wh..opq a/x a/y a-b b .wh.gone l z"; names != want {
		t.Errorf("names = %q, want %q", names, want)
	}
	tr := tar.NewReader(bytes.NewReader(archive))
	for {
		hdr, err := tr.Next()
		if err != nil {
			break
		}
		switch hdr.Name {
		case "a/":
			if hdr.Typeflag != tar.TypeDir {
				t.Errorf("a/ has type %q", hdr.Typeflag)
			}
		case "a/y":
			if hdr.Typeflag != tar.TypeReg || hdr.Size != 1 {
				t.Errorf("first name of the file: %+v", hdr)
			}
		case "b", "z":
			if hdr.Typeflag != tar.TypeLink || hdr.Linkname != "a/y" || hdr.Size != 0 {
				t.Errorf("other name of the file: %+v", hdr)
			}
		case ".wh.gone", "a/.wh..wh..opq":
			if hdr.Mode != 0 || hdr.ModTime.Unix() != 0 || hdr.Size != 0 {
				t.Errorf("mark of removal: %+v", hdr)
			}
		}
		if hdr.Format != tar.FormatUSTAR || hdr.Uname != "" || hdr.Gname != "" {
			t.Errorf("%s: format %v, names %q:%q", hdr.Name, hdr.Format, hdr.Uname, hdr.Gname)
		}
	}
}

func TestDiffRoundTrip(t *testing.T) {
	long := strings.Repeat("long", 40)
	tree, _ := mustApply(t, pack(t,
		dir("etc", 0o755), file("etc/passwd", "root"), file("etc/"+long+"/"+long, "x"), symlink("ln", long+long),
		file("bytes-\xff\xfe-\n", "x"), file("ünï", "x"), file("-x ", "x"), hardlink("hard", "etc/passwd"), char("dev/sda", 8, 0),
		entry{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o600}},
		file("old", "x").with(func(h *tar.Header) { h.ModTime, h.Format = time.Unix(-1000, 0), tar.FormatPAX }),
		file("x", "x").xattr("user.z", "1").xattr("user.a", "nul\x00newline\n").xattr("user.overlay.opaque", "y"),
		file(".wh.gone", ""), file("etc/.wh..wh..opq", ""), file("big", strings.Repeat("0123456789", 200000)),
	))
	first, _ := writeLayer(t, tree, DiffOptions{})
	again, res := mustApply(t, first)
	second, _ := writeLayer(t, again, DiffOptions{})
	if !bytes.Equal(first, second) {
		t.Errorf("archives differ: %d and %d bytes", len(first), len(second))
	}
	if res.DroppedXattrs != 0 {
		t.Errorf("DroppedXattrs = %d, want 0", res.DroppedXattrs)
	}
}

func TestDiffTimes(t *testing.T) {
	at := func(sec, nsec int64) *time.Time { v := time.Unix(sec, nsec); return &v }
	cases := []struct {
		name        string
		mtime       *time.Time
		epoch, from *time.Time
		want        int64
	}{
		{"as it is", at(5000, 900), nil, nil, 5000},
		{"no epoch, no clamp", at(5000, 0), nil, at(10, 0), 5000},
		{"earlier", at(4000, 0), at(5000, 0), nil, 4000},
		{"later", at(6000, 0), at(5000, 0), nil, 5000},
		{"fraction later", at(5000, 1), at(5000, 0), nil, 5000},
		{"before the step", at(3000, 0), at(5000, 0), at(4000, 0), 3000},
		{"in the step", at(4000, 0), at(5000, 0), at(4000, 0), 5000},
		{"in the step, coarse clock", at(3999, 995e6), at(5000, 0), at(4000, 0), 5000},
		{"negative", at(-5, 5), nil, nil, -5},
	}
	for _, tc := range cases {
		t.Run(tc.name, func(t *testing.T) {
			tree := t.TempDir()
			if err := os.WriteFile(tree+"/f", nil, 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Chtimes(tree+"/f", *tc.mtime, *tc.mtime); err != nil {
				t.Fatal(err)
			}
			archive, _ := writeLayer(t, tree, DiffOptions{SourceDateEpoch: tc.epoch, ClampFrom: tc.from})
			hdr, err := tar.NewReader(bytes.NewReader(archive)).Next()
			if err != nil || hdr.ModTime.Unix() != tc.want || hdr.ModTime.Nanosecond() != 0 {
				t.Errorf("time = %v, error %v, want %d", hdr.ModTime, err, tc.want)
			}
		})
	}
}

func TestDiffRoot(t *testing.T) {
	tree, _ := mustApply(t, pack(t, dir("./", 0o711), file("f", "")))
	me := RootMeta{Mode: 0o711, UID: os.Getuid(), GID: os.Getgid()}
	other := me
	other.Mode = 0o755
	for _, tc := range []struct {
		root *RootMeta
		want string
	}{{nil, "f"}, {&me, "f"}, {&other, ". f"}} {
		if _, names := writeLayer(t, tree, DiffOptions{Root: tc.root}); names != tc.want {
			t.Errorf("root %+v: names = %q, want %q", tc.root, names, tc.want)
		}
	}
}

func TestDiffSpecial(t *testing.T) {
	tree := t.TempDir()
	for name, attr := range map[string]string{"redirected": "user.overlay.redirect"} {
		if err := os.Mkdir(filepath.Join(tree, name), 0o755); err != nil {
			t.Fatal(err)
		}
		setXattr(t, tree, name, attr, "/x")
	}
	if _, err := Diff(context.Background(), nil, tree, DiffOptions{}); err == nil || !strings.Contains(err.Error(), "redirect_dir") {
		t.Errorf("redirect: error = %v, want one about redirect_dir", err)
	}
	tree = t.TempDir()
	if err := unix.Mknod(filepath.Join(tree, "s"), unix.S_IFSOCK|0o600, 0); err != nil { // of any length, other than what is listened at
		t.Fatal(err)
	}
	if err := os.WriteFile(tree+"/f", []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	setXattr(t, tree, "f", "user.overlay.origin", "x")
	setXattr(t, tree, "f", xattrNode, "c 1 3 666") // not empty, so a file
	archive, names := writeLayer(t, tree, DiffOptions{})
	hdr, err := tar.NewReader(bytes.NewReader(archive)).Next()
	if names != "f" || err != nil || hdr.Typeflag != tar.TypeReg || len(hdr.PAXRecords) != 0 {
		t.Errorf("names = %q, header %+v, error %v, want only a plain file f", names, hdr, err)
	}
	if err := os.WriteFile(tree+"/.wh.x", nil, 0o644); err != nil {
		t.Fatal(err)
	}
	var entryErr *EntryError
	if _, err := Diff(context.Background(), nil, tree, DiffOptions{}); !errors.As(err, &entryErr) || entryErr.Name != ".wh.x" {
		t.Errorf("error = %v, want an EntryError for .wh.x", err)
	}
}

// TestDiffTidy describes a tree with a whiteout that hides nothing: it goes, and the tree is
// afterwards what was described.
func TestDiffTidy(t *testing.T) {
	tree := plant(t, [2]string{"d/f", "x"})
	if err := unix.Mknod(filepath.Join(tree, "d", "gone"), unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	before := time.Unix(1e9, 5)
	if err := os.Chtimes(filepath.Join(tree, "d"), before, before); err != nil {
		t.Fatal(err)
	}
	described, names := writeLayer(t, tree, DiffOptions{Tidy: true})
	if strings.Contains(names, ".wh.") {
		t.Errorf("described as %q, want no whiteout", names)
	}
	if packed, _ := writeLayer(t, tree, DiffOptions{}); !bytes.Equal(packed, described) {
		t.Error("the tree is packed as something else than it was described")
	}
}

func setXattr(t *testing.T, tree, name, attr, value string) {
	t.Helper()
	r, err := rootfs.Open(tree)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Lsetxattr(name, attr, []byte(value)); err != nil {
		t.Fatal(err)
	}
}

type failingWriter struct{ left int }

var errFull = errors.New("disk is full")

func (w *failingWriter) Write(p []byte) (int, error) {
	if w.left -= len(p); w.left < 0 {
		return 0, errFull
	}
	return len(p), nil
}

func TestDiffWriteError(t *testing.T) {
	tree, _ := mustApply(t, pack(t, file("a", strings.Repeat("x", 4<<20)), file("b", strings.Repeat("x", 4<<20))))
	for _, n := range []int{0, 1 << 20, 8 << 20} {
		if _, err := Diff(context.Background(), &failingWriter{n}, tree, DiffOptions{}); !errors.Is(err, errFull) {
			t.Errorf("after %d bytes: error = %v, want %v", n, err, errFull)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Diff(ctx, nil, tree, DiffOptions{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
}

func TestLookup(t *testing.T) {
	trees, _, err := applyAll(t, t.TempDir(), ApplyOptions{},
		pack(t, dir("a/b", 0o700), file("a/b/f", "0"), file("a/g", "0"), symlink("abs", "/a/b"), symlink("up", "a/b/../g"), symlink("loop", "loop"),
			file("o/f", "0"), file("gone/f", "0"), file("x", "0"), symlink("out", "../../../a/g"), symlink("tog", "abs/../g")),
		pack(t, dir("a", 0o711), file("a/h", "1"), dir("o", 0o755), file("o/.wh..wh..opq", ""), file("o/k", "1"), file(".wh.gone", ""), dir("x", 0o755)),
		pack(t, file("a/.wh.g", ""), file("x", "2"), dir("gone", 0o755)),
	)
	if err != nil {
		t.Fatal(err)
	}
	cases := []struct {
		name   string
		follow bool
		want   string // "layer path"
	}{
		{".", false, "2 ."},
		{"a", false, "2 a"},
		{"a/b", false, "0 a/b"},
		{"a/b/f", false, "0 a/b/f"},
		{"/a/./b//f/", false, "0 a/b/f"},
		{"a/h", false, "1 a/h"},
		{"a/g", false, "absent"},
		{"abs", false, "0 abs"},
		{"abs", true, "0 a/b"},
		{"abs/f", false, "0 a/b/f"},
		{"abs/../h", false, "absent"}, // cleaned before links are followed
		{"up", true, "absent"},
		{"tog", true, "absent"},
		{"out", true, "absent"},
		{"loop", true, "loop"},
		{"loop", false, "0 loop"},
		{"o/f", false, "absent"},
		{"o/k", false, "1 o/k"},
		{"gone", false, "2 gone"},
		{"gone/f", false, "absent"},
		{"x", false, "2 x"},
		{"x/y", false, "absent"},
		{"../../a/h", false, "1 a/h"},
	}
	for _, tc := range cases {
		f, err := Lookup(trees, tc.name, tc.follow)
		got := fmt.Sprintf("%d %s", f.Layer, f.Path)
		switch {
		case errors.Is(err, os.ErrNotExist):
			got = "absent"
		case errors.Is(err, unix.ELOOP):
			got = "loop"
		case err != nil:
			got = err.Error()
		}
		if got != tc.want {
			t.Errorf("Lookup(%q, %v) = %s, want %s", tc.name, tc.follow, got, tc.want)
		}
	}
	if _, err := Lookup(nil, "x", false); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in no trees: error = %v, want %v", err, os.ErrNotExist)
	}
}

func TestDecodeOwner(t *testing.T) {
	cases := []struct {
		value    string
		uid, gid uint32
		ok       bool
	}{
		{"", 0, 0, true},
		{"\x08\x05", 5, 0, true},
		{"\x08\xe8\x07\x10\xac\x02", 1000, 300, true},
		{"\x08\xff\xff\xff\xff\x0f", 77, 0, true},
		{"\x10", 0, 0, false},
		{"\x08\xff\xff\xff\xff\xff\xff\x01", 0, 0, false},
		{"\x1a\x00", 0, 0, false},
	}
	for _, tc := range cases {
		uid, gid, err := record.DecodeOwner([]byte(tc.value), 77, 0)
		if tc.ok != (err == nil) || (tc.ok && (uid != tc.uid || gid != tc.gid)) {
			t.Errorf("decodeOwner(%q) = %d, %d, %v, want %d, %d, %v", tc.value, uid, gid, err, tc.uid, tc.gid, tc.ok)
		}
	}
}
