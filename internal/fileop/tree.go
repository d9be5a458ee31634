// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"sort"
	"strings"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/localtree"
)

// Tree is what a copy reads from: a root file system, or a listed local tree.
// Paths are clean and relative; the root is ".".
type Tree struct {
	root *rootfs.Root // nil: only the list, or look, can be asked
	look looker       // of what is not listed: root, or a Draft
	// Of a listed tree; nil: all that is below root.
	entries  map[string]*localtree.Entry
	children map[string][]string
	kept     string // of a listed file: its name below root, whatever it is called here
	marked   bool   // see LayerTree
}

// looker tells what there is.
type looker interface {
	Lstat(name string) (unix.Stat_t, error)
	Readlink(name string) (string, error)
	ReadDir(name string) ([]rootfs.Dirent, error)
}

// info describes one file.
type info struct {
	st     unix.Stat_t
	digest digest.Digest     // of a listed regular file
	size   int64             // likewise, in bytes
	xattrs map[string]string // of what is listed
	stamp  localtree.Stamp
}

func (i info) kind() uint32    { return i.st.Mode & unix.S_IFMT }
func (i info) isDir() bool     { return i.kind() == unix.S_IFDIR }
func (i info) isRegular() bool { return i.kind() == unix.S_IFREG }

// RootTree is everything below root.
func RootTree(root *rootfs.Root) *Tree { return &Tree{root: root, look: root} }

// LayerTree is everything below root, which is no mounted overlay but one tree of
// its format: some attributes are its marks, and those that are called like marks
// have other names.
func LayerTree(root *rootfs.Root) *Tree { return &Tree{root: root, look: root, marked: true} }

// ListTree is what is listed; entries are sorted by path. root, which may be nil,
// is where the bytes are: of a file, which is listed as the entry "" and appears
// here as name, that is its directory, and kept is its name there.
func ListTree(entries []localtree.Entry, root *rootfs.Root, name, kept string) *Tree {
	t := &Tree{root: root, kept: kept, entries: make(map[string]*localtree.Entry, len(entries)), children: map[string][]string{}}
	if len(entries) == 1 && !entries[0].IsDir() {
		e := entries[0]
		e.Path = name
		t.add(&localtree.Entry{Mode: unix.S_IFDIR | 0o755})
		t.add(&e)
		return t
	}
	for i := range entries {
		t.add(&entries[i])
	}
	return t
}

func (t *Tree) add(e *localtree.Entry) {
	p := rootfs.Clean(e.Path)
	t.entries[p] = e
	if p == "." {
		return
	}
	dir, leaf := ".", p
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		dir, leaf = p[:i], p[i+1:]
	}
	t.children[dir] = append(t.children[dir], leaf)
}

func notExist(op, p string) error { return &fs.PathError{Op: op, Path: "/" + p, Err: unix.ENOENT} }

// stat describes a file without following it. Of a listed file it says what the
// list says, without a look at it.
func (t *Tree) stat(p string) (info, error) {
	if t.entries == nil {
		st, err := t.look.Lstat(p)
		return info{st: st}, err
	}
	e := t.entries[p]
	if e == nil {
		return info{}, notExist("find", p)
	}
	return t.with(p, unix.Stat_t{}), nil
}

// with describes a file that st was found of: of a listed one, the list decides.
func (t *Tree) with(p string, st unix.Stat_t) info {
	i := info{st: st}
	if e := t.entries[p]; e != nil {
		// Owners of the user's files are not those of the image.
		i.st.Mode, i.st.Uid, i.st.Gid, i.digest, i.size, i.xattrs = e.Mode, e.UID, e.GID, e.Digest, e.Size, e.Xattrs
		i.stamp = e.Stamp
	}
	return i
}

// seen adds to what the list says of a file what fstat says of it.
func (t *Tree) seen(i info, st unix.Stat_t) info {
	if t.entries != nil {
		st.Mode, st.Uid, st.Gid = i.st.Mode, i.st.Uid, i.st.Gid
	}
	i.st = st
	return i
}

// complete adds to what stat knows of a listed file what only the file itself
// says: its times. It must be of the type that is listed.
func (t *Tree) complete(p string, i info) (info, error) {
	if t.entries == nil {
		return i, nil
	}
	name := p
	if p != "." {
		name = t.place(p)
	}
	st, err := t.root.Lstat(name)
	if err != nil {
		return i, err
	}
	if st.Mode&unix.S_IFMT != i.kind() {
		return i, fmt.Errorf("/%s %w", p, localtree.ErrChanged)
	}
	return t.with(p, st), nil
}

// place is where the bytes of a path lie below root.
func (t *Tree) place(p string) string {
	if t.kept != "" {
		return t.kept
	}
	return p
}

// names lists a directory, sorted.
func (t *Tree) names(p string) ([]string, error) {
	if t.entries != nil {
		return t.children[p], nil
	}
	all, err := t.look.ReadDir(p)
	if err != nil {
		return nil, err
	}
	out := make([]string, 0, len(all))
	for _, e := range all {
		out = append(out, e.Name)
	}
	sort.Strings(out)
	return out, nil
}

func (t *Tree) readlink(p string) (string, error) {
	if t.entries == nil {
		return t.look.Readlink(p)
	}
	if e := t.entries[p]; e != nil && e.IsSymlink() {
		return e.Target, nil
	}
	return "", notExist("read link", p)
}

// open opens a regular file that stat found.
func (t *Tree) open(p string) (*os.File, error) {
	if t.root == nil {
		return nil, notExist("open", p)
	}
	return t.root.OpenFile(t.place(p), unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
}

// maxLinks is how many links a path may lead through; the kernel's own limit.
const maxLinks = 40

// resolve follows the links of a path inside the tree, the last one only if
// asked. What does not exist is kept as it is written.
func (t *Tree) resolve(name string, last bool) (string, error) {
	todo := elements(name)
	here := "."
	links := 0
	for len(todo) > 0 {
		elem := todo[0]
		todo = todo[1:]
		if elem == ".." {
			here = path.Dir(here)
			continue
		}
		next := path.Join(here, elem)
		if len(todo) == 0 && !last {
			return next, nil
		}
		i, err := t.stat(next)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			here = next
			continue
		}
		if err != nil {
			return "", err
		}
		if i.kind() != unix.S_IFLNK {
			here = next
			continue
		}
		if links++; links > maxLinks {
			return "", &fs.PathError{Op: "find", Path: "/" + next, Err: unix.ELOOP}
		}
		to, err := t.readlink(next)
		if err != nil {
			return "", err
		}
		if path.IsAbs(to) {
			here = "."
		}
		todo = append(elements(to), todo...)
	}
	return here, nil
}

func elements(p string) []string {
	var out []string
	for e := range strings.SplitSeq(p, "/") {
		if e != "" && e != "." {
			out = append(out, e)
		}
	}
	return out
}
