// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/native"
	"build.stacker.dev/internal/snapshot/overlay"
)

// newServer is a worker's side without a worker: its trees are in a temporary
// directory, which becomes the working directory.
func newServer(t *testing.T, driver string) *server {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: it mounts overlays and makes files of other owners")
	}
	t.Chdir(t.TempDir())
	if err := overlay.MakeDirs("."); err != nil {
		t.Fatal(err)
	}
	own, err := newSession()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(own.end)
	trees := overlay.New(".")
	s := &server{driver: trees, session: own}
	if driver == snapshot.Native {
		s.driver = native.New(trees)
	}
	t.Cleanup(s.tidy.Wait)
	return s
}

// names that random trees are made of: few, so that they meet.
var names = []string{"a", "b", "c", "d"}

func randomPath(r *rand.Rand) string {
	var p []string
	for range 1 + r.IntN(3) {
		p = append(p, names[r.IntN(len(names))])
	}
	return strings.Join(p, "/")
}

// randomTar is a layer of an image: directories, files, links, removals.
func randomTar(r *rand.Rand, first bool) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	seen := map[string]byte{}
	for range 4 + r.IntN(8) {
		p := randomPath(r)
		h := &tar.Header{Name: p, Mode: int64(r.IntN(0o10000)) | 0o700, Uid: r.IntN(3), Gid: r.IntN(3), ModTime: time.Unix(1_000_000_000+r.Int64N(1e6), 0)}
		usable := true
		for q := p; q != "."; q = filepath.Dir(q) {
			if k := seen[q]; k != 0 && k != tar.TypeDir {
				usable = false
			}
		}
		if !usable || seen[p] != 0 {
			continue
		}
		switch n := r.IntN(10); {
		case n < 4:
			h.Typeflag = tar.TypeDir
			if r.IntN(3) == 0 {
				h.PAXRecords = map[string]string{"SCHILY.xattr.user.x": "y"}
			}
		case n < 6:
			h.Typeflag, h.Linkname = tar.TypeSymlink, []string{"", "/", "../"}[r.IntN(3)]+randomPath(r)
		case n < 8 && !first:
			h.Typeflag, h.Name = tar.TypeReg, filepath.Join(filepath.Dir(p), ".wh."+filepath.Base(p))
		default:
			h.Typeflag, h.Size = tar.TypeReg, 1
		}
		if seen[p] = h.Typeflag; h.Typeflag == tar.TypeReg && strings.Contains(h.Name, ".wh.") {
			h.Size = 0
		}
		if err := w.WriteHeader(h); err != nil {
			panic(err)
		}
		if h.Size > 0 {
			_, _ = w.Write([]byte("x"))
		}
	}
	if first && r.IntN(2) == 0 {
		text := "root:x:0:0::/:\nu:x:7:8::/:\n"
		_ = w.WriteHeader(&tar.Header{Name: "etc/passwd", Mode: 0o644, Size: int64(len(text)), Typeflag: tar.TypeReg})
		_, _ = w.Write([]byte(text))
	}
	_ = w.Close()
	return b.Bytes()
}

// base unpacks random layers, as whole trees and as trees of names.
func (s *server) base(t *testing.T, r *rand.Rand) (chain string, whole, named []string) {
	t.Helper()
	for i := range 1 + r.IntN(3) {
		data := randomTar(r, i == 0)
		full := chain
		for _, only := range []bool{false, true} {
			lower := s.paths(whole)
			if only {
				lower = s.paths(named)
			}
			dir, err := s.driver.Dir(s.session.newID())
			if err != nil {
				t.Fatal(err)
			}
			o := layer.ApplyOptions{NamesOnly: only, Lower: func() ([]string, error) { return lower, nil }}
			res, err := layer.Apply(t.Context(), dir, bytes.NewReader(data), o)
			if err != nil {
				return chain, whole, named // links that lead nowhere: the layers so far will do
			}
			full = snapshot.Chain(chain, string(res.DiffID))
			tree := snapshot.LayerTree(full)
			if only {
				tree = snapshot.NamesTree(full)
			}
			if err := s.driver.Adopt(dir, tree); err != nil {
				t.Fatal(err)
			}
			if only {
				named = append(named, tree)
			} else {
				whole = append(whole, tree)
			}
		}
		chain = full
	}
	return chain, whole, named
}

