// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"runtime"
	"syscall"
	"unsafe"
)

// What is marked nosplit here runs in a process that is a copy of this one with a single
// thread, as syscall.forkAndExecInChild does: no allocation, no locks, no growing of the stack,
// no pointers written (a collection of garbage may have been under way). The memory is its own,
// so that whatever happens there does not happen here.

const (
	sigSetMask = 2
	sigsetSize = 8
	lastSignal = 64
)

// run makes the first process of a container. It gives its number, and the end of the pipe
// that tells of failures: nothing, when the command runs.
func (s *script) run() (pid int, fault int, err error) {
	var p [2]int
	if err := syscall.Pipe2(p[:], syscall.O_CLOEXEC); err != nil {
		return 0, -1, fail("make pipe", err)
	}
	s.fault = uintptr(p[1])
	// The copy has this process's handlers of signals, which it must not enter.
	all, before := ^uint64(0), uint64(0)
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&all)), uintptr(unsafe.Pointer(&before)), sigsetSize, 0, 0)
	n, e := s.fork()
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&before)), 0, sigsetSize, 0, 0)
	runtime.KeepAlive(s)
	_ = syscall.Close(p[1])
	if e != 0 {
		_ = syscall.Close(p[0])
		return 0, -1, fail("start container", e)
	}
	return int(n), p[0], nil
}

// fork makes the process. In that one it does not return.
//
//go:noinline
//go:norace
//go:nosplit
func (s *script) fork() (pid uintptr, e syscall.Errno) {
	pid, _, e = syscall.RawSyscall6(syscall.SYS_CLONE, s.flags, 0, 0, 0, 0, 0)
	if e != 0 || pid != 0 {
		return pid, e
	}
	s.first()
	return 0, 0
}

// first is the life of the first process of a container.
//
//go:noinline
//go:norace
//go:nosplit
func (s *script) first() {
	n, e := s.do(s.setup)
	if e != 0 {
		s.fail(n, e)
	}
	s.dropSignals()
	// The worker allows the command to start when it knows this process, so that it can end it.
	for {
		n, _, e := syscall.RawSyscall(syscall.SYS_READ, s.control, uintptr(unsafe.Pointer(&s.one)), 1)
		if e == syscall.EINTR {
			continue
		}
		if e != 0 || n != 1 {
			exit(1)
		}
		break
	}
	pid, errno := vfork(uintptr(syscall.SIGCHLD) | syscall.CLONE_VM | syscall.CLONE_VFORK)
	if errno != 0 {
		s.fail(len(s.setup)+len(s.command), syscall.Errno(errno))
	}
	if pid == 0 {
		n, e := s.do(s.command)
		s.fail(len(s.setup)+n, e)
	}
	s.reap(pid)
}

// vfork is clone(2) with flags among which are CLONE_VM and CLONE_VFORK: the child, to which it
// gives 0, runs on this process's stack, while this one waits for its exec or its end. It must
// be called, and the child's life be spent, in a function that the child does not return from.
//
//go:noescape
func vfork(flags uintptr) (pid, errno uintptr)

// do makes the calls of a list. It gives the number of the one that failed.
//
//go:norace
//go:nosplit
func (s *script) do(list []op) (int, syscall.Errno) {
	tries := 0
	for i := 0; i < len(list); i++ {
		o := &list[i]
		a := o.args
		if o.reg != 0 {
			a[o.arg] = s.regs[o.reg]
		}
		r, e := s.call(o.nr, &a)
		switch {
		case e == 0:
			if o.result != 0 {
				s.regs[o.result] = r
			}
			i += o.skipDone
		case o.any:
			i += o.skip
		case o.nr == sysOpenat2 && (e == syscall.EAGAIN || e == syscall.EINTR) && tries < 512: // see openat2
			tries++
			i--
		case e == o.errs[0] || e == o.errs[1] || e == o.errs[2] || e == o.errs[3]:
			i += o.skip
		default:
			return i, e
		}
	}
	return 0, 0
}

