// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"encoding/binary"
	"fmt"
	"iter"
	"math"
)

// What stands before the root inode: the superblock and the settings of LZ4 (2
// bytes of length, the largest distance, the most blocks of a pcluster, zeros).
const (
	settingsOffset = superOffset + superSize
	settingsSize   = 14
	rootSlot       = (settingsOffset + 2 + settingsSize + slotSize - 1) / slotSize
)

// finish writes what needs all entries.
func (b *builder) finish() error {
	if err := b.queue.flush(); err != nil {
		return err
	}
	if err := b.links(); err != nil {
		return err
	}
	shared := b.space.data(int64(roundUp(len(b.xattrs.shared), blockSize) / blockSize))
	if err := b.out.meta(b.xattrs.shared, shared*blockSize); err != nil {
		return err
	}
	for d := range b.tree() {
		b.placeDir(d)
	}
	if err := b.space.check(); err != nil {
		return err
	}
	for d := range b.tree() {
		if err := b.writeDir(d); err != nil {
			return err
		}
	}
	if err := b.head(uint32(shared)); err != nil {
		return err
	}
	if end := b.space.next * blockSize; b.out.end < end {
		return b.out.write([]byte{0}, end-1)
	}
	return nil
}

// links corrects the inodes of files that have several names.
func (b *builder) links() error {
	for _, n := range b.linked {
		count := binary.LittleEndian.AppendUint32(nil, n.links)
		at := int64(n.nid)*slotSize + extendedLinks
		if !n.extended {
			if n.links > math.MaxUint16 {
				return fmt.Errorf("a file has %d names: at most 65535 are possible", n.links)
			}
			count, at = count[:2], int64(n.nid)*slotSize+compactLinks
		}
		if err := b.out.meta(count, at); err != nil {
			return err
		}
	}
	return nil
}

// tree gives all directories, each before those in it.
func (b *builder) tree() iter.Seq[*directory] {
	return func(yield func(*directory) bool) {
		todo := []*directory{b.root}
		for len(todo) > 0 {
			d := todo[len(todo)-1]
			todo = todo[:len(todo)-1]
			if !yield(d) {
				return
			}
			for i := len(d.names) - 1; i >= 0; i-- {
				if sub := d.names[i].node.dir; sub != nil {
					todo = append(todo, sub)
				}
			}
		}
	}
}

// lookup finds a name.
func (d *directory) lookup(leaf string) *node {
	low, high := 0, len(d.names)
	for low < high {
		if mid := (low + high) / 2; d.names[mid].name < leaf {
			low = mid + 1
		} else {
			high = mid
		}
	}
	if low < len(d.names) && d.names[low].name == leaf {
		return d.names[low].node
	}
	return nil
}

// all gives the names of the directory with "." and "..", in order.
func (d *directory) all() iter.Seq[name] {
	return func(yield func(name) bool) {
		dots := []name{{".", d.node}, {"..", d.parent.node}}
		for _, n := range d.names {
			for len(dots) > 0 && dots[0].name < n.name {
				if !yield(dots[0]) {
					return
				}
				dots = dots[1:]
			}
			if !yield(n) {
				return
			}
		}
		for _, n := range dots {
			if !yield(n) {
				return
			}
		}
	}
}

// blocks gives the names of each block of the list: as many as fit.
func (d *directory) blocks() iter.Seq2[[]name, int] {
	return func(yield func([]name, int) bool) {
		var block []name
		size := 0
		for n := range d.all() {
			need := direntSize + len(n.name)
			if size+need > blockSize {
				if !yield(block, size) {
					return
				}
				block, size = block[:0], 0
			}
			block, size = append(block, n), size+need
		}
		yield(block, size)
	}
}

// placeDir gives the directory its places.
func (b *builder) placeDir(d *directory) {
	count, last := int64(0), 0
	for _, size := range d.blocks() {
		count, last = count+1, size
	}
	i := &d.inode
	i.size = (count-1)*blockSize + int64(last)
	i.links = 2 + d.dirs
	i.layout = layoutPlain
	tail := 0
	if d != b.root {
		i.extended = !i.fits(b.opt.Time)
		if i.headSize()+len(d.xattrs)+last <= blockSize {
			i.layout, tail, count = layoutInline, last, count-1
		}
		d.node.nid = uint64(b.space.meta(i.headSize()+len(d.xattrs), tail) / slotSize)
	}
	if count > 0 {
		d.data = b.space.data(count)
		i.union = uint32(d.data)
	}
}

// writeDir writes a directory when all inodes have their places.
func (b *builder) writeDir(d *directory) error {
	head := append(d.inode.encode(), d.xattrs...)
	at := d.data * blockSize
	left := d.inode.size
	for names, size := range d.blocks() {
		block := encodeDirents(names, size)
		left -= blockSize
		if left <= 0 && d.inode.layout == layoutInline {
			head = append(head, block...)
			break
		}
		if err := b.out.meta(block, at); err != nil {
			return err
		}
		at += blockSize
	}
	if d == b.root {
		return nil // its inode is part of the head
	}
	return b.out.meta(head, int64(d.node.nid)*slotSize)
}

// encodeDirents gives a block of a directory: for each name the inode's number,
// where the name begins and the type, then the names.
func encodeDirents(names []name, size int) []byte {
	le := binary.LittleEndian
	b := make([]byte, size)
	at := len(names) * direntSize
	for i, n := range names {
		e := b[i*direntSize:]
		le.PutUint64(e, n.node.nid)
		le.PutUint16(e[8:], uint16(at))
		e[10] = n.node.kind
		at += copy(b[at:], n.name)
	}
	return b
}

// head writes the start of the image.
func (b *builder) head(shared uint32) error {
	head := make([]byte, b.rootSize)
	root := head[rootSlot*slotSize:]
	n := copy(root, b.root.inode.encode())
	copy(root[n:], b.root.xattrs)
	b.out.sum.Write(root)
	s := superblock{
		blockBits: blockBits, rootNid: rootSlot, inodes: b.inodes, time: b.opt.Time, blocks: uint32(b.space.next), xattrBlock: shared,
	}
	copy(s.uuid[:], b.out.sum.Sum(nil))
	s.uuid[6] = s.uuid[6]&0x0f | 0x80 // version 8 of RFC 9562: made in our own way
	s.uuid[8] = s.uuid[8]&0x3f | 0x80
	if b.opt.Compression == LZ4HC {
		s.features, s.algorithms = featZeroPadding|featBigPcluster|featTailPacking, algorithmLZ4Only
		le := binary.LittleEndian
		settings := head[settingsOffset:]
		le.PutUint16(settings, settingsSize)
		le.PutUint16(settings[2:], math.MaxUint16)
		le.PutUint16(settings[4:], pclusterBlocks)
	}
	s.encode(head)
	return b.out.write(head, 0)
}
