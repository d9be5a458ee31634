// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"syscall"
	"unsafe"
)

// script is what the first process of a container and its command do until the command runs: a
// list of system calls, written before that process is made. It is made by a plain fork(2) of a
// process that has many threads, of which it has only the one that forked: it must neither
// allocate nor lock, nor have its stack grown, so it cannot run ordinary Go (see fork.go).
//
// Whatever is pointed to by a call is held by keep.
type script struct {
	setup   []op // of the first process
	command []op // of the second one, which becomes the command
	flags   uintptr

	control uintptr // the socket to the worker
	fault   uintptr // a pipe: which call failed, and how

	said   failed
	regs   [registers + 1]uintptr
	cwd    [syscall.PathMax]byte
	stat   syscall.Stat_t
	one    [8]byte
	status uint32
	usage  syscall.Rusage
	end    statusReport

	paths map[uintptr]string // of the command, by their addresses
	keep  []any
}

// failed is what goes into script.fault.
type failed struct {
	call    uintptr // its number, through both lists
	errno   syscall.Errno
	command uintptr // the address of its path, which is the same here and there
}

// statusReport is a whole report of ReportStatus, from kind on.
type statusReport struct {
	_                            [3]byte
	kind                         byte
	length                       [4]byte
	status, user, system, maxRSS uint64
	alone                        uint64
}

// op is one system call of a script.
type op struct {
	nr   uintptr
	args [6]uintptr

	reg    int8 // not 0: the argument arg is what that register holds
	arg    int8
	result int8 // not 0: the result goes to that register

	// skipDone calls are left out when this one succeeded, and skip when it failed with one of
	// errs, or, where any is set, at all. Every other error ends the script.
	skipDone int
	skip     int
	errs     [4]syscall.Errno
	any      bool

	what string // what is said of a failure
	hint string // of ELOOP and ENOTDIR
}

// registers are numbered from 1.
const registers = 3

const (
	regPlace   = 1 // where the next mount goes, or another file that is of use once
	regLastPid = 2 // see openLastPid
	regCommand = 3 // the path of the command
)

// What stands in for the number of a system call.
const (
	checkCwd  = ^uintptr(0) - iota // script.cwd must be an absolute path, else EACCES
	checkFile                      // script.stat must be of a program, else EACCES
	give                           // the argument is the result
	refuse                         // the argument is the error
)

// atFdcwd is AT_FDCWD.
const atFdcwd = ^uintptr(99)

func (s *script) add(what string, nr uintptr, args ...uintptr) *op {
	o := op{nr: nr, what: what}
	copy(o.args[:], args)
	s.setup = append(s.setup, o)
	return &s.setup[len(s.setup)-1]
}

// on gives the errors after which the script goes on, leaving out skip calls.
func (o *op) on(skip int, errs ...syscall.Errno) *op {
	o.skip = skip
	copy(o.errs[:], errs)
	return o
}

// str gives the address of a string with a NUL behind it. It must have none inside, which
// is looked for where strings of others come in.
func (s *script) str(v string) uintptr {
	b := make([]byte, len(v)+1)
	copy(b, v)
	s.keep = append(s.keep, b)
	return uintptr(unsafe.Pointer(unsafe.SliceData(b)))
}

// strs gives the address of a list of strings, as execve(2) wants it.
func (s *script) strs(l []string) uintptr {
	p := make([]uintptr, len(l)+1)
	for i, v := range l {
		p[i] = s.str(v)
	}
	s.keep = append(s.keep, p)
	return uintptr(unsafe.Pointer(unsafe.SliceData(p)))
}

// wipe clears the strings, for the reason of message.close.
func (s *script) wipe() {
	for _, k := range s.keep {
		if b, ok := k.([]byte); ok {
			clear(b)
		}
	}
}

// hold gives the address of what v points to, which is on the heap for it.
func hold[T any](s *script, v *T) uintptr {
	s.keep = append(s.keep, v)
	return uintptr(unsafe.Pointer(v))
}

// open opens a clean path below dir into a register, as openIn does.
func (s *script) open(what string, dir uintptr, path string, flags int, resolve uint64, reg int8) *op {
	how := &openHow{flags: uint64(flags | syscall.O_CLOEXEC), resolve: resolve}
	o := s.add(what, sysOpenat2, dir, s.str(path), hold(s, how), unsafe.Sizeof(*how))
	o.result = reg
	return o
}

// mount is mount(2) on a path in the place for mounts, which this program made.
func (s *script) mount(what, source, path, fstype string, flags uintptr, data string) *op {
	var d uintptr
	if data != "" {
		d = s.str(data)
	}
	return s.add(what, syscall.SYS_MOUNT, s.str(source), s.str(path), s.str(fstype), flags, d)
}

// moveTo moves a mount to the place in regPlace. from is the mount, or, where it is
// atFdcwd, path is the place where it is.
func (s *script) moveTo(what string, from uintptr, path string) *op {
	flags := uintptr(moveToEmpty)
	if path == "" {
		flags |= moveFromEmpty
	}
	o := s.add(what, sysMoveMount, from, s.str(path), 0, s.str(""), flags)
	o.reg, o.arg = regPlace, 2
	return o
}

// failure is what is said of a failed call other than the last one.
func (s *script) failure(f failed) error {
	all := append(s.setup[:len(s.setup):len(s.setup)], s.command...)
	if f.call >= uintptr(len(all)) {
		return fail("start command", f.errno)
	}
	o := &all[f.call]
	if f.errno == syscall.ELOOP || f.errno == syscall.ENOTDIR {
		return fail(o.what+o.hint, f.errno)
	}
	return fail(o.what, f.errno)
}
