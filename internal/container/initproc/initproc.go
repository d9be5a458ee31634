// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package initproc is the life of a container's first process.
//
// The worker starts this program once more, as Name, in new mount, pid, ipc, uts
// and cgroup namespaces (and a network namespace if asked), all of them below
// the worker's user namespace. Main then
//
//  1. reads the Step from the control socket; before that, if it was started to
//     wait for an ordinary one, it makes /proc, /sys and /dev,
//  2. builds the root: attaches the overlay and the mounts that the worker made,
//     and these three, and moves into it (root.go, dev.go),
//  3. confines its own main thread, with what a child inherits (confine.go),
//  4. starts the command, which becomes process 10 there, and collects what dies
//     until the command itself does (start.go),
//  5. reports and exits, on which the kernel kills all that is left.
//
// For ordinary steps nothing is started: one process of the worker, which was started with ArgFork
// (forker.go), makes copies of itself. A copy does what is listed above with a list of system
// calls that was written before (write.go, script.go) by code that is of the very few kinds that
// can run there (fork.go). The order and the calls are the same, but for the end: a copy kills and collects
// all that is left before it reports.
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

// Arguments of a container's init.
const (
	// ArgAhead: what does not depend on the step is made before the step is read. It
	// must then be one for which Step.Ordinary holds.
	ArgAhead = "ahead"
	// ArgSingle goes with ArgAhead, and says that the step's SingleID will be set.
	ArgSingle = "single"
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
	sys  *os.File
	dev  *os.File
	pts  *os.File
	tty  int // slave end of the terminal; -1: none

	ahead bool // proc, sys and dev are made, and attached in another place

	lastPid int // see openLastPid; 0: not open

	serve func(listener int) // answers system calls; nil: nobody does

	emptyDir *os.File // an attached empty directory, to cover others with
}

// Supervise prepares answering the system calls of a Supervised step: package
// supervisor, which this package does not import to be below it. serve starts that,
// on another thread; end is called there when it cannot go on.
type Supervise func(s *Step, end func(error)) (serve func(listener int), err error)

// Main is the life of the process, which was started with args. It does not return.
func Main(args []string, supervise Supervise, virtual Virtual) {
	// Before anything else: from here on the process cannot be traced, nor its
	// executable be opened through /proc, by less privileged ones.
	_ = prctl(prSetDumpable, 0)
	_ = prctl(prSetName, uintptr(unsafe.Pointer(unsafe.StringData(Name+"\x00")))) // for process lists
	if len(args) > 1 && args[1] == ArgFork {
		if err := serveForks(); err != nil {
			report(err)
		}
		syscall.Exit(0)
	}
	c := &container{tty: -1}
	aheadErr := c.makeAhead(args)
	s, mounts, err := receive()
	if err == nil {
		err = aheadErr // not earlier: the worker listens when it has spoken
	}
	switch {
	case err != nil:
	case s.Bare:
		err = keep(s, mounts)
	case s.Virtual:
		err = runVirtual(s, mounts, virtual)
	default:
		err = c.run(s, mounts, supervise)
	}
	if err != nil {
		report(err)
	}
	syscall.Exit(0)
}

func (c *container) run(s *Step, mounts []*os.File, supervise Supervise) error {
	if c.ahead && (!s.Ordinary() || s.SingleID != c.SingleID) {
		return fail("make mounts ahead", errMessage)
	}
	c.Step, c.root, c.from = s, mounts[0], mounts[1:]
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

// attachHere attaches a root to the working directory, which is as good a place as
// any: the mount namespace is new, and what is covered here is left behind with the
// old root.
func attachHere(root *os.File) error {
	here, err := os.OpenFile(".", oPath|syscall.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer here.Close()
	return fail("mount root", mount.Attach(root, here))
}

// makeAhead makes what all ordinary steps have, while the step that this process is
// for is not known yet: most of the time between the end of one step and the
// command of the next would be spent with that.
func (c *container) makeAhead(args []string) error {
	if len(args) < 2 || args[1] != ArgAhead {
		return nil
	}
	syscall.Umask(0)
	c.Step = &Step{SingleID: len(args) > 2 && args[2] == ArgSingle, ShmSize: DefaultShm}
	place, err := mount.New("tmpfs", quiet, mount.Option{Key: "mode", Value: "755"}, mount.Option{Key: "nr_inodes", Value: "5"})
	if err != nil {
		return fail("mount file system for mounts", err)
	}
	c.root = place
	if err := attachHere(c.root); err != nil {
		return err
	}
	for _, name := range [...]string{"proc", "sys", "dev"} {
		if err := syscall.Mkdirat(int(c.root.Fd()), name, 0o755); err != nil {
			return fail("make place for mounts", err)
		}
	}
	if err := c.makeFixed(); err != nil {
		return err
	}
	c.ahead = true
	return nil
}

// makeFixed makes the mounts that every step has.
func (c *container) makeFixed() error {
	if err := c.mountProc(); err != nil {
		return err
	}
	if err := c.mountSys(); err != nil {
		return err
	}
	return c.mountDev()
}

// moveFixed brings the mounts that were made ahead into the step's root.
func (c *container) moveFixed() error {
	for i, m := range [...]*os.File{c.proc, c.sys, c.dev} {
		if err := c.attachAt(m, [...]string{"proc", "sys", "dev"}[i]); err != nil {
			return err
		}
	}
	return nil
}

// buildRoot makes the tree of mounts.
func (c *container) buildRoot() error {
	if err := attachHere(c.root); err != nil {
		return err
	}
	fixed := c.makeFixed
	if c.ahead {
		fixed = c.moveFixed
	}
	if err := fixed(); err != nil {
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