// call makes one call.
//
//go:norace
//go:nosplit
func (s *script) call(nr uintptr, a *[6]uintptr) (uintptr, syscall.Errno) {
	switch nr {
	case checkCwd:
		if s.cwd[0] != '/' {
			return 0, syscall.EACCES
		}
		return 0, 0
	case checkFile:
		if s.stat.Mode&syscall.S_IFMT != syscall.S_IFREG || s.stat.Mode&0o111 == 0 {
			return 0, syscall.EACCES
		}
		return 0, 0
	case give:
		return a[0], 0
	case refuse:
		return 0, syscall.Errno(a[0])
	}
	r, _, e := syscall.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return r, e
}

// fail says which call failed, and waits for its end: the one who is told may want to look at
// the root.
//
//go:norace
//go:nosplit
func (s *script) fail(n int, e syscall.Errno) {
	s.said = failed{uintptr(n), e, s.regs[regCommand]}
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, s.fault, uintptr(unsafe.Pointer(&s.said)), unsafe.Sizeof(s.said))
	for {
		_, _, e := syscall.RawSyscall6(syscall.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
		if e != syscall.EINTR {
			exit(1)
		}
	}
}

// dropSignals gives all signals their default action and lets them through: see the function
// of this name.
//
//go:norace
//go:nosplit
func (s *script) dropSignals() {
	var action [4]uint64
	for sig := uintptr(1); sig <= lastSignal; sig++ { // refused for SIGKILL and SIGSTOP
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, sigsetSize, 0, 0)
	}
	_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, sigSetMask, uintptr(unsafe.Pointer(&action)), 0, sigsetSize, 0, 0)
}

// reap collects processes that end until the command does, ends all others, and reports that. It
// keeps no descriptor but the socket to the worker, which need not wait then until the kernel has
// taken away the mounts.
//
//go:norace
//go:nosplit
func (s *script) reap(command uintptr) {
	// The socket stays at its number: a step's own limit may allow no new descriptor. Below it is
	// that of the forking process.
	_, _, _ = syscall.RawSyscall(sysCloseRange, 0, s.control-1, 0)
	_, _, e := syscall.RawSyscall(sysCloseRange, s.control+1, 1<<32-1, 0)
	if e != 0 {
		exit(1)
	}
	for {
		pid, _, e := syscall.RawSyscall6(syscall.SYS_WAIT4, ^uintptr(0), uintptr(unsafe.Pointer(&s.status)), 0, 0, 0, 0)
		if e == syscall.EINTR || e == 0 && pid != command {
			continue
		}
		if e != 0 {
			exit(1)
		}
		break
	}
	// Who is left is a child of this process, or a descendant of one, and has become a child
	// when its parents are collected.
	for e := syscall.Errno(0); e != syscall.ECHILD; {
		_, _, e = syscall.RawSyscall(syscall.SYS_KILL, ^uintptr(0), uintptr(syscall.SIGKILL), 0)
		if e != 0 && e != syscall.ESRCH {
			break // a security module: the kernel itself does it when this process ends
		}
		_, _, e = syscall.RawSyscall6(syscall.SYS_WAIT4, ^uintptr(0), 0, 0, 0, 0, 0)
		if e == syscall.ECHILD {
			s.end.alone = 1
		}
	}
	const children = ^uintptr(0) // RUSAGE_CHILDREN
	_, _, _ = syscall.RawSyscall(syscall.SYS_GETRUSAGE, children, uintptr(unsafe.Pointer(&s.usage)), 0)
	s.end.status = uint64(s.status)
	s.end.user = uint64(s.usage.Utime.Sec)*1e6 + uint64(s.usage.Utime.Usec)
	s.end.system = uint64(s.usage.Stime.Sec)*1e6 + uint64(s.usage.Stime.Usec)
	s.end.maxRSS = uint64(s.usage.Maxrss)
	const size = unsafe.Sizeof(s.end) - unsafe.Offsetof(s.end.kind)
	_, _, _ = syscall.RawSyscall(syscall.SYS_WRITE, s.control, uintptr(unsafe.Pointer(&s.end.kind)), size)
	exit(0)
}

//go:norace
//go:nosplit
func exit(code uintptr) {
	for {
		_, _, _ = syscall.RawSyscall(syscall.SYS_EXIT_GROUP, code, 0, 0)
	}
}
