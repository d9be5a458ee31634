// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"errors"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/container/supervisor"
)

// The tracer is one thread. It stops processes of the step where the kernel says that they
// were born, ended or run a program, and before execve(2) and chdir(2). Signals pass.

const (
	ptraceCont      = 7
	ptraceSyscall   = 24
	ptraceSeize     = 0x4206
	ptraceListen    = 0x4208
	ptraceGetMsg    = 0x4201
	ptraceGetRegSet = 0x4204
	ptraceSetRegSet = 0x4205

	optSysgood = 1 << 0
	optFork    = 1 << 1
	optVfork   = 1 << 2
	optClone   = 1 << 3
	optExec    = 1 << 4
	optSeccomp = 1 << 7
	optKill    = 1 << 20 // PTRACE_O_EXITKILL

	eventFork    = 1
	eventVfork   = 2
	eventClone   = 3
	eventExec    = 4
	eventSeccomp = 7
	eventStop    = 128

	wall = 0x40000000 // __WALL

	// Results of calls that a signal interrupted, which only the kernel sees.
	restartFirst  = 512 // ERESTARTSYS
	restartNoIntr = 513 // ERESTARTNOINTR: in any case
	restartLast   = 516 // ERESTART_RESTARTBLOCK
)

// change is a call that is being made another one.
type change struct {
	exec bool   // execve(2), else chdir(2)
	path string // its argument
	regs registers
	at   int // number of the file that it is given, and of the one below

	plan  *plan // of an exec: it was found, and the files were given
	given bool  // of chdir: the directory was given
	ran   bool  // the new program is in place
}

// ptrace keeps what addr and data may point to alive, and where it is.
//
//go:uintptrescapes
func ptrace(request uintptr, pid int, addr, data uintptr) syscall.Errno {
	_, _, errno := syscall.RawSyscall6(syscall.SYS_PTRACE, request, uintptr(pid), addr, data, 0, 0)
	return errno
}

// seize makes this thread the tracer of a process, and of all that come from it.
func seize(pid int) error {
	errno := ptrace(ptraceSeize, pid, 0, optSysgood|optFork|optVfork|optClone|optExec|optSeccomp|optKill)
	if errno == syscall.EPERM {
		return errors.New("trace the step: " + errno.Error() + " (is kernel.yama.ptrace_scope 2 or 3?)")
	}
	if errno != 0 {
		return errors.New("trace the step: " + errno.Error())
	}
	return nil
}

// trace runs until all processes of the step are dead. command is its first one: with it
// ends the step. ended is called then.
func (e *engine) trace(command int, ended func(syscall.WaitStatus)) error {
	over := false
	for {
		pid, status, err := e.next()
		switch {
		case err == syscall.EINTR:
			continue
		case err == syscall.ECHILD:
			return nil
		case err != nil:
			return errors.New("wait for the step: " + err.Error())
		}
		if status.Exited() || status.Signaled() {
			e.gone(pid)
			if pid == command {
				over = true
				e.killStep()
				ended(status)
			}
			continue
		}
		if over || e.stopping.Load() {
			_ = syscall.Kill(pid, syscall.SIGKILL) // born meanwhile
		}
		e.stopped(pid, status)
	}
}

// end is how a process ended.
type end struct {
	pid    int
	status syscall.WaitStatus
}

// next waits for any process.
func (e *engine) next() (pid int, status syscall.WaitStatus, err error) {
	if len(e.ends) > 0 {
		first := e.ends[0]
		e.ends = e.ends[1:]
		return first.pid, first.status, nil
	}
	pid, err = syscall.Wait4(-1, &status, wall, nil)
	return pid, status, err
}

