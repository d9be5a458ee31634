// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bytes"
	"encoding/binary"
	"io"

	"build.stacker.dev/internal/compress/lz4"
)

// Bounds of an extent, as in the kernel.
const (
	maxPcluster = 1 << 20
	maxExtent   = 12 << 20
)

// adviseCompact2 says that a compact index has parts with 2 bytes for each block.
const adviseCompact2 = 1 << 0

// adviseKnown is what can be read of what the kernel knows; 1<<2 says of the
// second compression what adviseBigPcluster says of the first.
const adviseKnown = adviseCompact2 | adviseBigPcluster | 1<<2 | adviseTailPacking

// zindex reads the index of a compressed file.
type zindex struct {
	image   *Image
	at      int64 // of the first entry
	count   int64 // blocks of content
	big     bool  // pclusters have several blocks
	compact bool
	two     bool  // adviseCompact2
	start   int64 // a part of the index that is at hand
	part    []byte
}

// An indexed is an entry of the index.
type indexed struct {
	kind   uint8
	ofs    int64 // where the extent begins in its block of content
	block  int64 // of the pcluster
	blocks int64 // of the pcluster, as the first entry after the head says; or 0
	next   int64 // the byte behind the entry, or behind the pack that it is in
}

// bytes gives n bytes of the index from byte at on.
func (x *zindex) bytes(at, n int64) ([]byte, error) {
	if at < x.start || at+n > x.start+int64(len(x.part)) {
		var err error
		if x.part, err = x.image.read(at, max(n, min(blockSize, x.image.size-at))); err != nil {
			return nil, err
		}
		x.start = at
	}
	return x.part[at-x.start : at-x.start+n], nil
}

// entry gives the entry of a block of content.
func (x *zindex) entry(i int64) (indexed, error) {
	if x.compact {
		return x.compactEntry(i)
	}
	at := x.at + i*indexEntry
	b, err := x.bytes(at, indexEntry)
	if err != nil {
		return indexed{}, err
	}
	le := binary.LittleEndian
	e := indexed{kind: uint8(le.Uint16(b) & 3), ofs: int64(le.Uint16(b[2:])), next: at + indexEntry}
	if e.kind != indexNonHead {
		e.block = int64(le.Uint32(b[4:]))
		if e.ofs >= blockSize {
			return indexed{}, broken("an index that begins at byte %d of a block", e.ofs)
		}
	} else if d := int64(le.Uint16(b[4:])); d&blockCount != 0 {
		e.blocks = d &^ blockCount
	}
	return e, nil
}

// compressed gives the content of a compressed file.
func (m *Image) compressed(f *found) (io.Reader, error) {
	if f.size == 0 {
		return io.MultiReader(), nil
	}
	at := (f.end() + 7) &^ 7
	h, err := m.read(at, 8)
	if err != nil {
		return nil, err
	}
	le := binary.LittleEndian
	advise, algorithm, clusters := le.Uint16(h[4:]), h[6], h[7]
	if f.layout == layoutFullIndex && m.sb.features&(featBigPcluster|featTailPacking) == 0 {
		advise, algorithm, clusters = 0, 0, 0 // the header is not used
	}
	switch {
	case clusters != 0:
		return nil, broken("fragments or logical clusters of more than 4096 bytes (%#x), which are not supported", clusters)
	case advise&^adviseKnown != 0:
		return nil, broken("compressed data with properties %#x, which are not supported", advise)
	}
	z := &zReader{
		image: m, size: f.size, algorithms: algorithm, padded: m.sb.features&featZeroPadding != 0,
		index: zindex{
			image: m, at: at + indexHeader, count: (f.size + blockSize - 1) / blockSize,
			big: advise&adviseBigPcluster != 0, two: advise&adviseCompact2 != 0, compact: f.layout == layoutCompactIdx,
		},
	}
	if advise&adviseTailPacking != 0 {
		z.tail = int64(le.Uint16(h[2:]))
		if z.tail == 0 || z.tail > blockSize {
			return nil, broken("the end of a content takes %d bytes", z.tail)
		}
	}
	least := z.index.count * indexEntry
	if z.index.compact {
		z.index.at = at + 8
		least = z.index.count * 2
	}
	return z, m.within(z.index.at, least)
}

