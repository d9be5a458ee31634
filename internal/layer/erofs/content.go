// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"encoding/binary"
	"io"
)

// content gives the content of an inode. What does not lie in the image is an
// error here, as far as it can be seen without reading the content.
func (m *Image) content(f *found) (io.Reader, error) {
	switch f.layout {
	case layoutPlain:
		return m.row(f.union, f.size)
	case layoutInline:
		tail := f.size % blockSize
		if f.end()%blockSize+tail > blockSize {
			return nil, broken("the end of a content crosses the end of a block")
		}
		if err := m.within(f.end(), tail); err != nil {
			return nil, err
		}
		blocks, err := m.row(f.union, f.size-tail)
		if err != nil {
			return nil, err
		}
		return io.MultiReader(blocks, io.NewSectionReader(m.r, f.end(), tail)), nil
	case layoutChunks:
		return m.chunks(f)
	case layoutFullIndex, layoutCompactIdx:
		return m.compressed(f)
	}
	return nil, broken("content in the unknown layout %d", f.layout)
}

// row gives size bytes from block on.
func (m *Image) row(block uint32, size int64) (io.Reader, error) {
	if size == 0 {
		return io.MultiReader(), nil // whatever block is
	}
	at := int64(block) * blockSize
	if err := m.within(at, size); err != nil {
		return nil, err
	}
	return io.NewSectionReader(m.r, at, size), nil
}

// chunks gives the content of a file in chunks, each of which may be a hole.
func (m *Image) chunks(f *found) (io.Reader, error) {
	format := f.union & 0xffff
	if format&^chunkFormatKnown != 0 {
		return nil, broken("chunks of format %#x, which is not supported", format)
	}
	c := &chunkReader{image: m, size: f.size, chunk: 1 << (blockBits + format&chunkBitsMask), entry: 4}
	if format&chunkFormatIndex != 0 {
		c.entry = 8
	}
	c.at = (f.end() + c.entry - 1) &^ (c.entry - 1)
	count := f.size / c.chunk
	if f.size%c.chunk != 0 {
		count++
	}
	return c, m.within(c.at, count*c.entry)
}

// chunkReader reads chunk after chunk.
type chunkReader struct {
	image *Image
	at    int64 // of the next entry of the table
	entry int64 // its size
	chunk int64 // size of a chunk
	size  int64 // bytes of content that are left
	now   io.Reader
}

// Read implements io.Reader.
func (c *chunkReader) Read(b []byte) (int, error) {
	for {
		if c.now != nil {
			n, err := c.now.Read(b)
			if n > 0 || err != io.EOF {
				return n, err
			}
		}
		if c.size == 0 {
			return 0, io.EOF
		}
		size := min(c.size, c.chunk)
		e, err := c.image.read(c.at, c.entry)
		if err != nil {
			return 0, err
		}
		if c.entry == 8 {
			if device := binary.LittleEndian.Uint16(e[2:]); device != 0 {
				return 0, broken("a chunk on another device")
			}
			e = e[4:]
		}
		c.now = io.LimitReader(zeros{}, size)
		if block := binary.LittleEndian.Uint32(e); block != holeAddr {
			if c.now, err = c.image.row(block, size); err != nil {
				return 0, err
			}
		}
		c.at += c.entry
		c.size -= size
	}
}

// zeros reads as zeros without an end.
type zeros struct{}

// Read implements io.Reader.
func (zeros) Read(b []byte) (int, error) {
	clear(b)
	return len(b), nil
}
