// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
)

// exec does what execve(2) does to ids and capabilities. It is before the kernel
// runs the program: where that fails for a reason that is not seen here, the ids
// are changed all the same.
func (s *supervisor) exec(dir int32, addr uint64, flags uint32) answer {
	c := *s.creds()
	if c.equal(&s.table[0]) && c.uid == (ids{}) {
		return passed() // root stays what it is
	}
	dir, e := s.readPath(dir, addr)
	if e != 0 {
		return passed()
	}
	if s.pathLen == 0 && flags&atEmptyPath == 0 {
		return passed()
	}
	h, e := s.handle(dir, s.pathLen, flags&atSymlinkNofollow == 0)
	if e == errForeign {
		s.afterExec(&c)
		return s.keepOn(c)
	}
	if e != 0 {
		return passed()
	}
	defer closeFd(h)
	mode := uint32(s.statx.mode)
	if mode&typeMask != syscall.S_IFREG || mode&0o111 == 0 {
		return passed()
	}
	uid, gid, _ := s.note(&s.handleName[0], true)
	s.execAs(&c, mode, uid, gid)
	return s.keepOn(c)
}

// execAs makes the ids those after the exec of a file with that mode and owner.
func (s *supervisor) execAs(c *creds, mode, uid, gid uint32) {
	if mode&syscall.S_ISUID != 0 {
		c.uid[effective] = uid
	}
	if mode&(modeSetGID|modeExecGroup) == modeSetGID|modeExecGroup {
		c.gid[effective] = gid
	}
	s.afterExec(c)
}

// afterExec makes the ids and capabilities those of a new program.
func (s *supervisor) afterExec(c *creds) {
	c.uid[saved], c.uid[fileSystem] = c.uid[effective], c.uid[effective]
	c.gid[saved], c.gid[fileSystem] = c.gid[effective], c.gid[effective]
	c.caps.keep = false
	c.caps.permitted, c.caps.effective = 0, 0
	if c.uid[real] == 0 || c.uid[effective] == 0 {
		c.caps.permitted = s.caps
	}
	if c.uid[effective] == 0 {
		c.caps.effective = s.caps
	}
}

// keepOn lets the kernel go on with other ids.
func (s *supervisor) keepOn(c creds) answer {
	if c.equal(s.creds()) {
		return passed()
	}
	if e := s.become(c); e != 0 {
		return fails(e)
	}
	return passed()
}
