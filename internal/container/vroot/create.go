// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"syscall"
	"unsafe"
)

// A new file has the ids of the process that makes it, or the group of a directory that has
// the set-group-id bit.

// owner is what is to be noted for a file.
type owner struct{ uid, gid uint32 }

// maker says whose a new entry of the open directory dir becomes, or that the process may
// not make one.
func (e *engine) maker(dir int) (owner, syscall.Errno) {
	if errno := e.writable(dir); errno != 0 {
		return owner{}, errno
	}
	var o owner
	o.uid, o.gid = e.core.FileIDs()
	uid, gid, _ := e.core.Owner(dir)
	if o == (owner{}) && gid == 0 {
		return o, 0
	}
	st, errno := fstat(dir)
	if errno != 0 {
		return o, errno
	}
	if !e.core.MayMake(st.Mode, uid, gid) {
		return o, syscall.EACCES
	}
	if st.Mode&syscall.S_ISGID != 0 {
		o.gid = gid
	}
	return o, 0
}

// note notes the owner of the open file fd.
func (e *engine) note(fd int, o owner) syscall.Errno {
	st, errno := fstat(fd)
	if errno != 0 {
		return errno
	}
	return e.setOwner(fd, &st, o)
}

// setOwner notes an owner. Links and special files cannot have attributes: theirs are kept
// as long as the step runs.
func (e *engine) setOwner(fd int, st *syscall.Stat_t, o owner) syscall.Errno {
	switch st.Mode & typeMask {
	case syscall.S_IFREG, syscall.S_IFDIR:
		do := func() (int, syscall.Errno) { return 0, e.core.SetOwner(fd, st.Mode, o.uid, o.gid) }
		_, errno := do()
		if errno == syscall.EACCES {
			_, errno = e.forced(fd, do)
		}
		return errno
	}
	if o == (owner{}) {
		delete(e.specials, identOf(st))
		return 0
	}
	const most = 1 << 16
	if len(e.specials) >= most {
		return syscall.ENOSPC
	}
	e.specials[identOf(st)] = [2]uint32{o.uid, o.gid}
	return 0
}

// ownerOf is the owner of the open file fd as the step sees it.
func (e *engine) ownerOf(fd int, st *syscall.Stat_t) (uid, gid uint32) {
	switch st.Mode & typeMask {
	case syscall.S_IFREG, syscall.S_IFDIR:
		uid, gid, ok := e.core.Owner(fd)
		if !ok && st.Mode&syscall.S_IRUSR == 0 && e.core.Noted(fd) {
			_, _ = e.lifted(fd, func() (int, syscall.Errno) {
				uid, gid, ok = e.core.Owner(fd)
				return 0, 0
			})
		}
		if ok {
			return uid, gid
		}
	case syscall.S_IFLNK, syscall.S_IFIFO, syscall.S_IFSOCK:
		if o, ok := e.specials[identOf(st)]; ok {
			return o[0], o[1]
		}
	}
	return e.shown(st.Uid), 0
}

// shown is an id of outside as the step sees it: this process's own and root are 0.
func (e *engine) shown(uid uint32) uint32 {
	const nobody = 65534
	if uid == e.uid || uid == 0 {
		return 0
	}
	return nobody
}

func (e *engine) umask() uint32 { return e.core.Place().Umask }

// create opens the entry at the spot and makes it if it is missing.
func (e *engine) create(s *spot, flags int, mode uint32) (int, bool, syscall.Errno) {
	o, errno := e.maker(s.dir)
	if errno == syscall.EACCES { // what is there may be opened
		fd, wait, errno := e.openEntry(s, flags&^(syscall.O_CREAT|syscall.O_EXCL), 0)
		if errno == syscall.ENOENT {
			errno = syscall.EACCES
		}
		return fd, wait, errno
	}
	if errno != 0 {
		return -1, false, errno
	}
	mode = mode & modeBits &^ e.umask()
	if o == (owner{}) {
		return e.openEntry(s, flags, mode)
	}
	fd, wait, errno := e.openEntry(s, flags&^syscall.O_TRUNC|syscall.O_EXCL, mode)
	if errno == syscall.EEXIST && flags&syscall.O_EXCL == 0 {
		fd, wait, errno = e.openEntry(s, flags&^syscall.O_CREAT, 0)
		if errno == syscall.ENOENT { // a link that leads to nothing, or removed meanwhile
			return e.openEntry(s, flags, mode)
		}
		return fd, wait, errno
	}
	if errno == 0 {
		if errno = e.note(fd, o); errno != 0 {
			closeFd(fd)
			return -1, false, errno
		}
	}
	return fd, wait, errno
}

