// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"math/bits"

	"golang.org/x/sys/unix"
)

// tables writes inodes and directories: an inode refers to its directory's entries,
// and those to the inodes in it.
type tables struct {
	inodes metaWriter
	dirs   metaWriter
	buf    []byte
	count  uint32 // of all inodes
}

// metadata writes all that follows the data.
func (w *writer) metadata() error {
	out := &appender{w: w.out, pos: w.data.pos}
	s := superblock{
		Magic: magic, Inodes: uint32(len(w.inodes)), BlockSize: uint32(w.opt.BlockSize), Fragments: uint32(len(w.data.fragments)),
		Compression: w.opt.Compression, BlockLog: uint16(bits.TrailingZeros(uint(w.opt.BlockSize))), Flags: flagDup | flagExp,
		IDs: uint16(len(w.ids)), Major: 4, InodeTable: uint64(out.pos),
	}
	if t := w.opt.ModTime; !t.IsZero() {
		s.ModTime = uint32(min(max(t.Unix(), 0), 1<<32-1))
	}
	var dirs bytes.Buffer
	t := tables{inodes: metaWriter{enc: w.enc, w: out}, dirs: metaWriter{enc: w.enc, w: &dirs}, count: s.Inodes}
	if err := t.directory(w.root, s.Inodes+1); err != nil {
		return err
	}
	if err := t.inodes.flush(); err != nil {
		return err
	}
	if err := t.dirs.flush(); err != nil {
		return err
	}
	s.Root = w.root.ref
	s.DirTable = uint64(out.pos)
	if _, err := out.Write(dirs.Bytes()); err != nil {
		return err
	}
	if err := w.lookups(out, &s); err != nil {
		return err
	}
	return w.end(out, &s)
}

// lookups writes the tables that turn numbers into something else.
func (w *writer) lookups(out *appender, s *superblock) (err error) {
	var fragments, exports, ids []byte
	for _, f := range w.data.fragments {
		fragments = le.AppendUint64(fragments, uint64(f.start))
		fragments = le.AppendUint32(fragments, f.size)
		fragments = le.AppendUint32(fragments, 0)
	}
	for _, n := range w.inodes {
		exports = le.AppendUint64(exports, n.ref)
	}
	for _, id := range w.ids {
		ids = le.AppendUint32(ids, id)
	}
	if s.FragTable, err = w.table(out, fragments, nil); err != nil {
		return err
	}
	if s.ExportTable, err = w.table(out, exports, nil); err != nil {
		return err
	}
	if s.IDTable, err = w.table(out, ids, nil); err != nil {
		return err
	}
	s.XattrTable = noTable
	if len(w.xattrs.sets) == 0 {
		return nil
	}
	pairs, err := w.xattrs.pairs()
	if err != nil {
		return err
	}
	head := le.AppendUint64(nil, uint64(out.pos))
	head = le.AppendUint32(head, uint32(len(w.xattrs.sets)/setBytes))
	head = le.AppendUint32(head, 0)
	if _, err = out.Write(pairs); err != nil {
		return err
	}
	s.XattrTable, err = w.table(out, w.xattrs.sets, head)
	return err
}

// end writes the superblock and the padding.
func (w *writer) end(out *appender, s *superblock) error {
	s.BytesUsed = uint64(out.pos)
	if _, err := w.out.WriteAt(s.encode(), 0); err != nil {
		return err
	}
	w.result.Size = (out.pos + padding - 1) &^ (padding - 1)
	if _, err := out.Write(make([]byte, w.result.Size-out.pos)); err != nil {
		return err
	}
	return w.out.Truncate(w.result.Size)
}

// directory writes a directory's files, then its entries, then itself. Those below it
// come before.
func (t *tables) directory(n *node, parent uint32) error {
	links := uint32(2)
	for _, c := range n.children {
		if !c.isDir() {
			continue
		}
		links++
		if err := t.directory(c, n.number); err != nil {
			return err
		}
	}
	for _, c := range n.children {
		if err := t.file(c.inode()); err != nil {
			return err
		}
	}
	list, err := t.list(n.children)
	if err != nil {
		return err
	}
	n.ref, n.written = t.inodes.at(), true
	if list.size+emptyDir < 1<<16 && len(list.index) == 0 && n.xattrs == none32 {
		b := t.head(n, typeDir)
		b = le.AppendUint32(b, uint32(list.ref>>16))
		b = le.AppendUint32(b, links)
		b = le.AppendUint16(b, uint16(list.size+emptyDir))
		b = le.AppendUint16(b, uint16(list.ref))
		return t.put(le.AppendUint32(b, parent))
	}
	b := t.head(n, typeDir+typeExt)
	b = le.AppendUint32(b, links)
	b = le.AppendUint32(b, list.size+emptyDir)
	b = le.AppendUint32(b, uint32(list.ref>>16))
	b = le.AppendUint32(b, parent)
	b = le.AppendUint16(b, uint16(len(list.index)))
	b = le.AppendUint16(b, uint16(list.ref))
	b = le.AppendUint32(b, n.xattrs)
	for _, i := range list.index {
		b = le.AppendUint32(b, i.offset)
		b = le.AppendUint32(b, i.block)
		b = le.AppendUint32(b, uint32(len(i.name)-1))
		b = append(b, i.name...)
	}
	return t.put(b)
}

