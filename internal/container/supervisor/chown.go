// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"

	"build.stacker.dev/internal/layer/record"
)

const (
	modeExecGroup = 0o010
	modeSetGID    = syscall.S_ISGID
	typeMask      = syscall.S_IFMT
)

// chownPath answers a call of the chown family for the path at addr.
func (s *supervisor) chownPath(dir int32, addr uint64, uid, gid uint32, flags uint32) answer {
	dir, e := s.readPath(dir, addr)
	if e != 0 {
		return fails(e)
	}
	if s.pathLen == 0 && flags&atEmptyPath == 0 {
		return passed()
	}
	if s.pathLen == 0 {
		return s.chownFile(dir, uid, gid)
	}
	if fd, ok := s.ownFile(s.path[:s.pathLen]); ok {
		return s.chownFile(fd, uid, gid)
	}
	// Most are for root, of a file that is root's.
	follow := flags&atSymlinkNofollow == 0
	if zero(uid) && zero(gid) && !s.chroots && s.named(dir, s.pathLen) && s.creds().has(capChown) {
		if _, _, ok := s.note(&s.name[0], follow); !ok {
			return passed()
		}
	}
	h, e := s.handle(dir, s.pathLen, follow)
	if e == errForeign && hasPrefix(s.path[:s.pathLen], "/dev/") {
		return done(0) // a terminal
	}
	if e != 0 {
		return passed() // the kernel says what is wrong; it has no such id elsewhere
	}
	defer closeFd(h)
	return s.chown(h, uid, gid)
}

// chownFile answers a call of the chown family for an open file.
func (s *supervisor) chownFile(fd int32, uid, gid uint32) answer {
	h, e := s.handleOf(fd)
	switch {
	case e == errForeign && s.anonymous():
		return done(0) // a pipe, a socket, a terminal
	case e != 0:
		return passed()
	}
	defer closeFd(h)
	return s.chown(h, uid, gid)
}

// anonymous tells whether the file that handle found in another place is none that
// lies in a directory of files.
func (s *supervisor) anonymous() bool {
	switch uint32(s.statx.mode) & typeMask {
	case syscall.S_IFREG, syscall.S_IFDIR, syscall.S_IFLNK:
		return false
	}
	return true
}

func zero(id uint32) bool { return id == 0 || id == keep }

// chown notes a new owner of the file h, which s.statx describes.
func (s *supervisor) chown(h int, uid, gid uint32) answer {
	oldUID, oldGID, noted := s.note(&s.handleName[0], true)
	if !noted {
		oldUID, oldGID = 0, 0
	}
	uid, gid, e := s.creds().newOwner([2]uint32{oldUID, oldGID}, uid, gid)
	if e != 0 {
		return fails(e)
	}
	if !noted && uid == 0 && gid == 0 {
		return passed()
	}
	if !s.valid() {
		return passed()
	}
	// What a change of owner does besides, the kernel does: clear set-id bits and
	// capabilities, set the time, copy up. On a link that takes the note too.
	_, _, e = syscall.Syscall6(syscall.SYS_FCHOWNAT, uintptr(h), empty.ptr(), 0, 0, atEmptyPath, 0)
	if e == 0 {
		e = s.setNote(&s.handleName[0], uint32(s.statx.mode), uid, gid)
	}
	return result(e)
}

// newOwner says whose a file becomes that belongs to old when the process gives it to
// uid and gid.
func (c *creds) newOwner(old [2]uint32, uid, gid uint32) (uint32, uint32, syscall.Errno) {
	if !exists(uid) || !exists(gid) {
		return 0, 0, syscall.EINVAL
	}
	if !c.has(capChown) && (old[0] != c.uid[fileSystem] || uid != keep && uid != old[0] || gid != keep && gid != old[1] && !c.inGroup(gid)) {
		return 0, 0, syscall.EPERM
	}
	if uid == keep {
		uid = old[0]
	}
	if gid == keep {
		gid = old[1]
	}
	return uid, gid, 0
}

// setNote notes the owner of a file with that mode.
func (s *supervisor) setNote(name *byte, mode, uid, gid uint32) syscall.Errno {
	attr, value := ownerAttr, []byte(nil)
	switch mode & typeMask {
	case syscall.S_IFREG, syscall.S_IFDIR:
		value = record.EncodeOwner(uid, gid)
	default:
		attr, value = specialAttr, record.EncodeSpecial(uid, gid)
	}
	if uid != 0 || gid != 0 {
		return setxattr(name, attr.ptr(), value)
	}
	if e := removexattr(name, attr.ptr()); e != syscall.ENODATA {
		return e
	}
	return 0
}