// advance lets a process go on to its next trap or border of a call. Signals that come
// meanwhile are sent again. It is false where the process ended.
func (e *engine) advance(pid int, how uintptr) bool {
	var signals []syscall.Signal
	for {
		resume(pid, how, 0)
		var status syscall.WaitStatus
		_, err := syscall.Wait4(pid, &status, wall, nil)
		for err == syscall.EINTR {
			_, err = syscall.Wait4(pid, &status, wall, nil)
		}
		switch {
		case err != nil:
			return false
		case !status.Stopped():
			e.ends = append(e.ends, end{pid, status})
			return false
		case status>>16 != 0: // a stop of the whole group, or an interruption
			continue
		case status.StopSignal()&^0x80 == syscall.SIGTRAP:
			for _, s := range signals {
				_ = syscall.Kill(pid, s) // it may be gone
			}
			return true
		}
		signals = append(signals, status.StopSignal())
	}
}

// killStep kills all processes of the step.
func (e *engine) killStep() {
	for _, pid := range e.leaders() {
		_ = syscall.Kill(int(pid), syscall.SIGKILL) // it may be gone
	}
}

func (e *engine) gone(pid int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	delete(e.tasks, uint32(pid))
}

// stopped lets a process go on that was stopped.
func (e *engine) stopped(pid int, status syscall.WaitStatus) {
	sig := status.StopSignal()
	switch event := int(status) >> 16; event {
	case eventSeccomp:
		e.diverted(pid)
	case eventFork, eventVfork, eventClone:
		var child uint64
		if ptrace(ptraceGetMsg, pid, 0, uintptr(unsafe.Pointer(&child))) == 0 {
			e.born(pid, int(child))
		}
		resume(pid, ptraceCont, 0)
	case eventExec:
		e.replaced(pid)
		resume(pid, ptraceSyscall, 0)
	case eventStop:
		switch sig {
		case syscall.SIGSTOP, syscall.SIGTSTP, syscall.SIGTTIN, syscall.SIGTTOU:
			resume(pid, ptraceListen, 0)
		default:
			if !e.unborn(pid) {
				resume(pid, ptraceCont, 0)
			}
		}
	case 0:
		if sig == syscall.SIGTRAP|0x80 {
			e.returned(pid)
			return
		}
		uninterrupted(pid)
		resume(pid, ptraceCont, sig)
	default:
		resume(pid, ptraceCont, 0)
	}
}

// uninterrupted sees to it that a signal that came before a call was looked at is no error of
// the call: the kernel begins it anew, as it would not have been interrupted elsewhere.
func uninterrupted(pid int) {
	regs, errno := getRegisters(pid)
	if errno == 0 && regs.result() == ^uint64(restartFirst-1) && quick(regs.number()) {
		regs.restart(&regs)
		_ = regs.set(pid) // ESRCH: killed meanwhile
	}
}

