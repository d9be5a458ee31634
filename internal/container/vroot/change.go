// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"syscall"
	"unsafe"
)

// entryAt finds the entry that a path names, to be removed, renamed or made.
func (e *engine) entryAt(dir int, addr uint64) (spot, syscall.Errno) {
	path, errno := e.core.String(addr)
	if errno != 0 {
		return spot{behind: -1}, errno
	}
	return e.find(dir, path)
}

// changeable tells whether the process may add to the directory of the spot, or take from it.
func (e *engine) changeable(s *spot) syscall.Errno {
	if s.leaf == "" || s.link != "" {
		return syscall.EBUSY
	}
	_, errno := e.maker(s.dir)
	return errno
}

func (e *engine) unlink(dir int, addr uint64, flags int) answer {
	s, errno := e.entryAt(dir, addr)
	if errno != 0 {
		return fails(errno)
	}
	defer s.close()
	if errno := e.changeable(&s); errno != 0 {
		return fails(errno)
	}
	if flags&^atRemoveDir != 0 {
		return fails(syscall.EINVAL)
	}
	name := s.leaf
	if s.slash && flags&atRemoveDir == 0 {
		name += "/" // for the kernel's words about it
	}
	errno = e.in(s.dir, func() syscall.Errno {
		if flags&atRemoveDir == 0 && len(e.specials) > 0 {
			e.forget(s.dir, s.leaf)
		}
		_, _, errno := syscall.Syscall(syscall.SYS_UNLINKAT, uintptr(s.dir), uintptr(unsafe.Pointer(cstr(name))), uintptr(flags))
		return errno
	})
	return fails(errno)
}

// forget drops what is known of a special file that is about to go.
func (e *engine) forget(dir int, leaf string) {
	fd, errno := openat(dir, leaf, oPath|syscall.O_NOFOLLOW, 0)
	if errno != 0 {
		return
	}
	defer closeFd(fd)
	if st, errno := fstat(fd); errno == 0 && st.Nlink == 1 {
		delete(e.specials, identOf(&st))
	}
}

func (e *engine) rename(dir1 int, addr1 uint64, dir2 int, addr2 uint64, flags uint64) answer {
	const whiteout = 1 << 2
	if flags&whiteout != 0 {
		return fails(syscall.EINVAL)
	}
	a, errno := e.entryAt(dir1, addr1)
	if errno != 0 {
		return fails(errno)
	}
	defer a.close()
	b, errno := e.entryAt(dir2, addr2)
	if errno != 0 {
		return fails(errno)
	}
	defer b.close()
	for _, s := range []*spot{&a, &b} {
		if errno := e.changeable(s); errno != 0 {
			return fails(errno)
		}
	}
	if errno := e.together(a.dir, b.dir); errno != 0 {
		return fails(errno)
	}
	from, to := a.leaf, b.leaf
	if a.slash {
		from += "/"
	}
	if b.slash {
		to += "/"
	}
	errno = e.in(a.dir, func() syscall.Errno {
		return e.in(b.dir, func() syscall.Errno {
			_, _, errno := syscall.Syscall6(sysRenameat2, uintptr(a.dir), uintptr(unsafe.Pointer(cstr(from))), uintptr(b.dir), uintptr(unsafe.Pointer(cstr(to))), uintptr(flags), 0)
			return errno
		})
	})
	return fails(errno)
}

// together tells whether two open files are in the same mount: nothing may be moved from one
// to another, as with mounts of the kernel.
func (e *engine) together(a, b int) syscall.Errno {
	m, _, _ := e.placeOf(a)
	n, _, _ := e.placeOf(b)
	if m != n {
		return syscall.EXDEV
	}
	return 0
}

