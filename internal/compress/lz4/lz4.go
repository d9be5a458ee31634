// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package lz4 reads and writes LZ4 blocks: the bare format, without frames, as
// file systems hold it.
//
// The compressor fills an output of a given size with as much of the input as it
// can hold, which is what EROFS needs and libraries for Go do not offer. It
// searches thoroughly (hash chains and lazy matching, as the variant called HC).
//
// A block is a row of sequences: a token with two lengths of four bits, more bytes
// of the first length, literals, two bytes of distance, more bytes of the second
// length. The last sequence has literals only. Source: lz4_Block_format.md of the
// LZ4 project.
package lz4

import (
	"encoding/binary"
	"errors"
)

// Rules of the format for the end of a block.
const (
	minMatch     = 4
	lastLiterals = 5  // the last bytes are literals
	matchLimit   = 12 // no match starts in these last bytes
	maxDistance  = 1<<16 - 1
)

// ErrCorrupt is the error for what is not a block.
var ErrCorrupt = errors.New("lz4: corrupt block")

// Decode decodes the block src into dst and returns how many bytes that gave. It
// is ErrCorrupt if they are more than dst has room for, or if src is not a whole
// block.
func Decode(dst, src []byte) (int, error) {
	n, rest, err := decode(dst, src)
	if err == nil && len(rest) > 0 {
		err = ErrCorrupt
	}
	return n, err
}

// DecodePart decodes the start of the block src until dst is full, and leaves the
// rest of src alone. It is ErrCorrupt if the block ends before.
func DecodePart(dst, src []byte) error {
	n, _, err := decode(dst, src)
	if n < len(dst) {
		return ErrCorrupt
	}
	if err != nil && !errors.Is(err, errFull) {
		return err
	}
	return nil
}

// errFull says that the output was full before the block ended.
var errFull = errors.New("lz4: corrupt block: it is longer than said")

// decode decodes until src ends or dst is full.
func decode(dst, src []byte) (n int, rest []byte, err error) {
	for {
		if len(src) == 0 {
			return n, nil, ErrCorrupt
		}
		token := int(src[0])
		literals, src1, ok := length(src[1:], token>>4)
		if !ok || literals > len(src1) {
			return n, nil, ErrCorrupt
		}
		src = src1
		took := copy(dst[n:], src[:literals])
		n += took
		if took < literals {
			return n, nil, errFull
		}
		src = src[literals:]
		if len(src) == 0 {
			return n, nil, nil
		}
		if n == len(dst) {
			return n, nil, errFull
		}
		if len(src) < 2 {
			return n, nil, ErrCorrupt
		}
		distance := int(binary.LittleEndian.Uint16(src))
		match, src2, ok := length(src[2:], token&15)
		if !ok || distance == 0 || distance > n {
			return n, nil, ErrCorrupt
		}
		src = src2
		match += minMatch
		full := match > len(dst)-n
		n = repeat(dst[:min(len(dst), n+match)], n, distance)
		if full {
			return n, nil, errFull
		}
	}
}

// length reads what follows a length of four bits.
func length(src []byte, n int) (int, []byte, bool) {
	if n < 15 {
		return n, src, true
	}
	for i, b := range src {
		n += int(b)
		if b < 255 {
			return n, src[i+1:], true
		}
	}
	return 0, nil, false
}

// repeat fills dst from n on with what is distance bytes before.
func repeat(dst []byte, n, distance int) int {
	start := n - distance
	for n < len(dst) {
		// What was copied can be copied again: the piece doubles.
		n += copy(dst[n:], dst[start:n])
	}
	return n
}
