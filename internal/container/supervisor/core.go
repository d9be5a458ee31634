// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"syscall"
	"unsafe"
)

// Core is what a listener of system calls needs however it finds files: the talk with
// the kernel, the memory of the process that called, the ids of processes and the notes
// of owners. Package vroot builds on it. It is used by one thread, but for Reply and
// AddFD.
type Core struct{ s *supervisor }

// Place is what Core keeps for a process beside its ids. Children inherit it.
type Place struct {
	Root  uint32 // which root directory it has: a number of the caller's
	Umask uint32
}

// NewCore gives this process, and what it starts from now on, the first ids.
func NewCore(ids IDs, place Place) (*Core, error) {
	first := newCreds(ids)
	first.place = place
	s := &supervisor{table: []creds{first}, caps: ids.Caps}
	if err := s.markSelf(); err != nil {
		return nil, err
	}
	return &Core{s}, nil
}

// Call is a system call that waits for its answer.
type Call struct {
	ID   uint64
	PID  uint32 // of the thread
	NR   int    // number; -1 on an architecture that is not the machine's own
	Args [6]uint64
}

// Next waits for a call at the listener. ENOENT: the process was killed meanwhile.
func (c *Core) Next(listener int) (Call, syscall.Errno) {
	s := c.s
	s.listener = uintptr(listener)
	e := s.receive()
	call := Call{ID: s.call.id, PID: s.call.pid, NR: int(s.call.nr), Args: s.call.args}
	if s.call.arch != audit {
		call.NR = -1
	}
	return call, e
}

// Quick asks the kernel to wake a process on the processor that answered it (Linux 6.6).
func (c *Core) Quick(listener int) {
	c.s.listener = uintptr(listener)
	_ = c.s.ioctl(notifSetFlags, flagSync) // without it answers come later, that is all
}

// Reply answers a call with a value or, if e is not 0, an error.
func (c *Core) Reply(id uint64, value int64, e syscall.Errno) {
	r := response{id: id, value: value, errno: -int32(e)}
	if e != 0 {
		r.value = 0
	}
	// An error: the process is gone. Not by ioctl: the stack may grow and move there.
	_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, c.s.listener, notifSend, uintptr(unsafe.Pointer(&r)))
}

// Continue lets the kernel do a call. It reads again what the arguments point to, which
// the process may have changed.
func (c *Core) Continue(id uint64) {
	r := response{id: id, flags: flagContinue}
	_, _, _ = syscall.RawSyscall(syscall.SYS_IOCTL, c.s.listener, notifSend, uintptr(unsafe.Pointer(&r)))
}

// Valid tells whether the call still waits: if not, what was found under its process id
// may belong to another process.
func (c *Core) Valid() bool { return c.s.valid() }

// AddFD gives the process the open file fd and answers its call with the number.
func (c *Core) AddFD(id uint64, fd int, cloexec bool) syscall.Errno {
	return c.add(id, fd, 0, addFDFlagSend, cloexec)
}

// AddFDAt gives the process the open file fd under the number at, whatever that was; the
// call still waits then.
func (c *Core) AddFDAt(id uint64, fd, at int, cloexec bool) syscall.Errno {
	const setFD = 1
	return c.add(id, fd, at, setFD, cloexec)
}

func (c *Core) add(id uint64, fd, at int, flags uint32, cloexec bool) syscall.Errno {
	a := struct {
		id                        uint64
		flags, src, dst, newFlags uint32
	}{id: id, flags: flags, src: uint32(fd), dst: uint32(at)}
	if cloexec {
		a.newFlags = syscall.O_CLOEXEC
	}
	_, _, e := syscall.RawSyscall(syscall.SYS_IOCTL, c.s.listener, notifAddFD, uintptr(unsafe.Pointer(&a)))
	return e
}