// quick tells whether a call is one of those that are answered here and that no signal
// interrupts in a kernel.
func quick(number int) bool {
	switch number {
	case nrOpen, nrCreat, syscall.SYS_OPENAT, sysOpenat2, nrStat, nrLstat, syscall.SYS_FSTAT, sysFstatat, sysStatx,
		nrAccess, syscall.SYS_FACCESSAT, sysFaccessat2, nrReadlink, syscall.SYS_READLINKAT, syscall.SYS_STATFS,
		nrMkdir, syscall.SYS_MKDIRAT, nrMknod, syscall.SYS_MKNODAT, nrSymlink, syscall.SYS_SYMLINKAT, nrLink, syscall.SYS_LINKAT,
		nrUnlink, nrRmdir, syscall.SYS_UNLINKAT, nrRename, syscall.SYS_RENAMEAT, sysRenameat2,
		nrChmod, syscall.SYS_FCHMOD, syscall.SYS_FCHMODAT, sysFchmodat2, nrChown, nrLchown, syscall.SYS_FCHOWN, syscall.SYS_FCHOWNAT,
		syscall.SYS_TRUNCATE, nrUtime, nrUtimes, nrFutimesat, syscall.SYS_UTIMENSAT,
		syscall.SYS_SETXATTR, syscall.SYS_LSETXATTR, syscall.SYS_FSETXATTR, syscall.SYS_GETXATTR, syscall.SYS_LGETXATTR, syscall.SYS_FGETXATTR,
		syscall.SYS_LISTXATTR, syscall.SYS_LLISTXATTR, syscall.SYS_FLISTXATTR, syscall.SYS_REMOVEXATTR, syscall.SYS_LREMOVEXATTR, syscall.SYS_FREMOVEXATTR,
		syscall.SYS_GETCWD, syscall.SYS_FCHDIR, syscall.SYS_CHROOT, syscall.SYS_UMASK, syscall.SYS_PRCTL, sysPrlimit,
		syscall.SYS_GETUID, syscall.SYS_GETEUID, syscall.SYS_GETGID, syscall.SYS_GETEGID, syscall.SYS_GETRESUID, syscall.SYS_GETRESGID, syscall.SYS_GETGROUPS,
		syscall.SYS_SETUID, syscall.SYS_SETREUID, syscall.SYS_SETRESUID, syscall.SYS_SETFSUID, syscall.SYS_SETGID, syscall.SYS_SETREGID,
		syscall.SYS_SETRESGID, syscall.SYS_SETFSGID, syscall.SYS_SETGROUPS, syscall.SYS_CAPGET, syscall.SYS_CAPSET,
		syscall.SYS_KILL, syscall.SYS_TKILL, syscall.SYS_TGKILL:
		return true
	}
	return false
}

func resume(pid int, how uintptr, sig syscall.Signal) {
	_ = ptrace(how, pid, 0, uintptr(sig)) // ESRCH: killed meanwhile
}

// born notes a new thread or process of one.
func (e *engine) born(parent, child int) {
	e.mu.Lock()
	p, c := e.tasks[uint32(parent)], e.tasks[uint32(child)]
	waits := c != nil && c.stopped
	t := &task{process: uint32(child)}
	if p != nil {
		t.program = p.program
		if sameProcess(int(p.process), child) {
			t.process = p.process
		}
	}
	e.tasks[uint32(child)] = t
	e.mu.Unlock()
	if waits {
		resume(child, ptraceCont, 0)
	}
}

func sameProcess(process, thread int) bool {
	_, _, errno := syscall.RawSyscall(syscall.SYS_TGKILL, uintptr(process), uintptr(thread), 0)
	return errno == 0
}

// unborn tells whether a thread has to wait until its parent's stop is seen, which says whose
// it is.
func (e *engine) unborn(pid int) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.tasks[uint32(pid)] != nil {
		return false
	}
	e.tasks[uint32(pid)] = &task{process: uint32(pid), stopped: true}
	return true
}

