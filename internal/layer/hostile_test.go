// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

const token = "canary-4f1c9b"

// newCanary makes a directory that no archive may reach, with a sibling whose name
// starts as that of the tree does.
func newCanary(tb testing.TB, base string) string {
	tb.Helper()
	c := filepath.Join(base, "canary")
	for _, d := range []string{c, c + "/d", base + "/tree0-sibling", base + "/tree1-sibling"} {
		if err := os.Mkdir(d, 0o700); err != nil {
			tb.Fatal(err)
		}
	}
	for _, f := range []string{c + "/secret", c + "/d/f", base + "/tree0-sibling/secret", base + "/tree1-sibling/secret"} {
		if err := os.WriteFile(f, []byte(token), 0o600); err != nil {
			tb.Fatal(err)
		}
	}
	if err := unix.Mkfifo(c+"/fifo", 0o600); err != nil {
		tb.Fatal(err)
	}
	return c
}

// canaryState describes all of base but the trees.
func canaryState(tb testing.TB, base string) string {
	tb.Helper()
	state := ""
	for _, d := range []string{"canary", "tree0-sibling", "tree1-sibling"} {
		state += describeTree(tb, filepath.Join(base, d))
	}
	list, err := os.ReadDir(base)
	if err != nil {
		tb.Fatal(err)
	}
	for _, e := range list {
		state += e.Name() + "\n"
	}
	return strings.ReplaceAll(strings.ReplaceAll(state, "tree1\n", ""), "tree0\n", "")
}

// at fills in the path of the canary.
func (e entry) at(canary string) entry {
	return e.with(func(h *tar.Header) {
		h.Name = strings.ReplaceAll(h.Name, "CANARY", canary)
		h.Linkname = strings.ReplaceAll(h.Linkname, "CANARY", canary)
	})
}

func char(name string, major, minor int64) entry {
	return entry{Header: tar.Header{Typeflag: tar.TypeChar, Name: name, Devmajor: major, Devminor: minor, Mode: 0o666}}
}

