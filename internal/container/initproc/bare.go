// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"runtime"
	"syscall"
	"time"
)

// keep is the life of the first process of a step without namespaces. It is not confined, so
// that nothing in the step can end or trace it. It starts the process that becomes the command
// (Inner), and what a process of the step leaves behind becomes a child of this one. When the
// command has ended, or the worker does not want the step any more, it kills all that is left.
func keep(s *Step, files []*os.File) error {
	if err := prctl(prSetChildSubreaper, 1); err != nil {
		return fail("become the parent of what the command leaves behind", err)
	}
	// One thread starts the command, another one waits for the worker.
	runtime.GOMAXPROCS(2)
	go func() {
		var b [1]byte
		for n, err := syscall.Read(controlFd, b[:]); n > 0 || err == syscall.EINTR; {
			n, err = syscall.Read(controlFd, b[:])
		}
		for { // one may be about to be started; the end of them all is this process's
			killChildren()
			time.Sleep(5 * time.Millisecond)
		}
	}()
	pid, control, err := startInner(s, files)
	if err != nil {
		return err
	}
	// What it says is why the command could not be started. Its end of the socket is closed
	// when the command is.
	if said := readInner(control, func(listener int) { go answerRoot(listener) }); len(said) > 0 {
		_ = syscall.Sendmsg(controlFd, said, nil, nil, 0)
		endAll()
		return nil
	}
	return collect(pid)
}

// startInner starts the process that confines itself, and hands it the step.
func startInner(s *Step, files []*os.File) (pid, control int, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, -1, fail("make socket", err)
	}
	pid, err = syscall.ForkExec("/proc/self/exe", []string{InnerName}, &syscall.ProcAttr{
		Env: os.Environ(), Files: []uintptr{0, 1, 2, uintptr(fds[1])}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	_ = syscall.Close(fds[1])
	if err != nil {
		return 0, -1, fail("start process of step", err)
	}
	msg := s.Encode()
	head := append(le32(nil, uint32(len(msg))), le32(nil, uint32(streams+len(files)))...)
	rights := []int{0, 1, 2}
	for _, f := range files {
		rights = append(rights, int(f.Fd()))
	}
	err = syscall.Sendmsg(fds[0], head, syscall.UnixRights(rights...), nil, 0)
	if err == nil {
		err = sendAll(fds[0], msg)
	}
	if err != nil {
		return 0, -1, fail("hand over step", err)
	}
	for _, f := range files {
		_ = f.Close()
	}
	return pid, fds[0], nil
}

// collect waits for the command, ends what it left, and reports.
func collect(command int) error {
	closeStreams()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return fail("wait for command", err)
		case pid == command:
			endAll()
			reportExit(status)
			return nil
		}
	}
}

// endAll kills and collects all descendants. What one of them had left behind becomes a child of
// this process when it ends, so that in the end there is none.
func endAll() {
	for {
		killChildren()
		_, err := syscall.Wait4(-1, nil, 0, nil)
		for err == nil { // those that are dead already
			var pid int
			if pid, err = syscall.Wait4(-1, nil, syscall.WNOHANG, nil); pid == 0 {
				break
			}
		}
		if err == syscall.ECHILD {
			return
		}
	}
}

// killChildren kills the children of this process.
func killChildren() {
	for _, pid := range children() {
		_ = syscall.Kill(pid, syscall.SIGKILL)
	}
}

func sendAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := syscall.Write(fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
