// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"strings"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/container/supervisor"
	"build.stacker.dev/internal/layer/record"
)

// Attributes are set by this process. Capabilities of files are refused to who has none;
// they are noted in another attribute.

const (
	capability     = "security.capability"
	capabilityNote = record.Capability
	attrMax        = 64 << 10 // XATTR_SIZE_MAX, XATTR_LIST_MAX
)

// attrFile is the file of an attribute call: a path or, with addr 0, an open file.
type attrFile struct {
	fd     int
	addr   uint64
	follow bool
}

func (e *engine) openAttr(f attrFile) (int, syscall.Stat_t, syscall.Errno) {
	if f.addr == 0 {
		return e.file(f.fd)
	}
	return e.target(atFdcwd, f.addr, f.follow, false)
}

// attrName reads the name of an attribute, and gives the one that stands for it.
func (e *engine) attrName(addr uint64) (string, syscall.Errno) {
	name, errno := e.core.String(addr)
	switch {
	case errno != 0:
		return "", errno
	case len(name) > nameMax || name == "":
		return "", syscall.ERANGE
	case supervisor.Private(name):
		return "", syscall.ENODATA
	case name == capability:
		return capabilityNote, 0
	}
	return name, 0
}

func (e *engine) setAttr(f attrFile, name, value, size, flags uint64) answer {
	attr, errno := e.attrName(name)
	if errno == syscall.ENODATA {
		errno = syscall.EPERM
	}
	if errno == 0 && size > attrMax {
		errno = syscall.E2BIG
	}
	if errno != 0 {
		return fails(errno)
	}
	b := make([]byte, size)
	if errno := e.core.Read(value, b); size > 0 && errno != 0 {
		return fails(errno)
	}
	fd, st, errno := e.openAttr(f)
	return e.changeFd(fd, &st, errno, func(fd int, st *syscall.Stat_t) syscall.Errno {
		if errno := e.mayDescribe(fd, st); errno != 0 {
			return errno
		}
		if kind := st.Mode & typeMask; kind == syscall.S_IFLNK {
			return syscall.EPERM
		}
		do := func() (int, syscall.Errno) {
			_, _, errno := syscall.Syscall6(syscall.SYS_SETXATTR, uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(unsafe.Pointer(cstr(attr))), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), uintptr(flags), 0)
			return 0, errno
		}
		_, errno := do()
		if errno == syscall.EACCES {
			_, errno = e.forced(fd, do)
		}
		return errno
	})
}

func (e *engine) getAttr(f attrFile, name, out, size uint64) answer {
	attr, errno := e.attrName(name)
	if errno != 0 {
		return fails(errno)
	}
	fd, _, errno := e.openAttr(f)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	b := make([]byte, min(size, attrMax))
	n, errno := e.readAttr(fd, attr, b)
	if errno != 0 {
		return fails(errno)
	}
	if size > 0 {
		if errno := e.core.Write(out, b[:n]); errno != 0 {
			return fails(errno)
		}
	}
	return done(int64(n))
}

func (e *engine) readAttr(fd int, attr string, b []byte) (int, syscall.Errno) {
	do := func() (int, syscall.Errno) {
		n, _, errno := syscall.Syscall6(syscall.SYS_GETXATTR, uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(unsafe.Pointer(cstr(attr))), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)), 0, 0)
		return int(n), errno
	}
	n, errno := do()
	if errno == syscall.EACCES {
		n, errno = e.forced(fd, do)
	}
	return n, errno
}

func (e *engine) removeAttr(f attrFile, name uint64) answer {
	attr, errno := e.attrName(name)
	if errno != 0 {
		return fails(errno)
	}
	fd, st, errno := e.openAttr(f)
	return e.changeFd(fd, &st, errno, func(fd int, st *syscall.Stat_t) syscall.Errno {
		if errno := e.mayDescribe(fd, st); errno != 0 {
			return errno
		}
		do := func() (int, syscall.Errno) { return 0, removeAttr(fd, attr) }
		_, errno := do()
		if errno == syscall.EACCES {
			_, errno = e.forced(fd, do)
		}
		return errno
	})
}

func removeAttr(fd int, attr string) syscall.Errno {
	_, _, errno := syscall.Syscall(syscall.SYS_REMOVEXATTR, uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(unsafe.Pointer(cstr(attr))), 0)
	return errno
}

// ioctl answers the requests of ioctl(2) that change flags of a file (ioctl_iflags(2)), which must not
// be in a mount that is read-only. What the request says is copied, so that it cannot change.
func (e *engine) ioctl(file int, request uint32, addr uint64) answer {
	const setFlags, setAttributes = 0x40086602, 0x401c5820
	var b []byte
	switch request {
	case setFlags:
		b = make([]byte, 4) // whatever the number of the request says
	case setAttributes:
		b = make([]byte, 28)
	default:
		return fails(syscall.EPERM)
	}
	if errno := e.core.Read(addr, b); errno != 0 {
		return fails(errno)
	}
	return e.changeFile(file, func(fd int, st *syscall.Stat_t) syscall.Errno {
		if kind := st.Mode & typeMask; kind != syscall.S_IFREG && kind != syscall.S_IFDIR {
			return syscall.ENOTTY
		}
		if errno := e.mayDescribe(fd, st); errno != 0 {
			return errno
		}
		own, errno := e.readable(fd, syscall.O_NONBLOCK)
		if errno != 0 {
			return errno
		}
		defer closeFd(own)
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, uintptr(own), uintptr(request), uintptr(unsafe.Pointer(&b[0])))
		return errno
	})
}

// listAttr answers listxattr(2): notes are not shown, but what they stand for.
func (e *engine) listAttr(f attrFile, out, size uint64) answer {
	fd, _, errno := e.openAttr(f)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	b := make([]byte, attrMax)
	n, _, errno := syscall.Syscall(syscall.SYS_LISTXATTR, uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(unsafe.Pointer(unsafe.SliceData(b))), uintptr(len(b)))
	if errno != 0 {
		return fails(errno)
	}
	var list []byte
	for name := range strings.SplitSeq(string(b[:n]), "\x00") {
		if name == capabilityNote {
			name = capability
		}
		if name != "" && !supervisor.Private(name) {
			list = append(append(list, name...), 0)
		}
	}
	switch {
	case size == 0:
	case size < uint64(len(list)):
		return fails(syscall.ERANGE)
	default:
		if errno := e.core.Write(out, list); errno != 0 {
			return fails(errno)
		}
	}
	return done(int64(len(list)))
}
