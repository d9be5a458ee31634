// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package initproc is the life of a container's first process.
//
// The worker starts this program once more, as Name, in new mount, pid, ipc, uts
// and cgroup namespaces (and a network namespace if asked), all of them below
// the worker's user namespace. Main then
//
//  1. reads the Step from the control socket,
//  2. builds the root: attaches the overlay and the mounts that the worker made,
//     makes /proc, /sys and /dev, and moves into it (root.go, dev.go),
//  3. confines its own main thread, with what a child inherits (confine.go),
//  4. starts the command, which becomes process 10 there, and collects what dies
//     until the command itself does (start.go),
//  5. reports and exits, on which the kernel kills all that is left.
//
// Where there are no namespaces (Step.Bare), the process stays outside: it starts the one that
// confines itself and becomes the command, and sees to it that nothing of the step outlives it
// (bare.go, inner.go).
//
// The package runs before the rest of the program is initialised, on the main
// thread, so it must import nearly nothing: every package that it needs delays
// each step of a build. What it resolves inside the step's root it resolves with
// openat2(2), scoped and without links: the worker found out where links lead
// before, where nobody could change them.
//
// The process holds more privilege than the command. The command cannot trace it
// or open what it holds: it is not dumpable, and permitted capabilities that the
// command does not have.
package initproc

import (
	"os"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/mount"
)

// Name is os.Args[0] of a container's init, and InnerName that of the process that it starts
// where there are no namespaces.
const (
	Name      = "stacker-init"
	InnerName = "stacker-init-step"
)

// controlFd is the socket to the worker, the only descriptor that the process is
// started with after the three streams.
const controlFd = 3

// fault is an operation of the init that failed.
type fault struct {
	op  string
	err error
}

func (f *fault) Error() string { return f.op + ": " + f.err.Error() }
func (f *fault) Unwrap() error { return f.err }

// foreign is a command for another machine.
type foreign struct {
	fault
	machine uint16 // e_machine of elf.h
}

func fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &fault{op, err}
}

// container is the container that is being set up.
type container struct {
	*Step
	root *os.File
	from []*os.File // the detached mounts of Step.Mounts
	proc *os.File
	dev  *os.File
	pts  *os.File
	tty  int // slave end of the terminal; -1: none

	lastPid int // see openLastPid; 0: not open

	serve func(listener int) // answers system calls; nil: nobody does

	emptyDir *os.File // an attached empty directory, to cover others with
}

// Supervise prepares answering the system calls of a Supervised step: package
// supervisor, which this package does not import to be below it. serve starts that,
// on another thread; end is called there when it cannot go on.
type Supervise func(s *Step, end func(error)) (serve func(listener int), err error)

// Main is the life of the process. It does not return.
func Main(supervise Supervise, virtual Virtual) {
	// Before anything else: from here on the process cannot be traced, nor its
	// executable be opened through /proc, by less privileged ones.
	_ = prctl(prSetDumpable, 0)
	_ = prctl(prSetName, uintptr(unsafe.Pointer(unsafe.StringData(Name+"\x00")))) // for process lists
	s, mounts, err := receive()
	switch {
	case err != nil:
	case s.Bare:
		err = keep(s, mounts)
	case s.Virtual:
		err = runVirtual(s, mounts, virtual)
	default:
		err = run(s, mounts, supervise)
	}
	if err != nil {
		report(err)
	}
	syscall.Exit(0)
}

func run(s *Step, mounts []*os.File, supervise Supervise) error {
	c := &container{Step: s, root: mounts[0], from: mounts[1:], tty: -1}
	syscall.Umask(0)
	// A filter of the container around may refuse it, as those of podman and docker do.
	if err := syscall.Sethostname([]byte(s.Hostname)); err != nil && err != syscall.EPERM {
		return fail("set host name", err)
	}
	if s.OwnNetwork {
		if err := fail("start loopback interface", loopbackUp()); err != nil {
			return err
		}
	}
	if err := c.buildRoot(); err != nil {
		return err
	}
	if err := c.enterRoot(); err != nil {
		return err
	}
	if err := c.enterDir(); err != nil {
		return err
	}
	path, err := lookPath(s.Args[0], s.Env)
	if err != nil {
		return err
	}
	if s.Supervised {
		if c.serve, err = supervise(s, unsupervised); err != nil {
			return fail("supervise", err)
		}
	}
	c.setLastPid()
	if err := c.confine(); err != nil {
		return err
	}
	pid, err := c.start(path)
	if err != nil {
		return err
	}
	return reap(pid)
}

