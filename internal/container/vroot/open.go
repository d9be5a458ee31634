// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"runtime"
	"syscall"
	"unsafe"
)

// open answers open(2) and its like.
func (e *engine) open(dir int, addr uint64, flags int, mode uint32) answer {
	path, errno := e.core.String(addr)
	if errno != 0 {
		return fails(errno)
	}
	cloexec := flags&syscall.O_CLOEXEC != 0
	fd, wait, errno := e.openFile(dir, path, flags, mode)
	if errno != 0 {
		return fails(errno)
	}
	if wait {
		return e.openLater(fd, flags, cloexec)
	}
	defer closeFd(fd)
	if errno := e.core.AddFD(e.call.ID, fd, cloexec); errno != 0 {
		return fails(errno) // EMFILE of the process, or it is gone
	}
	return given()
}

// open2 answers openat2(2). What it may ask for beyond openat(2) is refused as on a file
// system where the kernel cannot tell.
func (e *engine) open2(dir int, addr, how, size uint64) answer {
	var h struct{ flags, mode, resolve uint64 }
	const known = 24
	if size < known {
		return fails(syscall.EINVAL)
	}
	if errno := e.core.Read(how, bytesOf(&h)); errno != 0 {
		return fails(errno)
	}
	if h.flags>>31 != 0 || h.mode&^modeBits != 0 {
		return fails(syscall.EINVAL)
	}
	if h.resolve != 0 || size != known {
		return fails(syscall.ENOSYS)
	}
	return e.open(dir, addr, int(h.flags), uint32(h.mode))
}

// openFile opens a file for the process. wait says that it is a FIFO, opened to name it
// only, whose open waits for the other end.
func (e *engine) openFile(dir int, path string, flags int, mode uint32) (fd int, wait bool, errno syscall.Errno) {
	if flags&oPath != 0 {
		flags &= oPath | syscall.O_DIRECTORY | syscall.O_NOFOLLOW | syscall.O_CLOEXEC // as the kernel does
		fd, errno = e.openName(dir, path, flags)
		return fd, false, errno
	}
	s, errno := e.find(dir, path)
	if errno != 0 {
		return -1, false, errno
	}
	defer func() { s.close() }()
	for {
		fd, wait, errno = e.openSpot(&s, flags, mode)
		if errno != errFollow {
			return fd, wait, errno
		}
		if errno := s.followLeaf(); errno != 0 {
			return -1, false, errno
		}
	}
}

// errFollow says that there is a link in the way; it is none that the kernel gives here.
const errFollow = syscall.EREMCHG

// openName opens a file that the process wants only to name (O_PATH): for reading, because
// the kernel hands on no others. So there are none of links.
func (e *engine) openName(dir int, path string, flags int) (int, syscall.Errno) {
	name, st, errno := e.resolve(dir, path, flags&syscall.O_NOFOLLOW == 0)
	if errno != 0 {
		return -1, errno
	}
	defer closeFd(name)
	switch {
	case flags&syscall.O_DIRECTORY != 0 && st.Mode&typeMask != syscall.S_IFDIR:
		return -1, syscall.ENOTDIR
	case st.Mode&typeMask == syscall.S_IFLNK:
		return -1, syscall.EOPNOTSUPP // as fchmodat(3) of the C library knows it from links
	}
	return e.readable(name, flags&syscall.O_DIRECTORY|syscall.O_NONBLOCK)
}

// readable opens for reading what the open file name is.
func (e *engine) readable(name, flags int) (int, syscall.Errno) {
	open := func() (int, syscall.Errno) { return openat(atFdcwd, procFd(name), syscall.O_RDONLY|flags, 0) }
	fd, errno := open()
	if errno == syscall.EACCES {
		fd, errno = e.forced(name, open)
	}
	return fd, errno
}

