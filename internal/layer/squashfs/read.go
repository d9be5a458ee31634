// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"errors"
	"fmt"
	"io"
)

// Limits bound what is read of an image; 0 stands for the default.
type Limits struct {
	MaxEntries int   // default: 16 million
	MaxBytes   int64 // of all files together; default: 1 TiB
}

const (
	defaultEntries = 16 << 20
	defaultBytes   = 1 << 40
)

// An Image is a squashfs that can be read. It is for one goroutine at a time.
type Image struct {
	r      io.ReaderAt
	super  superblock
	limits Limits
	dec    decoder
	meta   metaCache
	ids    []uint32
	frags  lookup
	sets   lookup // of attributes
	pairs  int64  // position of the attributes' names and values
	packed []byte // a block as stored

	fragment fragmentCache
}

// Open reads the superblock of the image of size bytes in r. A format that cannot
// be read, and why, is in the error. The image is not read to its end: a caller who
// wants to be sure of its bytes compares their digest.
func Open(r io.ReaderAt, size int64, limits Limits) (*Image, error) {
	if limits.MaxEntries == 0 {
		limits.MaxEntries = defaultEntries
	}
	if limits.MaxBytes == 0 {
		limits.MaxBytes = defaultBytes
	}
	i := &Image{r: r, limits: limits}
	if err := i.open(size); err != nil {
		return nil, fmt.Errorf("read squashfs: %w", err)
	}
	return i, nil
}

func (i *Image) open(size int64) error {
	b := make([]byte, superblockSize)
	if _, err := i.r.ReadAt(b, 0); err != nil {
		return noEOF(err)
	}
	var err error
	if i.super, err = decodeSuperblock(b, size); err != nil {
		return err
	}
	if i.dec, err = newDecoder(i.super.Compression); err != nil {
		return err
	}
	i.frags = lookup{img: i, at: int64(i.super.FragTable), count: i.super.Fragments, size: setBytes}
	if err := i.readIDs(); err != nil {
		return fmt.Errorf("id table: %w", err)
	}
	if i.super.XattrTable == noTable {
		return nil
	}
	var head [16]byte
	if err := i.at(head[:], int64(i.super.XattrTable)); err != nil {
		return fmt.Errorf("attribute table: %w", err)
	}
	pairs := le.Uint64(head[:])
	if pairs > i.super.XattrTable {
		return fmt.Errorf("attribute table: position %d is not valid", pairs)
	}
	i.pairs = int64(pairs)
	i.sets = lookup{img: i, at: int64(i.super.XattrTable) + int64(len(head)), count: le.Uint32(head[8:]), size: setBytes}
	return nil
}

// readIDs reads all owners: there are at most 65535.
func (i *Image) readIDs() error {
	l := lookup{img: i, at: int64(i.super.IDTable), count: uint32(i.super.IDs), size: 4}
	for n := range l.count {
		var b [4]byte
		if err := l.get(b[:], n); err != nil {
			return err
		}
		i.ids = append(i.ids, le.Uint32(b[:]))
	}
	return nil
}

// Compression is how the image's blocks are compressed.
func (i *Image) Compression() Compression {
	return i.super.Compression
}

// noEOF is err, where the end of the image is an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// at fills b with what is at pos.
func (i *Image) at(b []byte, pos int64) error {
	if pos < superblockSize || pos > int64(i.super.BytesUsed)-int64(len(b)) {
		return fmt.Errorf("%d bytes at position %d are not in the image", len(b), pos)
	}
	n, err := i.r.ReadAt(b, pos)
	if n == len(b) {
		return nil
	}
	return noEOF(err)
}

// metaBlocks is how many uncompressed metadata blocks are kept.
const metaBlocks = 128

// A metaBlock is an uncompressed metadata block.
type metaBlock struct {
	pos  int64
	data []byte
	next int64 // position of the block behind it
}

// metaCache keeps the blocks that were read last, the oldest first.
type metaCache struct {
	byPos map[int64]*metaBlock
	ring  [metaBlocks]*metaBlock
	turn  int
}

