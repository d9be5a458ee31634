// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/seccomp/install"
)

// Inner is the life of the process that becomes the command of a step without namespaces. It
// enters the step's root, confines itself and executes the command. It does not return.
func Inner() {
	_ = prctl(prSetDumpable, 0)
	_ = prctl(prSetName, uintptr(unsafe.Pointer(unsafe.StringData(Name+"\x00"))))
	s, files, err := receive()
	if err == nil {
		err = become(s, files[0])
	}
	report(err)
	syscall.Exit(1)
}

// become returns only with an error.
func become(s *Step, root *os.File) error {
	c := &container{Step: s, root: root, tty: -1}
	if err := c.chroot(); err != nil {
		return err
	}
	if err := c.enterDir(); err != nil {
		return err
	}
	path, err := lookPath(s.Args[0], s.Env)
	if err != nil {
		return err
	}
	if s.Terminal {
		if err := fail("take terminal", errnoErr(syscall.Syscall(syscall.SYS_IOCTL, 0, syscall.TIOCSCTTY, 0))); err != nil {
			return err
		}
	}
	if err := c.confineBare(); err != nil {
		return err
	}
	return execError(path, s.exec(path))
}

// chroot enters the root. Nothing leads out of it: no descriptor of a directory outside stays
// open, and the right to call chroot(2) again goes.
func (c *container) chroot() error {
	if err := fail("enter root", syscall.Fchdir(int(c.root.Fd()))); err != nil {
		return err
	}
	if err := fail("chroot", syscall.Chroot(".")); err != nil {
		return err
	}
	return fail("enter root", syscall.Chdir("/"))
}

// confineBare is confine for a process that executes the command itself.
func (c *container) confineBare() error {
	if err := c.setLimits(); err != nil {
		return err
	}
	if err := joinKeyring(); err != nil {
		return err
	}
	syscall.Umask(0o022)
	if err := fail("drop capabilities", dropCaps(c.Caps)); err != nil {
		return err
	}
	if err := fail("set no_new_privs", prctl(prSetNoNewPrivs, 1)); err != nil {
		return err
	}
	if err := fail("confine to root (landlock)", confineFiles(c.root)); err != nil {
		return err
	}
	if err := c.becomeUser(); err != nil {
		return err
	}
	if err := fail("close_range", errnoErr(syscall.Syscall(sysCloseRange, 3, 1<<32-1, closeRangeCloexec))); err != nil {
		return err
	}
	if len(c.Seccomp) == 0 {
		return nil
	}
	listener, err := install.Listen(c.Seccomp)
	if err == syscall.EBUSY || err == syscall.EINVAL {
		// The container around has a listener, or the kernel knows none: chroot(2) gives ENOSYS.
		return fail("install system call filter", install.Install(c.Seccomp))
	}
	if err == nil {
		err = sendListener(listener)
	}
	return fail("install system call filter", err)
}

// becomeUser takes the ids of the step, on this thread: it is the one that executes the command.
func (c *container) becomeUser() error {
	groups := c.Groups
	var list unsafe.Pointer
	if len(groups) > 0 {
		list = unsafe.Pointer(&groups[0])
	}
	if err := fail("set groups", errnoErr(syscall.RawSyscall(syscall.SYS_SETGROUPS, uintptr(len(groups)), uintptr(list), 0))); err != nil {
		return err
	}
	gid, uid := uintptr(c.GID), uintptr(c.UID)
	if err := fail("set group", errnoErr(syscall.RawSyscall(syscall.SYS_SETRESGID, gid, gid, gid))); err != nil {
		return err
	}
	return fail("set user", errnoErr(syscall.RawSyscall(syscall.SYS_SETRESUID, uid, uid, uid)))
}
