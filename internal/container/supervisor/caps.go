// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"
)

// The capabilities that calls here ask for, and those that follow the file system
// id (CAP_FS_SET of the kernel).
const (
	capChown       = 0
	capDACOverride = 1
	capFowner      = 3
	capSetGID      = 6
	capSetUID      = 7
	capChroot      = 18

	capFS = 1<<capChown | 1<<capDACOverride | 1<<2 | 1<<capFowner | 1<<4 | 1<<9 | 1<<27 | 1<<32
)

// capSets are the capabilities that a process believes to have. It really has
// those of the step all the time.
type capSets struct {
	permitted, effective, inheritable uint64

	keep, noFixup bool // SECBIT_KEEP_CAPS, SECBIT_NO_SETUID_FIXUP (capabilities(7))
}

func (c *creds) has(capability int) bool { return c.caps.effective&(1<<capability) != 0 }

// follow does what a change of user ids does to capabilities (capabilities(7),
// "Effect of user ID changes on capabilities").
func (c *capSets) follow(old, now ids) {
	if c.noFixup {
		return
	}
	was := old[real] == 0 || old[effective] == 0 || old[saved] == 0
	is := now[real] == 0 || now[effective] == 0 || now[saved] == 0
	if was && !is && !c.keep {
		c.permitted, c.effective = 0, 0
	}
	switch {
	case old[effective] == 0 && now[effective] != 0:
		c.effective = 0
	case old[effective] != 0 && now[effective] == 0:
		c.effective = c.permitted
	}
}

func (c *capSets) followFileSystem(old, now uint32) {
	switch {
	case c.noFixup:
	case old == 0 && now != 0:
		c.effective &^= capFS
	case old != 0 && now == 0:
		c.effective |= c.permitted & capFS
	}
}

// capHeader is struct __user_cap_header_struct, capData an element of what
// belongs to it: the upper halves of the sets are in a second one.
type capHeader struct {
	version uint32
	pid     int32
}

type capData struct{ effective, permitted, inheritable uint32 }

const (
	capVersion1 = 0x19980330
	capVersion2 = 0x20071026
	capVersion3 = 0x20080522
)

// readCapHeader reads the header that the call points to, and how many elements
// follow. It is false for what the kernel shall refuse.
func (s *supervisor) readCapHeader() (h capHeader, n int, ok bool) {
	if s.read(s.call.args[0], unsafe.Pointer(&h), int(unsafe.Sizeof(h))) != 0 || s.call.args[1] == 0 {
		return h, 0, false
	}
	switch h.version {
	case capVersion1:
		return h, 1, h.pid >= 0
	case capVersion2, capVersion3:
		return h, 2, h.pid >= 0
	}
	return h, 0, false
}

func (s *supervisor) capGet() answer {
	h, n, ok := s.readCapHeader()
	if !ok {
		return passed()
	}
	c := s.creds()
	if h.pid != 0 {
		c = s.credsOf(uint32(h.pid))
	}
	var d [2]capData
	for i := range d {
		shift := 32 * i
		d[i] = capData{uint32(c.caps.effective >> shift), uint32(c.caps.permitted >> shift), uint32(c.caps.inheritable >> shift)}
	}
	return result(s.write(s.call.args[1], unsafe.Pointer(&d), n*int(unsafe.Sizeof(d[0]))))
}

func (s *supervisor) capSet() answer {
	h, n, ok := s.readCapHeader()
	if !ok || h.pid != 0 && uint32(h.pid) != s.call.pid {
		return passed()
	}
	var d [2]capData
	if e := s.read(s.call.args[1], unsafe.Pointer(&d), n*int(unsafe.Sizeof(d[0]))); e != 0 {
		return fails(e)
	}
	var want capSets
	for i, part := range d {
		shift := 32 * i
		want.effective |= uint64(part.effective) << shift
		want.permitted |= uint64(part.permitted) << shift
		want.inheritable |= uint64(part.inheritable) << shift
	}
	c := *s.creds()
	all := s.caps | c.caps.permitted | c.caps.inheritable
	if want.permitted&^c.caps.permitted != 0 || want.effective&^want.permitted != 0 || want.inheritable&^all != 0 {
		return fails(syscall.EPERM)
	}
	c.caps.permitted, c.caps.effective, c.caps.inheritable = want.permitted, want.effective, want.inheritable
	return result(s.become(c))
}

const (
	prSetKeepCaps   = 8
	prSetSecureBits = 28
	secureNoFixup   = 1 << 2
	secureKeepCaps  = 1 << 4
)

// prctl notes how capabilities follow ids; the kernel does the rest.
func (s *supervisor) prctl() answer {
	c := *s.creds()
	switch arg := s.call.args[1]; uint32(s.call.args[0]) {
	case prSetKeepCaps:
		c.caps.keep = arg == 1
	case prSetSecureBits:
		c.caps.keep, c.caps.noFixup = arg&secureKeepCaps != 0, arg&secureNoFixup != 0
	}
	if e := s.become(c); e != 0 {
		return fails(e)
	}
	return passed()
}
