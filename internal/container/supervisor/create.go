// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"
)

// A new file has the ids of the process that makes it, or the group of a directory
// that has the set-group-id bit. Where both are 0, nearly always, the kernel makes
// it; else this thread does, and notes the owner.

// maker is a new file's directory and owner.
type maker struct {
	dir      int // handle of the directory
	leaf     *byte
	uid, gid uint32
}

// intent says what to do with a call that makes the file s.path as seen from dir:
// the maker, for the caller to close, or an answer.
func (s *supervisor) intent(dir int32) (maker, answer) {
	parent, leaf, ok := s.split()
	if !ok {
		return maker{}, passed()
	}
	c := s.creds()
	plain := c.uid[fileSystem] == 0 && c.gid[fileSystem] == 0
	if plain && !s.chroots {
		if !s.named(dir, parent) {
			return maker{}, passed()
		}
		if _, e := s.getxattr(&s.name[0], ownerAttr, true); e != 0 {
			return maker{}, passed()
		}
	}
	h, e := s.handle(dir, parent, true)
	if e != 0 {
		return maker{}, passed()
	}
	uid, gid, _ := s.note(&s.handleName[0], true)
	mode := uint32(s.statx.mode)
	m := maker{dir: h, leaf: leaf, uid: c.uid[fileSystem], gid: c.gid[fileSystem]}
	if !c.has(capDACOverride) && !c.mayMake(mode, uid, gid) {
		defer closeFd(h)
		if isThere(h, leaf) {
			return maker{}, passed()
		}
		return maker{}, fails(syscall.EACCES)
	}
	if mode&modeSetGID != 0 {
		m.gid = gid
	}
	if m.uid == 0 && m.gid == 0 || !s.valid() {
		closeFd(h)
		return maker{}, passed()
	}
	return m, answer{}
}

// mayMake tells whether a process may make names in a directory.
func (c *creds) mayMake(mode, uid, gid uint32) bool {
	switch {
	case uid == c.uid[fileSystem]:
		mode >>= 6
	case c.inGroup(gid):
		mode >>= 3
	}
	return mode&3 == 3
}

func isThere(dir int, leaf *byte) bool {
	_, _, e := syscall.Syscall6(sysFaccessat2, uintptr(dir), uintptr(unsafe.Pointer(leaf)), 0, atSymlinkNofollow, 0, 0)
	return e == 0
}

// make does a call that makes a file of a type, and notes its owner.
func (s *supervisor) make(dir int32, addr uint64, mode uint32, call func(m maker, mode uint32) syscall.Errno) answer {
	dir, e := s.readPath(dir, addr)
	if e != 0 {
		return fails(e)
	}
	m, a := s.intent(dir)
	if m.leaf == nil {
		return a
	}
	defer closeFd(m.dir)
	syscall.Umask(int(s.umask()))
	e = call(m, mode)
	syscall.Umask(0)
	if e != 0 {
		return fails(e)
	}
	return result(s.noteNew(m))
}

// noteNew notes the owner of what was made.
func (s *supervisor) noteNew(m maker) syscall.Errno {
	fd, e := openat(m.dir, m.leaf, oPath|syscall.O_NOFOLLOW, 0)
	if e != 0 {
		return 0 // removed already
	}
	defer closeFd(fd)
	return s.noteFile(fd, m)
}

func (s *supervisor) noteFile(fd int, m maker) syscall.Errno {
	if e := s.statxOf(fd); e != 0 {
		return e
	}
	putProc(s.handleName[:], s.numbers.self, "/fd/", fd)
	return s.setNote(&s.handleName[0], uint32(s.statx.mode), m.uid, m.gid)
}

func (s *supervisor) mkdir(dir int32, addr uint64, mode uint32) answer {
	return s.make(dir, addr, mode, func(m maker, mode uint32) syscall.Errno {
		_, _, e := syscall.Syscall(syscall.SYS_MKDIRAT, uintptr(m.dir), uintptr(unsafe.Pointer(m.leaf)), uintptr(mode))
		return e
	})
}

func (s *supervisor) mknod(dir int32, addr uint64, mode uint32) answer {
	switch mode & typeMask {
	case 0, syscall.S_IFREG, syscall.S_IFIFO, syscall.S_IFSOCK:
	default:
		return passed() // a device, which the kernel refuses
	}
	return s.make(dir, addr, mode, func(m maker, mode uint32) syscall.Errno {
		_, _, e := syscall.Syscall6(syscall.SYS_MKNODAT, uintptr(m.dir), uintptr(unsafe.Pointer(m.leaf)), uintptr(mode), 0, 0, 0)
		return e
	})
}

