// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
)

// ErrUndecided tells that what actions do cannot be known from a draft: it takes the
// files of the layers below, or something that only a file system does. Nothing is
// wrong with the actions: do them in a mounted root.
var ErrUndecided = errors.New("only the files of the layers below can tell")

// Draft is a layer that actions change without being on a disk: what the upper
// directory of an overlay would hold. Files that are copied into it are named, not
// read, until Archive writes the layer. The layers below are asked for names, links and
// the attributes of directories; trees of names will do.
//
// What an overlay does is done here in its way: a directory that something is put in
// is copied up with its attributes; what is removed leaves a whiteout where the
// layers below have it; a new directory in the place of one of theirs is opaque.
//
// A draft that was written can have others on top of it. It is not changed then, and
// safe for concurrent use.
type Draft struct {
	base  *layer.Stack // what is below; nil: nothing, or under
	under *Draft       // likewise
	mu    *sync.Mutex  // of base
	root  *node
	was   layer.Attributes // of the root as it is below
	now   unix.Timespec    // one time for all that has no other
	opt   layer.DiffOptions
	lost  bool // something that was copied was replaced

	// The directory that something was added to last, where nothing of the layers below
	// shows: mostly the next file goes there too. Nil: none.
	last     *node
	lastPath string // with a slash at its end
}

// DraftOptions say what a draft is on top of: trees or another draft, which was
// written, or neither.
type DraftOptions struct {
	Lower []string // trees below, bottom first: paths that the program chose
	Under *Draft
	Now   time.Time
	Diff  layer.DiffOptions // how times become those of the archive; the rest is not used
}

// node is a file of a draft.
type node struct {
	mode     uint32 // type and permissions; 0: a whiteout
	uid, gid uint32
	mtime    unix.Timespec
	target   string        // of a link
	xattrs   []layer.Xattr // sorted, as trees have them
	data     []byte        // of a regular file made by an action
	copied   *copied       // of a regular file that is copied; &written when it was

	// Of a directory. What the layers below have in it shows through if it is merged.
	children map[string]*node
	merged   bool
	opaque   bool
}

// copied is a regular file that a copy takes: what it is like is seen when it is read.
type copied struct {
	copier *copier
	item   *item
}

// written stands for what copied files were, which nobody asks for again.
var written copied

// NewDraft begins a draft. It must be closed.
func NewDraft(o DraftOptions) (*Draft, error) {
	d := &Draft{under: o.Under, now: unix.NsecToTimespec(o.Now.UnixNano()), opt: o.Diff, mu: &sync.Mutex{}}
	if len(o.Lower) > 0 {
		base, err := layer.OpenStack(o.Lower)
		if err != nil {
			return nil, err
		}
		d.base = base
	}
	at, err := d.below(".")
	switch {
	case errors.Is(err, fs.ErrNotExist):
		d.was, err = layer.Attributes{Mode: 0o755}, nil
	case err == nil:
		d.was, err = at.attributes()
	}
	if err != nil {
		d.Close()
		return nil, err
	}
	d.root = directory(d.was, d.base != nil || d.under != nil)
	return d, nil
}

// Close releases the trees below, but not the draft below.
func (d *Draft) Close() {
	if d.base != nil {
		d.base.Close()
	}
}

// directory is one that has attributes.
func directory(a layer.Attributes, merged bool) *node {
	return &node{
		mode: unix.S_IFDIR | a.Mode, uid: a.UID, gid: a.GID, mtime: a.ModTime, xattrs: a.Xattrs,
		children: map[string]*node{}, merged: merged,
	}
}

func (n *node) isDir() bool { return n.mode&unix.S_IFMT == unix.S_IFDIR }

// place is where a path leads: to a node of a draft, or to a file of its trees.
type draftPlace struct {
	in    *Draft
	node  *node
	found *layer.Found
}

func (p draftPlace) mode() uint32 {
	if p.node != nil {
		return p.node.mode
	}
	return p.found.Stat.Mode
}

// attributes are those that a directory is copied up with.
func (p draftPlace) attributes() (layer.Attributes, error) {
	if n := p.node; n != nil {
		t := unix.Timespec{Sec: p.in.opt.Clamp(n.mtime)}
		return layer.Attributes{Mode: n.mode & 0o7777, UID: n.uid, GID: n.gid, ModTime: t, Xattrs: n.xattrs}, nil
	}
	p.in.mu.Lock()
	defer p.in.mu.Unlock()
	return p.in.base.Directory(*p.found)
}

