// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"encoding/binary"
	"os"
	"runtime"

	"github.com/rogpeppe/go-internal/testscript"
)

// cmdForeign writes a static program for a machine that this one is not (arm64, or
// amd64 on that): it prints "foreign", makes the file /made, and fails where it
// cannot. foreign FILE.
func cmdForeign(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: foreign FILE")
	}
	machine, code := uint16(183), foreignARM64
	if runtime.GOARCH == "arm64" {
		machine, code = 62, foreignAMD64
	}
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), elfProgram(machine, append(code, "foreign\n/made\x00"...)), 0o755))
}

// foreignARM64 is followed by the text and the name.
var foreignARM64 = instructions(
	0xd2800020,       // mov x0, #1
	0x10000001|13<<5, // adr x1, text: 13 instructions on
	0xd2800102,       // mov x2, #8
	0xd2800808,       // mov x8, #64: write
	0xd4000001,       // svc #0
	0x92800c60,       // mov x0, #-100: AT_FDCWD
	0x10000001|10<<5, // adr x1, name
	0xd2800822,       // mov x2, #0101: O_WRONLY|O_CREAT
	0xd2803483,       // mov x3, #0644
	0xd2800708,       // mov x8, #56: openat
	0xd4000001,       // svc #0
	0xd37ffc00,       // lsr x0, x0, #63: 1 after an error
	0xd2800ba8,       // mov x8, #93: exit
	0xd4000001,       // svc #0
)

var foreignAMD64 = []byte("\xb8\x01\x00\x00\x00" + // mov eax, 1: write
	"\xbf\x01\x00\x00\x00" + // mov edi, 1
	"\x48\x8d\x35\x27\x00\x00\x00" + // lea rsi, [text]
	"\xba\x08\x00\x00\x00" + // mov edx, 8
	"\x0f\x05" + // syscall
	"\xb8\x55\x00\x00\x00" + // mov eax, 85: creat
	"\x48\x8d\x3d\x1c\x00\x00\x00" + // lea rdi, [name]
	"\xbe\xa4\x01\x00\x00" + // mov esi, 0644
	"\x0f\x05" + // syscall
	"\x48\xc1\xe8\x3f" + // shr rax, 63: 1 after an error
	"\x89\xc7" + // mov edi, eax
	"\xb8\x3c\x00\x00\x00" + // mov eax, 60: exit
	"\x0f\x05") // syscall

func instructions(list ...uint32) []byte {
	var b []byte
	for _, n := range list {
		b = binary.LittleEndian.AppendUint32(b, n)
	}
	return b
}

// elfProgram puts a header around code.
func elfProgram(machine uint16, code []byte) []byte {
	const base, header, segment = 0x400000, 64, 56
	le := binary.LittleEndian
	b := []byte("\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00")
	b = le.AppendUint32(le.AppendUint16(b, machine), 1)
	for _, n := range []uint64{base + header + segment, header, 0} { // entry, segments, sections
		b = le.AppendUint64(b, n)
	}
	b = le.AppendUint32(b, 0)
	for _, n := range []uint16{header, segment, 1, 0, 0, 0} {
		b = le.AppendUint16(b, n)
	}
	b = le.AppendUint32(le.AppendUint32(b, 1), 5) // PT_LOAD, to be read and executed
	size := uint64(header + segment + len(code))
	for _, n := range []uint64{0, base, base, size, size, 0x10000} {
		b = le.AppendUint64(b, n)
	}
	return append(b, code...)
}
