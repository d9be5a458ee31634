// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"archive/tar"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/snapshot"
)

// stepWants is the layer that stepDoes makes over stepBase, whichever driver keeps
// it: type, mode, owner and name of each entry, and what it links to or holds.
const stepWants = `
0 ---------- 0:0 .wh.gone ""
0 ---------- 0:0 .wh.olddir ""
5 dr-x------ 0:0 closed/ ""
0 ---------- 0:0 closed/inside "new"
0 -rw-r--r-- 0:0 dir-was-file/new "x"
5 drwxr-xr-x 0:0 dir-was-file/ ""
5 drwxr-xr-x 0:0 deep/ ""
5 drwxr-xr-x 0:0 deep/er/ ""
0 ---------- 0:0 deep/er/.wh.file ""
0 -rw-r--r-- 0:0 deep/er/new "x"
6 prw------- 0:0 fifo ""
0 -rw-r--r-- 0:0 file-was-dir "x"
0 -rw-r--r-- 0:0 links/a "link"
5 drwxr-xr-x 0:0 links/ ""
1 -rw-r--r-- 0:0 links/b links/a ""
0 -rw------- 0:0 mode "mode"
0 -rw-r--r-- 0:0 moved "moved"
0 ---------- 0:0 .wh.move ""
0 -rw-r--r-- 0:0 one-name "link!"
0 -rw-r--r-- 7:8 owner "owner"
0 -rw-r--r-- 0:0 replaced "new"
5 drwxr-xr-x 0:0 opaque/ ""
0 ---------- 0:0 opaque/.wh..wh..opq ""
0 -rw-r--r-- 0:0 opaque/new "x"
0 -rwsr-xr-x 0:0 suid "x"
2 -rwxrwxrwx 0:0 symlink target ""
0 -rw-r--r-- 0:0 xattr "xattr" user.test=value
5 drwxr-xr-x 0:0 xattr-dir/ "" user.test=value
`

