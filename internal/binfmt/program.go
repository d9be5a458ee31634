// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package binfmt

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// machine is what the package knows of an architecture.
type machine struct {
	emulator string // the name of qemu's program for it
	elf      uint16 // e_machine of elf.h
	wide     bool   // 64 bits
	big      bool   // big endian
	exit     string // instructions of exit(0)
}

// machines are the architectures by their names in images, those for which
// distributions are made.
var machines = map[string]machine{
	"386":     {"qemu-i386", 3, false, false, "\xb8\x01\x00\x00\x00\x31\xdb\xcd\x80"},
	"amd64":   {"qemu-x86_64", 62, true, false, "\xb8\x3c\x00\x00\x00\x31\xff\x0f\x05"},
	"arm":     {"qemu-arm", 40, false, false, "\x00\x00\xa0\xe3\x01\x70\xa0\xe3\x00\x00\x00\xef"},
	"arm64":   {"qemu-aarch64", 183, true, false, "\xa8\x0b\x80\xd2\x00\x00\x80\xd2\x01\x00\x00\xd4"},
	"ppc64le": {"qemu-ppc64le", 21, true, false, "\x01\x00\x00\x38\x00\x00\x60\x38\x02\x00\x00\x44"},
	"riscv64": {"qemu-riscv64", 243, true, false, "\x93\x08\xd0\x05\x13\x05\x00\x00\x73\x00\x00\x00"},
	"s390x":   {"qemu-s390x", 22, true, true, "\xa7\x29\x00\x00\x0a\x01"},
}

// Architecture gives the name that images have for e_machine of elf.h, or a number
// where it is not known.
func Architecture(elf uint16) string {
	for name, m := range machines {
		if m.elf == elf {
			return name
		}
	}
	return fmt.Sprintf("machine %d", elf)
}

func (m machine) order() binary.AppendByteOrder {
	if m.big {
		return binary.BigEndian
	}
	return binary.LittleEndian
}

// ident is the beginning of a program: e_ident, e_type ET_EXEC, e_machine.
func (m machine) ident() []byte {
	class, data := byte(1), byte(1)
	if m.wide {
		class = 2
	}
	if m.big {
		data = 2
	}
	b := append([]byte{0x7f, 'E', 'L', 'F', class, data, 1}, make([]byte, 9)...)
	b = m.order().AppendUint16(b, 2)
	return m.order().AppendUint16(b, m.elf)
}

// program is a whole program of one segment that does nothing and succeeds.
func (m machine) program() []byte {
	const base = 0x400000
	header, segment := 52, 32
	word := func(b []byte, n uint64) []byte { return m.order().AppendUint32(b, uint32(n)) }
	if m.wide {
		header, segment, word = 64, 56, m.order().AppendUint64
	}
	size := uint64(header + segment + len(m.exit))
	b := m.ident()
	b = m.order().AppendUint32(b, 1)
	for _, n := range []uint64{base + uint64(header+segment), uint64(header), 0} { // entry, segments, sections
		b = word(b, n)
	}
	flags := uint32(0)
	if m.elf == machines["ppc64le"].elf {
		flags = 2 // its second ABI: the entry is code and no descriptor of it
	}
	b = m.order().AppendUint32(b, flags)
	for _, n := range []int{header, segment, 1, 0, 0, 0} {
		b = m.order().AppendUint16(b, uint16(n))
	}
	const load, readExecute, page = 1, 5, 0x10000
	b = m.order().AppendUint32(b, load)
	if m.wide {
		b = m.order().AppendUint32(b, readExecute)
	}
	for _, n := range []uint64{0, base, base, size, size} { // offset, two addresses, two sizes
		b = word(b, n)
	}
	if !m.wide {
		b = m.order().AppendUint32(b, readExecute)
	}
	b = word(b, page)
	return append(b, m.exit...)
}

// line is what the kernel is told of an emulator (admin-guide/binfmt-misc). Its flags: F
// opens it now, since a step's root file system has none; C honours set-user-id bits of the
// programs; P keeps their argv[0], by which busybox knows what it is.
func (m machine) line(arch, emulator string) string {
	ident := m.ident()
	mask := make([]byte, len(ident))
	for i := range mask {
		if i < 7 || i >= 16 { // what is between says nothing about the machine
			mask[i] = 0xff
		}
	}
	low := 16 // the byte of e_type that tells ET_EXEC from ET_DYN
	if m.big {
		low = 17
	}
	mask[low] = 0xfe
	return fmt.Sprintf(":stacker-%s:M:0:%s:%s:%s:FCP", arch, escape(ident), escape(mask), emulator)
}

func escape(b []byte) string {
	var out strings.Builder
	for _, c := range b {
		fmt.Fprintf(&out, `\x%02x`, c)
	}
	return out.String()
}
