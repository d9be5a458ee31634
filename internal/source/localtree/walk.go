// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/atomicfile"
)

// node is an entry while it is scanned.
type node struct {
	Entry
	stat   stat
	sum    [sha256.Size]byte
	state  state
	marked bool // a regular file that has attributes
	parent bool // an unwanted directory that is there for what it holds
}

// state is where a regular file's digest comes from.
type state uint8

const (
	unhashed state = iota
	remembered
	hashed  // now, and may be remembered
	tooNew  // hashed now, but too young to be remembered
	missing // gone since it was listed
)

// folder is a directory while it is scanned.
type folder struct {
	path  string
	dev   uint64
	whole bool // everything below is wanted
	nodes []node
	items []item
}

// item is a place in the order of a folder. A directory has two: itself under its
// name, and what it holds under its name and a slash, since "a-b" sorts between
// "a" and "a/b".
type item struct {
	key  string
	node int     // index of the node; -1 if folder is set
	sub  *folder // what a directory holds
}

// walker lists folders with several goroutines: those that wait are on a stack,
// so that memory is bound by the tree that is left and not by its width.
type walker struct {
	*scan
	mu      sync.Mutex
	wake    sync.Cond
	waiting []*folder
	open    int // folders that are waiting or in work
	count   int // nodes found
	err     error
	errPath string
}

// list lists everything below root.
func (s *scan) list(ctx context.Context, root *folder) (count int, err error) {
	w := &walker{scan: s, waiting: []*folder{root}, open: 1}
	w.wake.L = &w.mu
	var wg sync.WaitGroup
	for range s.workers {
		wg.Go(func() { w.work(ctx) })
	}
	wg.Wait()
	return w.count, w.err
}

func (w *walker) work(ctx context.Context) {
	buf := make([]byte, 64<<10)
	for {
		f := w.take()
		if f == nil {
			return
		}
		subs, err := w.listFolder(ctx, f, buf)
		w.done(f, subs, err)
	}
}

// take waits for a folder; nil: there will be none.
func (w *walker) take() *folder {
	w.mu.Lock()
	defer w.mu.Unlock()
	for len(w.waiting) == 0 && w.open > 0 && w.err == nil {
		w.wake.Wait()
	}
	if len(w.waiting) == 0 || w.err != nil {
		return nil
	}
	last := len(w.waiting) - 1
	f := w.waiting[last]
	w.waiting = w.waiting[:last]
	return f
}

func (w *walker) done(f *folder, subs []*folder, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.open += len(subs) - 1
	w.count += len(f.nodes)
	w.waiting = append(w.waiting, subs...)
	// Of several errors the first in the tree is told, so that two runs agree as
	// far as they can.
	if err != nil && (w.err == nil || f.path < w.errPath) {
		w.err, w.errPath = err, f.path
	}
	if w.open == 0 || w.err != nil || len(subs) > 0 {
		w.wake.Broadcast()
	}
}

// listFolder fills f and returns the directories in it.
func (w *walker) listFolder(ctx context.Context, f *folder, buf []byte) ([]*folder, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	fd, err := w.top.open(f.path, unix.O_DIRECTORY)
	if err != nil {
		if errors.Is(err, unix.ENOENT) && f.path != "" {
			return nil, nil
		}
		return nil, w.cannot("list", f.path, err)
	}
	defer unix.Close(fd)
	found, err := names(fd, f.path, buf)
	if err != nil {
		return nil, w.cannot("list", f.path, err)
	}
	l := lister{scan: w.scan, folder: f, fd: fd, fresh: w.volumes.isForeign(f.dev, fd)}
	if w.o.Include != nil && !f.whole {
		l.include = w.o.Include(f.path)
	}
	f.nodes = make([]node, 0, len(found))
	f.items = make([]item, 0, len(found))
	for _, p := range found {
		if err := l.add(p); err != nil {
			return nil, err
		}
	}
	slices.SortFunc(f.items, func(a, b item) int { return strings.Compare(a.key, b.key) })
	var subs []*folder
	for _, i := range f.items {
		if i.sub != nil {
			subs = append(subs, i.sub)
		}
	}
	return subs, nil
}

// lister is one folder being listed.
type lister struct {
	*scan
	*folder
	fd      int
	fresh   bool // see lookup
	include func(path string, dir bool) (keep, descend bool)
}

