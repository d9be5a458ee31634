// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/seccomp/install"
)

const (
	softFiles = 1024    // what select(2) can do
	hardFiles = 1 << 20 // more would make programs that close them all slow
	maxProcs  = 4096    // in the user namespace, per user

	rlimitNproc = 6
)

// confine takes from the main thread what the command shall not have. The
// command's process is made by this thread and inherits it.
func (c *container) confine() error {
	if err := c.setLimits(); err != nil {
		return err
	}
	if err := joinKeyring(); err != nil {
		return err
	}
	syscall.Umask(0o022)
	if c.Scoped {
		if err := fail("confine to own processes (landlock)", scope()); err != nil {
			return err
		}
	}
	if !c.Privileged {
		if err := fail("drop capabilities", dropCaps(c.Caps)); err != nil {
			return err
		}
	}
	if c.NoNewPrivs {
		_, _, e := syscall.RawSyscall6(syscall.SYS_PRCTL, prSetNoNewPrivs, 1, 0, 0, 0, 0)
		if e != 0 {
			return fail("set no_new_privs", e)
		}
	}
	// Nothing but the three streams goes on. Marked rather than closed, because
	// this process still needs some.
	_, _, e := syscall.Syscall(sysCloseRange, 3, 1<<32-1, closeRangeCloexec)
	if e != 0 {
		return fail("close_range", e)
	}
	if len(c.Seccomp) == 0 {
		return nil
	}
	// The last thing: the rest of this thread's life is under it too.
	if c.serve != nil {
		listener, err := install.Listen(c.Seccomp)
		if err == nil {
			c.serve(listener)
		}
		if err == syscall.EBUSY {
			return fail("install listener of system calls (the container around has one: give this user subordinate ids)", err)
		}
		return fail("install listener of system calls", err)
	}
	return fail("install system call filter", install.Install(c.Seccomp))
}

// ownLimits are those that every step has, unless it sets others.
var ownLimits = [...]struct {
	what       string
	resource   int
	soft, hard uint64
}{
	{"limit open files", syscall.RLIMIT_NOFILE, softFiles, hardFiles},
	{"limit processes", rlimitNproc, maxProcs, maxProcs},
	// No core file, and no helper of the host that is started to take one.
	{"limit core files", syscall.RLIMIT_CORE, 0, 0},
}

// setLimits sets limits. Setrlimit rather than prlimit for RLIMIT_NOFILE: package syscall must
// forget the limit that the process was started with, else it gives that one to the command.
func (c *container) setLimits() error {
	for _, l := range ownLimits {
		to, err := lowered(l.resource, l.soft, l.hard)
		if err == nil {
			err = syscall.Setrlimit(l.resource, &to)
		}
		if err != nil {
			return fail(l.what, err)
		}
	}
	for _, l := range c.Limits {
		err := syscall.Setrlimit(int(l.Resource), &syscall.Rlimit{Cur: l.Cur, Max: l.Max})
		if err != nil {
			return fail("set resource limit "+utoa(l.Resource), err)
		}
	}
	return nil
}

// lowered gives a limit as far as the hard limit allows.
func lowered(resource int, soft, hard uint64) (l syscall.Rlimit, err error) {
	if err := syscall.Getrlimit(resource, &l); err != nil {
		return l, err
	}
	l.Max = min(l.Max, hard)
	l.Cur = min(l.Max, soft)
	return l, nil
}

// joinKeyring leaves the session keyring of outside for a new, anonymous one.
func joinKeyring() error {
	_, _, e := syscall.RawSyscall(syscall.SYS_KEYCTL, keyctlJoinSessionKeyring, 0, 0)
	switch e {
	case 0, syscall.ENOSYS: // a kernel without keys
		return nil
	case syscall.EDQUOT, syscall.EPERM, syscall.ENOMEM:
		// The user's few keys are in use (they are freed late), or a filter around
		// us refuses keyctl, as ours does for the command.
		return nil
	}
	return fail("join session keyring", e)
}

// dropCaps takes capabilities out of the bounding set, so that the command gets
// no others by its exec. Permitted and effective stay for what is left to do, and
// to keep the command from tracing this process.
func dropCaps(keep uint64) error {
	for i := uintptr(0); i < 64; i++ {
		if keep&(1<<i) != 0 {
			continue
		}
		err := prctl(prCapbsetDrop, i)
		if err == syscall.EINVAL {
			break // the kernel's last one was before
		}
		if err != nil {
			return err
		}
	}
	err := prctl(prCapAmbient, prCapAmbientClear)
	if err != nil {
		return err
	}
	return clearInheritable()
}

const capVersion3 = 0x20080522

// capsets are the arguments of capget(2) and capset(2).
type capsets struct {
	version uint32
	pid     int32
	data    [2]struct{ effective, permitted, inheritable uint32 }
}

// withoutInheritable gives the capabilities of this thread, with none to be inherited by exec.
func withoutInheritable() (*capsets, error) {
	c := &capsets{version: capVersion3}
	_, _, e := syscall.RawSyscall(syscall.SYS_CAPGET, uintptr(unsafe.Pointer(&c.version)), uintptr(unsafe.Pointer(&c.data)), 0)
	if e != 0 {
		return nil, e
	}
	c.data[0].inheritable, c.data[1].inheritable = 0, 0
	return c, nil
}

func clearInheritable() error {
	c, err := withoutInheritable()
	if err != nil {
		return err
	}
	return errnoErr(syscall.RawSyscall(syscall.SYS_CAPSET, uintptr(unsafe.Pointer(&c.version)), uintptr(unsafe.Pointer(&c.data)), 0))
}