// randomSource is a directory to copy from.
func randomSource(t *testing.T, r *rand.Rand, dir string) {
	t.Helper()
	for range 3 + r.IntN(8) {
		p := filepath.Join(dir, randomPath(r))
		if os.MkdirAll(filepath.Dir(p), 0o755) != nil {
			continue
		}
		switch n := r.IntN(8); {
		case n < 2:
			_ = os.Mkdir(p, 0o750)
		case n < 3:
			_ = os.Symlink(randomPath(r), p)
		case n < 4:
			_ = os.Link(filepath.Join(dir, randomPath(r)), p)
		case n < 5:
			_ = os.WriteFile(p, bytes.Repeat([]byte("large"), 20_000+r.IntN(3)), 0o600)
		default:
			_ = os.WriteFile(p, []byte(p), 0o644)
			_ = os.Chmod(p, os.FileMode(r.IntN(0o1000)))
			_ = os.Chown(p, r.IntN(3), r.IntN(3))
			if r.IntN(3) == 0 {
				_ = unix.Setxattr(p, "user.z", []byte("1"), 0)
			}
		}
	}
	old := time.Unix(1_100_000_000, 5)
	_ = filepath.WalkDir(dir, func(p string, _ os.DirEntry, _ error) error {
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{unix.NsecToTimespec(old.UnixNano()), unix.NsecToTimespec(old.UnixNano())}, unix.AT_SYMLINK_NOFOLLOW)
	})
}

// randomActions are some on the files of src.
func randomActions(r *rand.Rand, src string) []action.Action {
	var there []string
	_ = filepath.WalkDir(src, func(p string, _ os.DirEntry, _ error) error {
		there = append(there, "/"+strings.Trim(strings.TrimPrefix(p, src), "/"))
		return nil
	})
	var out []action.Action
	dest := func() string { return "/" + randomPath(r) + []string{"", "/"}[r.IntN(2)] }
	for range 1 + r.IntN(3) {
		var o *action.Owner
		switch r.IntN(4) {
		case 0:
			o = &action.Owner{User: &action.ID{Number: 9}}
		case 1:
			o = &action.Owner{User: &action.ID{Name: "u"}}
		}
		mode := uint32(r.IntN(0o1000))
		switch n := r.IntN(12); {
		case n < 1:
			out = append(out, action.Action{Dir: &action.Dir{Path: dest(), Mode: mode, Parents: true, Owner: o}})
		case n < 2:
			out = append(out, action.Action{File: &action.File{Path: "/" + randomPath(r), Mode: mode, Data: []byte("data"), Owner: o}})
		case n < 3:
			out = append(out, action.Action{Remove: &action.Remove{Path: "/" + randomPath(r), AllowNone: true}})
		case n < 4:
			out = append(out, action.Action{Symlink: &action.Symlink{Path: "/" + randomPath(r), Target: randomPath(r), Owner: o}})
		default:
			c := &action.Copy{Input: 1, Src: there[r.IntN(len(there))], Dest: dest(), Owner: o, FollowLinks: true, ContentsOnly: r.IntN(2) == 0, MakeDest: true, Replace: r.IntN(4) > 0}
			if r.IntN(3) == 0 {
				c.Src = "/"
			}
			if r.IntN(4) == 0 {
				c.Src, c.Wildcard, c.AllowNone = "/*", true, true
			}
			if r.IntN(4) == 0 {
				c.Mode = &mode
			}
			if r.IntN(4) == 0 {
				c.Include = []string{"**/" + names[r.IntN(len(names))]}
			}
			out = append(out, action.Action{Copy: c})
		}
	}
	return out
}

// told is an archive as text, with all times since the test began as one.
func told(t *testing.T, r io.Reader, began time.Time) string {
	t.Helper()
	var out strings.Builder
	z := tar.NewReader(r)
	for {
		h, err := z.Next()
		if errors.Is(err, io.EOF) {
			return out.String()
		}
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		at := fmt.Sprint(h.ModTime.Unix())
		if !h.ModTime.Before(began.Truncate(time.Second)) {
			at = "now"
		}
		fmt.Fprintf(&out, "%s %c %o %d:%d %s %q %v %d bytes %.12q\n", h.Name, h.Typeflag, h.Mode, h.Uid, h.Gid, at, h.Linkname, h.PAXRecords, len(body), body)
	}
}

// outcome is the layer of a tree as text, or the error.
func (s *server) outcome(t *testing.T, r ChangeRequest, reply ChangeReply, err error, began time.Time) string {
	t.Helper()
	if err != nil {
		return "error"
	}
	var b bytes.Buffer
	if reply.DiffID == emptyDiffID {
		return ""
	}
	dir := s.driver.Path(layerTree(r.Chain, reply.DiffID))
	d, err := layer.Diff(t.Context(), &b, dir, diffOptions(nil, 0, reply.WithRoot))
	if err != nil {
		t.Fatal(err)
	}
	if d.DiffID != reply.DiffID {
		t.Errorf("the tree reads as %s, and not as %s", d.DiffID, reply.DiffID)
	}
	return told(t, &b, began)
}

