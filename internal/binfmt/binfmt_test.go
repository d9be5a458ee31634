// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package binfmt

import (
	"bytes"
	"debug/elf"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

// The programs are what another reader of ELF takes them for.
func TestProgram(t *testing.T) {
	for arch, m := range machines {
		t.Run(arch, func(t *testing.T) {
			f, err := elf.NewFile(bytes.NewReader(m.program()))
			if err != nil {
				t.Fatal(err)
			}
			if got := Architecture(uint16(f.Machine)); got != arch {
				t.Errorf("the program is for %s, want %s", got, arch)
			}
			if f.Type != elf.ET_EXEC || len(f.Progs) != 1 {
				t.Fatalf("type %v with %d segments, want a program with one", f.Type, len(f.Progs))
			}
			p := f.Progs[0]
			code := make([]byte, len(m.exit))
			if _, err := p.ReadAt(code, int64(f.Entry-p.Vaddr)); err != nil || string(code) != m.exit {
				t.Errorf("at the entry is %x, %v, want %x", code, err, m.exit)
			}
		})
	}
}

// Nothing is needed for what the machine runs itself.
func TestEnsureOwn(t *testing.T) {
	if _, ok := machines[runtime.GOARCH]; !ok {
		t.Skipf("%s has no program", runtime.GOARCH)
	}
	if err := new(Registry).Ensure(t.TempDir(), runtime.GOARCH, ""); err != nil {
		t.Error(err)
	}
}

func TestEnsureNothing(t *testing.T) {
	err := new(Registry).Ensure(t.TempDir(), "mips", "/nonexistent")
	if want := "no emulator is known for mips"; err == nil || err.Error() != want {
		t.Errorf("error %v, want %q", err, want)
	}
}

func TestFind(t *testing.T) {
	m, dir, other := machines["arm64"], t.TempDir(), t.TempDir()
	write := func(dir, name string, data []byte) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	search := strings.Join([]string{"relative", dir, other}, string(filepath.ListSeparator))
	if _, err := m.find(search); err == nil || !strings.Contains(err.Error(), "there is no qemu-aarch64-static in PATH") {
		t.Errorf("of empty directories: %v", err)
	}
	linked := m.program()
	linked[64] = byte(elf.PT_INTERP) // in place of PT_LOAD
	write(dir, "qemu-aarch64", linked)
	if _, err := m.find(search); err == nil || !strings.Contains(err.Error(), "is linked dynamically") {
		t.Errorf("of a program with a loader: %v", err)
	}
	write(dir, "qemu-aarch64-static", []byte("#!/bin/sh\n"))
	write(other, "qemu-aarch64-static", m.program())
	if got, err := m.find(search); err != nil || got != filepath.Join(other, "qemu-aarch64-static") {
		t.Errorf("found %q, %v", got, err)
	}
}

func TestLine(t *testing.T) {
	const want = `:stacker-s390x:M:0:\x7f\x45\x4c\x46\x02\x02\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x16:` +
		`\xff\xff\xff\xff\xff\xff\xff\x00\x00\x00\x00\x00\x00\x00\x00\x00\xff\xfe\xff\xff:/e:FCP`
	if got := machines["s390x"].line("s390x", "/e"); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
}
