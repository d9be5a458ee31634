// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"encoding/binary"
	"runtime"
	"syscall"
)

// image is what has to be known of a program to map it (elf(5)).
type image struct {
	fixed  bool // its addresses are final
	entry  uint64
	header uint64 // address of the program headers
	count  uint64 // of them
	loads  []segment
	loader string // path of the loader that it asks for; empty: none
}

// segment is a PT_LOAD.
type segment struct {
	offset, addr, fileSize, size, align uint64
	prot                                uint64
}

const (
	headerSize  = 64
	segmentSize = 56
	maxSegments = 512

	typeExec, typeDyn  = 2, 3
	segLoad, segInterp = 1, 3
)

// machine is e_machine of programs that can run here.
func machine() uint16 {
	if runtime.GOARCH == "arm64" {
		return 183
	}
	return 62
}

// readImage reads the headers of a program. ENOEXEC: it is none, or one for another machine.
func readImage(read func(b []byte, at int64) (int, error)) (image, syscall.Errno) {
	const bad = syscall.ENOEXEC
	var h [headerSize]byte
	if n, _ := read(h[:], 0); n < headerSize {
		return image{}, bad
	}
	le := binary.LittleEndian
	const class64, littleEndian = 2, 1
	kind := le.Uint16(h[16:])
	if string(h[:4]) != "\x7fELF" || h[4] != class64 || h[5] != littleEndian || le.Uint16(h[18:]) != machine() ||
		kind != typeExec && kind != typeDyn || le.Uint16(h[54:]) != segmentSize {
		return image{}, bad
	}
	im := image{fixed: kind == typeExec, entry: le.Uint64(h[24:]), count: uint64(le.Uint16(h[56:]))}
	at := le.Uint64(h[32:])
	if im.count == 0 || im.count > maxSegments || at > 1<<40 {
		return image{}, bad
	}
	b := make([]byte, segmentSize*im.count)
	if n, _ := read(b, int64(at)); n < len(b) {
		return image{}, bad
	}
	for ; len(b) > 0; b = b[segmentSize:] {
		s := segment{offset: le.Uint64(b[8:]), addr: le.Uint64(b[16:]), fileSize: le.Uint64(b[32:]), size: le.Uint64(b[40:]), align: le.Uint64(b[48:])}
		flags := le.Uint32(b[4:])
		s.prot = uint64(flags>>2&1 | flags&2 | flags&1<<2) // R and X change places
		switch le.Uint32(b) {
		case segLoad:
			if !s.valid() {
				return image{}, bad
			}
			if at >= s.offset && at-s.offset < s.fileSize {
				im.header = s.addr + at - s.offset
			}
			im.loads = append(im.loads, s)
		case segInterp:
			if im.loader == "" {
				if im.loader = readLoader(read, s); im.loader == "" {
					return image{}, bad
				}
			}
		}
	}
	if len(im.loads) == 0 {
		return image{}, bad
	}
	return im, 0
}

func readLoader(read func(b []byte, at int64) (int, error), s segment) string {
	if s.fileSize < 2 || s.fileSize > pathMax || s.offset > 1<<40 {
		return ""
	}
	b := make([]byte, s.fileSize)
	if n, _ := read(b, int64(s.offset)); n < len(b) || b[len(b)-1] != 0 {
		return ""
	}
	for i, c := range b {
		if c == 0 {
			return string(b[:i])
		}
	}
	return ""
}

// valid tells whether a segment can be mapped at all.
func (s *segment) valid() bool {
	const most = 1 << 46
	page := uint64(syscall.Getpagesize())
	return s.addr < most && s.size < most && s.fileSize <= s.size && s.offset < most &&
		s.addr%page == s.offset%page && (s.align == 0 || s.align&(s.align-1) == 0 && s.align < most)
}

// span gives the first address of the segments, the end of the last, and the largest
// alignment.
func (im *image) span() (low, high, align uint64) {
	page := uint64(syscall.Getpagesize())
	low, align = 1<<63, page
	for _, s := range im.loads {
		low = min(low, s.addr&^(page-1))
		high = max(high, (s.addr+s.size+page-1)&^(page-1))
		align = max(align, s.align)
	}
	return low, high, align
}
