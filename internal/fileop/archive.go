// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"iter"
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/source/localtree"
)

// Archive writes the draft as a layer archive to w: the one that the changed files
// would give (layer.Diff). Each file that is copied is read here, once. withRoot tells
// whether the root directory itself is in it. The draft must not be changed any more.
func (d *Draft) Archive(ctx context.Context, w io.Writer) (res layer.DiffResult, withRoot bool, err error) {
	return d.write(ctx, w, nil)
}

// write is Archive, and fills a tree beside that if t is not nil.
func (d *Draft) write(ctx context.Context, w io.Writer, t *laying) (res layer.DiffResult, withRoot bool, err error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	list := d.flatten()
	withRoot = d.root.mode&0o7777 != d.was.Mode || d.root.uid != d.was.UID || d.root.gid != d.was.GID
	if !withRoot {
		list = list[1:]
	}
	p := newPreload(ctx, list, t)
	defer p.close()
	defer cancel(context.Canceled) // before close waits
	a := &archiver{preload: p, opt: d.opt, lost: d.lost, linked: map[origin]string{}}
	defer a.to.close()
	res, err = layer.Compose(ctx, w, a.entries(ctx, list))
	for _, n := range list {
		if n.copied != nil {
			n.node.copied, n.node.data = &written, nil
		}
	}
	return res, withRoot, err
}

// named is a node under one of its names.
type named struct {
	name string
	*node
}

// flatten lists the draft in the order of an archive, the root first.
func (d *Draft) flatten() []named {
	out := []named{{".", d.root}}
	var below func(n *node, prefix string)
	below = func(n *node, prefix string) {
		for _, leaf := range slices.Sorted(maps.Keys(n.children)) {
			c := n.children[leaf]
			out = append(out, named{prefix + leaf, c})
			if c.isDir() {
				below(c, prefix+leaf+"/")
			}
		}
	}
	below(d.root, "")
	return out
}

// origin names the file that several names of a copy are of.
type origin struct {
	copier *copier
	inode
}

// archiver makes entries of nodes.
type archiver struct {
	*preload
	opt    layer.DiffOptions
	lost   bool              // of the draft
	linked map[origin]string // the first name of a file that has several
	body   bytes.Reader
	to     place // where the last file was made that this makes
}

func (a *archiver) entries(ctx context.Context, list []named) iter.Seq2[*layer.Entry, error] {
	return func(yield func(*layer.Entry, error) bool) {
		for i := range list {
			e, err := a.entry(ctx, list[i])
			if !yield(e, err) || err != nil {
				return
			}
		}
	}
}

func (a *archiver) entry(ctx context.Context, n named) (*layer.Entry, error) {
	if n.copied != nil {
		return a.file(ctx, n)
	}
	if n.mode == 0 {
		return &layer.Entry{Name: n.name, Mode: unix.S_IFCHR}, nil
	}
	e := &layer.Entry{
		Name: n.name, Mode: n.mode, UID: n.uid, GID: n.gid, ModTime: a.opt.Clamp(n.mtime),
		Target: n.target, Xattrs: n.xattrs, Size: int64(len(n.data)),
	}
	a.body.Reset(n.data)
	e.Content = &a.body
	if n.opaque {
		e.Xattrs = append([]layer.Xattr{layer.Opaque()}, slices.Clone(n.xattrs)...)
		slices.SortFunc(e.Xattrs, func(x, y layer.Xattr) int { return bytes.Compare([]byte(x.Name), []byte(y.Name)) })
	}
	return e, nil
}

// file makes the entry of a copied file.
func (a *archiver) file(ctx context.Context, n named) (*layer.Entry, error) {
	l, err := a.next(ctx)
	if err != nil {
		return nil, err
	}
	if l.err != nil {
		return nil, l.err
	}
	e := &layer.Entry{
		Name: n.name, Mode: unix.S_IFREG | l.node.mode, UID: l.node.uid, GID: l.node.gid,
		ModTime: a.opt.Clamp(l.node.mtime), Xattrs: l.node.xattrs, Size: l.size,
	}
	if l.links > 1 && a.lost {
		return nil, fmt.Errorf("/%s has several names, and some were replaced: %w", n.name, ErrUndecided)
	}
	if l.links > 1 {
		id := origin{n.copied.copier, l.id}
		if first, ok := a.linked[id]; ok {
			e.HardLink, e.Size, e.Xattrs = first, 0, nil
			if a.tree != nil {
				err = a.tree.root.Link(first, n.name)
			}
			return e, err
		}
		a.linked[id] = n.name
		if a.tree != nil && l.whole {
			err = a.tree.file(&a.to, l)
		}
	}
	if err != nil {
		return nil, err
	}
	if l.whole {
		a.body.Reset(l.data)
		e.Content = &a.body
	} else {
		e.Content = &streamed{ctx: ctx, l: l, hash: sha256.New(), tree: a.tree, to: &a.to}
	}
	return e, nil
}

// loaded is what became of a copied file when it was read.
type loaded struct {
	node  node // its attributes
	id    inode
	links uint64
	atime unix.Timespec
	size  int64
	data  []byte // if whole
	whole bool
	err   error

	name   string
	item   *item
	copier *copier
}