// Read copies memory of the process that called to b: all of it, or EFAULT.
func (c *Core) Read(addr uint64, b []byte) syscall.Errno {
	return c.s.read(addr, unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

// Write copies b to memory of the process that called.
func (c *Core) Write(addr uint64, b []byte) syscall.Errno {
	if len(b) == 0 {
		return 0
	}
	return c.s.write(addr, unsafe.Pointer(unsafe.SliceData(b)), len(b))
}

// String reads a string of the process that called, of a path's length at most.
func (c *Core) String(addr uint64) (string, syscall.Errno) {
	n, e := c.s.readString(addr, &c.s.path)
	if e != 0 {
		return "", e
	}
	return string(c.s.path[:n]), 0
}

// StringOf reads a string of a process, of a path's length at most.
func StringOf(pid uint32, addr uint64) (string, syscall.Errno) {
	var buf [pathMax + 1]byte
	n, e := readString(pid, addr, &buf)
	if e != 0 {
		return "", e
	}
	return string(buf[:n]), 0
}

// AnswerIDs answers the call if it is one about ids, capabilities or the limit in which
// they are kept. done is false for others; kernel says that the kernel shall do it.
func (c *Core) AnswerIDs() (value int64, e syscall.Errno, kernel, done bool) {
	switch int(c.s.call.nr) {
	case syscall.SYS_EXECVE, sysExecveat, syscall.SYS_PRCTL:
		return 0, 0, false, false
	case sysPrlimit:
		if uint32(c.s.call.args[1]) != rlimitLocks {
			return 0, 0, false, false
		}
	}
	a := c.s.answerIDs()
	if a.how == pass {
		switch int(c.s.call.nr) {
		case syscall.SYS_CAPGET, syscall.SYS_CAPSET:
			return 0, 0, true, true
		}
		return 0, 0, false, false
	}
	return a.value, a.errno, false, true
}

// FollowCaps notes how capabilities follow ids, for prctl(2).
func (c *Core) FollowCaps() { _ = c.s.prctl() }

// Caps are the capabilities of root.
func (c *Core) Caps() uint64 { return c.s.caps }

// Place is that of the process that called.
func (c *Core) Place() Place { return c.s.creds().place }

// SetPlace changes it.
func (c *Core) SetPlace(p Place) syscall.Errno {
	n := *c.s.creds()
	n.place = p
	return c.s.become(n)
}

// Can tells whether the process that called has a capability.
func (c *Core) Can(capability int) bool { return c.s.creds().has(capability) }

// FileIDs are the ids of the process that called, as files see them.
func (c *Core) FileIDs() (uid, gid uint32) {
	n := c.s.creds()
	return n.uid[fileSystem], n.gid[fileSystem]
}

// MayMake tells whether the process that called may make names in a directory.
func (c *Core) MayMake(mode, uid, gid uint32) bool {
	n := c.s.creds()
	return n.has(capDACOverride) || n.mayMake(mode, uid, gid)
}

// NewOwner says whose a file becomes that belongs to old when the process that called
// gives it to uid and gid.
func (c *Core) NewOwner(old [2]uint32, uid, gid uint32) (uint32, uint32, syscall.Errno) {
	return c.s.creds().newOwner(old, uid, gid)
}

// Exec gives the process that called the ids of one that runs a program with that mode
// and owner.
func (c *Core) Exec(mode, uid, gid uint32) syscall.Errno {
	n := *c.s.creds()
	c.s.execAs(&n, mode, uid, gid)
	if n.equal(c.s.creds()) {
		return 0
	}
	return c.s.become(n)
}

// Owner gives the owner that is noted for the open file fd.
func (c *Core) Owner(fd int) (uid, gid uint32, ok bool) {
	putOwnFile(&c.s.handleName, fd)
	return c.s.note(&c.s.handleName[0], true)
}

// Noted tells whether the open file fd, a regular file or directory, has a note of its owner, which its mode
// may keep from being read.
func (c *Core) Noted(fd int) bool {
	putOwnFile(&c.s.handleName, fd)
	n, e := c.s.listxattr(&c.s.handleName[0], true)
	return e == 0 && hasName(c.s.names[:n], ownerAttr)
}

// SetOwner notes the owner of the open file fd, a regular file or directory.
func (c *Core) SetOwner(fd int, mode, uid, gid uint32) syscall.Errno {
	putOwnFile(&c.s.handleName, fd)
	return c.s.setNote(&c.s.handleName[0], mode, uid, gid)
}

func putOwnFile(name *[prefixMax]byte, fd int) {
	n := copy(name[:], "/proc/self/fd/")
	n += putNumber(name[n:], uint64(fd))
	name[n] = 0
}

// Private tells whether an attribute is a note, or a mark of this program.
func Private(name string) bool { return own([]byte(name)) }
