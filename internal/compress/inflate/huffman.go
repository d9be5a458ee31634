// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package inflate

import "math/bits"

// Limits of RFC 1951, sections 3.2.5 to 3.2.7.
const (
	maxCodeLen  = 15
	endOfBlock  = 256
	numLitLen   = 286 // symbols 286 and 287 take part in the fixed code only, and must not occur
	numDist     = 30  // symbols 30 and 31 likewise
	maxLitLen   = 288
	maxDist     = 32
	maxDistBits = maxCodeLen + 13 // the code of a distance and its extra bits
	numCodeLen  = 19
	litTable    = 11 // bits looked up at once for a literal or length
	distTable   = 9  // bits looked up at once for a distance
	lenTable    = 7  // longest code that describes other codes
	litEntries  = 1 << 13
	distEntries = 1 << 12
	lenEntries  = 1 << lenTable
)

// A decoding table is an array of packed entries. The low bits of the input select
// an entry of the first part, 1<<tableBits entries; an entry there is either a symbol or points to a
// second table, appended to the first, which is selected by the next bits. An entry is
//
//	bits 0-5    bits to consume: the code and the extra bits that follow it
//	bits 8-11   bits of the code alone (link: index bits of the second table)
//	bits 16-    literal, base of a length or distance, or start of the second table
//	bit 31      a literal (literal/length table), not a plain distance (distance table)
//	bit 30      neither a literal nor a plain length (literal/length table only)
//	bit 29      with bit 30: the end of the block
//	bit 15      with bit 30, or 31 of a distance: no such code
//
// A distance base needs bits 16 to 30, hence the two meanings of bit 31.
const (
	flagLiteral = 1 << 31
	flagSpecial = 1 << 30
	flagDist    = 1 << 31
	flagEnd     = 1 << 29
	flagBad     = 1 << 15
	flagNoLink  = flagEnd | flagBad

	badLitLen  = flagSpecial | flagEnd | flagBad
	badDist    = flagDist | flagBad
	valueShift = 16
	valueMask  = 0x7fff
	codeShift  = 8
	codeMask   = 15
	totalMask  = 63
	linkMask   = 0x1fff
)

// kind says what the symbols of a table mean, and so how its entries are packed.
type kind int

const (
	kindLitLen kind = iota
	kindDist
	kindCodeLen
)

// symbol returns the table entry of symbol s without its code length.
func (k kind) symbol(s int) uint32 {
	switch k {
	case kindDist:
		if s >= numDist {
			return badDist
		}
		extra := max(0, s/2-1)
		base := s + 1
		if extra > 0 {
			base = (2+s%2)<<extra + 1
		}
		return uint32(base)<<valueShift | uint32(extra)
	case kindCodeLen:
		return uint32(s) << valueShift
	case kindLitLen:
	}
	switch {
	case s < endOfBlock:
		return flagLiteral | uint32(s)<<valueShift
	case s == endOfBlock:
		return flagSpecial | flagEnd
	case s >= numLitLen:
		return badLitLen
	case s == numLitLen-1:
		return 258 << valueShift
	}
	n := s - endOfBlock - 1
	extra := max(0, n/4-1)
	base := n + 3
	if extra > 0 {
		base = (4+n%4)<<extra + 3
	}
	return uint32(base)<<valueShift | uint32(extra)
}

// bad returns the entry of a bit pattern that no code begins with.
func (k kind) bad() uint32 {
	if k == kindLitLen {
		return badLitLen
	}
	return badDist
}

// link returns the entry that leads to the second table at start.
func (k kind) link(start, indexBits, tableBits int) uint32 {
	e := uint32(start)<<valueShift | uint32(indexBits)<<codeShift | uint32(tableBits)
	if k == kindDist {
		return e | flagDist
	}
	return e | flagSpecial
}

// symbolEntries holds kind.symbol of every symbol: tables are built often, symbols never change.
type symbolEntries struct {
	litLen [maxLitLen]uint32
	dist   [maxDist]uint32
	length [numCodeLen]uint32
}

func newSymbolEntries() *symbolEntries {
	s := new(symbolEntries)
	for i := range s.litLen {
		s.litLen[i] = kindLitLen.symbol(i)
	}
	for i := range s.dist {
		s.dist[i] = kindDist.symbol(i)
	}
	for i := range s.length {
		s.length[i] = kindCodeLen.symbol(i)
	}
	return s
}

// buildTable fills table with the canonical code whose code lengths are lens; tableBits is the
// size of the first part. It reports whether the lengths are a complete prefix code. A code without
// symbols and one that has only a single symbol of one bit are let through, as
// other decoders do: they fail where a missing code is met.
func buildTable(table []uint32, k kind, tableBits int, lens []uint8, entries []uint32) bool {
	var count [maxCodeLen + 1]int
	for _, n := range lens {
		count[n&maxCodeLen]++
	}
	used := len(lens) - count[0]
	count[0] = 0
	longest := maxCodeLen
	for longest > 0 && count[longest] == 0 {
		longest--
	}

	var next, place [maxCodeLen + 2]int
	code := 0
	for n := 1; n <= longest; n++ {
		code <<= 1
		next[n] = code
		code += count[n]
		place[n+1] = place[n] + count[n]
	}
	if code != 1<<longest || used == 0 {
		if used > 1 || used == 1 && longest != 1 {
			return false
		}
		first := table[:1<<tableBits]
		for i := range first {
			first[i] = k.bad()
		}
		if used == 0 {
			return true
		}
	}

	// Symbols in the order of their codes: short codes first.
	var sorted [maxLitLen]uint16
	for s, n := range lens {
		if n != 0 {
			sorted[place[n]] = uint16(s)
			place[n]++
		}
	}

	end := 1 << tableBits
	subBits := longest - tableBits
	prefix, start := -1, 0
	for _, s := range sorted[:used] {
		n := int(lens[s])
		rev := int(bits.Reverse16(uint16(next[n])) >> (16 - n))
		next[n]++
		if n <= tableBits {
			e := entries[s] + uint32(n)<<codeShift + uint32(n)
			for i := rev; i < 1<<tableBits; i += 1 << n {
				table[i] = e
			}
			continue
		}
		if p := rev & (1<<tableBits - 1); p != prefix {
			prefix, start = p, end
			end += 1 << subBits
			table[p] = k.link(start, subBits, tableBits)
		}
		n -= tableBits
		e := entries[s] + uint32(n)<<codeShift + uint32(n)
		sub := table[start : start+1<<subBits]
		for i := rev >> tableBits; i < len(sub); i += 1 << n {
			sub[i] = e
		}
	}
	return true
}
