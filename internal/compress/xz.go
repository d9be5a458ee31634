// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"hash/crc64"
	"io"

	"github.com/ulikunitz/xz/lzma"
)

// The container format is version 1.1.0 of "The .xz File Format". It is read here, and
// only LZMA2 by the library, because the library makes a dictionary of whatever size a block asks for, keeps
// a record of every block, and decodes blocks one by one with no limit to their number.
const (
	xzMagic       = "\xfd7zXZ\x00"
	xzFooterMagic = "YZ"
	xzFilterLZMA2 = 0x21

	// xzBlockBudget is how many bytes of dictionaries may be made before there is output, and
	// xzBlockRatio how many for every byte of output: else a small file of empty blocks takes hours.
	xzBlockBudget = 1 << 30
	xzBlockRatio  = 64
)

var (
	errXzHeader  = errors.New("invalid xz header")
	errXzBlock   = errors.New("invalid xz block")
	errXzIndex   = errors.New("xz index does not match the content")
	errXzSum     = errors.New("checksum of the content is wrong")
	errXzFilter  = errors.New("xz filters other than LZMA2 are not supported")
	errXzGarbage = errors.New("garbage after the end of the xz data")
	errXzBlocks  = errors.New("too many small xz blocks with a large dictionary")
)

// xzReader decodes a series of xz streams.
type xzReader struct {
	in      xzInput
	streams int
	inside  bool // in a stream
	flags   [2]byte
	records hash.Hash // of the sizes of the stream's blocks
	blocks  uint64

	block   *xzBlock
	output  int64
	dictSum int64
}

// xzBlock is the block that is being read.
type xzBlock struct {
	lzma         io.Reader
	start        int64 // of its header
	data         int64 // of its data
	sum          hash.Hash
	compressed   uint64 // as the header says
	uncompressed uint64
	known        [2]bool // whether it says so
	size         uint64  // uncompressed bytes so far
}

func newXzReader(r io.Reader) *xzReader {
	return &xzReader{in: xzInput{Reader: bufio.NewReaderSize(r, 64<<10)}}
}

// Read reads decompressed bytes.
func (x *xzReader) Read(p []byte) (int, error) {
	for len(p) > 0 {
		if x.block == nil {
			if err := x.next(); err != nil {
				return 0, err
			}
			continue
		}
		n, err := x.block.lzma.Read(p)
		x.block.size += uint64(n)
		x.output += int64(n)
		x.block.sum.Write(p[:n])
		if err == io.EOF {
			err = x.endBlock()
		}
		if n > 0 || err != nil {
			return n, noEOF(err)
		}
	}
	return 0, nil
}

// next goes on to the data of the next block. It returns io.EOF at the end of the input.
func (x *xzReader) next() error {
	if !x.inside {
		return x.beginStream()
	}
	start := x.in.n
	size, err := x.in.ReadByte()
	if err != nil {
		return noEOF(err)
	}
	if size == 0 {
		x.inside = false
		return x.endStream(start)
	}
	header := make([]byte, (int(size)+1)*4)
	header[0] = size
	if err := x.in.full(header[1:]); err != nil {
		return err
	}
	b, dict, err := parseXzBlock(header)
	if err != nil {
		return err
	}
	if b.known[1] && int64(b.uncompressed) < dict {
		dict = int64(b.uncompressed)
	}
	dict = max(dict, lzma.MinDictCap)
	x.dictSum += dict
	if x.dictSum > xzBlockBudget+xzBlockRatio*x.output {
		return errXzBlocks
	}
	b.start, b.data = start, x.in.n
	b.sum, _ = newXzSum(x.flags[1])
	b.lzma, err = lzma.Reader2Config{DictCap: int(dict)}.NewReader2(&x.in)
	if err != nil {
		return noEOF(err)
	}
	x.block = b
	return nil
}