// TestDraftIsLikeMounted does random actions on random layers in a mounted overlay, as a
// draft that becomes a tree, and as a draft on names alone that becomes a blob: the
// layer is the same.
func TestDraftIsLikeMounted(t *testing.T) {
	s := newServer(t, snapshot.Overlay)
	began := time.Now()
	decided, failed := 0, 0
	rounds := 100
	for seed := range rounds {
		r := rand.New(rand.NewPCG(uint64(seed), 1))
		chain, whole, named := s.base(t, r)
		src := t.TempDir()
		randomSource(t, r, src)
		root, err := rootfs.Open(src)
		if err != nil {
			t.Fatal(err)
		}
		inputs := map[int]*fileop.Tree{1: fileop.RootTree(root)}
		req := ChangeRequest{Lower: whole, Chain: chain, Actions: randomActions(r, src)}

		reply, err := s.mounted(t.Context(), req, inputs)
		want := s.outcome(t, req, reply, err, began)
		if err != nil {
			failed++
		}
		wantErr := err
		reply, err = s.lay(t.Context(), req, inputs)
		if errors.Is(err, fileop.ErrUndecided) {
			_ = root.Close()
			continue
		}
		decided++
		if got := s.outcome(t, req, reply, err, began); got != want {
			t.Errorf("seed %d: laid\n%s\nmounted (%v, %v)\n%s\nactions %s", seed, got, err, wantErr, want, show(req.Actions))
		}

		under, got := s.blob(t, fileop.DraftOptions{Lower: s.paths(named)}, req, inputs, began)
		if got != want {
			t.Errorf("seed %d: blob\n%s\nmounted (%v)\n%s\nactions %s", seed, got, wantErr, want, show(req.Actions))
		}
		if under != nil && want != "" {
			s.second(t, under, ChangeRequest{
				Lower: append(whole, layerTree(chain, reply.DiffID)), Chain: snapshot.Chain(chain, string(reply.DiffID)), Actions: randomActions(r, src),
			}, inputs, began)
			under.Close()
		}
		_ = root.Close()
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d decided, %d errors", decided, rounds, failed)
	if decided < rounds/2 || failed > rounds*3/4 {
		t.Errorf("only %d of %d were decided, and %d failed: the test tests nothing", decided, rounds, failed)
	}
}

// second does actions on the layer that a draft was written as, and on the draft.
func (s *server) second(t *testing.T, under *fileop.Draft, req ChangeRequest, inputs map[int]*fileop.Tree, began time.Time) {
	t.Helper()
	reply, err := s.mounted(t.Context(), req, inputs)
	want := s.outcome(t, req, reply, err, began)
	next, got := s.blob(t, fileop.DraftOptions{Under: under}, req, inputs, began)
	if next != nil {
		next.Close()
	}
	if got != want && got != "undecided" {
		t.Errorf("on a draft\n%s\nmounted (%v)\n%s\nactions %s", got, err, want, show(req.Actions))
	}
}

// blob is the layer that a draft is written as, and the draft if there is one.
func (s *server) blob(t *testing.T, o fileop.DraftOptions, r ChangeRequest, inputs map[int]*fileop.Tree, began time.Time) (*fileop.Draft, string) {
	t.Helper()
	o.Now = time.Now()
	d, err := fileop.NewDraft(o)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	err = fileop.Do(context.Background(), fileop.Options{Draft: d, Inputs: inputs}, r.Actions)
	if err == nil {
		_, _, err = d.Archive(t.Context(), &b)
	}
	if err != nil {
		d.Close()
		if errors.Is(err, fileop.ErrUndecided) {
			return nil, "undecided"
		}
		return nil, "error"
	}
	return d, told(t, &b, began)
}

func show(actions []action.Action) string {
	var out strings.Builder
	for _, a := range actions {
		switch {
		case a.Copy != nil:
			fmt.Fprintf(&out, "copy %+v; ", *a.Copy)
		case a.File != nil:
			fmt.Fprintf(&out, "file %+v; ", *a.File)
		case a.Dir != nil:
			fmt.Fprintf(&out, "dir %+v; ", *a.Dir)
		case a.Remove != nil:
			fmt.Fprintf(&out, "remove %+v; ", *a.Remove)
		case a.Symlink != nil:
			fmt.Fprintf(&out, "symlink %+v; ", *a.Symlink)
		}
	}
	return out.String()
}