// add puts one path into its folder.
func (l *lister) add(p string) error {
	name := p[strings.LastIndexByte(p, '/')+1:]
	if atomicfile.IsBeside(name) && !l.o.allTypes {
		return nil // an output of a build under way, maybe of this one
	}
	st, err := lookup(l.fd, name, l.fresh)
	if err != nil {
		if errors.Is(err, unix.ENOENT) {
			return nil
		}
		return l.cannot("look at", p, err)
	}
	dir := st.mode&unix.S_IFMT == unix.S_IFDIR
	keep, descend := true, dir
	if l.include != nil {
		keep, descend = l.include(p, dir)
		descend = descend && dir
	}
	if !keep && !descend {
		return nil
	}
	n, ok, err := l.makeNode(l.fd, name, p, st)
	if err != nil || !ok {
		return err
	}
	n.parent = !keep
	l.items = append(l.items, item{key: name, node: len(l.folder.nodes)})
	l.folder.nodes = append(l.folder.nodes, n)
	if descend {
		sub := &folder{path: p, dev: st.dev, whole: l.include == nil}
		l.items = append(l.items, item{key: name + "/", node: -1, sub: sub})
	}
	return nil
}

// makeNode is false for what a tree does not hold.
func (s *scan) makeNode(dirfd int, name, p string, st status) (n node, ok bool, err error) {
	n = node{Entry: Entry{Path: p, Mode: st.mode, MTime: st.mtime}, stat: st.stat}
	if s.o.Owners {
		n.UID, n.GID = st.uid, st.gid
	}
	switch st.mode & unix.S_IFMT {
	case unix.S_IFREG:
		n.Size = st.size
	case unix.S_IFDIR:
	case unix.S_IFLNK:
		if n.Target, err = readlink(dirfd, name); err != nil {
			return n, false, s.cannot("read link", p, err)
		}
	case unix.S_IFSOCK:
		return n, s.o.allTypes, nil
	default:
		if !s.o.allTypes {
			return n, false, s.refuse(p, st.mode)
		}
		return n, true, nil
	}
	// Links have none that count; those of files are read with the file, or as the
	// index says.
	if s.o.Xattrs && n.IsDir() {
		if n.Xattrs, err = xattrsAt(dirfd, name); err != nil {
			return n, false, s.cannot("read attributes of", p, err)
		}
	}
	return n, true, nil
}

// flatten appends the folder's nodes to out in the order of their paths.
func (f *folder) flatten(out []*node) []*node {
	for _, i := range f.items {
		if i.sub != nil {
			out = i.sub.flatten(out)
		} else {
			out = append(out, &f.nodes[i.node])
		}
	}
	f.items = nil
	return out
}

// dropEmptyParents removes unwanted directories that hold nothing.
func dropEmptyParents(nodes []*node) []*node {
	used, last := map[string]bool{}, ""
	for i := len(nodes) - 1; i >= 0; i-- {
		n := nodes[i]
		if n.parent && !used[n.Path] {
			n.state = missing
			continue
		}
		// Parents come before what they hold, so all of it was seen by now.
		at := max(strings.LastIndexByte(n.Path, '/'), 0)
		if dir := n.Path[:at]; dir != last {
			used[dir], last = true, dir
		}
	}
	return slices.DeleteFunc(nodes, func(n *node) bool { return n.state == missing })
}

func (s *scan) refuse(p string, mode uint32) error {
	kind := map[uint32]string{unix.S_IFIFO: "a FIFO", unix.S_IFCHR: "a character device", unix.S_IFBLK: "a block device"}[mode&unix.S_IFMT]
	if kind == "" {
		kind = "of an unknown type"
	}
	return fmt.Errorf("%q is %s, which no image can be given from here: remove it or exclude it", s.name(p), kind)
}

// cannot says what failed with which file.
func (s *scan) cannot(what, p string, err error) error {
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if errors.Is(err, unix.EACCES) {
		return fmt.Errorf("%s %q: %w; make it readable or exclude it", what, s.name(p), err)
	}
	return fmt.Errorf("%s %q: %w", what, s.name(p), err)
}

// name is a path of the tree as the user knows it.
func (s *scan) name(p string) string { return path.Join(s.root, p) }
