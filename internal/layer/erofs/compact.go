// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import "encoding/binary"

// A compact index is made of packs: two entries in 8 bytes, or 16 in 32. A pack
// holds for each entry the type (2 bits) and a number (12 bits), and at its end
// the block before the first pcluster that begins in it. The number is where the
// extent begins in a head, and otherwise the distance to the head (or, in the last
// entry of the pack, to the next one), or the number of blocks of the pcluster.
// Packs of 16 come after as many small ones as are needed to start at a multiple
// of 32 bytes, and before small ones for the rest.
//
// Source: fs/erofs/zmap.c, compacted_load_cluster_from_disk and
// unpack_compacted_index.

// compactEntry gives the entry of a block of content.
func (x *zindex) compactEntry(i int64) (indexed, error) {
	small := (32 - x.at%32) % 32 / 4
	var large int64
	if x.two && small < x.count {
		large = (x.count - small) &^ 15
	}
	at, perPack, size := x.at, int64(2), int64(8)
	switch {
	case i < small:
	case i < small+large:
		at, perPack, size = at+small*4, 16, 32
		i -= small
	default:
		at += small*4 + large*2
		i -= small + large
	}
	at += i / perPack * size
	if at%8 != 0 {
		return indexed{}, broken("a compact index at byte %d", at)
	}
	pack, err := x.bytes(at, size)
	if err != nil {
		return indexed{}, err
	}
	e, err := x.unpack(pack, int(perPack), int(i%perPack))
	e.next = at + size
	return e, err
}

// unpack reads entry i of a pack of count entries.
func (x *zindex) unpack(pack []byte, count, i int) (indexed, error) {
	bits := (len(pack) - 4) * 8 / count
	get := func(i int) (kind uint8, number int) {
		at := i * bits
		// The last entries are followed by the block number, so four bytes are there.
		v := binary.LittleEndian.Uint32(pack[at/8:]) >> (at % 8)
		return uint8(v >> blockBits & 3), int(v & (blockSize - 1))
	}
	kind, number := get(i)
	e := indexed{kind: kind}
	if kind == indexNonHead {
		if number&blockCount != 0 {
			e.blocks = int64(number &^ blockCount)
		}
		return e, nil
	}
	e.ofs = int64(number)
	blocks := 0 // of the pclusters of this pack before the one that begins here
	if !x.big {
		blocks = 1
		for i > 0 {
			i--
			if kind, number := get(i); kind == indexNonHead {
				i -= number
			}
			if i >= 0 {
				blocks++
			}
		}
	} else {
		for i > 0 {
			i--
			kind, number := get(i)
			switch {
			case kind != indexNonHead:
				blocks++
			case number&blockCount != 0:
				i--
				blocks += number &^ blockCount
			case number <= 1:
				return indexed{}, broken("a pcluster without a number of blocks")
			default:
				i -= number - 2
			}
		}
	}
	e.block = int64(binary.LittleEndian.Uint32(pack[len(pack)-4:])) + int64(blocks)
	return e, nil
}