// zReader decompresses extent after extent.
type zReader struct {
	image      *Image
	index      zindex
	size       int64
	algorithms uint8 // of the two types of heads, four bits each
	padded     bool
	tail       int64 // size of the pcluster behind the index, or 0

	next int64 // block of content where the next extent begins
	head *indexed
	pos  int64 // content so far
	buf  []byte
	rest []byte // of buf
}

// Read implements io.Reader.
func (z *zReader) Read(b []byte) (int, error) {
	if len(z.rest) == 0 {
		if z.pos == z.size {
			return 0, io.EOF
		}
		if err := z.extent(); err != nil {
			return 0, err
		}
	}
	n := copy(b, z.rest)
	z.rest = z.rest[n:]
	return n, nil
}

// extent decompresses the next extent.
func (z *zReader) extent() error {
	if z.head == nil {
		e, err := z.index.entry(0)
		if err != nil {
			return err
		}
		if e.kind == indexNonHead || e.ofs != 0 {
			return broken("a content that does not begin at its start")
		}
		z.head = &e
	}
	head, end, blocks, err := *z.head, z.size, int64(1), error(nil)
	last := head.next
	z.head = nil
	for z.next++; z.next < z.index.count; z.next++ {
		e, err := z.index.entry(z.next)
		if err != nil {
			return err
		}
		if z.next*blockSize < z.size {
			last = e.next
		}
		if e.kind != indexNonHead {
			z.head, end = &e, min(z.size, z.next*blockSize+e.ofs)
			break
		}
		if e.blocks > 0 {
			if !z.index.big {
				return broken("a large pcluster where there should be none")
			}
			blocks = e.blocks
		}
		if (z.next+1)*blockSize-z.pos > maxExtent+blockSize {
			return broken("an extent of more than %d bytes", maxExtent)
		}
	}
	size := end - z.pos
	if size <= 0 || size > maxExtent {
		return broken("an extent of %d bytes", size)
	}
	at, room := head.block*blockSize, blocks*blockSize
	if end == z.size && z.tail > 0 {
		at, room = last, z.tail
	}
	if room > maxPcluster {
		return broken("a pcluster of %d bytes", room)
	}
	in, err := z.image.read(at, room)
	if err != nil {
		return err
	}
	z.pos = end
	return z.decode(head.kind, in, int(size))
}

// decode decompresses one pcluster.
func (z *zReader) decode(kind uint8, in []byte, size int) error {
	if kind == indexPlain {
		if size > len(in) {
			return broken("%d bytes of content in %d", size, len(in))
		}
		z.rest = in[:size]
		return nil
	}
	algorithm := z.algorithms & 15
	if kind == indexHead2 {
		algorithm = z.algorithms >> 4
	}
	if algorithm != 0 {
		return broken("compressed by %s, which is not supported", algorithmName(algorithm))
	}
	if cap(z.buf) < size {
		z.buf = make([]byte, roundUp(size, 64<<10))
	}
	z.rest = z.buf[:size]
	if !z.padded {
		return corrupt(lz4.DecodePart(z.rest, in))
	}
	// Only the first block of a pcluster may begin with padding.
	first := in[:min(len(in), blockSize)]
	in = in[len(first)-len(bytes.TrimLeft(first, "\x00")):]
	n, err := lz4.Decode(z.rest, in)
	if err == nil && n != size {
		err = lz4.ErrCorrupt
	}
	return corrupt(err)
}

// corrupt makes an error of package lz4 a FormatError.
func corrupt(err error) error {
	if err != nil {
		return broken("%v", err)
	}
	return nil
}

func algorithmName(a uint8) string {
	if names := []string{"LZ4", "LZMA", "DEFLATE", "Zstandard"}; int(a) < len(names) {
		return names[a]
	}
	return "an unknown algorithm"
}
