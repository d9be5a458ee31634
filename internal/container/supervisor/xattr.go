// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/layer/record"
)

// ownPrefix begins the names of attributes that belong to this program.
const ownPrefix = "user.stacker."

// own tells whether an attribute is a note, or a mark of this program.
func own(name []byte) bool {
	return string(name) == record.Owner || hasPrefix(name, ownPrefix)
}

// target of an attribute call: a path or, with addr 0, an open file.
type attrFile struct {
	fd     int32
	addr   uint64
	follow bool
}

// openAttr opens the file of an attribute call.
func (s *supervisor) openAttr(f attrFile) (int, syscall.Errno) {
	if f.addr == 0 {
		return s.handleOf(f.fd)
	}
	dir, e := s.readPath(atFdcwd, f.addr)
	if e != 0 {
		return -1, e
	}
	if s.pathLen == 0 {
		return -1, syscall.ENOENT
	}
	if fd, ok := s.ownFile(s.path[:s.pathLen]); ok && f.follow {
		return s.handleOf(fd)
	}
	return s.handle(dir, s.pathLen, f.follow)
}

// setAttr answers setxattr(2): the kernel does it, but for notes, which are not the
// step's to make, and for access control lists with ids that do not exist.
func (s *supervisor) setAttr(f attrFile, name, value, size uint64) answer {
	n, e := s.readString(name, &s.target)
	if e != 0 {
		return passed()
	}
	attr := s.target[:n]
	if own(attr) {
		return fails(syscall.EPERM)
	}
	note, isACL := record.ACL(string(attr))
	if !isACL || size > uint64(len(s.list)) {
		return passed()
	}
	if size > 0 && s.read(value, unsafe.Pointer(&s.list), int(size)) != 0 {
		return passed()
	}
	list := append([]byte(nil), s.list[:size]...)
	mode, foreign := readACL(list)
	h, e := s.openAttr(f)
	if e != 0 {
		return passed()
	}
	defer closeFd(h)
	noteName := append([]byte(note), 0)
	if !foreign {
		_ = removexattr(&s.handleName[0], uintptr(unsafe.Pointer(&noteName[0]))) // none, mostly
		return passed()
	}
	if e := s.mayDescribe(); e != 0 {
		return fails(e)
	}
	// The list of a file, not that which a directory hands on, is its mode too.
	if string(attr) == "system.posix_acl_access" {
		m := uint32(s.statx.mode)&^0o777&^typeMask | mode
		_, _, e := syscall.Syscall(syscall.SYS_FCHMODAT, fdcwd(), uintptr(unsafe.Pointer(&s.handleName)), uintptr(m))
		if e != 0 {
			return fails(e)
		}
	}
	return result(setxattr(&s.handleName[0], uintptr(unsafe.Pointer(&noteName[0])), list))
}

func fdcwd() uintptr {
	fd := atFdcwd
	return uintptr(fd)
}

// mayDescribe tells whether the process may change attributes and mode of the file
// that was opened last.
func (s *supervisor) mayDescribe() syscall.Errno {
	uid, _, _ := s.note(&s.handleName[0], true)
	if c := s.creds(); !c.has(capFowner) && uid != c.uid[fileSystem] {
		return syscall.EPERM
	}
	return 0
}

// readACL reads an access control list (linux/posix_acl_xattr.h): the permission
// bits that it stands for, and whether it names ids that do not exist here.
func readACL(b []byte) (mode uint32, foreign bool) {
	const (
		head, entry                                 = 4, 8
		userObj, user, groupObj, group, mask, other = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
	)
	if len(b) < head || (len(b)-head)%entry != 0 {
		return 0, false
	}
	masked := false
	for e := b[head:]; len(e) > 0; e = e[entry:] {
		perm := uint32(e[2]) & 7
		id := uint32(e[4]) | uint32(e[5])<<8 | uint32(e[6])<<16 | uint32(e[7])<<24
		switch uint32(e[0]) | uint32(e[1])<<8 {
		case userObj:
			mode |= perm << 6
		case user, group:
			foreign = foreign || id != 0
		case groupObj:
			if !masked {
				mode |= perm << 3
			}
		case mask:
			masked = true
			mode = mode&^0o070 | perm<<3
		case other:
			mode |= perm
		}
	}
	return mode, foreign
}

