// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"syscall"
	"unsafe"
)

func (e *engine) stat(dir int, addr uint64, flags uint64, out func(fd int, st *syscall.Stat_t) syscall.Errno) answer {
	if flags&^(atSymlinkNofollow|atEmptyPath|atStatxSync|atNoAutomount) != 0 {
		return fails(syscall.EINVAL)
	}
	fd, st, errno := e.target(dir, addr, flags&atSymlinkNofollow == 0, flags&atEmptyPath != 0)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	return fails(out(fd, &st))
}

func (e *engine) statFile(file int, out func(fd int, st *syscall.Stat_t) syscall.Errno) answer {
	if file < 0 {
		return fails(syscall.EBADF)
	}
	fd, st, errno := e.file(file)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	return fails(out(fd, &st))
}

const atNoAutomount = 0x800

// writeStat writes a struct stat to addr of the process.
func (e *engine) writeStat(addr uint64) func(int, *syscall.Stat_t) syscall.Errno {
	return func(fd int, st *syscall.Stat_t) syscall.Errno {
		st.Uid, st.Gid = e.ownerOf(fd, st)
		return e.core.Write(addr, bytesOf(st))
	}
}

// writeStatx writes a struct statx.
func (e *engine) writeStatx(flags, mask, addr uint64) func(int, *syscall.Stat_t) syscall.Errno {
	return func(fd int, st *syscall.Stat_t) syscall.Errno {
		var b [256]byte
		const uid, gid = 20, 24 // stx_uid, stx_gid
		_, _, errno := syscall.Syscall6(sysStatx, uintptr(fd), uintptr(unsafe.Pointer(cstr(""))), uintptr(flags&atStatxSync|atEmptyPath), uintptr(mask), uintptr(unsafe.Pointer(&b)), 0)
		if errno != 0 {
			return errno
		}
		u, g := e.ownerOf(fd, st)
		*(*uint32)(unsafe.Pointer(&b[uid])), *(*uint32)(unsafe.Pointer(&b[gid])) = u, g
		return e.core.Write(addr, b[:])
	}
}

// access answers access(2) as for a process that owns all: the files of a step do.
func (e *engine) access(dir int, addr uint64, mode, flags uint64) answer {
	const exec, write = 1, 2
	if mode&^7 != 0 || flags&^(atSymlinkNofollow|atEmptyPath|atRemoveDir) != 0 { // the last is AT_EACCESS too
		return fails(syscall.EINVAL)
	}
	fd, st, errno := e.target(dir, addr, flags&atSymlinkNofollow == 0, flags&atEmptyPath != 0)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	kind := st.Mode & typeMask
	if mode&write != 0 && (kind == syscall.S_IFREG || kind == syscall.S_IFDIR) {
		if errno := e.writable(fd); errno != 0 {
			return fails(errno)
		}
	}
	if mode&exec != 0 && kind != syscall.S_IFDIR && st.Mode&0o111 == 0 {
		return fails(syscall.EACCES)
	}
	if st.Uid == e.uid {
		return done(0)
	}
	fdcwd := atFdcwd
	_, _, errno = syscall.Syscall6(sysFaccessat2, uintptr(fdcwd), uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(mode), 0, 0, 0)
	return fails(errno)
}

func (e *engine) readlink(dir int, addr, out, size uint64) answer {
	path, errno := e.core.String(addr)
	if errno != 0 {
		return fails(errno)
	}
	if int32(size) <= 0 {
		return fails(syscall.EINVAL)
	}
	text, errno := e.linkText(dir, path)
	if errno != 0 {
		return fails(errno)
	}
	b := []byte(text)
	b = b[:min(uint64(len(b)), size)]
	if errno := e.core.Write(out, b); errno != 0 {
		return fails(errno)
	}
	return done(int64(len(b)))
}

func (e *engine) linkText(dir int, path string) (string, syscall.Errno) {
	if path == "" { // an open link
		fd, _, errno := e.file(dir)
		if errno != 0 {
			return "", errno
		}
		defer closeFd(fd)
		return readlinkat(fd, "")
	}
	s, errno := e.find(dir, path)
	if errno != 0 {
		return "", errno
	}
	defer s.close()
	switch {
	case s.link != "":
		return s.link, 0
	case s.leaf == "":
		return "", syscall.EINVAL
	case s.slash:
		fd, _, errno := s.open(true)
		if errno == 0 {
			closeFd(fd)
			errno = syscall.EINVAL
		}
		return "", errno
	}
	return readlinkat(s.dir, s.leaf)
}

func (e *engine) statfs(addr, out uint64) answer {
	fd, _, errno := e.target(atFdcwd, addr, true, false)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	var st syscall.Statfs_t
	if _, _, errno := syscall.Syscall(syscall.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(&st)), 0); errno != 0 {
		return fails(errno)
	}
	return fails(e.core.Write(out, bytesOf(&st)))
}