// hostileCases are archives that try to leave the tree. weak says that a naive
// unpacker falls for it: the proof that the test would notice.
var hostileCases = []struct {
	name    string
	layers  [][]entry
	wantErr string // "" if the archive is to be contained
	weak    bool
}{
	{name: "dotdot-file", layers: [][]entry{{file("../canary/secret", "x")}}, wantErr: "leads out", weak: true},
	{name: "dotdot-inside", layers: [][]entry{{dir("a", 0o755), file("a/../../canary/secret", "x")}}, wantErr: "leads out", weak: true},
	{name: "dotdot-sibling", layers: [][]entry{{file("../tree0-sibling/secret", "x")}}, wantErr: "leads out", weak: true},
	{name: "dotdot-dir", layers: [][]entry{{dir("../canary/d", 0o777)}}, wantErr: "leads out", weak: true},
	{name: "dotdot-alone", layers: [][]entry{{dir("..", 0o777)}}, wantErr: "leads out"},
	{name: "dotdot-harmless", layers: [][]entry{{dir("a", 0o755), file("a/../b", "x")}}},
	{name: "abs-file", layers: [][]entry{{file("CANARY/secret", "x")}}},
	{name: "abs-dir", layers: [][]entry{{dir("CANARY/d", 0o777)}}},
	{name: "sym-write", layers: [][]entry{{symlink("l", "CANARY"), file("l/secret", "x")}}, weak: true},
	{name: "sym-write-rel", layers: [][]entry{{symlink("l", "../canary"), file("l/secret", "x")}}, weak: true},
	{name: "sym-leaf-write", layers: [][]entry{{symlink("l", "CANARY/secret"), file("l", "x")}}, weak: true},
	{name: "sym-2layers", layers: [][]entry{{symlink("l", "CANARY")}, {file("l/secret", "x")}}},
	{name: "sym-rel-2layers", layers: [][]entry{{symlink("l", "../../canary")}, {file("l/secret", "x")}}},
	{name: "sym-chain", layers: [][]entry{{symlink("a", ".."), symlink("b", "a/canary"), file("b/secret", "x")}}, weak: true},
	{name: "sym-chain-dirs", layers: [][]entry{{dir("d", 0o755), symlink("d/up", "../.."), file("d/up/canary/secret", "x")}}, weak: true},
	{name: "symparent-mkdirall", layers: [][]entry{{symlink("l", "CANARY"), file("l/new/deep/f", "x")}}, weak: true},
	{name: "sym-dotdot-then-abs", layers: [][]entry{{symlink("a", "x/../.."), symlink("b", "/a/canary"), file("b/secret", "x")}}},
	{name: "sym-prefix-sibling", layers: [][]entry{{symlink("l", "../tree0-sibling"), file("l/secret", "x")}}, weak: true},
	{name: "sym-loop", layers: [][]entry{{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}}, wantErr: "too many levels"},
	{name: "sym-self", layers: [][]entry{{symlink("a", "a"), file("a/x", "x")}}, wantErr: "too many levels"},
	{name: "sym-root", layers: [][]entry{{symlink(".", "CANARY"), file("secret", "x")}}, wantErr: "not a directory"},
	{name: "sym-rootslash", layers: [][]entry{{symlink("/", "CANARY"), file("secret", "x")}}, wantErr: "not a directory"},
	{name: "sym-then-dir", layers: [][]entry{{symlink("l", "CANARY/d"), dir("l", 0o777), file("l/f", "x")}}, weak: true},
	{name: "symdir-dir-mode-2l", layers: [][]entry{{symlink("l", "CANARY/d")}, {dir("l", 0o777)}}},
	{name: "sym-setuid", layers: [][]entry{{symlink("l", "CANARY/secret").mode(0o4777)}}},
	{name: "sym-xattr", layers: [][]entry{{symlink("l", "CANARY/secret").xattr("user.x", "y")}}},
	{name: "hard-to-sym-chmod", layers: [][]entry{{symlink("s", "CANARY/secret"), hardlink("h", "s").mode(0o777), file("h", "x")}}, weak: true},
	{name: "hard-abs", layers: [][]entry{{hardlink("h", "CANARY/secret")}}, wantErr: "does not exist"},
	{name: "hard-dotdot", layers: [][]entry{{hardlink("h", "../canary/secret")}}, wantErr: "leads out", weak: true},
	{name: "hard-cwd", layers: [][]entry{{hardlink("h", "secret")}}, wantErr: "does not exist"},
	{name: "hard-thru-sym", layers: [][]entry{{symlink("l", "CANARY"), hardlink("h", "l/secret")}}, wantErr: "does not exist", weak: true},
	{name: "hard-thru-sym-2l", layers: [][]entry{{symlink("l", "CANARY")}, {hardlink("h", "l/secret")}}, wantErr: "does not exist"},
	{name: "hard-into-sym", layers: [][]entry{{file("f", "x"), symlink("l", "CANARY"), hardlink("l/new", "f")}}, weak: true},
	{name: "hard-dir", layers: [][]entry{{dir("d", 0o755), hardlink("h", "d")}}, wantErr: "directory"},
	{name: "hard-root", layers: [][]entry{{hardlink("h", "/")}}, wantErr: "directory"},
	{name: "hard-self", layers: [][]entry{{file("f", "x"), hardlink("f", "./f")}}, wantErr: "itself"},
	{name: "hard-over-parent", layers: [][]entry{{file("a/f", "x"), hardlink("a", "a/f")}}, wantErr: "itself"},
	{name: "hard-over-parent-alias", layers: [][]entry{{file("a/f", "x"), symlink("b", "a"), hardlink("a", "b/f")}}, wantErr: "itself"},
	{name: "hard-empty", layers: [][]entry{{hardlink("h", ".")}}, wantErr: "directory"},
	{name: "wh-empty", layers: [][]entry{{file(".wh.", "")}}, wantErr: "whiteout of no name"},
	{name: "wh-dot", layers: [][]entry{{file("a/.wh..", "")}}, wantErr: "whiteout of no name"},
	{name: "wh-dotdot", layers: [][]entry{{file("a/.wh...", "")}}, wantErr: "whiteout of no name"},
	{name: "wh-thru-symdir", layers: [][]entry{{symlink("l", "CANARY"), file("l/.wh.secret", "")}}},
	{name: "wh-opq-thru-symdir", layers: [][]entry{{symlink("l", "CANARY"), file("l/.wh..wh..opq", "")}}},
	{name: "wh-opq-symdir-rel", layers: [][]entry{{symlink("l", "../canary")}, {file("l/.wh..wh..opq", "")}}},
	{name: "wh-traversal", layers: [][]entry{{file("../canary/.wh.secret", "")}}, wantErr: "leads out"},
	{name: "wh-dir-component", layers: [][]entry{{file(".wh.a/b", "x")}}, wantErr: "reserved"},
	{name: "wh-as-dir-opaque", layers: [][]entry{{dir(".wh..wh..opq", 0o755)}}},
	{name: "aufs-plnk", layers: [][]entry{{dir(".wh..wh.plnk", 0o700), file(".wh..wh.plnk/1.2", "x"), file(".wh..wh.aufs", "")}}},
	{name: "fifo-leaf", layers: [][]entry{{symlink("l", "CANARY/fifo"), file("l", "x")}}},
	{name: "dev-mem", layers: [][]entry{{char("dev/mem", 1, 1)}}},
	{name: "dev-then-write", layers: [][]entry{{char("dev/null", 1, 3), file("dev/null", "x")}}},
	{name: "file-as-parent", layers: [][]entry{{file("f", "x"), file("f/x", "x")}}, wantErr: "not a directory"},
	{name: "fifo-as-parent", layers: [][]entry{{{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "p", Mode: 0o644}}, file("p/x", "x")}}, wantErr: "not a directory"},
	{name: "long-name", layers: [][]entry{{file(strings.Repeat("a/", 2100)+"f", "x")}}, wantErr: "the limit is"},
	{name: "long-element", layers: [][]entry{{file(strings.Repeat("a", 256), "x")}}, wantErr: "file name too long"},
	{name: "huge-uid", layers: [][]entry{{file("f", "x").owned(1<<32-1, 0)}}, wantErr: "not valid"},
	{name: "unknown-type", layers: [][]entry{{{Header: tar.Header{Typeflag: 'Z', Name: "z"}}}}, wantErr: "not supported"},
	{name: "global-pax-path", layers: [][]entry{{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "../canary/secret"}}}, file("f", "x")}}, wantErr: "global header"},
	{name: "global-pax-comment", layers: [][]entry{{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "0123"}}}, file("f", "x")}}},
	{name: "legal-var-run", layers: [][]entry{{dir("run", 0o755), symlink("var/run", "/run"), file("var/run/x", "x")}}},
	{name: "legal-name-dots", layers: [][]entry{{file("..x/...", "x"), file("a/..b", "x")}}},
}

