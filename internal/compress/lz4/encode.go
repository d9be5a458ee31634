// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package lz4

import (
	"encoding/binary"
	"math/bits"
)

const (
	hashBits = 15
	window   = 1 << 16

	// maxChain is how many candidates are tried for a match, goodMatch a match
	// after which no better one is looked for.
	maxChain  = 32
	goodMatch = 64
)

// An Encoder compresses. It is for one goroutine at a time; its zero value is
// ready for use.
type Encoder struct {
	head  [1 << hashBits]int32 // place + 1 of the last four bytes with the hash
	chain [window]int32        // the place + 1 before that with the same hash
	next  int                  // the first place that is not in the tables
}

// Fill compresses the start of src into one block, at most len(dst) bytes of it,
// which must be at least 16, and returns how much of src that was and the length
// of the block. If src does not compress, the block is longer than what it holds.
// Equal arguments give equal results.
func (e *Encoder) Fill(dst, src []byte) (took, n int) {
	clear(e.head[:])
	e.next = 0
	out := writer{dst: dst}
	anchor, at := 0, 0
	for limit := len(src) - matchLimit; at <= limit; {
		place, size := e.find(src, at)
		if size < minMatch {
			// Data that does not compress is passed over ever faster.
			at += 1 + (at-anchor)>>7
			continue
		}
		for size < goodMatch && at < limit { // is waiting for the next byte better?
			p, s := e.find(src, at+1)
			if s <= size+1 {
				break
			}
			at, place, size = at+1, p, s
		}
		for at > anchor && place > 0 && src[at-1] == src[place-1] {
			at, place, size = at-1, place-1, size+1
		}
		whole := out.sequence(src[anchor:at], at-place, size)
		if whole == 0 {
			break
		}
		at += whole
		anchor = at
		if whole < size {
			break
		}
	}
	return anchor + out.last(src[anchor:]), out.n
}

// hash is of the four bytes v.
func hash(v uint32) uint32 {
	return v * 2654435761 >> (32 - hashBits)
}

// find gives the longest match for the bytes at place at, where it began before
// and its length.
func (e *Encoder) find(src []byte, at int) (place, size int) {
	for ; e.next < at; e.next++ {
		h := hash(binary.LittleEndian.Uint32(src[e.next:]))
		e.chain[e.next%window] = e.head[h]
		e.head[h] = int32(e.next + 1)
	}
	most := len(src) - lastLiterals - at
	if most < minMatch {
		return 0, 0
	}
	here := binary.LittleEndian.Uint32(src[at:])
	candidate := int(e.head[hash(here)]) - 1
	for range maxChain {
		if candidate < 0 || at-candidate > maxDistance {
			break
		}
		if src[candidate+size] == src[at+size] && binary.LittleEndian.Uint32(src[candidate:]) == here {
			if s := common(src[candidate:], src[at:at+most]); s > size {
				place, size = candidate, s
				if size == most || size >= goodMatch {
					break
				}
			}
		}
		before := int(e.chain[candidate%window]) - 1
		if before >= candidate {
			break // overwritten since
		}
		candidate = before
	}
	return place, size
}

// common gives how many bytes a and b begin with alike, at most len(b).
func common(a, b []byte) int {
	n := 0
	for ; n+8 <= len(b); n += 8 {
		if x := binary.LittleEndian.Uint64(a[n:]) ^ binary.LittleEndian.Uint64(b[n:]); x != 0 {
			return n + bits.TrailingZeros64(x)/8
		}
	}
	for n < len(b) && a[n] == b[n] {
		n++
	}
	return n
}

// writer writes sequences to dst as long as there is room.
type writer struct {
	dst []byte
	n   int
}

// extra gives how many bytes a length needs besides its four bits.
func extra(n int) int {
	if n < 15 {
		return 0
	}
	return (n-15)/255 + 1
}

// sequence writes literals and a match and returns the length of the match that
// was written: a shorter one if there is room for less, and 0, with nothing
// written, if there is no room for what must follow.
func (w *writer) sequence(literals []byte, distance, size int) int {
	room := len(w.dst) - w.n - (1 + extra(len(literals)) + len(literals) + 2)
	room -= 1 + max(lastLiterals, matchLimit-minMatch) // of the last sequence
	if room < 0 {
		return 0
	}
	size = min(size, minMatch+14+room*255) // as extra counts
	token := w.n
	w.n++
	w.dst[token] = byte(w.more(len(literals)) << 4)
	w.n += copy(w.dst[w.n:], literals)
	binary.LittleEndian.PutUint16(w.dst[w.n:], uint16(distance))
	w.n += 2
	w.dst[token] |= byte(w.more(size - minMatch))
	return size
}

// more writes the bytes of a length that its four bits cannot say, and returns
// these.
func (w *writer) more(n int) int {
	if n < 15 {
		return n
	}
	for n -= 15; n >= 255; n -= 255 {
		w.dst[w.n] = 255
		w.n++
	}
	w.dst[w.n] = byte(n)
	w.n++
	return 15
}

// last writes as many literals as there is room for, and returns the number.
func (w *writer) last(literals []byte) int {
	room := len(w.dst) - w.n - 1
	n := min(len(literals), room)
	for n > 0 && n+extra(n) > room {
		n--
	}
	token := w.n
	w.n++
	w.dst[token] = byte(w.more(n) << 4)
	w.n += copy(w.dst[w.n:], literals[:n])
	return n
}