func (e *engine) link(dir1 int, addr1 uint64, dir2 int, addr2 uint64, flags int) answer {
	fd, _, errno := e.target(dir1, addr1, flags&atSymlinkFollow != 0, flags&atEmptyPath != 0)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	s, errno := e.entryAt(dir2, addr2)
	if errno != 0 {
		return fails(errno)
	}
	defer s.close()
	if s.leaf == "" || s.link != "" {
		return fails(syscall.EEXIST)
	}
	if errno := e.changeable(&s); errno != 0 {
		return fails(errno)
	}
	if errno := e.writable(fd); errno != 0 {
		return fails(syscall.EXDEV)
	}
	// A file without a name has no place.
	if m, _, ok := e.placeOf(fd); ok {
		if n, _, _ := e.placeOf(s.dir); m != n {
			return fails(syscall.EXDEV)
		}
	}
	errno = e.in(s.dir, func() syscall.Errno {
		fdcwd := atFdcwd
		_, _, errno := syscall.Syscall6(syscall.SYS_LINKAT, uintptr(fdcwd), uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(s.dir), uintptr(unsafe.Pointer(cstr(s.leaf))), atSymlinkFollow, 0)
		return errno
	})
	return fails(errno)
}

// target opens, to name it, the file of a path argument. Where the call allows it, an empty
// path is dir itself.
func (e *engine) target(dir int, addr uint64, follow, empty bool) (fd int, st syscall.Stat_t, errno syscall.Errno) {
	path := ""
	if addr != 0 || !empty {
		if path, errno = e.core.String(addr); errno != 0 {
			return -1, st, errno
		}
	}
	if path != "" || !empty {
		return e.resolve(dir, path, follow)
	}
	return e.file(dir)
}

// file opens, to name it, an open file of the process.
func (e *engine) file(dir int) (fd int, st syscall.Stat_t, errno syscall.Errno) {
	if fd, errno = e.openDir(dir); errno != 0 {
		return -1, st, errno
	}
	if st, errno = fstat(fd); errno != 0 {
		closeFd(fd)
		return -1, st, errno
	}
	return fd, st, 0
}

// change does something to the file of a path argument.
func (e *engine) change(dir int, addr uint64, follow, empty bool, do func(fd int, st *syscall.Stat_t) syscall.Errno) answer {
	fd, st, errno := e.target(dir, addr, follow, empty)
	return e.changeFd(fd, &st, errno, do)
}

// changeFile does something to an open file of the process.
func (e *engine) changeFile(dir int, do func(fd int, st *syscall.Stat_t) syscall.Errno) answer {
	if dir == atFdcwd {
		return fails(syscall.EBADF)
	}
	fd, st, errno := e.file(dir)
	return e.changeFd(fd, &st, errno, do)
}

func (e *engine) changeFd(fd int, st *syscall.Stat_t, errno syscall.Errno, do func(fd int, st *syscall.Stat_t) syscall.Errno) answer {
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	if errno := e.writable(fd); errno != 0 {
		return fails(errno)
	}
	return fails(do(fd, st))
}

const (
	capFowner = 3
	capFsetid = 4
)

// mayDescribe tells whether the process may change the mode, times and attributes of a file.
func (e *engine) mayDescribe(fd int, st *syscall.Stat_t) syscall.Errno {
	uid, _ := e.ownerOf(fd, st)
	own, _ := e.core.FileIDs()
	if uid != own && !e.core.Can(capFowner) || e.isDevice(fd, st) {
		return syscall.EPERM
	}
	return 0
}

// isDevice tells whether an open file is one of the devices that all steps and the machine have
// in common. To the kernel they belong to user 0, who can be the one that runs this.
func (e *engine) isDevice(fd int, st *syscall.Stat_t) bool {
	if kind := st.Mode & typeMask; kind != syscall.S_IFCHR && kind != syscall.S_IFBLK {
		return false
	}
	m, _, ok := e.placeOf(fd)
	return ok && m != nil && m.device
}

func (e *engine) chmod(mode uint32) func(int, *syscall.Stat_t) syscall.Errno {
	return func(fd int, st *syscall.Stat_t) syscall.Errno {
		if errno := e.mayDescribe(fd, st); errno != 0 {
			return errno
		}
		if st.Mode&typeMask == syscall.S_IFLNK {
			return syscall.EOPNOTSUPP
		}
		return chmodFd(fd, mode&modeBits)
	}
}

