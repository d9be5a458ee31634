// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"fmt"
	"io"
)

// contentReader reads a regular file.
type contentReader struct {
	img   *Image
	ino   *inode
	sizes cursor // at the size of the next block
	pos   int64  // of the next block, stored
	left  uint64 // bytes that were not decompressed yet
	buf   []byte // a block, uncompressed
	rest  []byte // of buf
	zeros uint64 // bytes that come before anything else
	err   error
}

func (i *Image) content(n *inode) *contentReader {
	return &contentReader{img: i, ino: n, sizes: n.blocks, pos: int64(n.start), left: n.size}
}

// Read reads the next bytes.
func (c *contentReader) Read(p []byte) (int, error) {
	for c.zeros == 0 && len(c.rest) == 0 {
		if c.err == nil {
			c.err = c.next()
		}
		if c.err != nil {
			return 0, c.err
		}
	}
	if c.zeros > 0 {
		n := int(min(uint64(len(p)), c.zeros))
		clear(p[:n])
		c.zeros -= uint64(n)
		return n, nil
	}
	n := copy(p, c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

// next goes on to the next block.
func (c *contentReader) next() error {
	if c.left == 0 {
		return io.EOF
	}
	want := min(c.left, uint64(c.img.super.BlockSize))
	if want < uint64(c.img.super.BlockSize) && c.ino.fragment != none32 {
		b, err := c.img.tail(c.ino.fragment, c.ino.offset, int(want))
		c.rest, c.left = b, 0
		return err
	}
	size, err := c.sizes.uint32()
	if err != nil {
		return err
	}
	c.left -= want
	if size == 0 {
		c.zeros = want
		return nil
	}
	if c.buf == nil {
		c.buf = make([]byte, 0, min(c.ino.size, uint64(c.img.super.BlockSize)))
	}
	if c.buf, err = c.img.dataBlock(c.buf, c.pos, size); err != nil {
		return err
	}
	if uint64(len(c.buf)) != want {
		return fmt.Errorf("block at position %d has %d bytes, want %d", c.pos, len(c.buf), want)
	}
	c.pos += int64(size &^ blockRaw)
	c.rest = c.buf
	return nil
}

// dataBlock reads the block at pos of the stored size into buf, which has the room
// of what is expected.
func (i *Image) dataBlock(buf []byte, pos int64, size uint32) ([]byte, error) {
	length := int(size &^ blockRaw)
	if size&blockRaw != 0 {
		if length > cap(buf) {
			return nil, fmt.Errorf("block at position %d: %w", pos, errTooLong)
		}
		buf = buf[:length]
		return buf, i.at(buf, pos)
	}
	if length > int(i.super.BlockSize) {
		return nil, fmt.Errorf("block at position %d has %d bytes: more than a block", pos, length)
	}
	packed := i.buffer(length)
	if err := i.at(packed, pos); err != nil {
		return nil, err
	}
	out, err := i.dec.decode(buf[:0], packed)
	if err != nil {
		return nil, fmt.Errorf("block at position %d: %w", pos, err)
	}
	return out, nil
}

// keptFragments is how many fragments are kept uncompressed: files that lie beside
// each other in a directory share some.
const keptFragments = 4

// fragmentCache keeps the fragments that were read last.
type fragmentCache struct {
	number [keptFragments]uint32
	data   [keptFragments][]byte // nil: empty
	turn   int
}

// tail returns n bytes at offset of a fragment. They are valid until the next call.
func (i *Image) tail(fragment, offset uint32, n int) ([]byte, error) {
	b, err := i.readFragment(fragment)
	if err != nil {
		return nil, err
	}
	if int64(offset)+int64(n) > int64(len(b)) {
		return nil, fmt.Errorf("%d bytes at %d of fragment %d: it has %d", n, offset, fragment, len(b))
	}
	return b[offset:][:n], nil
}

func (i *Image) readFragment(number uint32) ([]byte, error) {
	f := &i.fragment
	for k, b := range f.data {
		if b != nil && f.number[k] == number {
			return b, nil
		}
	}
	var e [setBytes]byte
	if err := i.frags.get(e[:], number); err != nil {
		return nil, fmt.Errorf("fragment: %w", err)
	}
	k := f.turn
	f.turn = (k + 1) % keptFragments
	buf := f.data[k]
	f.data[k] = nil
	if buf == nil {
		buf = make([]byte, 0, i.super.BlockSize)
	}
	b, err := i.dataBlock(buf, int64(le.Uint64(e[:])), le.Uint32(e[8:]))
	if err != nil {
		return nil, fmt.Errorf("fragment %d: %w", number, err)
	}
	f.data[k], f.number[k] = b, number
	return b, nil
}
