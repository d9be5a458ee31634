// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strings"

	"build.stacker.dev/internal/layer"
)

// Entries gives all files of the image in the order of layer.Ordered, which it
// checks. Of the names of one file the first is the file, the others are hard links
// that repeat its fields. It may be called several times, but only one call at a
// time may be in progress. What is wrong with an entry is a layer.EntryError.
func (i *Image) Entries(ctx context.Context) iter.Seq2[*layer.Entry, error] {
	return layer.Ordered(func(yield func(*layer.Entry, error) bool) {
		w := walker{img: i, ctx: ctx, yield: yield, dirs: map[uint64]bool{}, files: map[uint64]string{}}
		if err := w.root(); err != nil && !errors.Is(err, errStopped) {
			yield(nil, fmt.Errorf("read squashfs: %w", err))
		}
	})
}

var errStopped = errors.New("nobody wants more entries")

// walker is one run of Entries.
type walker struct {
	img   *Image
	ctx   context.Context
	yield func(*layer.Entry, error) bool
	dirs  map[uint64]bool   // references to directories that were entered
	files map[uint64]string // names of files that have several
	count int
	bytes int64
}

func (w *walker) root() error {
	ref := w.img.super.Root
	n, err := w.img.inode(ref)
	if err != nil {
		return err
	}
	if n.typ != typeDir {
		return errors.New("the root is not a directory")
	}
	return w.entry(".", ref, n)
}

// entry gives the entry called name and, if it is a directory, all below it.
func (w *walker) entry(name string, ref uint64, n *inode) error {
	if err := w.ctx.Err(); err != nil {
		return err
	}
	if w.count++; w.count > w.img.limits.MaxEntries {
		return fmt.Errorf("more than %d entries", w.img.limits.MaxEntries)
	}
	e, err := w.describe(name, n)
	if err != nil {
		return &layer.EntryError{Name: name, Err: err}
	}
	if n.typ == typeDir {
		// Else an image of some bytes would have more directories than atoms.
		if w.dirs[ref] {
			return &layer.EntryError{Name: name, Err: errors.New("the directory appears twice")}
		}
		w.dirs[ref] = true
	} else if n.links > 1 {
		first, again := w.files[ref]
		if again {
			e.HardLink, e.Content = first, nil
		} else {
			w.files[ref] = name
		}
	}
	if e.HardLink == "" {
		if w.bytes += e.Size; w.bytes > w.img.limits.MaxBytes {
			return fmt.Errorf("files are larger than the limit of %d bytes", w.img.limits.MaxBytes)
		}
	}
	if !w.yield(e, nil) {
		return errStopped
	}
	if n.typ != typeDir {
		return nil
	}
	return w.directory(name, n)
}

func (w *walker) describe(name string, n *inode) (*layer.Entry, error) {
	e := &layer.Entry{
		Name: name, Mode: fileTypes[n.typ] | n.mode, UID: n.uid, GID: n.gid, ModTime: int64(n.mtime), Target: n.target,
	}
	switch n.typ {
	case typeBlockDevice, typeCharDevice:
		e.Major, e.Minor = decodeDevice(n.device)
	case typeFile:
		if n.size > uint64(w.img.limits.MaxBytes) {
			return nil, fmt.Errorf("file of %d bytes: the limit is %d", n.size, w.img.limits.MaxBytes)
		}
		e.Size, e.Content = int64(n.size), w.img.content(n)
	}
	var err error
	e.Xattrs, err = w.img.attributes(n.xattrs)
	return e, err
}

// directory gives the entries of a directory.
func (w *walker) directory(name string, n *inode) error {
	if n.size == 0 {
		return nil
	}
	c, err := w.img.cursor(w.img.super.DirTable, w.img.dirEnd(), n.start)
	if err != nil {
		return &layer.EntryError{Name: name, Err: err}
	}
	prefix := name + "/"
	if name == "." {
		prefix = ""
	}
	l := lister{walker: w, c: c, left: int64(n.size), prefix: prefix}
	for l.left > 0 {
		if err := l.run(); err != nil {
			if entryErr := (*layer.EntryError)(nil); errors.As(err, &entryErr) || errors.Is(err, errStopped) || w.ctx.Err() != nil {
				return err
			}
			return &layer.EntryError{Name: name, Err: err}
		}
	}
	return nil
}

// dirEnd is where the directory table ends.
func (i *Image) dirEnd() uint64 {
	for _, t := range []uint64{i.super.FragTable, i.super.ExportTable} {
		if t != noTable {
			return t
		}
	}
	return i.super.IDTable
}

// lister reads the listing of one directory.
type lister struct {
	*walker
	c      cursor
	left   int64 // bytes of the listing
	prefix string
}

var errListing = errors.New("the directory's entries are longer than the directory")

func (l *lister) read(b []byte) error {
	if l.left -= int64(len(b)); l.left < 0 {
		return errListing
	}
	return l.c.read(b)
}

// run reads a header and the entries behind it.
func (l *lister) run() error {
	var head [runHead]byte
	if err := l.read(head[:]); err != nil {
		return err
	}
	count := le.Uint32(head[0:])
	if count >= maxRun {
		return fmt.Errorf("a header for %d entries", uint64(count)+1)
	}
	for range count + 1 {
		if err := l.entry(uint64(le.Uint32(head[4:]))<<16, le.Uint32(head[8:])); err != nil {
			return err
		}
	}
	return nil
}

// entry reads an entry whose inode lies in block and has a number near base.
func (l *lister) entry(block uint64, base uint32) error {
	var head [entryHead]byte
	if err := l.read(head[:]); err != nil {
		return err
	}
	name := make([]byte, int(le.Uint16(head[6:]))+1)
	if len(name) > maxLeaf {
		return fmt.Errorf("name of %d bytes", len(name))
	}
	if err := l.read(name); err != nil {
		return err
	}
	leaf := string(name)
	if leaf == "." || leaf == ".." || strings.ContainsAny(leaf, "/\x00") {
		return fmt.Errorf("a file cannot be called %q", leaf)
	}
	full := l.prefix + leaf
	if len(full) > maxPath {
		return fmt.Errorf("path of more than %d bytes", maxPath)
	}
	ref := block | uint64(le.Uint16(head[0:]))
	n, err := l.img.inode(ref)
	if err != nil {
		return &layer.EntryError{Name: full, Err: err}
	}
	if n.typ != le.Uint16(head[4:]) || n.number != base+uint32(int32(int16(le.Uint16(head[2:])))) {
		return &layer.EntryError{Name: full, Err: errors.New("the directory says something else about it than its inode")}
	}
	return l.walker.entry(full, ref, n)
}

// maxPath is the longest path that the kernel takes; it bounds the recursion too.
const maxPath = 4095