// find looks a path up on whose way there are no links.
func (d *Draft) find(p string) (draftPlace, error) {
	p = rootfs.Clean(p)
	if p == "." {
		return draftPlace{in: d, node: d.root}, nil
	}
	at := d.root
	for elem := range strings.SplitSeq(p, "/") {
		if at.mode&unix.S_IFMT == unix.S_IFLNK {
			return draftPlace{}, fmt.Errorf("/%s: %w", p, ErrUndecided)
		}
		if !at.isDir() {
			return draftPlace{}, &fs.PathError{Op: "find", Path: "/" + p, Err: unix.ENOTDIR}
		}
		next := at.children[elem]
		switch {
		case next != nil && next.mode != 0:
			at = next
		case next == nil && at.merged:
			return d.below(p)
		default:
			return draftPlace{}, notExist("find", p)
		}
	}
	return draftPlace{in: d, node: at}, nil
}

// below looks a path up in the layers below. Its directories are theirs: a link
// among them would have been followed by now.
func (d *Draft) below(p string) (draftPlace, error) {
	switch {
	case d.under != nil:
		return d.under.find(p)
	case d.base == nil:
		return draftPlace{}, notExist("find", p)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	f, err := d.base.Lookup(p, false)
	if err != nil {
		return draftPlace{}, err
	}
	if f.Path != p {
		return draftPlace{}, fmt.Errorf("/%s: %w", p, ErrUndecided)
	}
	return draftPlace{in: d, found: &f}, nil
}

// has tells what the layers below have at a path: the type bits of a mode, 0 for
// nothing.
func (d *Draft) has(p string) (uint32, error) {
	at, err := d.below(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return at.mode() & unix.S_IFMT, nil
}

// dir gives the directory at a path to put something in. One of the layers below is
// copied up, with those that lead to it.
func (d *Draft) dir(p string) (*node, error) {
	at, err := d.find(p)
	if err != nil {
		return nil, err
	}
	if at.mode()&unix.S_IFMT != unix.S_IFDIR {
		return nil, &fs.PathError{Op: "open", Path: "/" + p, Err: unix.ENOTDIR}
	}
	if at.in == d && at.node != nil {
		return at.node, nil
	}
	parent, err := d.dir(path.Dir(p))
	if err != nil {
		return nil, err
	}
	a, err := at.attributes()
	if err != nil {
		return nil, err
	}
	n := directory(a, true)
	parent.children[path.Base(p)] = n
	return n, nil
}

// add puts something new at a path.
func (d *Draft) add(p string, n *node) error {
	p = rootfs.Clean(p)
	if in, leaf := path.Split(p); d.last != nil && in == d.lastPath && d.last.children[leaf] == nil {
		d.last.children[leaf], d.last.mtime = n, d.now
		return nil
	}
	switch _, err := d.find(p); {
	case err == nil:
		return &fs.PathError{Op: "make", Path: "/" + p, Err: unix.EEXIST}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	parent, err := d.dir(path.Dir(p))
	if err != nil {
		return err
	}
	for _, x := range parent.xattrs {
		if x.Name == defaultACL { // what is made here inherits from it
			return fmt.Errorf("/%s: %w", p, ErrUndecided)
		}
	}
	if n.isDir() && parent.merged {
		kind, err := d.has(p)
		if err != nil {
			return err
		}
		n.opaque = kind == unix.S_IFDIR
	}
	parent.children[path.Base(p)] = n
	parent.mtime = d.now
	d.last = nil
	if !parent.merged {
		d.last = parent
		d.lastPath, _ = path.Split(p)
	}
	return nil
}

// defaultACL is the access list of a directory for what is made in it.
const defaultACL = "system.posix_acl_default"

// drop takes what is at a path away.
func (d *Draft) drop(p string) error {
	p = rootfs.Clean(p)
	if _, err := d.find(p); err != nil {
		return err
	}
	if p == "." {
		return fmt.Errorf("/: %w", ErrUndecided)
	}
	parent, err := d.dir(path.Dir(p))
	if err != nil {
		return err
	}
	if was := parent.children[path.Base(p)]; was != nil && (was.copied != nil || was.isDir()) {
		d.lost = true
	}
	d.last = nil
	delete(parent.children, path.Base(p))
	parent.mtime = d.now
	if !parent.merged {
		return nil
	}
	kind, err := d.has(p)
	if err == nil && kind != 0 {
		parent.children[path.Base(p)] = &node{}
	}
	return err
}

// change gives what is at a path to be changed. A file of the layers below would be
// copied up: that is not for a draft.
func (d *Draft) change(p string) (*node, error) {
	at, err := d.find(p)
	if err != nil {
		return nil, err
	}
	if at.in == d && at.node != nil {
		return at.node, nil
	}
	if at.mode()&unix.S_IFMT != unix.S_IFDIR {
		return nil, fmt.Errorf("/%s: %w", p, ErrUndecided)
	}
	return d.dir(rootfs.Clean(p))
}

// Lstat implements Root: of the result, only the mode is set.
func (d *Draft) Lstat(p string) (unix.Stat_t, error) {
	at, err := d.find(p)
	if err != nil {
		return unix.Stat_t{}, err
	}
	return unix.Stat_t{Mode: at.mode()}, nil
}

// Readlink implements Root.
func (d *Draft) Readlink(p string) (string, error) {
	at, err := d.find(p)
	switch {
	case err != nil:
		return "", err
	case at.node != nil:
		return at.node.target, nil
	}
	at.in.mu.Lock()
	defer at.in.mu.Unlock()
	return at.in.base.Root(at.found.Layer).Readlink(at.found.Path)
}

// ReadDir implements Root, for directories that show nothing of the layers below.
func (d *Draft) ReadDir(p string) ([]rootfs.Dirent, error) {
	at, err := d.find(p)
	if err != nil {
		return nil, err
	}
	if at.in != d || at.node == nil || at.node.merged {
		return nil, fmt.Errorf("/%s: %w", p, ErrUndecided)
	}
	var out []rootfs.Dirent
	for name, n := range at.node.children {
		if n.mode != 0 {
			out = append(out, rootfs.Dirent{Name: name})
		}
	}
	return out, nil
}

// Mkdir implements Root.
func (d *Draft) Mkdir(p string, perm uint32) error {
	return d.add(p, directory(layer.Attributes{Mode: perm, ModTime: d.now}, false))
}

// Symlink implements Root.
func (d *Draft) Symlink(target, p string) error {
	return d.add(p, &node{mode: unix.S_IFLNK | 0o777, target: target, mtime: d.now})
}

// Mknod implements Root.
func (d *Draft) Mknod(p string, mode uint32, _ uint64) error {
	return d.add(p, &node{mode: mode, mtime: d.now})
}

// Remove implements Root, for what is no directory.
func (d *Draft) Remove(p string) error { return d.drop(p) }

// RemoveAll implements Root.
func (d *Draft) RemoveAll(p string) error {
	err := d.drop(p)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// Lchown implements Root.
func (d *Draft) Lchown(p string, uid, gid int) error {
	n, err := d.change(p)
	if err != nil {
		return err
	}
	n.uid, n.gid = uint32(uid), uint32(gid)
	return nil
}

// Chmod implements Root.
func (d *Draft) Chmod(p string, mode uint32) error {
	n, err := d.change(p)
	if err != nil {
		return err
	}
	for _, x := range n.xattrs {
		if strings.HasPrefix(x.Name, aclPrefix) { // its mask changes with the mode
			return fmt.Errorf("/%s: %w", p, ErrUndecided)
		}
	}
	n.mode = n.mode&unix.S_IFMT | mode
	return nil
}

// aclPrefix begins the names of access lists.
const aclPrefix = "system.posix_acl_"

// Chtimes implements Root.
func (d *Draft) Chtimes(p string, _, mtime unix.Timespec) error {
	n, err := d.change(p)
	if err != nil {
		return err
	}
	n.mtime = mtime
	return nil
}

// Lsetxattr implements Root.
func (d *Draft) Lsetxattr(p, name string, value []byte) error {
	n, err := d.change(p)
	if err != nil {
		return err
	}
	return n.setXattr(name, value)
}

// setXattr sets an attribute, which can be the note of an owner. What depends on the
// file system is undecided.
func (n *node) setXattr(name string, value []byte) (err error) {
	if name == record.Owner {
		n.uid, n.gid, err = record.DecodeOwner(value, n.uid, n.gid)
		return err
	}
	if layer.OwnAttribute(name) {
		return nil // goes into no archive
	}
	size := len(name) + len(value)
	for _, x := range n.xattrs {
		size += len(x.Name) + len(x.Value)
	}
	if !strings.HasPrefix(name, "user.") || strings.HasPrefix(name, "user.overlay.") || size > maxXattrs {
		return fmt.Errorf("attribute %s: %w", name, ErrUndecided)
	}
	x := layer.Xattr{Name: name, Value: string(value)}
	at, there := slices.BinarySearchFunc(n.xattrs, name, func(x layer.Xattr, name string) int { return strings.Compare(x.Name, name) })
	if there {
		n.xattrs[at] = x
		return nil
	}
	n.xattrs = slices.Insert(slices.Clone(n.xattrs), at, x)
	return nil
}

// maxXattrs is up to how many bytes the attributes of a file fit anywhere: what a
// file system cannot hold is left out where there are files.
const maxXattrs = 1024