// beginStream reads a stream header and the padding before it.
func (x *xzReader) beginStream() error {
	for padding := 0; x.streams > 0; padding++ {
		c, err := x.in.ReadByte()
		if err == io.EOF && padding%4 == 0 {
			return io.EOF
		}
		if err == nil && c != 0 {
			if padding%4 != 0 {
				return errXzGarbage
			}
			err = x.in.UnreadByte()
			x.in.n--
			if err == nil {
				break
			}
		}
		if err != nil {
			return noEOF(err)
		}
	}
	var h [12]byte
	if err := x.in.full(h[:]); err != nil {
		return err
	}
	if string(h[:6]) != xzMagic {
		if x.streams > 0 {
			return errXzGarbage
		}
		return errXzHeader
	}
	if crc32.ChecksumIEEE(h[6:8]) != binary.LittleEndian.Uint32(h[8:]) {
		return errXzHeader
	}
	if _, ok := newXzSum(h[7]); !ok || h[6] != 0 {
		return fmt.Errorf("%w: check type %#x%02x is not supported", errXzHeader, h[6], h[7])
	}
	x.flags = [2]byte(h[6:8])
	x.records, x.blocks = sha256.New(), 0
	x.inside = true
	x.streams++
	return nil
}

// parseXzBlock parses a block header and returns what it says, and the size of the dictionary.
func parseXzBlock(h []byte) (*xzBlock, int64, error) {
	end := len(h) - 4
	flags := h[1]
	if crc32.ChecksumIEEE(h[:end]) != binary.LittleEndian.Uint32(h[end:]) || flags&0x3c != 0 {
		return nil, 0, errXzBlock
	}
	if flags&3 != 0 {
		return nil, 0, errXzFilter
	}
	r := bytes.NewReader(h[2:end])
	b := &xzBlock{known: [2]bool{flags&0x40 != 0, flags&0x80 != 0}}
	for i, v := range []*uint64{&b.compressed, &b.uncompressed} {
		if !b.known[i] {
			continue
		}
		var err error
		if *v, err = binary.ReadUvarint(r); err != nil || *v > 1<<62 {
			return nil, 0, errXzBlock
		}
	}
	id, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, 0, errXzBlock
	}
	if id != xzFilterLZMA2 {
		return nil, 0, errXzFilter
	}
	n, _ := r.ReadByte()
	size, err := r.ReadByte()
	if n != 1 || err != nil || size > 40 {
		return nil, 0, errXzBlock
	}
	for r.Len() > 0 {
		if c, _ := r.ReadByte(); c != 0 {
			return nil, 0, errXzBlock
		}
	}
	dict := int64(2|size&1) << (size/2 + 11)
	if dict > maxWindow {
		return nil, 0, fmt.Errorf("xz dictionary of %d MiB: more than %d MiB is not supported", dict>>20, maxWindow>>20)
	}
	return b, dict, nil
}

// endBlock verifies the block that has ended.
func (x *xzReader) endBlock() error {
	b := x.block
	x.block = nil
	compressed := uint64(x.in.n - b.data)
	if b.known[0] && b.compressed != compressed || b.known[1] && b.uncompressed != b.size {
		return errXzBlock
	}
	if err := x.in.zeros(x.in.n - b.start); err != nil {
		return err
	}
	sum := make([]byte, b.sum.Size())
	if err := x.in.full(sum); err != nil {
		return err
	}
	if !bytes.Equal(sum, xzSumBytes(b.sum)) {
		return errXzSum
	}
	// The unpadded size leaves out only the padding of the data.
	unpadded := uint64(b.data-b.start) + compressed + uint64(len(sum))
	x.record(x.records, unpadded, b.size)
	x.blocks++
	return nil
}

func (x *xzReader) record(h hash.Hash, unpadded, uncompressed uint64) {
	var p [16]byte
	binary.LittleEndian.PutUint64(p[:], unpadded)
	binary.LittleEndian.PutUint64(p[8:], uncompressed)
	h.Write(p[:])
}

