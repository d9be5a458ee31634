// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

// A file is a regular file of more than a block, while its segments are
// committed. As no other task comes between them, what is not compressed lies in
// one row of blocks.
type file struct {
	*builder
	node   *node
	inode  inode
	xattrs []byte

	done  int64 // bytes of content so far
	first int64 // block of the content, if it is not compressed
	index index
}

// raw commits a segment that is not compressed.
func (f *file) raw(src []byte, last bool) error {
	if last && f.done == 0 {
		return f.flat(f.node, f.inode, f.xattrs, src)
	}
	tail := 0
	if last && f.tailFits(len(src)%blockSize) {
		tail = len(src) % blockSize
	}
	at := f.space.data(int64(roundUp(len(src)-tail, blockSize) / blockSize))
	if f.done == 0 {
		f.first = at
	}
	f.done += int64(len(src))
	if err := f.out.data(src[:len(src)-tail], at*blockSize); err != nil || !last {
		return err
	}
	return f.put(f.node, f.flatInode(tail), f.xattrs, src[len(src)-tail:])
}

// flatInode gives the inode of content that is not compressed, of which tail bytes
// follow it.
func (f *file) flatInode(tail int) inode {
	i := f.inode
	i.layout, i.union = layoutPlain, uint32(f.first)
	if tail > 0 {
		i.layout = layoutInline
	}
	return i
}

// tailFits tells whether n bytes fit into one block with the inode.
func (f *file) tailFits(n int) bool {
	return n > 0 && extendedInodeSize+len(f.xattrs)+n <= blockSize
}

// packed commits a segment that was compressed.
func (f *file) packed(src []byte, p packed, last bool) error {
	if last && f.done == 0 && !f.worth(p) {
		return f.flat(f.node, f.inode, f.xattrs, src)
	}
	f.done += int64(len(src))
	at := f.space.data(int64(len(p.out) / blockSize))
	if len(p.out) > 0 {
		if err := f.out.data(p.out, at*blockSize); err != nil {
			return err
		}
	}
	for _, e := range p.extents {
		f.index.add(e, at)
		at += e.blocks
	}
	if !last {
		return nil
	}
	if f.index.plain && (len(p.tail) == 0 || f.tailFits(len(p.tail))) {
		f.first = f.index.first
		return f.put(f.node, f.flatInode(len(p.tail)), f.xattrs, p.tail)
	}
	f.index.tail = len(p.tail)
	f.index.finish()
	i := f.inode
	i.layout, i.union = layoutFullIndex, uint32(f.index.blocks)
	return f.put(f.node, i, f.xattrs, p.tail, f.index.header(), f.index.entries)
}

// worth tells whether a file of one segment is smaller when it is compressed.
func (f *file) worth(p packed) bool {
	size := int(f.inode.size)
	flat := size
	if !f.tailFits(size % blockSize) {
		flat = roundUp(size, blockSize)
	}
	return len(p.out)+len(p.tail)+indexHeader+roundUp(size, blockSize)/blockSize*indexEntry < flat
}

// flat writes a file whose content is at hand and not compressed.
func (b *builder) flat(n *node, i inode, xattrs, content []byte) error {
	tail := len(content) % blockSize
	if extendedInodeSize+len(xattrs)+tail > blockSize {
		tail = 0
	}
	data := content[:len(content)-tail]
	if len(data) > 0 {
		at := b.space.data(int64(roundUp(len(data), blockSize) / blockSize))
		if err := b.out.data(data, at*blockSize); err != nil {
			return err
		}
		i.union = uint32(at)
	}
	i.layout = layoutPlain
	if tail > 0 {
		i.layout = layoutInline
	}
	return b.put(n, i, xattrs, content[len(content)-tail:])
}

// put writes an inode: its attributes, at the next multiple of 8 what parts holds,
// and then its tail.
func (b *builder) put(n *node, i inode, xattrs, tail []byte, parts ...[]byte) error {
	i.extended = !i.fits(b.opt.Time)
	n.extended = i.extended
	head := append(i.encode(), xattrs...)
	if len(parts) > 0 {
		head = append(head, make([]byte, -len(head)&7)...)
	}
	for _, p := range parts {
		head = append(head, p...)
	}
	at := b.space.meta(len(head), len(tail))
	n.nid = uint64(at / slotSize)
	if err := b.space.check(); err != nil {
		return err
	}
	return b.out.meta(append(head, tail...), at)
}