// block returns the metadata block at pos.
func (i *Image) block(pos int64) (*metaBlock, error) {
	if b, ok := i.meta.byPos[pos]; ok {
		return b, nil
	}
	var head [2]byte
	if err := i.at(head[:], pos); err != nil {
		return nil, err
	}
	length := int(le.Uint16(head[:]))
	raw := length&metaRaw != 0
	length &^= metaRaw
	if length == 0 || length > metaSize {
		return nil, fmt.Errorf("metadata block of %d bytes at position %d", length, pos)
	}
	b := i.meta.reuse(pos)
	b.next = pos + 2 + int64(length)
	if raw {
		b.data = b.data[:length]
		if err := i.at(b.data, pos+2); err != nil {
			return nil, err
		}
	} else {
		packed := i.buffer(length)
		if err := i.at(packed, pos+2); err != nil {
			return nil, err
		}
		var err error
		if b.data, err = i.dec.decode(b.data[:0], packed); err != nil {
			return nil, fmt.Errorf("metadata block at position %d: %w", pos, err)
		}
	}
	i.meta.byPos[pos] = b
	return b, nil
}

// reuse makes room for the block at pos.
func (c *metaCache) reuse(pos int64) *metaBlock {
	if c.byPos == nil {
		c.byPos = map[int64]*metaBlock{}
	}
	b := c.ring[c.turn]
	if b == nil {
		b = &metaBlock{}
		c.ring[c.turn] = b
	} else if c.byPos[b.pos] == b {
		delete(c.byPos, b.pos)
	}
	c.turn = (c.turn + 1) % metaBlocks
	if cap(b.data) != metaSize { // or a decoder that failed has changed it
		b.data = make([]byte, 0, metaSize)
	}
	b.pos, b.data = pos, b.data[:0]
	return b
}

// buffer returns room for n bytes as they are stored.
func (i *Image) buffer(n int) []byte {
	if cap(i.packed) < n {
		i.packed = make([]byte, n)
	}
	return i.packed[:n]
}

// A cursor reads metadata from one place on.
type cursor struct {
	img   *Image
	block int64 // position of the metadata block
	off   int
	end   int64 // where the table ends
}

var errMetaEnd = errors.New("metadata ends too early")

// cursor starts at ref in the table that lies from start to end.
func (i *Image) cursor(start, end, ref uint64) (cursor, error) {
	block := ref >> 16
	if block >= end-start || ref&0xffff > metaSize {
		return cursor{}, fmt.Errorf("reference %#x is not in its table", ref)
	}
	return cursor{img: i, block: int64(start + block), off: int(ref & 0xffff), end: int64(end)}, nil
}

// read fills p.
func (c *cursor) read(p []byte) error {
	for len(p) > 0 {
		if c.block >= c.end {
			return errMetaEnd
		}
		b, err := c.img.block(c.block)
		if err != nil {
			return err
		}
		if c.off >= len(b.data) {
			// Only the last block of a table is not full.
			if c.off > len(b.data) || len(b.data) < metaSize {
				return errMetaEnd
			}
			c.block, c.off = b.next, 0
			continue
		}
		n := copy(p, b.data[c.off:])
		p = p[n:]
		c.off += n
	}
	return nil
}

func (c *cursor) uint32() (uint32, error) {
	var b [4]byte
	err := c.read(b[:])
	return le.Uint32(b[:]), err
}

// A lookup is a table of count entries of size bytes, in metadata blocks whose
// positions are at at.
type lookup struct {
	img   *Image
	at    int64
	count uint32
	size  int
}

// get fills b with entry n.
func (l *lookup) get(b []byte, n uint32) error {
	if n >= l.count {
		return fmt.Errorf("number %d of %d is not valid", n, l.count)
	}
	off := int64(n) * int64(l.size)
	var pos [8]byte
	if err := l.img.at(pos[:], l.at+off/metaSize*8); err != nil {
		return err
	}
	c := cursor{img: l.img, block: int64(le.Uint64(pos[:])), off: int(off % metaSize), end: l.at}
	return c.read(b)
}
