// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"encoding/binary"

	"build.stacker.dev/internal/compress/lz4"
)

// Contents are compressed in segments, each by itself, so that all processors can
// work on one file. A segment becomes extents: so much of the content that it
// fills a pcluster, some blocks in a row. What does not compress becomes extents
// of one block each. The last extent of a file may lie behind the inode instead.
const (
	segmentSize    = 1 << 20
	pclusterBlocks = 16
)

// Types of entries of the index.
const (
	indexPlain   = 0
	indexHead    = 1
	indexNonHead = 2
	indexHead2   = 3

	indexEntry  = 8
	indexHeader = 16 // 8 of them are reserved

	adviseBigPcluster = 1 << 1
	adviseTailPacking = 1 << 3
	blockCount        = 1 << 11 // marks a distance that is a number of blocks
)

// An extent is a part of a content.
type extent struct {
	size   int   // bytes of content, at most a segment
	blocks int64 // of the pcluster; 0 for the tail behind the inode
	plain  bool  // it is not compressed
}

// A packed segment is what became of a part of a content.
type packed struct {
	extents []extent
	out     []byte // all pclusters
	tail    []byte // the tail behind the inode, if the last extent has no blocks
}

// pack compresses a segment; last says that it is the last one of the file, so
// that its last extent may be a tail.
func pack(enc *lz4.Encoder, src []byte, last bool) packed {
	var p packed
	buf := make([]byte, pclusterBlocks*blockSize)
	for len(src) > 0 {
		took, n := enc.Fill(buf, src)
		blocks := roundUp(n, blockSize) / blockSize
		switch {
		case took == len(src) && last:
			p.end(enc, buf, src, n)
			return p
		case took <= blocks*blockSize:
			// All of it, and not just a block: data that does not compress
			// seldom comes in single blocks, and trying costs time.
			took = p.plain(src, max(blockSize, took&^(blockSize-1)))
		default:
			p.cluster(buf[:n], took)
		}
		src = src[took:]
	}
	return p
}

// cluster adds a compressed extent. The block ends where its pcluster ends: before
// it are zeros, which no block begins with.
func (p *packed) cluster(block []byte, size int) {
	blocks := roundUp(len(block), blockSize) / blockSize
	p.out = append(p.out, make([]byte, blocks*blockSize-len(block))...)
	p.out = append(p.out, block...)
	p.extents = append(p.extents, extent{size: size, blocks: int64(blocks)})
}

// plain adds size bytes of src as they are, or all if they are fewer, and returns
// their number.
func (p *packed) plain(src []byte, size int) int {
	size = min(size, len(src))
	for n := size; n > 0; n -= blockSize {
		p.extents = append(p.extents, extent{size: min(n, blockSize), blocks: 1, plain: true})
	}
	p.out = append(p.out, src[:size]...)
	p.out = append(p.out, make([]byte, -size&(blockSize-1))...)
	return size
}

// end adds the end of a file, src, which compresses to n bytes; 0: to less than a
// block.
func (p *packed) end(enc *lz4.Encoder, buf, src []byte, n int) {
	whole := n &^ (blockSize - 1)
	if whole > 0 && n-whole <= maxTail {
		// Fill whole blocks; what is left should fit behind the inode.
		if took, m := enc.Fill(buf[:whole], src); took > whole {
			p.cluster(buf[:m], took)
			p.end(enc, buf, src[took:], 0)
			return
		}
	}
	rest := make([]byte, maxTail)
	switch took, m := enc.Fill(rest, src); {
	case took == len(src) && m < len(src):
		p.tail = rest[:m]
		p.extents = append(p.extents, extent{size: len(src)})
	case len(src) <= maxTail:
		p.tail = src
		p.extents = append(p.extents, extent{size: len(src), plain: true})
	default:
		took, m := enc.Fill(buf, src)
		if took <= roundUp(m, blockSize) {
			took = p.plain(src, len(src)&^(blockSize-1))
			if rest := src[took:]; len(rest) > 0 {
				p.plainTail(rest)
			}
			return
		}
		p.cluster(buf[:m], took)
		if took < len(src) {
			p.end(enc, buf, src[took:], 0)
		}
	}
}

// plainTail adds less than a block as it is.
func (p *packed) plainTail(src []byte) {
	if len(src) > maxTail {
		p.plain(src, len(src))
		return
	}
	p.tail = src
	p.extents = append(p.extents, extent{size: len(src), plain: true})
}

// index is the index of a compressed file: an entry for each block of its content.
type index struct {
	entries []byte
	pos     int64 // content so far
	blocks  int64 // of all pclusters
	tail    int   // bytes of the tail

	// first and plain find files of which nothing compresses: they are one row
	// of blocks from first on.
	first int64
	plain bool
}

// add adds an extent whose pcluster is at block at.
func (x *index) add(e extent, at int64) {
	if x.pos == 0 {
		x.first, x.plain = at, true
	}
	ofs := int(x.pos % blockSize)
	x.plain = x.plain && e.plain && ofs == 0 && (e.blocks == 0 || at == x.first+x.blocks)
	kind := uint16(indexHead)
	if e.plain {
		kind = indexPlain
	}
	le := binary.LittleEndian
	x.entries = le.AppendUint16(x.entries, kind)
	x.entries = le.AppendUint16(x.entries, uint16(ofs))
	x.entries = le.AppendUint32(x.entries, uint32(at))
	ends := (ofs + e.size) / blockSize // blocks of content that end in the extent
	for i := 1; i < ends; i++ {
		x.entries = le.AppendUint16(x.entries, indexNonHead)
		x.entries = le.AppendUint16(x.entries, uint16(ofs))
		back := uint16(i)
		if i == 1 {
			back = uint16(max(1, e.blocks)) | blockCount // 1 for the tail, as mkfs.erofs
		}
		x.entries = le.AppendUint16(x.entries, back)
		x.entries = le.AppendUint16(x.entries, uint16(ends-i))
	}
	x.pos += int64(e.size)
	x.blocks += e.blocks
}

// finish ends the index: the block of content in which the last extent ends has
// an entry of its own, which begins behind it.
func (x *index) finish() {
	if end := x.pos % blockSize; end != 0 && int64(len(x.entries)/indexEntry) == x.pos/blockSize {
		x.entries = binary.LittleEndian.AppendUint16(x.entries, indexPlain)
		x.entries = binary.LittleEndian.AppendUint16(x.entries, uint16(end))
		x.entries = binary.LittleEndian.AppendUint32(x.entries, 0)
	}
}

// header gives what stands before the index.
func (x *index) header() []byte {
	b := make([]byte, indexHeader)
	advise := uint16(adviseBigPcluster)
	if x.tail > 0 {
		advise |= adviseTailPacking
		binary.LittleEndian.PutUint16(b[2:], uint16(x.tail))
	}
	binary.LittleEndian.PutUint16(b[4:], advise)
	return b
}