// unsupervised ends the step: its calls would wait for ever.
func unsupervised(err error) {
	report(fail("supervise", err))
	syscall.Exit(1)
}

// buildRoot makes the tree of mounts.
func (c *container) buildRoot() error {
	// The working directory is as good a place as any: the mount namespace is new,
	// and what is covered here is left behind with the old root.
	here, err := os.OpenFile(".", oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := fail("mount root", mount.Attach(c.root, here)); err != nil {
		return err
	}
	_ = here.Close()
	if err := c.mountProc(); err != nil {
		return err
	}
	if err := c.mountSys(); err != nil {
		return err
	}
	if err := c.mountDev(); err != nil {
		return err
	}
	for i, m := range c.Mounts {
		if err := fail("mount /"+m.Target, c.attach(c.from[i], m)); err != nil {
			return err
		}
	}
	return nil
}

// attach puts a mount of the worker in its place.
func (c *container) attach(f *os.File, m Mount) error {
	at, err := openIn(c.root, m.Target, oPath)
	if err == syscall.ENOENT && m.Make {
		if err := makeTarget(c.root, m.Target, m.File); err != nil {
			return err
		}
		at, err = openIn(c.root, m.Target, oPath)
	}
	if err != nil {
		return err
	}
	defer at.Close()
	return mount.Attach(f, at)
}

// makeTarget makes a mount point inside another mount.
func makeTarget(root *os.File, target string, file bool) error {
	for i := 0; i <= len(target); i++ {
		last := i == len(target)
		if !last && target[i] != '/' {
			continue
		}
		dir, name := ".", target[:i]
		for j := i - 1; j >= 0; j-- {
			if target[j] == '/' {
				dir, name = target[:j], target[j+1:i]
				break
			}
		}
		parent, err := openIn(root, dir, oPath|syscall.O_DIRECTORY)
		if err != nil {
			return err
		}
		if last && file {
			err = makeFile(parent, name, 0o644)
		} else {
			err = syscall.Mkdirat(int(parent.Fd()), name, 0o755)
		}
		_ = parent.Close()
		if err != nil && err != syscall.EEXIST {
			return err
		}
	}
	return nil
}

// enterRoot makes the tree the root directory and drops the old one.
func (c *container) enterRoot() error {
	if err := fail("enter root", syscall.Fchdir(int(c.root.Fd()))); err != nil {
		return err
	}
	// Both arguments the same: the old root is put over the new one, and is what
	// "." names from inside (pivot_root(2), section "NOTES").
	if err := fail("pivot_root", syscall.PivotRoot(".", ".")); err != nil {
		return err
	}
	if err := fail("unmount old root", syscall.Unmount(".", syscall.MNT_DETACH)); err != nil {
		return err
	}
	return fail("enter root", syscall.Chdir("/"))
}

// enterDir changes to the step's working directory.
func (c *container) enterDir() error {
	dir := c.Dir
	if dir == "" {
		dir = "/"
	}
	root, err := os.OpenFile("/", oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	// No magic links: a working directory like /proc/self/fd/7 would be outside.
	f, err := openat2(int(root.Fd()), dir, oPath|syscall.O_DIRECTORY, resolveInRoot|resolveNoMagicLinks)
	if err == nil {
		err = syscall.Fchdir(int(f.Fd()))
		_ = f.Close()
	}
	if err != nil {
		return fail("change to directory "+dir, err)
	}
	var buf [syscall.PathMax]byte
	n, err := syscall.Getcwd(buf[:])
	if err != nil || n == 0 || buf[0] != '/' {
		return fail("change to directory "+dir, syscall.EACCES)
	}
	return nil
}
