// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"
)

// pageSize is the smallest of all machines: what does not cross such a border can
// be read or cannot, as a whole.
const pageSize = 4096

type iovec struct {
	base unsafe.Pointer
	size uintptr
}

// remote is an iovec with an address of another process.
type remote struct{ base, size uintptr }

// read copies n bytes at addr of the process that called to p.
func (s *supervisor) read(addr uint64, p unsafe.Pointer, n int) syscall.Errno {
	return s.copy(sysVMReadv, addr, p, n)
}

// write copies n bytes at p to addr of the process that called.
func (s *supervisor) write(addr uint64, p unsafe.Pointer, n int) syscall.Errno {
	return s.copy(sysVMWritev, addr, p, n)
}

func (s *supervisor) copy(nr uintptr, addr uint64, p unsafe.Pointer, n int) syscall.Errno {
	return copyMemory(nr, s.call.pid, addr, p, n)
}

func copyMemory(nr uintptr, pid uint32, addr uint64, p unsafe.Pointer, n int) syscall.Errno {
	here, there := iovec{p, uintptr(n)}, remote{uintptr(addr), uintptr(n)}
	got, _, e := syscall.RawSyscall6(nr, uintptr(pid), uintptr(unsafe.Pointer(&here)), 1, uintptr(unsafe.Pointer(&there)), 1, 0)
	if e == 0 && got == uintptr(n) {
		return 0
	}
	return syscall.EFAULT
}

// readString reads the string at addr into buf, with its NUL, and gives its
// length without.
func (s *supervisor) readString(addr uint64, buf *[pathMax + 1]byte) (int, syscall.Errno) {
	return readString(s.call.pid, addr, buf)
}

func readString(pid uint32, addr uint64, buf *[pathMax + 1]byte) (int, syscall.Errno) {
	const first = 256 // most paths are short
	for have := 0; have < pathMax; {
		at := addr + uint64(have)
		n := min(pageSize-int(at%pageSize), pathMax-have)
		if have == 0 {
			n = min(n, first)
		}
		if e := copyMemory(sysVMReadv, pid, at, unsafe.Pointer(&buf[have]), n); e != 0 {
			return 0, e
		}
		for i, b := range buf[have : have+n] {
			if b == 0 {
				return have + i, 0
			}
		}
		have += n
	}
	return 0, syscall.ENAMETOOLONG
}

// readPath reads the path at addr into s.path, as seen from the directory dir, and gives the directory to
// see it from: another one for a path through the process's own magic links, which are not this thread's.
func (s *supervisor) readPath(dir int32, addr uint64) (int32, syscall.Errno) {
	n, e := s.readString(addr, &s.path)
	s.pathLen = n
	if e != 0 || !s.special(s.path[:n]) {
		return dir, e
	}
	from, rest, ok := s.ownPlace(s.path[:n])
	if !ok {
		return dir, 0
	}
	s.pathLen = copy(s.path[:], s.path[rest:n])
	s.path[s.pathLen] = 0
	return from, 0
}
