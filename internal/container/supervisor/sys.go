// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"
)

// Numbers and constants that package syscall has not, or not for every
// architecture. Those of calls since Linux 5.1 are the same on all.
const (
	sysPidfdSendSignal = 424
	sysPidfdOpen       = 434
	sysOpenat2         = 437
	sysStatx           = nrStatx
	sysFaccessat2      = 439

	oPath    = 0x200000
	oTmpfile = 0x400000 // without O_DIRECTORY

	atFdcwd           = -100
	atSymlinkNofollow = 0x100
	atEaccess         = 0x200
	atSymlinkFollow   = 0x400
	atEmptyPath       = 0x1000
	atStatxSync       = 0x6000

	resolveNoMagicLinks = 0x02
	resolveInRoot       = 0x10

	statxBasic   = 0x07ff
	statxMountID = 0x1000
)

// statxBuf is struct statx, as far as it is looked at.
type statxBuf struct {
	mask, blockSize uint32
	attributes      uint64
	links, uid, gid uint32
	mode, _         uint16
	_               [14]uint64 // ino to dev_minor
	mountID         uint64
	_               [13]uint64
}

// openat opens name, which ends in NUL.
func openat(dir int, name *byte, flags int, mode uint32) (int, syscall.Errno) {
	fd, _, e := syscall.Syscall6(syscall.SYS_OPENAT, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(flags|syscall.O_CLOEXEC), uintptr(mode), 0, 0)
	return int(fd), e
}

type openHow struct{ flags, mode, resolve uint64 }

// openat2 opens name as seen from dir, without magic links.
func openat2(dir int, name *byte, flags int, resolve uint64) (int, syscall.Errno) {
	h := openHow{flags: uint64(flags | syscall.O_CLOEXEC), resolve: resolve | resolveNoMagicLinks}
	for range 64 {
		fd, _, e := syscall.Syscall6(sysOpenat2, uintptr(dir), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&h)), unsafe.Sizeof(h), 0, 0)
		if e != syscall.EAGAIN { // a rename coincided with ".."
			return int(fd), e
		}
	}
	return -1, syscall.EAGAIN
}

func closeFd(fd int) { _, _, _ = syscall.RawSyscall(syscall.SYS_CLOSE, uintptr(fd), 0, 0) }

// cstring is a constant name for the kernel, with its NUL.
type cstring string

func (c cstring) first() *byte { return unsafe.StringData(string(c)) }

func (c cstring) ptr() uintptr { return uintptr(unsafe.Pointer(c.first())) }

// getxattr reads an attribute of the file called name into s.value.
func (s *supervisor) getxattr(name *byte, attr cstring, follow bool) ([]byte, syscall.Errno) {
	nr := uintptr(syscall.SYS_LGETXATTR)
	if follow {
		nr = syscall.SYS_GETXATTR
	}
	n, _, e := syscall.Syscall6(nr, uintptr(unsafe.Pointer(name)), attr.ptr(), uintptr(unsafe.Pointer(&s.value)), unsafe.Sizeof(s.value), 0, 0)
	if e != 0 {
		return nil, e
	}
	return s.value[:n], 0
}

// listxattr reads the names of all attributes of the file called name into s.names.
func (s *supervisor) listxattr(name *byte, follow bool) (int, syscall.Errno) {
	nr := uintptr(syscall.SYS_LLISTXATTR)
	if follow {
		nr = syscall.SYS_LISTXATTR
	}
	n, _, e := syscall.Syscall(nr, uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&s.names)), unsafe.Sizeof(s.names))
	if e != 0 {
		return 0, e
	}
	return int(n), 0
}

func setxattr(name *byte, attr uintptr, value []byte) syscall.Errno {
	_, _, e := syscall.Syscall6(syscall.SYS_SETXATTR, uintptr(unsafe.Pointer(name)), attr, uintptr(unsafe.Pointer(unsafe.SliceData(value))), uintptr(len(value)), 0, 0)
	return e
}

func removexattr(name *byte, attr uintptr) syscall.Errno {
	_, _, e := syscall.Syscall(syscall.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(name)), attr, 0)
	return e
}

// readlink gives the length of what is in the link.
func readlink(name *byte, buf []byte) (int, syscall.Errno) {
	fdcwd := atFdcwd
	n, _, e := syscall.Syscall6(syscall.SYS_READLINKAT, uintptr(fdcwd), uintptr(unsafe.Pointer(name)), uintptr(unsafe.Pointer(&buf[0])), uintptr(len(buf)), 0, 0)
	if e != 0 {
		return 0, e
	}
	if int(n) >= len(buf)-1 {
		return 0, syscall.ENAMETOOLONG
	}
	return int(n), 0
}

const empty cstring = "\x00"

// statxOf looks at an open file.
func (s *supervisor) statxOf(fd int) syscall.Errno {
	_, _, e := syscall.Syscall6(sysStatx, uintptr(fd), empty.ptr(), atEmptyPath, statxBasic|statxMountID, uintptr(unsafe.Pointer(&s.statx)), 0)
	return e
}