func (s *supervisor) symlink(target uint64, dir int32, addr uint64) answer {
	if _, e := s.readString(target, &s.target); e != 0 {
		return fails(e)
	}
	return s.make(dir, addr, 0, func(m maker, _ uint32) syscall.Errno {
		_, _, e := syscall.Syscall(syscall.SYS_SYMLINKAT, uintptr(unsafe.Pointer(&s.target)), uintptr(m.dir), uintptr(unsafe.Pointer(m.leaf)))
		return e
	})
}

// openCreate answers open(2) with O_CREAT or O_TMPFILE.
func (s *supervisor) openCreate(dir int32, addr uint64, flags int, mode uint32) answer {
	dir, e := s.readPath(dir, addr)
	if e != 0 {
		return fails(e)
	}
	if flags&oPath != 0 {
		// It makes nothing (open(2): other flags are passed over). Done here it could
		// follow a link that comes in the file's place, by this process's own magic
		// links, or note an owner for what is there already.
		return passed()
	}
	if flags&oTmpfile != 0 {
		return s.openUnnamed(dir, flags, mode)
	}
	if s.pathLen == 0 || s.path[s.pathLen-1] == '/' {
		return passed()
	}
	m, a := s.intent(dir)
	if m.leaf == nil {
		return a
	}
	defer closeFd(m.dir)
	if isThere(m.dir, m.leaf) {
		return passed() // a link that leads to nothing too: its target becomes root's
	}
	syscall.Umask(int(s.umask()))
	fd, e := openat(m.dir, m.leaf, flags&^syscall.O_TRUNC|syscall.O_EXCL, mode)
	syscall.Umask(0)
	if e == syscall.EEXIST {
		return passed() // another process was quicker
	}
	if e != 0 {
		return fails(e)
	}
	defer closeFd(fd)
	if e := s.noteFile(fd, m); e != 0 {
		return fails(e)
	}
	return s.addFD(fd, flags&syscall.O_CLOEXEC != 0)
}

// openUnnamed opens a file without a name in the directory s.path.
func (s *supervisor) openUnnamed(dir int32, flags int, mode uint32) answer {
	// As if a file in the directory were made.
	if s.pathLen+2 > pathMax || s.pathLen == 0 {
		return passed()
	}
	s.path[s.pathLen], s.path[s.pathLen+1], s.path[s.pathLen+2] = '/', 'f', 0
	s.pathLen += 2
	m, a := s.intent(dir)
	if m.leaf == nil {
		return a
	}
	defer closeFd(m.dir)
	syscall.Umask(int(s.umask()))
	fd, e := openat(m.dir, dot.first(), flags, mode)
	syscall.Umask(0)
	if e != 0 {
		return fails(e)
	}
	defer closeFd(fd)
	if e := s.noteFile(fd, m); e != 0 {
		return fails(e)
	}
	return s.addFD(fd, flags&syscall.O_CLOEXEC != 0)
}

const dot cstring = ".\x00"

// open2 answers openat2(2).
func (s *supervisor) open2(dir int32, addr, how, size uint64) answer {
	var h openHow
	if size < uint64(unsafe.Sizeof(h)) || s.read(how, unsafe.Pointer(&h), int(unsafe.Sizeof(h))) != 0 ||
		h.flags&(syscall.O_CREAT|oTmpfile) == 0 || h.resolve != 0 || h.flags>>32 != 0 {
		return passed()
	}
	return s.openCreate(dir, addr, int(h.flags), uint32(h.mode))
}

// umask is that of the process that called: the kernel tells it nowhere else.
func (s *supervisor) umask() uint32 {
	const fallback = 0o022
	putProc(s.name[:], s.numbers.of(s.call.pid), "/status", -1)
	fd, e := openat(atFdcwd, &s.name[0], syscall.O_RDONLY, 0)
	if e != 0 {
		return fallback
	}
	defer closeFd(fd)
	got, _, e := syscall.Syscall(syscall.SYS_READ, uintptr(fd), uintptr(unsafe.Pointer(&s.status)), unsafe.Sizeof(s.status))
	if e != 0 {
		return fallback
	}
	const key = "\nUmask:\t"
	for i := 0; i+len(key) < int(got); i++ {
		if string(s.status[i:i+len(key)]) == key {
			return octal(s.status[i+len(key) : got])
		}
	}
	return fallback
}

func octal(b []byte) (v uint32) {
	for _, c := range b {
		if c < '0' || c > '7' {
			break
		}
		v = v<<3 | uint32(c-'0')
	}
	return v
}
