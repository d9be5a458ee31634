// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"syscall"
	"unsafe"
)

// Numbers and constants that package syscall has not, or not for every architecture. Those
// of calls since Linux 5.1 are the same on all.
const (
	sysOpenat2    = 437
	sysFaccessat2 = 439
	sysFchmodat2  = 452
	sysPidfdOpen  = 434

	oPath    = 0x200000
	oTmpfile = 0x400000 // without O_DIRECTORY

	atFdcwd           = -100
	atSymlinkNofollow = 0x100
	atRemoveDir       = 0x200
	atSymlinkFollow   = 0x400
	atEmptyPath       = 0x1000
	atStatxSync       = 0x6000

	typeMask = syscall.S_IFMT
	modeBits = 0o7777

	pathMax = 4096
	nameMax = 255
)

// cstr gives a string for the kernel. It has no NUL inside: it comes from one with a NUL at
// its end, or from this program.
func cstr(s string) *byte {
	b := make([]byte, len(s)+1)
	copy(b, s)
	return &b[0]
}

func openat(dir int, name string, flags int, mode uint32) (int, syscall.Errno) {
	fd, _, e := syscall.Syscall6(syscall.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(cstr(name))), uintptr(flags|syscall.O_CLOEXEC|syscall.O_NOCTTY), uintptr(mode), 0, 0)
	if e != 0 {
		return -1, e
	}
	return int(fd), 0
}

func closeFd(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

func fstat(fd int) (st syscall.Stat_t, e syscall.Errno) {
	_, _, e = syscall.Syscall6(sysFstatat, uintptr(fd), uintptr(unsafe.Pointer(cstr(""))), uintptr(unsafe.Pointer(&st)), atEmptyPath, 0, 0)
	return st, e
}

// readlinkat gives what is in a link; name empty: the link that dir is.
func readlinkat(dir int, name string) (string, syscall.Errno) {
	var buf [pathMax + 1]byte
	n, _, e := syscall.Syscall6(syscall.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(cstr(name))), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return "", e
	}
	if int(n) > pathMax {
		return "", syscall.ENAMETOOLONG
	}
	return string(buf[:n]), 0
}

// procFd is a name for the open file fd.
func procFd(fd int) string { return "/proc/self/fd/" + itoa(uint64(fd)) }

func itoa(n uint64) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + n%10)
		n /= 10
		if n == 0 {
			return string(b[i:])
		}
	}
}

// decimal reads a number as /proc writes it.
func decimal(s string) (n uint32, ok bool) {
	if s == "" || len(s) > 9 || len(s) > 1 && s[0] == '0' {
		return 0, false
	}
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
		n = n*10 + uint32(s[i]-'0')
	}
	return n, true
}

func arg32(v uint64) int { return int(int32(uint32(v))) }

// bytesOf is the memory of a value for the kernel.
func bytesOf[T any](v *T) []byte {
	return unsafe.Slice((*byte)(unsafe.Pointer(v)), unsafe.Sizeof(*v))
}