// getAttr answers getxattr(2): the kernel does it, but for notes, which do not exist
// for the step, and access control lists that are noted.
func (s *supervisor) getAttr(f attrFile, name, out, size uint64) answer {
	n, e := s.readString(name, &s.target)
	if e != 0 {
		return passed()
	}
	attr := s.target[:n]
	if own(attr) {
		return fails(syscall.ENODATA)
	}
	if !hasPrefix(attr, "system.") {
		return passed()
	}
	note, isACL := record.ACL(string(attr))
	if !isACL {
		return passed()
	}
	h, e := s.openAttr(f)
	if e != 0 {
		return passed()
	}
	defer closeFd(h)
	noteName := append([]byte(note), 0)
	got, _, e := syscall.Syscall6(syscall.SYS_GETXATTR, uintptr(unsafe.Pointer(&s.handleName)), uintptr(unsafe.Pointer(&noteName[0])), uintptr(unsafe.Pointer(&s.list)), unsafe.Sizeof(s.list), 0, 0)
	switch {
	case e != 0:
		return passed()
	case size == 0:
		return done(int64(got))
	case size < uint64(got):
		return fails(syscall.ERANGE)
	}
	if e := s.write(out, unsafe.Pointer(&s.list), int(got)); e != 0 {
		return fails(e)
	}
	return done(int64(got))
}

// removeAttr answers removexattr(2).
func (s *supervisor) removeAttr(f attrFile, name uint64) answer {
	n, e := s.readString(name, &s.target)
	if e != 0 {
		return passed()
	}
	attr := s.target[:n]
	if own(attr) {
		return fails(syscall.ENODATA)
	}
	note, isACL := record.ACL(string(attr))
	if !isACL {
		return passed()
	}
	h, e := s.openAttr(f)
	if e != 0 {
		return passed()
	}
	defer closeFd(h)
	if e := s.mayDescribe(); e != 0 {
		return fails(e)
	}
	noteName := append([]byte(note), 0)
	if removexattr(&s.handleName[0], uintptr(unsafe.Pointer(&noteName[0]))) == 0 {
		return done(0)
	}
	return passed()
}

// listAttr answers listxattr(2): notes are not shown.
func (s *supervisor) listAttr(f attrFile, out, size uint64) answer {
	h, e := s.openAttr(f)
	if e != 0 {
		return passed()
	}
	defer closeFd(h)
	got, _, e := syscall.Syscall(syscall.SYS_LISTXATTR, uintptr(unsafe.Pointer(&s.handleName)), uintptr(unsafe.Pointer(&s.list)), unsafe.Sizeof(s.list))
	if e != 0 {
		return passed()
	}
	value, e := s.getxattr(&s.handleName[0], specialAttr, true)
	_, _, special := record.DecodeSpecial(value)
	special = special && e == 0
	kept, changed := 0, false
	for i := 0; i < int(got); {
		end := i
		for end < int(got) && s.list[end] != 0 {
			end++
		}
		name := s.list[i:end]
		if acl, ok := record.NotedACL(string(name)); ok {
			// It is as long as its note's name, or shorter.
			kept += copy(s.list[kept:], acl)
			s.list[kept] = 0
			kept, changed = kept+1, true
		} else if !own(name) && !(special && string(name) == record.Special) {
			kept += copy(s.list[kept:], s.list[i:end+1])
		}
		i = end + 1
	}
	switch {
	case kept == int(got) && !changed:
		return passed()
	case size == 0:
		return done(int64(kept))
	case size < uint64(kept):
		return fails(syscall.ERANGE)
	}
	if kept > 0 {
		if e := s.write(out, unsafe.Pointer(&s.list), kept); e != 0 {
			return fails(e)
		}
	}
	return done(int64(kept))
}