func stepBase(dir string) error {
	var errs []error
	add := func(err error) { errs = append(errs, err) }
	for _, d := range []string{"closed", "deep/er", "file-was-dir/below", "links", "olddir/below", "opaque/below", "same/below", "xattr-dir"} {
		add(os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	for _, f := range []string{
		"closed/keep", "deep/er/file", "deep/er/keep", "dir-was-file", "file-was-dir/f", "gone", "mode", "move", "olddir/below/f",
		"opaque/hidden", "opaque/below/f", "owner", "replaced", "same/below/f", "xattr",
	} {
		content := filepath.Base(f)
		if f == "move" {
			content = "moved"
		}
		add(os.WriteFile(filepath.Join(dir, f), []byte(content), 0o644))
	}
	add(os.WriteFile(filepath.Join(dir, "one-name"), []byte("link"), 0o644))
	add(os.Link(filepath.Join(dir, "one-name"), filepath.Join(dir, "other-name")))
	return errors.Join(errs...)
}

func stepDoes(dir string) error {
	var errs []error
	at := func(name string) string { return filepath.Join(dir, name) }
	add := func(err error) { errs = append(errs, err) }
	write := func(name, content string) { add(os.WriteFile(at(name), []byte(content), 0o644)) }
	for _, name := range []string{"gone", "deep/er/file", "dir-was-file"} {
		add(os.Remove(at(name)))
	}
	for _, name := range []string{"olddir", "opaque", "file-was-dir"} {
		add(os.RemoveAll(at(name)))
	}
	for _, name := range []string{"opaque", "dir-was-file"} {
		add(os.Mkdir(at(name), 0o755))
		write(name+"/new", "x")
	}
	write("deep/er/new", "x")
	write("file-was-dir", "x")
	write("closed/inside", "new")
	add(os.Chmod(at("closed/inside"), 0))
	add(os.Chmod(at("closed"), 0o500))
	add(unix.Mkfifo(at("fifo"), 0o600))
	write("links/a", "link")
	add(os.Link(at("links/a"), at("links/b")))
	add(os.Chmod(at("mode"), 0o600))
	add(os.Rename(at("move"), at("moved")))
	f, err := os.OpenFile(at("one-name"), os.O_WRONLY|os.O_APPEND, 0)
	add(err)
	if err == nil {
		_, err = f.WriteString("!")
		add(errors.Join(err, f.Close()))
	}
	add(os.Chown(at("owner"), 7, 8))
	write("replaced.new", "new")
	add(os.Rename(at("replaced.new"), at("replaced")))
	write("suid", "x")
	add(os.Chmod(at("suid"), 0o755|os.ModeSetuid))
	add(os.Symlink("target", at("symlink")))
	add(unix.Setxattr(at("xattr"), "user.test", []byte("value"), 0))
	add(unix.Setxattr(at("xattr-dir"), "user.test", []byte("value"), 0))
	// What leaves nothing behind.
	write("short-lived", "x")
	add(os.Remove(at("short-lived")))
	add(unix.Mknod(at("socket"), unix.S_IFSOCK|0o600, 0))
	return errors.Join(errs...)
}

func testStep(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	commit(t, d, view, one, nil, func(dir string) { must(t, stepBase(dir)) })
	a, err := d.Prepare(t.Context(), snapshot.NewID(), []string{one})
	must(t, err)
	begin(t, d, a)
	view(t, a, func(dir string) { must(t, stepDoes(dir)) })
	capture(t, d, a)
	got, want := entries(t, a), strings.Split(strings.TrimSpace(stepWants), "\n")
	slices.Sort(got)
	slices.Sort(want)
	for _, g := range got {
		if !slices.Contains(want, g) {
			t.Errorf("the layer has %s", g)
		}
	}
	for _, w := range want {
		if !slices.Contains(got, w) {
			t.Errorf("the layer lacks %s", w)
		}
	}
	two := tree('2')
	must(t, d.Commit(a, two))
	a, err = d.Prepare(t.Context(), snapshot.NewID(), []string{one, two})
	must(t, err)
	view(t, a, func(dir string) {
		for name, want := range map[string]string{"one-name": "link!", "other-name": "link", "opaque/new": "x", "opaque/hidden": "", "deep/er/keep": "keep", "gone": ""} {
			if b, _ := os.ReadFile(filepath.Join(dir, name)); string(b) != want {
				t.Errorf("over the layer, %s is %q, want %q", name, b, want)
			}
		}
	})
	must(t, d.Discard(a.ID))
}

// entries lists the layer that the captured snapshot is.
func entries(t *testing.T, a snapshot.Active) (out []string) {
	t.Helper()
	var b bytes.Buffer
	epoch := time.Unix(0, 0)
	if _, err := layer.Diff(t.Context(), &b, a.Upper, layer.DiffOptions{Tidy: true, Lower: a.Lowers, SourceDateEpoch: &epoch}); err != nil {
		t.Fatalf("Diff: %v", err)
	}
	for r := tar.NewReader(&b); ; {
		h, err := r.Next()
		if err == io.EOF {
			return out
		}
		must(t, err)
		content, err := io.ReadAll(r)
		must(t, err)
		line := fmt.Sprintf("%c %s %d:%d %s", h.Typeflag, mode(h), h.Uid, h.Gid, h.Name)
		if h.Linkname != "" {
			line += " " + h.Linkname
		}
		line += " " + strconv.Quote(string(content))
		for k, v := range h.PAXRecords {
			if name, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
				line += " " + name + "=" + v
			}
		}
		out = append(out, line)
	}
}

// mode gives the permissions as ls(1) does.
func mode(h *tar.Header) string {
	b := []byte("----------")
	b[0] = map[byte]byte{tar.TypeDir: 'd', tar.TypeFifo: 'p'}[h.Typeflag]
	if b[0] == 0 {
		b[0] = '-'
	}
	for i := range 9 {
		if h.Mode&(1<<(8-i)) != 0 {
			b[i+1] = "rwx"[i%3]
		}
	}
	if h.Mode&unix.S_ISUID != 0 {
		b[3] = 's'
	}
	return string(b)
}

func testTouched(t *testing.T, d snapshot.Driver, view View) {
	one := tree('1')
	commit(t, d, view, one, nil, func(dir string) { write(t, dir, "a", "1") })
	a, err := d.Prepare(t.Context(), snapshot.NewID(), []string{one})
	must(t, err)
	if a.Root == "" {
		return // whoever mounts has Extra for that
	}
	must(t, os.MkdirAll(filepath.Join(a.Root, "mine", "point"), 0o755))
	must(t, d.Begin(t.Context(), a, []string{".", "mine", "mine/point"}))
	capture(t, d, a)
	if got := entries(t, a); len(got) > 0 {
		t.Errorf("a step that did nothing made %q", got)
	}
	must(t, d.Discard(a.ID))
}

// many is more trees than most images have; 499 and a top are what one overlay takes.
const many = 499

func testMany(t *testing.T, d snapshot.Driver, view View) {
	var lower []string
	want := map[string]string{}
	for i := range many {
		name := snapshot.LayerTree(snapshot.Chain("", strconv.Itoa(i)))
		dir, err := d.Dir(snapshot.NewID())
		must(t, err)
		write(t, dir, fmt.Sprintf("file-%d", i%100), strconv.Itoa(i))
		must(t, d.Adopt(dir, name))
		lower = append(lower, name)
		want[fmt.Sprintf("file-%d", i%100)] = strconv.Itoa(i)
	}
	a, err := d.Prepare(t.Context(), snapshot.NewID(), lower)
	must(t, err)
	begin(t, d, a)
	view(t, a, func(dir string) {
		for name, content := range want {
			if b, err := os.ReadFile(filepath.Join(dir, name)); string(b) != content {
				t.Errorf("over %d layers, %s is %q (%v), want %q", many, name, b, err, content)
			}
		}
		must(t, os.Remove(filepath.Join(dir, "file-0")))
	})
	capture(t, d, a)
	if got := entries(t, a); len(got) != 1 || !strings.Contains(got[0], ".wh.file-0") {
		t.Errorf("a step over %d layers that removed a file made %q", many, got)
	}
	must(t, d.Discard(a.ID))
}
