// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"errors"
	"os"
	"runtime"
	"strconv"
	"syscall"
	"unsafe"

	"build.stacker.dev/internal/container/initproc"
	"build.stacker.dev/internal/container/supervisor"
)

// Run implements initproc.Virtual.
func Run(s *initproc.Step, root *os.File, from []*os.File, start initproc.Starter, stop <-chan struct{}) (syscall.WaitStatus, error) {
	runtime.GOMAXPROCS(4) // threads here wait for each other inside the kernel
	e, err := newEngine(s, root, from)
	if err != nil {
		return 0, err
	}
	ruleset, err := initproc.RunRules(e.places())
	if err != nil {
		return 0, errors.New("make landlock rules: " + err.Error())
	}
	s.Scoped = ruleset != nil
	pid, listener, ready, err := start(ruleset)
	if err != nil {
		return 0, err
	}
	e.listener = listener
	e.tasks[uint32(pid)] = &task{process: uint32(pid), program: &program{"/proc/self/exe"}}
	go func() {
		<-stop
		e.stopping.Store(true)
		e.killStep()
	}()
	served := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := blockSignals()
		if err == nil {
			err = e.serve()
		}
		served <- err
	}()
	var status syscall.WaitStatus
	seized, traced := make(chan error), make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		err := blockSignals()
		if err == nil {
			err = seize(pid)
		}
		seized <- err
		if err == nil {
			traced <- e.trace(pid, func(s syscall.WaitStatus) { status = s })
		}
	}()
	if err := <-seized; err != nil {
		return 0, err
	}
	if err := ready(); err != nil {
		return 0, err
	}
	select {
	case err = <-traced:
	case err = <-served:
		// The listener says so too when all processes of the step are gone.
		if end := <-traced; end != nil {
			err = end
		} else {
			err = nil
		}
	}
	return status, err
}

// newEngine makes what is known before the step starts.
func newEngine(s *initproc.Step, root *os.File, from []*os.File) (*engine, error) {
	if len(from) != len(s.Mounts) {
		return nil, errors.New("run step: " + strconv.Itoa(len(from)) + " files for " + strconv.Itoa(len(s.Mounts)) + " mounts")
	}
	core, err := supervisor.NewCore(
		supervisor.IDs{UID: s.UID, GID: s.GID, Groups: s.Groups, Caps: s.Caps},
		supervisor.Place{Umask: 0o022},
	)
	if err != nil {
		return nil, err
	}
	e := &engine{core: core, names: map[string]bool{}, uid: uint32(os.Getuid()), specials: map[ident][2]uint32{}, tasks: map[uint32]*task{}}
	fd, errno := dup(int(root.Fd()))
	if errno != 0 {
		return nil, errno
	}
	if e.root, err = openNode(fd); err != nil {
		return nil, errors.New("open root: " + err.Error())
	}
	e.roots = []node{e.root}
	for i, m := range s.Mounts {
		fd, errno := dup(int(from[i].Fd()))
		if errno != 0 {
			return nil, errno
		}
		if err := e.add(Mount{Target: m.Target, FD: fd, ReadOnly: m.ReadOnly, Make: m.Make, File: m.File}); err != nil {
			return nil, errors.New("mount on /" + m.Target + ": " + err.Error())
		}
	}
	return e, nil
}

// blockSignals keeps signals from this thread: one that comes between the kernel's steps of
// a call would leave the other process with a wrong answer.
func blockSignals() error {
	all := ^uint64(0)
	const setMask, size = 2, 8
	_, _, errno := syscall.RawSyscall6(syscall.SYS_RT_SIGPROCMASK, setMask, uintptr(unsafe.Pointer(&all)), 0, size, 0, 0)
	if errno != 0 {
		return errors.New("block signals: " + errno.Error())
	}
	return nil
}

// places are the files and directories that the step sees, and may run programs of.
func (e *engine) places() []int {
	all := []int{e.root.fd}
	for _, m := range e.mounts {
		if !m.proc && !m.device {
			all = append(all, m.fd)
		}
	}
	return all
}