// diverted is called before execve(2) and chdir(2): it makes another call of them.
func (e *engine) diverted(pid int) {
	regs, errno := getRegisters(pid)
	if errno != 0 {
		return
	}
	c := &change{exec: regs.number() == syscall.SYS_EXECVE, regs: regs}
	addr := regs.arg(0)
	c.path, errno = supervisor.StringOf(uint32(pid), addr)
	if errno == 0 {
		c.at, errno = freeNumbers(pid)
	}
	if errno != 0 {
		regs.fail(pid, errno)
		resume(pid, ptraceCont, 0)
		return
	}
	e.mu.Lock()
	if t := e.tasks[uint32(pid)]; t != nil {
		t.change = c
	}
	e.mu.Unlock()
	if c.exec {
		// The path is empty: it is the end of the one that was given.
		regs.setArgs(uint64(c.at), addr+uint64(len(c.path)), c.regs.arg(1), c.regs.arg(2), atEmptyPath)
		errno = regs.setCall(pid, sysExecveat)
	} else {
		regs.setArgs(uint64(c.at))
		errno = regs.setCall(pid, syscall.SYS_FCHDIR)
	}
	if errno != 0 {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
	resume(pid, ptraceSyscall, 0)
}

// freeNumbers finds two numbers for files, one below the other, that a process does not use.
func freeNumbers(pid int) (int, syscall.Errno) {
	var l struct{ cur, max uint64 }
	_, _, errno := syscall.RawSyscall6(sysPrlimit, uintptr(pid), syscall.RLIMIT_NOFILE, 0, uintptr(unsafe.Pointer(&l)), 0, 0)
	if errno != 0 {
		return 0, errno
	}
	const high = 1024 // a higher number would make the kernel's table large
	free := func(n int) bool {
		_, errno := readlinkat(atFdcwd, "/proc/"+itoa(uint64(pid))+"/fd/"+itoa(uint64(n)))
		return errno == syscall.ENOENT
	}
	for n := int(min(l.cur, high)) - 1; n > 0; n-- {
		if free(n) && free(n-1) {
			return n, 0
		}
	}
	return 0, syscall.EMFILE
}

// replaced is called when a process runs a new program.
func (e *engine) replaced(pid int) {
	var former uint64
	_ = ptrace(ptraceGetMsg, pid, 0, uintptr(unsafe.Pointer(&former)))
	e.mu.Lock()
	defer e.mu.Unlock()
	t := e.tasks[uint32(former)]
	if t == nil {
		return
	}
	if former != uint64(pid) { // a thread that has become the process
		delete(e.tasks, uint32(former))
	}
	t.process = uint32(pid)
	e.tasks[uint32(pid)] = t
	if t.change != nil && t.change.plan != nil {
		t.change.ran = true
		t.program = &program{t.change.plan.path}
	}
}

// returned is called when a diverted call is done.
func (e *engine) returned(pid int) {
	e.mu.Lock()
	t := e.tasks[uint32(pid)]
	var c *change
	if t != nil {
		c, t.change = t.change, nil
	}
	e.mu.Unlock()
	if c == nil {
		resume(pid, ptraceCont, 0)
		return
	}
	var ok bool
	if c.ran {
		ok = e.load(pid, c)
	} else {
		ok = e.restore(pid, c)
	}
	if !ok {
		_ = syscall.Kill(pid, syscall.SIGKILL) // what it would run then is not what it should
	}
	resume(pid, ptraceCont, 0)
}

// restore gives a process back what diverting the call took from it.
func (e *engine) restore(pid int, c *change) bool {
	regs, errno := getRegisters(pid)
	if errno != 0 {
		return false
	}
	value := regs.result()
	if c.exec && c.plan != nil { // refused by the kernel
		e.closeIn(pid, regs, c.at)
		e.closeIn(pid, regs, c.at-1)
	}
	if c.given {
		e.closeIn(pid, regs, c.at)
	}
	back := c.regs
	if e := -int64(value); e >= restartFirst && e <= restartLast {
		// A signal came before the call was looked at. The kernel begins it anew
		// afterwards, as the process made it.
		back.restart(&regs)
	} else {
		back.setResult(value, &regs)
	}
	return back.set(pid) == 0
}

// closeIn has a process that returns from a call close a file.
func (e *engine) closeIn(pid int, regs registers, fd int) {
	regs.again(syscall.SYS_CLOSE, uint64(fd))
	if regs.set(pid) != 0 {
		return
	}
	for range 2 { // begin and end of the call
		if !e.advance(pid, ptraceSyscall) {
			return
		}
	}
}

// getSet and setSet read and write a set of registers.
func getSet(pid int, set uintptr, p unsafe.Pointer, n uintptr) syscall.Errno {
	v := struct {
		base unsafe.Pointer
		size uintptr
	}{p, n}
	return ptrace(ptraceGetRegSet, pid, set, uintptr(unsafe.Pointer(&v)))
}

func setSet(pid int, set uintptr, p unsafe.Pointer, n uintptr) syscall.Errno {
	v := struct {
		base unsafe.Pointer
		size uintptr
	}{p, n}
	return ptrace(ptraceSetRegSet, pid, set, uintptr(unsafe.Pointer(&v)))
}

const prStatus = 1 // NT_PRSTATUS
