// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/layer/record"
)

const (
	ownerAttr   cstring = record.Owner + "\x00"
	specialAttr cstring = record.Special + "\x00"
)

// note gives the owner that is noted for the file called name. Most files have no
// attributes: their list says so with one look for both kinds of note.
func (s *supervisor) note(name *byte, follow bool) (uid, gid uint32, ok bool) {
	n, e := s.listxattr(name, follow)
	many := e == syscall.ERANGE // too many names to list: look for each
	if !many && (e != 0 || n == 0) {
		return 0, 0, false
	}
	names := s.names[:n]
	if many || hasName(names, ownerAttr) {
		value, e := s.getxattr(name, ownerAttr, follow)
		if e == 0 {
			uid, gid, err := record.DecodeOwner(value, 0, 0)
			return uid, gid, err == nil
		}
	}
	if !many && !hasName(names, specialAttr) {
		return 0, 0, false
	}
	value, e := s.getxattr(name, specialAttr, follow)
	if e != 0 {
		return 0, 0, false
	}
	return record.DecodeSpecial(value)
}

// hasName tells whether a list of names, each with its NUL, has one.
func hasName(list []byte, name cstring) bool {
	for len(list) > 0 {
		end := 0
		for end < len(list)-1 && list[end] != 0 {
			end++
		}
		if string(list[:end+1]) == string(name) {
			return true
		}
		list = list[end+1:]
	}
	return false
}

// statPath answers a call of the stat family for the path at addr.
func (s *supervisor) statPath(dir int32, addr uint64, flags uint32, out func(s *supervisor, fd int) syscall.Errno) answer {
	s.pathLen = 0
	if addr != 0 || flags&atEmptyPath == 0 {
		var e syscall.Errno
		if dir, e = s.readPath(dir, addr); e != 0 {
			return passed() // the kernel says what is wrong
		}
	}
	if s.pathLen == 0 {
		if flags&atEmptyPath == 0 {
			return passed()
		}
		return s.statFile(dir, out)
	}
	follow := flags&atSymlinkNofollow == 0
	if s.named(dir, s.pathLen) {
		if _, _, ok := s.note(&s.name[0], follow); !ok {
			return passed()
		}
	} else if !s.chroots {
		if fd, ok := s.ownFile(s.path[:s.pathLen]); ok && follow {
			return s.statFile(fd, out)
		}
		return passed()
	}
	fd, e := s.handle(dir, s.pathLen, follow)
	if e != 0 {
		return passed()
	}
	defer closeFd(fd)
	return s.show(fd, out)
}

// statFile answers a call of the stat family for an open file.
func (s *supervisor) statFile(fd int32, out func(s *supervisor, fd int) syscall.Errno) answer {
	if _, ok := s.putStart(fd); !ok {
		return passed()
	}
	if _, _, ok := s.note(&s.name[0], true); !ok {
		return passed()
	}
	h, e := s.handleOf(fd)
	if e != 0 {
		return passed()
	}
	defer closeFd(h)
	return s.show(h, out)
}

// show writes what is known of the open file fd where the process wants it.
func (s *supervisor) show(fd int, out func(s *supervisor, fd int) syscall.Errno) answer {
	uid, gid, ok := s.note(&s.handleName[0], true)
	if !ok || !s.valid() {
		return passed()
	}
	s.owner = [2]uint32{uid, gid}
	return result(out(s, fd))
}

// writeStat writes a struct stat to the argument with that number.
func (s *supervisor) writeStat(fd, argument int) syscall.Errno {
	_, _, e := syscall.Syscall6(nrFstatat, uintptr(fd), empty.ptr(), uintptr(unsafe.Pointer(&s.stat)), atEmptyPath, 0, 0)
	if e != 0 {
		return e
	}
	s.stat.Uid, s.stat.Gid = s.owner[0], s.owner[1]
	return s.write(s.call.args[argument], unsafe.Pointer(&s.stat), int(unsafe.Sizeof(s.stat)))
}

// The calls have their struct at different places.
func writeStat1(s *supervisor, fd int) syscall.Errno { return s.writeStat(fd, 1) }
func writeStat2(s *supervisor, fd int) syscall.Errno { return s.writeStat(fd, 2) }

func writeStatx(s *supervisor, fd int) syscall.Errno {
	flags := s.call.args[2]&atStatxSync | atEmptyPath
	_, _, e := syscall.Syscall6(nrStatx, uintptr(fd), empty.ptr(), uintptr(flags), uintptr(s.call.args[3]), uintptr(unsafe.Pointer(&s.statx)), 0)
	if e != 0 {
		return e
	}
	s.statx.uid, s.statx.gid = s.owner[0], s.owner[1]
	return s.write(s.call.args[4], unsafe.Pointer(&s.statx), int(unsafe.Sizeof(s.statx)))
}
