// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

func TestDigestCoversContentOnly(t *testing.T) {
	files := []string{"a=1", "d/b=2", "l -> a"}
	scan := func(change func(root string)) digest.Digest {
		root := makeTree(t, files...)
		change(root)
		return scanTree(t, OpenIndex(""), root, Options{}).Digest()
	}
	same := scan(func(string) {})
	tests := []struct {
		name   string
		change func(root string)
		equal  bool
	}{
		{"another place", func(string) {}, true},
		{"mtime", func(r string) { _ = os.Chtimes(filepath.Join(r, "a"), unixTime(1), unixTime(1)) }, true},
		{"content", func(r string) { addFile(t, r, "a=2") }, false},
		{"mode", func(r string) { _ = os.Chmod(filepath.Join(r, "a"), 0o600) }, false},
		{"mode of directory", func(r string) { _ = os.Chmod(filepath.Join(r, "d"), 0o700) }, false},
		{"name", func(r string) { _ = os.Rename(filepath.Join(r, "a"), filepath.Join(r, "b")) }, false},
		{"target", func(r string) { _ = os.Remove(filepath.Join(r, "l")); addFile(t, r, "l -> b") }, false},
		{"empty directory", func(r string) { addFile(t, r, "e/") }, false},
	}
	for _, tt := range tests {
		if got := scan(tt.change); (got == same) != tt.equal {
			t.Errorf("%s: equal %v, want %v", tt.name, got == same, tt.equal)
		}
	}
}

func TestListingRoundTrip(t *testing.T) {
	in := []Entry{
		{Path: "", Mode: unix.S_IFDIR | 0o755},
		{Path: "a", Mode: unix.S_IFREG | 0o4644, Size: 1 << 40, Digest: digest.FromString("x"), UID: 5, GID: 1 << 31},
		{Path: "a/b", Mode: unix.S_IFLNK | 0o777, Target: "\xff"},
		{Path: "c", Mode: unix.S_IFREG, Digest: digest.FromString(""), Xattrs: map[string]string{"user.b": "1", "user.a": ""}},
	}
	data := Marshal(in)
	out, err := Unmarshal(data)
	if err != nil {
		t.Fatal(err)
	}
	if changes := Diff(in, out); len(changes) != 0 || len(out) != len(in) {
		t.Errorf("got %+v, want %+v", out, in)
	}
	for n := range data {
		if got, err := Unmarshal(data[:n]); err == nil && len(got) == len(in) {
			t.Errorf("cut to %d bytes: accepted whole", n)
		}
	}
}