// load opens a copied file and reads it, if it fits into buf.
func (h *hand) load(ctx context.Context, l *loaded, buf []byte) ([]byte, error) {
	if ctx.Err() != nil {
		return buf, context.Cause(ctx)
	}
	in, err := h.unseen(l.item)
	if err != nil {
		return buf, err
	}
	defer unix.Close(in)
	i := &l.item.info
	// A file with a stamp is described once, after it was read: if it is then as it was
	// when it was hashed, so are its bytes.
	stamped := i.stamp != (localtree.Stamp{}) && i.size <= smallFile
	if stamped {
		buf, err = l.read(in, i.size, buf)
	}
	if seen := h.see(l.item, in); seen != nil { // it may be no file any more
		return buf, seen
	}
	if err != nil {
		return buf, err
	}
	l.id, l.links, l.size = inode{i.st.Dev, i.st.Ino}, uint64(i.st.Nlink), i.st.Size
	listed := i.digest != ""
	if listed {
		l.size = i.size
	}
	if err := h.attributesOf(in, l); err != nil || l.size > smallFile {
		return buf, err
	}
	if !stamped {
		if buf, err = l.read(in, l.size, buf); err != nil {
			return buf, err
		}
	}
	if listed && !(i.stamp.Is(&i.st) && i.st.Size == i.size) {
		sum := sha256.Sum256(l.data)
		return buf, l.check(sum[:])
	}
	return buf, nil
}

// read appends the file, which has size bytes, to buf.
func (l *loaded) read(in int, size int64, buf []byte) ([]byte, error) {
	at := len(buf)
	buf = slices.Grow(buf, int(size))
	n, err := fill(reader(in), buf[at:at+int(size)])
	if err != nil && !errors.Is(err, io.EOF) {
		return buf, fmt.Errorf("copy /%s: %w", l.item.path, err)
	}
	buf = buf[:at+n]
	l.data, l.whole = buf[at:], true
	if int64(n) != size {
		return buf, changed(l.item)
	}
	return buf, nil
}

func (l *loaded) check(sum []byte) error {
	if hex.EncodeToString(sum) != l.item.info.digest.Encoded() {
		return fmt.Errorf("%w: run it again", changed(l.item))
	}
	return nil
}

// attributesOf finds out what the copy of an open file is to be like: see describe.
func (h *hand) attributesOf(in int, l *loaded) error {
	st := &l.item.info.st
	o := owner{st.Uid, st.Gid}
	if h.owner != nil {
		o = *h.owner
	}
	l.node, l.atime = node{uid: o.uid, gid: o.gid, mtime: st.Mtim}, st.Atim
	if h.a.Time != nil {
		l.node.mtime = unix.NsecToTimespec(*h.a.Time)
		l.atime = l.node.mtime
	}
	l.node.mode = h.mode(st.Mode)
	return h.eachXattr(l.item, in, l.node.setXattr)
}

// streamed is a file that is too large to be held. It can only be written.
type streamed struct {
	io.Reader // nil
	ctx       context.Context
	l         *loaded
	hash      hash.Hash
	tree      *laying // nil: it is not kept as a file
	to        *place
}

// WriteTo implements io.WriterTo, which io.Copy prefers.
func (s *streamed) WriteTo(w io.Writer) (n int64, err error) {
	h := &hand{copier: s.l.copier}
	defer h.close()
	in, err := h.open(s.l.item)
	if err != nil {
		return 0, err
	}
	defer unix.Close(in)
	if s.tree == nil {
		return s.copy(in, w)
	}
	out, err := s.tree.create(s.to, s.l)
	if err != nil {
		return 0, err
	}
	kept := &sparseFile{fd: out}
	if n, err = s.copy(in, io.MultiWriter(w, kept)); err == nil {
		err = kept.end()
	}
	if err == nil {
		err = s.tree.finish(out, s.l)
	}
	return n, errors.Join(err, unix.Close(out))
}

// sparseFile is a new file in which zeros become holes.
type sparseFile struct {
	fd   int
	off  int64
	hole bool
}

// Write implements io.Writer.
func (f *sparseFile) Write(b []byte) (n int, err error) {
	if f.hole, err = layer.WriteSparse(f.fd, b, f.off); err != nil {
		return 0, fmt.Errorf("write: %w", err)
	}
	f.off += int64(len(b))
	return len(b), nil
}

func (f *sparseFile) end() error {
	if f.hole {
		return unix.Ftruncate(f.fd, f.off)
	}
	return nil
}

func (s *streamed) copy(in int, w io.Writer) (done int64, err error) {
	listed := s.l.item.info.digest != ""
	buf := make([]byte, copyBuffer)
	for done < s.l.size {
		if s.ctx.Err() != nil {
			return done, context.Cause(s.ctx)
		}
		n, err := fill(reader(in), buf[:min(int64(len(buf)), s.l.size-done)])
		if _, werr := w.Write(buf[:n]); werr != nil {
			return done, werr
		}
		if listed {
			s.hash.Write(buf[:n])
		}
		done += int64(n)
		if errors.Is(err, io.EOF) && done < s.l.size {
			return done, changed(s.l.item)
		}
		if err != nil && !errors.Is(err, io.EOF) {
			return done, fmt.Errorf("copy /%s: %w", s.l.item.path, err)
		}
	}
	if listed {
		return done, s.l.check(s.hash.Sum(nil))
	}
	return done, nil
}
