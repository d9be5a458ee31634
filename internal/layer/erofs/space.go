// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import "fmt"

// maxBins is how many blocks of metadata are tried for room: enough to waste
// little, few enough to be quick.
const maxBins = 64

// maxTail is the longest end of a content behind an inode of any length.
const maxTail = blockSize - slotSize

// space gives out the places of the image.
type space struct {
	next int64 // the first block that is free
	bins []bin // blocks of metadata with room at their end
}

// A bin is a block of metadata that is not full.
type bin struct {
	block int64
	used  int // bytes, a multiple of slotSize
}

// data gives n blocks in a row.
func (s *space) data(n int64) int64 {
	at := s.next
	s.next += n
	return at
}

// check fails where a number of a block would not fit in 32 bits.
func (s *space) check() error {
	if s.next >= holeAddr {
		return fmt.Errorf("image larger than %d blocks", int64(holeAddr))
	}
	return nil
}

// meta gives a place for an inode, in bytes: head bytes, and behind them tail
// bytes that lie in one block: at most maxTail.
func (s *space) meta(head, tail int) int64 {
	size := head + tail
	if size > blockSize {
		return s.large(head, tail)
	}
	best := -1
	for i, b := range s.bins {
		if b.used+size <= blockSize && (best < 0 || b.used > s.bins[best].used) {
			best = i
		}
	}
	if best < 0 {
		s.add(bin{block: s.data(1)})
		best = len(s.bins) - 1
	}
	b := &s.bins[best]
	at := b.block*blockSize + int64(b.used)
	b.used = roundUp(b.used+size, slotSize)
	if b.used == blockSize {
		s.bins = append(s.bins[:best], s.bins[best+1:]...)
	}
	return at
}

// large gives a place to what is larger than a block.
func (s *space) large(head, tail int) int64 {
	skip := 0
	if off := head % blockSize; tail > 0 && off+tail > blockSize {
		// Move the tail to the start of the next block, or a bit behind.
		skip = roundUp(blockSize-off, slotSize)
	}
	end := skip + head + tail
	n := int64(roundUp(end, blockSize) / blockSize)
	at := s.data(n)
	if used := roundUp(end%blockSize, slotSize); used > 0 && used < blockSize {
		s.add(bin{block: at + n - 1, used: used})
	}
	return at*blockSize + int64(skip)
}

// add makes b one of the bins, in place of the fullest if there are too many.
func (s *space) add(b bin) {
	if len(s.bins) == maxBins {
		full := 0
		for i := range s.bins {
			if s.bins[i].used > s.bins[full].used {
				full = i
			}
		}
		s.bins = append(s.bins[:full], s.bins[full+1:]...)
	}
	s.bins = append(s.bins, b)
}

// roundUp makes n a multiple of unit, a power of two.
func roundUp(n, unit int) int {
	return (n + unit - 1) &^ (unit - 1)
}