func (e *engine) chown(uid, gid uint32) func(int, *syscall.Stat_t) syscall.Errno {
	return func(fd int, st *syscall.Stat_t) syscall.Errno {
		var old [2]uint32
		old[0], old[1] = e.ownerOf(fd, st)
		u, g, errno := e.core.NewOwner(old, uid, gid)
		if errno != 0 {
			return errno
		}
		switch st.Mode & typeMask {
		case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK, syscall.S_IFIFO, syscall.S_IFSOCK:
		default:
			return 0 // a terminal or a device: of nobody's interest
		}
		if st.Uid != e.uid {
			if u == old[0] && g == old[1] {
				return 0
			}
			return syscall.EPERM
		}
		if errno := e.setOwner(fd, st, owner{u, g}); errno != 0 {
			return errno
		}
		return e.clearSetID(fd, st)
	}
}

// clearSetID does what a change of owner does to programs (chown(2)).
func (e *engine) clearSetID(fd int, st *syscall.Stat_t) syscall.Errno {
	const execGroup = 0o010
	mode := st.Mode & modeBits
	if st.Mode&typeMask != syscall.S_IFREG {
		return 0
	}
	mode &^= syscall.S_ISUID
	if mode&execGroup != 0 {
		mode &^= syscall.S_ISGID
	}
	_ = removeAttr(fd, capabilityNote)
	if mode == st.Mode&modeBits {
		return 0
	}
	return chmodFd(fd, mode)
}

func (e *engine) truncate(addr, size uint64) answer {
	return e.change(atFdcwd, addr, true, false, func(fd int, st *syscall.Stat_t) syscall.Errno {
		do := func() (int, syscall.Errno) {
			_, _, errno := syscall.Syscall(syscall.SYS_TRUNCATE, uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(size), 0)
			return 0, errno
		}
		_, errno := do()
		if errno == syscall.EACCES {
			_, errno = e.forced(fd, do)
		}
		return errno
	})
}

// times sets the times of a file to what is at addr: two of timespec, or of timeval if
// micro; none: now.
func (e *engine) times(addr uint64, micro bool) (func(int, *syscall.Stat_t) syscall.Errno, syscall.Errno) {
	var t [2]syscall.Timespec
	if addr != 0 {
		if errno := e.core.Read(addr, bytesOf(&t)); errno != 0 {
			return nil, errno
		}
		for i := range t {
			if micro {
				if t[i].Nsec < 0 || t[i].Nsec >= 1e6 {
					return nil, syscall.EINVAL
				}
				t[i].Nsec *= 1000
			}
		}
	}
	const utimeNow = 1<<30 - 1
	now := addr == 0 || !micro && t[0].Nsec == utimeNow && t[1].Nsec == utimeNow
	return func(fd int, st *syscall.Stat_t) syscall.Errno {
		errno := e.mayDescribe(fd, st)
		switch {
		case errno != 0 && !now:
			return errno
		case errno != 0 && !e.isDevice(fd, st): // whoever may write to that may say "now"
			return syscall.EACCES
		}
		at := &t
		if addr == 0 {
			at = nil
		}
		_, _, errno = syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(cstr(""))), uintptr(unsafe.Pointer(at)), atEmptyPath, 0, 0)
		return errno
	}, 0
}

func (e *engine) utimens(dir int, path, addr uint64, micro bool, flags int) answer {
	do, errno := e.times(addr, micro)
	if errno != 0 {
		return fails(errno)
	}
	if path == 0 {
		return e.changeFile(dir, do)
	}
	return e.change(dir, path, flags&atSymlinkNofollow == 0, flags&atEmptyPath != 0, do)
}

// utime is utime(2): two numbers of seconds.
func (e *engine) utime(path, addr uint64) answer {
	var sec [2]int64
	if addr == 0 {
		return e.utimens(atFdcwd, path, 0, false, 0)
	}
	if errno := e.core.Read(addr, bytesOf(&sec)); errno != 0 {
		return fails(errno)
	}
	t := [2]syscall.Timespec{{Sec: sec[0]}, {Sec: sec[1]}}
	return e.change(atFdcwd, path, true, false, func(fd int, st *syscall.Stat_t) syscall.Errno {
		if errno := e.mayDescribe(fd, st); errno != 0 {
			return errno
		}
		_, _, errno := syscall.Syscall6(syscall.SYS_UTIMENSAT, uintptr(fd), uintptr(unsafe.Pointer(cstr(""))), uintptr(unsafe.Pointer(&t)), atEmptyPath, 0, 0)
		return errno
	})
}