// openSpot opens what is at the spot, or makes it.
func (e *engine) openSpot(s *spot, flags int, mode uint32) (fd int, wait bool, errno syscall.Errno) {
	create := flags&syscall.O_CREAT != 0
	if flags&oTmpfile == oTmpfile {
		return e.openUnnamed(s, flags, mode)
	}
	if create && s.slash {
		return -1, false, syscall.EISDIR
	}
	if s.slash {
		flags |= syscall.O_DIRECTORY
	}
	changes := flags&syscall.O_ACCMODE != syscall.O_RDONLY || flags&(syscall.O_CREAT|syscall.O_TRUNC) != 0
	if s.link != "" {
		switch {
		case create && flags&syscall.O_EXCL != 0:
			return -1, false, syscall.EEXIST
		case flags&syscall.O_NOFOLLOW != 0:
			return -1, false, syscall.ELOOP
		case s.behind < 0:
			return -1, false, errFollow
		}
		return e.reopen(s.behind, flags, changes)
	}
	if s.leaf == "" {
		if create && flags&syscall.O_EXCL != 0 {
			return -1, false, syscall.EEXIST
		}
		if tty := e.terminal(s.dir); tty >= 0 {
			defer closeFd(tty)
			return e.reopen(tty, flags, changes)
		}
		return e.reopen(s.dir, flags, changes)
	}
	if changes {
		if errno := e.writable(s.dir); errno != 0 && !e.device(s) {
			return -1, false, e.refused(s, flags, errno)
		}
	}
	if create {
		return e.create(s, flags, mode)
	}
	return e.openEntry(s, flags, 0)
}

// terminal opens, to name it, the terminal that a process has among its streams, where the open
// file fd is /dev/tty, which to this process is another one; -1: there is none, or fd is something
// else.
func (e *engine) terminal(fd int) int {
	const major, first, last = 8, 136, 143 // of pseudo terminals
	st, errno := fstat(fd)
	if errno != 0 || st.Mode&typeMask != syscall.S_IFCHR || st.Rdev != 5<<major {
		return -1
	}
	for stream := range 3 {
		fd, st, errno := e.file(stream)
		if errno != 0 {
			continue
		}
		if n := st.Rdev >> major; st.Mode&typeMask == syscall.S_IFCHR && n >= first && n <= last {
			return fd
		}
		closeFd(fd)
	}
	return -1
}

// refused says why a file on a read-only mount cannot be opened.
func (e *engine) refused(s *spot, flags int, errno syscall.Errno) syscall.Errno {
	fd, st, other := s.entry(false)
	if other != 0 {
		if other == syscall.ENOENT && flags&syscall.O_CREAT != 0 {
			return errno
		}
		return other
	}
	closeFd(fd)
	if st.Mode&typeMask == syscall.S_IFLNK && flags&syscall.O_NOFOLLOW == 0 {
		return errFollow
	}
	if flags&(syscall.O_CREAT|syscall.O_EXCL) == syscall.O_CREAT|syscall.O_EXCL {
		return syscall.EEXIST
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY && flags&syscall.O_TRUNC == 0 {
		// O_CREAT of what is there
		return errno
	}
	return errno
}

// device tells whether a device or FIFO is at the spot: to write to it changes no file.
func (e *engine) device(s *spot) bool {
	fd, st, errno := s.entry(false)
	if errno != 0 {
		return false
	}
	closeFd(fd)
	switch st.Mode & typeMask {
	case syscall.S_IFCHR, syscall.S_IFBLK, syscall.S_IFIFO, syscall.S_IFSOCK:
		return true
	}
	return false
}

// openEntry opens the entry at the spot, which is no link, or gives errFollow.
func (e *engine) openEntry(s *spot, flags int, mode uint32) (fd int, wait bool, errno syscall.Errno) {
	if waits(s, flags) {
		name, _, errno := s.entry(false)
		return name, true, errno
	}
	open := func() (int, syscall.Errno) {
		return openat(s.dir, s.leaf, flags|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, mode)
	}
	fd, errno = open()
	switch errno {
	case 0:
	case syscall.ELOOP, syscall.ENOTDIR:
		if flags&syscall.O_NOFOLLOW == 0 {
			if _, no := readlinkat(s.dir, s.leaf); no == 0 {
				return -1, false, errFollow
			}
		}
		return -1, false, errno
	case syscall.EACCES:
		if fd, errno = e.forced(s.dir, open); errno == syscall.EACCES {
			fd, errno = e.forcedEntry(s, open)
		}
		if errno != 0 {
			return -1, false, errno
		}
	default:
		return -1, false, errno
	}
	return e.settle(fd, flags)
}

// waits tells whether there is a FIFO at the spot, of which the open has to wait for the other
// end: to open it even for a moment would be noticed there.
func waits(s *spot, flags int) bool {
	var st syscall.Stat_t
	if flags&(syscall.O_NONBLOCK|syscall.O_EXCL) != 0 || flags&syscall.O_ACCMODE == syscall.O_RDWR {
		return false
	}
	_, _, errno := syscall.Syscall6(sysFstatat, uintptr(s.dir), uintptr(unsafe.Pointer(cstr(s.leaf))), uintptr(unsafe.Pointer(&st)), atSymlinkNofollow, 0, 0)
	return errno == 0 && st.Mode&typeMask == syscall.S_IFIFO
}

// forcedEntry opens a file whose own mode forbids it.
func (e *engine) forcedEntry(s *spot, open func() (int, syscall.Errno)) (int, syscall.Errno) {
	name, st, errno := s.entry(false)
	if errno != 0 {
		return -1, syscall.EACCES
	}
	defer closeFd(name)
	if kind := st.Mode & typeMask; kind != syscall.S_IFREG && kind != syscall.S_IFDIR {
		return -1, syscall.EACCES
	}
	return e.forced(name, open)
}

// settle makes a file that was opened without waiting what the process wants. One that became a
// FIFO meanwhile has to be opened again.
func (e *engine) settle(fd, flags int) (int, bool, syscall.Errno) {
	if flags&syscall.O_NONBLOCK != 0 {
		return fd, false, 0
	}
	st, errno := fstat(fd)
	if errno == 0 && st.Mode&typeMask == syscall.S_IFIFO && flags&syscall.O_ACCMODE != syscall.O_RDWR {
		name, errno := openat(atFdcwd, procFd(fd), oPath, 0)
		closeFd(fd)
		return name, true, errno
	}
	now, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_GETFL, 0)
	if errno == 0 {
		_, _, errno = syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_SETFL, now&^syscall.O_NONBLOCK)
	}
	if errno != 0 {
		closeFd(fd)
		return -1, false, errno
	}
	return fd, false, 0
}