// openUnnamed opens a file without a name in the directory at the spot.
func (e *engine) openUnnamed(s *spot, flags int, mode uint32) (int, bool, syscall.Errno) {
	dir, _, errno := s.entry(true)
	if errno != 0 {
		return -1, false, errno
	}
	defer closeFd(dir)
	o, errno := e.maker(dir)
	if errno != 0 {
		return -1, false, errno
	}
	fd, errno := openat(dir, ".", flags, mode&modeBits&^e.umask())
	if errno == 0 && o != (owner{}) {
		if errno = e.note(fd, o); errno != 0 {
			closeFd(fd)
		}
	}
	if errno != 0 {
		return -1, false, errno
	}
	return fd, false, 0
}

// make makes an entry by call, and notes its owner.
func (e *engine) make(dir int, addr uint64, call func(dir int, leaf string) syscall.Errno) answer {
	path, errno := e.core.String(addr)
	if errno != 0 {
		return fails(errno)
	}
	s, errno := e.find(dir, path)
	if errno != 0 {
		return fails(errno)
	}
	defer s.close()
	if s.leaf == "" || s.link != "" {
		return fails(syscall.EEXIST)
	}
	o, errno := e.maker(s.dir)
	if errno != 0 {
		if there(s.dir, s.leaf) {
			errno = syscall.EEXIST
		}
		return fails(errno)
	}
	errno = e.in(s.dir, func() syscall.Errno { return call(s.dir, s.leaf) })
	if errno != 0 || o == (owner{}) {
		return fails(errno)
	}
	fd, errno := openat(s.dir, s.leaf, oPath|syscall.O_NOFOLLOW, 0)
	if errno != 0 {
		return done(0) // removed already
	}
	defer closeFd(fd)
	return fails(e.note(fd, o))
}

func there(dir int, leaf string) bool {
	_, _, errno := syscall.Syscall6(sysFaccessat2, uintptr(dir), uintptr(unsafe.Pointer(cstr(leaf))), 0, atSymlinkNofollow, 0, 0)
	return errno == 0
}

// in does something in the open directory dir, even if its mode forbids it.
func (e *engine) in(dir int, do func() syscall.Errno) syscall.Errno {
	errno := do()
	if errno == syscall.EACCES {
		_, errno = e.forced(dir, func() (int, syscall.Errno) { return 0, do() })
	}
	return errno
}

func (e *engine) mkdir(dir int, addr uint64, mode uint32) answer {
	mode = mode & modeBits &^ e.umask()
	return e.make(dir, addr, func(dir int, leaf string) syscall.Errno {
		_, _, errno := syscall.Syscall(syscall.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(cstr(leaf))), uintptr(mode))
		return errno
	})
}

func (e *engine) mknod(dir int, addr uint64, mode uint32, dev uint64) answer {
	switch mode & typeMask {
	case 0, syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
		dev = 0
	case syscall.S_IFCHR, syscall.S_IFBLK:
		if dev == 0 {
			return fails(syscall.EPERM) // the mark of something removed
		}
	}
	mode = mode&typeMask | mode&modeBits&^e.umask()
	return e.make(dir, addr, func(dir int, leaf string) syscall.Errno {
		_, _, errno := syscall.Syscall6(syscall.SYS_MKNODAT, uintptr(dir), uintptr(unsafe.Pointer(cstr(leaf))), uintptr(mode), uintptr(dev), 0, 0)
		return errno
	})
}

func (e *engine) symlink(target uint64, dir int, addr uint64) answer {
	text, errno := e.core.String(target)
	if errno != 0 {
		return fails(errno)
	}
	return e.make(dir, addr, func(dir int, leaf string) syscall.Errno {
		_, _, errno := syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(cstr(text))), uintptr(dir), uintptr(unsafe.Pointer(cstr(leaf))))
		return errno
	})
}