// TestListingFormat fails when the encoding changes: then listingMagic must too.
func TestListingFormat(t *testing.T) {
	got := digest.FromBytes(Marshal([]Entry{
		{Path: "", Mode: unix.S_IFDIR | 0o755, MTime: 5},
		{Path: "a", Mode: unix.S_IFREG | 0o644, Size: 1, Digest: digest.FromString("x"), UID: 1, GID: 2},
		{Path: "ab", Mode: unix.S_IFLNK | 0o777, Target: "t", Xattrs: map[string]string{"user.k": "v"}},
	}))
	const want = "sha256:250b8ca9aa514b725f818ade973bc4681770906b1098522895189034247b6dcb"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func FuzzUnmarshal(f *testing.F) {
	f.Add(Marshal([]Entry{{Path: "", Mode: unix.S_IFDIR}, {Path: "a", Mode: unix.S_IFLNK, Target: "b", Xattrs: map[string]string{"x": "y"}}}))
	f.Fuzz(func(t *testing.T, data []byte) {
		entries, err := Unmarshal(data)
		if err == nil && !bytes.Equal(Marshal(entries), data) {
			t.Errorf("two listings of one tree")
		}
	})
}

func TestDiff(t *testing.T) {
	file := func(p string, mode uint32, content string) Entry {
		return Entry{Path: p, Mode: unix.S_IFREG | mode, Size: int64(len(content)), Digest: digest.FromString(content)}
	}
	link := func(p, target string) Entry { return Entry{Path: p, Mode: unix.S_IFLNK | 0o777, Target: target} }
	old := []Entry{file("a", 0o644, "1"), file("b", 0o644, "1"), file("c", 0o644, "1"), link("l", "x"), file("t", 0o644, "")}
	now := []Entry{file("b", 0o755, "2"), file("c", 0o644, "1"), link("l", "y"), file("n", 0, ""), {Path: "t", Mode: unix.S_IFDIR | 0o755}}
	got := fmt.Sprint(Diff(old, now))
	want := "[{a removed} {b content} {b mode} {l target} {n added} {t type}]"
	if got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestWriteTar(t *testing.T) {
	long := strings.Repeat("long/", 60)
	root := makeTree(t, "a=hello", "d/b=", "l -> a", long+"f=x")
	tree := scanTree(t, OpenIndex(""), root, Options{})
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	err := tree.WriteTar(t.Context(), w, TarOptions{
		Name:   func(e Entry) (string, bool) { return "dst/" + e.Path, e.Path != "d/b" },
		Header: func(h *tar.Header) { h.Uid, h.ModTime = 7, unixTime(5) },
	})
	if err == nil {
		err = w.Close()
	}
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	r := tar.NewReader(&buf)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if strings.Contains(h.Name, "long/") && h.Typeflag == tar.TypeDir {
			continue
		}
		data, _ := io.ReadAll(r)
		got = append(got, fmt.Sprintf("%s %c %o %d %d %s%s", strings.ReplaceAll(h.Name, long, "LONG/"), h.Typeflag, h.Mode, h.Uid, h.ModTime.Unix(), h.Linkname, data))
	}
	want := "dst/ 5 755 7 5 |dst/a 0 644 7 5 hello|dst/d/ 5 755 7 5 |dst/l 2 777 7 5 a|dst/LONG/f 0 644 7 5 x"
	if text := strings.Join(got, "|"); text != want {
		t.Errorf("got  %s\nwant %s", text, want)
	}
}

func TestWriteTarNoticesChanges(t *testing.T) {
	tests := []struct {
		name   string
		change func(root string)
	}{
		{"same size", func(r string) { addFile(t, r, "a=2") }},
		{"longer", func(r string) { addFile(t, r, "a=22") }},
		{"shorter", func(r string) { addFile(t, r, "a=") }},
		{"gone", func(r string) { _ = os.Remove(filepath.Join(r, "a")) }},
		{"now a link", func(r string) { _ = os.Remove(filepath.Join(r, "a")); addFile(t, r, "a -> /etc/passwd") }},
		{"now a FIFO", func(r string) { _ = os.Remove(filepath.Join(r, "a")); _ = unix.Mkfifo(filepath.Join(r, "a"), 0o644) }},
	}
	for _, tt := range tests {
		root := makeTree(t, "a=1")
		tree := scanTree(t, OpenIndex(""), root, Options{})
		tt.change(root)
		err := tree.WriteTar(t.Context(), tar.NewWriter(io.Discard), TarOptions{})
		if !errors.Is(err, ErrChanged) || !strings.Contains(err.Error(), filepath.Join(root, "a")) {
			t.Errorf("%s: got %v, want ErrChanged with the path", tt.name, err)
		}
	}
}

func TestCopyTo(t *testing.T) {
	src := makeTree(t, "a=1", "d/b=22", "d/e/", "l -> /etc", "t/x=1", "u=1", "same=s")
	chmod := func(name string, mode uint32) {
		if err := unix.Chmod(filepath.Join(src, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	chmod("a", 0o4777)
	chmod("d/e", 0o777)
	chmod("d", 0o555)
	defer os.Chmod(filepath.Join(src, "d"), 0o755)
	outside := makeTree(t, "canary=x")
	dst := makeTree(t, "same=s", "extra/deep/f=1", "extra2=1", "d -> "+outside, "a=2", "u/v/w=1", "t=1", "l -> /usr")
	defer os.Chmod(filepath.Join(dst, "d"), 0o755)
	if err := unix.Mkfifo(filepath.Join(dst, "pipe"), 0o644); err != nil {
		t.Fatal(err)
	}
	before, _ := os.Stat(filepath.Join(dst, "same"))
	x := later(t)
	tree := scanTree(t, x, src, Options{})
	old := unix.Umask(0o077)
	changes, err := tree.CopyTo(t.Context(), x, dst)
	unix.Umask(old)
	if err != nil {
		t.Fatal(err)
	}
	if len(changes) == 0 {
		t.Errorf("no changes told")
	}
	if got, want := scanTree(t, OpenIndex(""), dst, Options{}).Digest(), tree.Digest(); got != want {
		t.Errorf("copy differs: %v", Diff(tree.Entries, scanTree(t, OpenIndex(""), dst, Options{}).Entries))
	}
	if after, _ := os.Stat(filepath.Join(dst, "same")); !os.SameFile(before, after) {
		t.Errorf("an equal file was replaced")
	}
	if got := scanTree(t, OpenIndex(""), outside, Options{}); len(got.Entries) != 2 {
		t.Errorf("a link was followed: %+v", got.Entries)
	}
	if changes, err := tree.CopyTo(t.Context(), x, dst); err != nil || len(changes) != 0 {
		t.Errorf("second copy: got %v, %v, want no changes", changes, err)
	}
	// A change below a directory that is read-only.
	chmod("d", 0o755)
	addFile(t, src, "d/new=1")
	chmod("d", 0o555)
	changes, err = scanTree(t, x, src, Options{}).CopyTo(t.Context(), x, dst)
	if got := fmt.Sprint(changes); err != nil || got != "[{d/new added}]" {
		t.Errorf("third copy: got %s, %v", got, err)
	}
	if st, _ := os.Stat(filepath.Join(dst, "d")); st.Mode().Perm() != 0o555 {
		t.Errorf("mode of d: got %o, want 555", st.Mode().Perm())
	}
}

func TestCopyToOfAFile(t *testing.T) {
	src := makeTree(t, "f=1")
	canary := makeTree(t, "c=1")
	x := later(t)
	tree := scanTree(t, x, filepath.Join(src, "f"), Options{})
	for name, dst := range map[string]string{
		"new":             filepath.Join(t.TempDir(), "not/yet/there"),
		"link to outside": filepath.Join(makeTree(t, "l -> "+filepath.Join(canary, "c")), "l"),
		"directory":       makeTree(t, "x/y=1"),
	} {
		if _, err := tree.CopyTo(t.Context(), x, dst); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if st, err := os.Lstat(dst); err != nil || !st.Mode().IsRegular() || st.Size() != 1 {
			t.Errorf("%s: got %v, %v, want the file", name, st, err)
		}
	}
}

func TestCopyToKeepsHoles(t *testing.T) {
	src := makeTree(t, "f=x")
	if err := os.Truncate(filepath.Join(src, "f"), 64<<20); err != nil {
		t.Fatal(err)
	}
	dst := filepath.Join(t.TempDir(), "dst")
	if _, err := scanTree(t, OpenIndex(""), src, Options{}).CopyTo(t.Context(), OpenIndex(""), dst); err != nil {
		t.Fatal(err)
	}
	st, err := lookup(unix.AT_FDCWD, filepath.Join(dst, "f"), false)
	if err != nil || st.size != 64<<20 || st.blocks*512 > 2<<20 {
		t.Errorf("got size %d in %d blocks, %v, want a sparse file", st.size, st.blocks, err)
	}
}

func TestCopyToNoticesChanges(t *testing.T) {
	src := makeTree(t, "a=1")
	tree := scanTree(t, OpenIndex(""), src, Options{})
	addFile(t, src, "a=2")
	dst := filepath.Join(t.TempDir(), "dst")
	if _, err := tree.CopyTo(t.Context(), OpenIndex(""), dst); !errors.Is(err, ErrChanged) {
		t.Errorf("got %v, want ErrChanged", err)
	}
	if left, _ := os.ReadDir(dst); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
}

func unixTime(sec int64) time.Time { return time.Unix(sec, 0) }