// endStream reads the index, whose first byte lies at start, and the footer.
func (x *xzReader) endStream(start int64) error {
	x.in.crc = crc32.Update(0, crc32.IEEETable, []byte{0})
	x.in.summing = true
	n, err := binary.ReadUvarint(&x.in)
	if err != nil {
		return noEOF(err)
	}
	if n != x.blocks {
		return errXzIndex
	}
	records := sha256.New()
	for range n {
		unpadded, err := binary.ReadUvarint(&x.in)
		if err != nil {
			return noEOF(err)
		}
		uncompressed, err := binary.ReadUvarint(&x.in)
		if err != nil {
			return noEOF(err)
		}
		x.record(records, unpadded, uncompressed)
	}
	if !bytes.Equal(records.Sum(nil), x.records.Sum(nil)) {
		return errXzIndex
	}
	if err := x.in.zeros(x.in.n - start); err != nil {
		return err
	}
	x.in.summing = false
	var f [16]byte // checksum of the index, then the footer
	if err := x.in.full(f[:4]); err != nil {
		return err
	}
	size := x.in.n - start
	if err := x.in.full(f[4:]); err != nil {
		return err
	}
	if binary.LittleEndian.Uint32(f[:]) != x.in.crc ||
		binary.LittleEndian.Uint32(f[4:]) != crc32.ChecksumIEEE(f[8:14]) ||
		(int64(binary.LittleEndian.Uint32(f[8:]))+1)*4 != size ||
		[2]byte(f[12:14]) != x.flags || string(f[14:]) != xzFooterMagic {
		return errXzIndex
	}
	return nil
}

// xzInput counts what is read, and adds it up where it is told to.
type xzInput struct {
	*bufio.Reader
	n       int64
	summing bool
	crc     uint32
}

// Read reads from the input.
func (i *xzInput) Read(p []byte) (int, error) {
	n, err := i.Reader.Read(p)
	i.n += int64(n)
	return n, err
}

// ReadByte reads one byte from the input.
func (i *xzInput) ReadByte() (byte, error) {
	c, err := i.Reader.ReadByte()
	if err == nil {
		i.n++
		if i.summing {
			i.crc = crc32.Update(i.crc, crc32.IEEETable, []byte{c})
		}
	}
	return c, err
}

// full fills p.
func (i *xzInput) full(p []byte) error {
	n, err := io.ReadFull(i.Reader, p)
	i.n += int64(n)
	return noEOF(err)
}

// zeros reads the padding that makes n bytes a multiple of four.
func (i *xzInput) zeros(n int64) error {
	for ; n%4 != 0; n++ {
		c, err := i.ReadByte()
		if err != nil {
			return noEOF(err)
		}
		if c != 0 {
			return errXzBlock
		}
	}
	return nil
}

// newXzSum returns the checksum of a check type.
func newXzSum(check byte) (hash.Hash, bool) {
	switch check {
	case 0:
		return noSum{crc32.NewIEEE()}, true
	case 1:
		return crc32.NewIEEE(), true
	case 4:
		return crc64.New(crc64.MakeTable(crc64.ECMA)), true
	case 10:
		return sha256.New(), true
	}
	return nil, false
}

// xzSumBytes returns a checksum as it is stored: CRCs begin with the low byte.
func xzSumBytes(h hash.Hash) []byte {
	switch h := h.(type) {
	case hash.Hash64:
		return binary.LittleEndian.AppendUint64(nil, h.Sum64())
	case hash.Hash32:
		return binary.LittleEndian.AppendUint32(nil, h.Sum32())
	}
	return h.Sum(nil)
}

// noSum is the checksum of a stream that has none.
type noSum struct{ hash.Hash }

// Write does nothing.
func (noSum) Write(p []byte) (int, error) { return len(p), nil }

// Size is the length of the checksum.
func (noSum) Size() int { return 0 }

// Sum returns nothing.
func (noSum) Sum(b []byte) []byte { return b }