func TestApplyHostile(t *testing.T) {
	for _, tc := range hostileCases {
		t.Run(tc.name, func(t *testing.T) {
			base := t.TempDir()
			canary := newCanary(t, base)
			t.Chdir(canary)
			archives := packAt(t, canary, tc.layers)
			before := canaryState(t, base)
			trees, _, err := applyAll(t, base, ApplyOptions{}, archives...)
			if tc.wantErr == "" && err != nil {
				t.Errorf("error = %v, want none", err)
			}
			if tc.wantErr != "" && (err == nil || !strings.Contains(err.Error(), tc.wantErr)) {
				t.Errorf("error = %v, want one with %q", err, tc.wantErr)
			}
			if after := canaryState(t, base); after != before {
				t.Errorf("canary changed:\n%s\nwas:\n%s", after, before)
			}
			for _, tree := range trees {
				assertTame(t, tree)
			}
		})
	}
}

func packAt(t *testing.T, canary string, layers [][]entry) (archives [][]byte) {
	t.Helper()
	for _, layer := range layers {
		var list []entry
		for _, e := range layer {
			list = append(list, e.at(canary))
		}
		archives = append(archives, pack(t, list...))
	}
	return archives
}

// assertTame fails if a tree holds a live device, an overlay mark that no
// whiteout made, or the canary's content.
func assertTame(t *testing.T, tree string) {
	t.Helper()
	err := filepath.Walk(tree, func(p string, fi os.FileInfo, err error) error {
		if err != nil {
			return err
		}
		if fi.Mode()&os.ModeDevice != 0 && stat(t, p).Rdev != 0 {
			t.Errorf("%s is a device", p)
		}
		if fi.Mode().IsRegular() {
			if data, err := os.ReadFile(p); err != nil || bytes.Contains(data, []byte(token)) {
				t.Errorf("%s holds the canary's content (error %v)", p, err)
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestHostileControl shows that the corpus and the checks work: a naive unpacker
// is caught.
func TestHostileControl(t *testing.T) {
	for _, tc := range hostileCases {
		if !tc.weak {
			continue
		}
		t.Run(tc.name, func(t *testing.T) {
			base := t.TempDir()
			canary := newCanary(t, base)
			t.Chdir(canary)
			before := canaryState(t, base)
			tree := filepath.Join(base, "tree0")
			if err := os.Mkdir(tree, 0o755); err != nil {
				t.Fatal(err)
			}
			for _, b := range packAt(t, canary, tc.layers) {
				naiveUnpack(tree, bytes.NewReader(b))
			}
			if canaryState(t, base) == before {
				t.Errorf("the canary did not change: the case proves nothing")
			}
		})
	}
}

// naiveUnpack does what must not be done.
func naiveUnpack(tree string, r io.Reader) {
	tr := tar.NewReader(r)
	for {
		hdr, err := tr.Next()
		if err != nil && !errors.Is(err, tar.ErrInsecurePath) {
			return
		}
		p := filepath.Join(tree, hdr.Name)
		_ = os.MkdirAll(filepath.Dir(p), 0o755)
		switch hdr.Typeflag {
		case tar.TypeReg:
			if f, err := os.Create(p); err == nil {
				_, _ = io.Copy(f, tr)
				_ = f.Close()
			}
		case tar.TypeDir:
			_ = os.Mkdir(p, 0o755)
			_ = os.Chmod(p, os.FileMode(hdr.Mode))
		case tar.TypeSymlink:
			_ = os.Symlink(hdr.Linkname, p)
		case tar.TypeLink:
			_ = os.Link(filepath.Join(tree, hdr.Linkname), p)
			_ = os.Chmod(p, os.FileMode(hdr.Mode))
		}
	}
}

// TestApplyRace unpacks below a name that somebody else keeps turning into a link
// to the canary.
func TestApplyRace(t *testing.T) {
	base := t.TempDir()
	canary := newCanary(t, base)
	var list []entry
	for i := range 2000 {
		name := string(rune('a'+i%26)) + strings.Repeat("x", i/26)
		list = append(list, file("l/"+name, "x"), dir("l/"+name+".d", 0o755), file("l/"+name+".d/secret", "x"))
	}
	archive := pack(t, list...)
	before := canaryState(t, base)
	tree := filepath.Join(base, "tree0")
	if err := os.MkdirAll(tree+"/spare", 0o755); err != nil {
		t.Fatal(err)
	}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		flip(tree, canary, stop)
	}()
	for deadline := time.Now().Add(time.Second); time.Now().Before(deadline); {
		_, _ = Apply(context.Background(), tree, bytes.NewReader(archive), ApplyOptions{})
	}
	close(stop)
	<-done
	if after := canaryState(t, base); after != before {
		t.Errorf("canary changed:\n%s\nwas:\n%s", after, before)
	}
}

// flip exchanges tree/l and a link to target until stop is closed.
func flip(tree, target string, stop <-chan struct{}) {
	l, link := filepath.Join(tree, "l"), filepath.Join(tree, "link")
	_ = os.Symlink(target, link)
	for {
		select {
		case <-stop:
			return
		default:
		}
		if unix.Renameat2(unix.AT_FDCWD, l, unix.AT_FDCWD, link, unix.RENAME_EXCHANGE) != nil {
			_ = os.Mkdir(l, 0o755)
			_ = os.Symlink(target, link)
		}
	}
}