// reopen opens once more what the open file fd is.
func (e *engine) reopen(fd, flags int, changes bool) (int, bool, syscall.Errno) {
	st, errno := fstat(fd)
	if errno != 0 {
		return -1, false, errno
	}
	kind := st.Mode & typeMask
	if changes && (kind == syscall.S_IFREG || kind == syscall.S_IFDIR) {
		if errno := e.writable(fd); errno != 0 {
			return -1, false, errno
		}
	}
	if kind == syscall.S_IFLNK {
		return -1, false, syscall.ELOOP
	}
	if kind == syscall.S_IFDIR && flags&syscall.O_CREAT != 0 {
		return -1, false, syscall.EISDIR
	}
	flags &^= syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOFOLLOW
	if kind == syscall.S_IFIFO && flags&syscall.O_NONBLOCK == 0 && flags&syscall.O_ACCMODE != syscall.O_RDWR {
		out, errno := dup(fd)
		return out, true, errno
	}
	open := func() (int, syscall.Errno) { return openat(atFdcwd, procFd(fd), flags|syscall.O_NONBLOCK, 0) }
	out, errno := open()
	if errno == syscall.EACCES {
		out, errno = e.forced(fd, open)
	}
	if errno != 0 {
		return -1, false, errno
	}
	return e.settle(out, flags)
}

// openLater opens a FIFO on a thread of its own, which waits for the other end, and
// answers then. name is closed.
func (e *engine) openLater(name, flags int, cloexec bool) answer {
	id := e.call.ID
	flags &^= syscall.O_CREAT | syscall.O_EXCL | syscall.O_NOFOLLOW
	go func() {
		defer closeFd(name)
		runtime.LockOSThread() // for good: the thread ends with this function
		if err := blockSignals(); err != nil {
			e.core.Reply(id, 0, syscall.EINTR)
			return
		}
		fd, errno := openat(atFdcwd, procFd(name), flags, 0)
		if errno == 0 {
			errno = e.core.AddFD(id, fd, cloexec)
			closeFd(fd)
		}
		if errno != 0 {
			e.core.Reply(id, 0, errno)
		}
	}()
	return given()
}