// head begins an inode.
func (t *tables) head(n *node, typ uint16) []byte {
	b := le.AppendUint16(t.buf[:0], typ)
	b = le.AppendUint16(b, uint16(n.mode&^unix.S_IFMT))
	b = le.AppendUint16(b, n.uid)
	b = le.AppendUint16(b, n.gid)
	b = le.AppendUint32(b, n.mtime)
	return le.AppendUint32(b, n.number)
}

// put writes an inode that head began.
func (t *tables) put(b []byte) error {
	t.buf = b
	_, err := t.inodes.Write(b)
	return err
}

// file writes the inode of a file that is not a directory, once.
func (t *tables) file(n *node) error {
	if n.written || n.isDir() {
		return nil
	}
	n.ref, n.written = t.inodes.at(), true
	typ := typeOf(n.mode)
	if typ == typeFile {
		return t.regular(n)
	}
	ext := n.xattrs != none32
	if ext {
		typ += typeExt
	}
	b := t.head(n, typ)
	b = le.AppendUint32(b, n.links)
	switch n.mode & unix.S_IFMT {
	case unix.S_IFLNK:
		b = le.AppendUint32(b, uint32(len(n.target)))
		b = append(b, n.target...)
	case unix.S_IFBLK, unix.S_IFCHR:
		b = le.AppendUint32(b, n.device)
	}
	if ext {
		b = le.AppendUint32(b, n.xattrs)
	}
	return t.put(b)
}

func (t *tables) regular(n *node) error {
	f := n.file
	var b []byte
	if f.size < 1<<32 && f.start < 1<<32 && f.sparse == 0 && n.links == 1 && n.xattrs == none32 {
		b = t.head(n, typeFile)
		b = le.AppendUint32(b, uint32(f.start))
		b = le.AppendUint32(b, f.fragment)
		b = le.AppendUint32(b, f.offset)
		b = le.AppendUint32(b, uint32(f.size))
	} else {
		b = t.head(n, typeFile+typeExt)
		b = le.AppendUint64(b, uint64(f.start))
		b = le.AppendUint64(b, uint64(f.size))
		b = le.AppendUint64(b, uint64(f.sparse))
		b = le.AppendUint32(b, n.links)
		b = le.AppendUint32(b, f.fragment)
		b = le.AppendUint32(b, f.offset)
		b = le.AppendUint32(b, n.xattrs)
	}
	for _, size := range f.blocks {
		b = le.AppendUint32(b, size)
	}
	return t.put(b)
}

// A listing is where the entries of a directory lie.
type listing struct {
	ref   uint64
	size  uint32 // in bytes
	index []indexed
}

// indexed is a place in a long listing, so that the kernel need not read all of it.
type indexed struct {
	offset uint32 // from the start of the listing
	block  uint32 // position of the metadata block
	name   string // the first one there
}

const runHead, entryHead = 12, 8

// list writes the entries of a directory: runs of those whose inodes lie in one
// metadata block, behind a header each.
func (t *tables) list(children []*node) (listing, error) {
	out := listing{ref: t.dirs.at()}
	if len(children) == 0 {
		out.ref = 0
	}
	first := t.dirs.written
	for len(children) > 0 {
		at := t.dirs.at()
		if block := int64(at >> 16); block != first {
			first = block
			out.index = append(out.index, indexed{out.size, uint32(block), children[0].name})
		}
		n := t.runLength(children, int(at&0xffff))
		base := children[0].inode()
		b := le.AppendUint32(nil, uint32(n-1))
		b = le.AppendUint32(b, uint32(base.ref>>16))
		b = le.AppendUint32(b, base.number)
		for _, c := range children[:n] {
			i := c.inode()
			b = le.AppendUint16(b, uint16(i.ref))
			b = le.AppendUint16(b, uint16(i.number-base.number))
			b = le.AppendUint16(b, typeOf(i.mode))
			b = le.AppendUint16(b, uint16(len(c.name)-1))
			b = append(b, c.name...)
		}
		if _, err := t.dirs.Write(b); err != nil {
			return out, err
		}
		out.size += uint32(len(b))
		children = children[n:]
	}
	if out.size <= metaSize {
		out.index = nil // it is read at once
	}
	return out, nil
}

// runLength tells how many of children can follow one header at offset of a metadata
// block. A run ends with the block, so that the next can be in the index.
func (t *tables) runLength(children []*node, offset int) int {
	base := children[0].inode()
	end := offset + runHead
	for i, c := range children {
		n := c.inode()
		end += entryHead + len(c.name)
		far := int64(n.number) - int64(base.number)
		if i == maxRun || n.ref>>16 != base.ref>>16 || far != int64(int16(far)) || i > 0 && end > metaSize {
			return i
		}
	}
	return len(children)
}
