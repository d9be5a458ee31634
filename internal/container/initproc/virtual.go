// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"time"
	"unsafe"

	"build.stacker.dev/internal/seccomp/install"
)

// A Virtual step has two processes of this program. The first one, this package's Main, stays
// outside of every confinement: it answers the calls of the step and traces it (package
// vroot). The second one confines itself, hands over the listener of its filter, waits until
// it is traced, and runs the command.

// CommandName is os.Args[0] of the second process.
const CommandName = "stacker-command"

// Virtual answers the calls of a step, whose root is the open directory root and whose mounts
// are the open files from, in the order of Step.Mounts. It runs until no process of the step
// is left, and tells how the command ended. When stop is closed it ends the step.
type Virtual func(s *Step, root *os.File, from []*os.File, start Starter, stop <-chan struct{}) (syscall.WaitStatus, error)

// Starter starts the second process; ruleset is of landlock, nil without. It gives the
// listener of its filter. ready lets it go on to run the command, and returns when it does
// or cannot.
type Starter func(ruleset *os.File) (pid, listener int, ready func() error, err error)

func runVirtual(s *Step, mounts []*os.File, virtual Virtual) error {
	const setChildSubreaper = 36
	if err := prctl(setChildSubreaper, 1); err != nil {
		return fail("adopt processes", err)
	}
	syscall.Umask(0)
	stop := make(chan struct{})
	go endWithWorker(stop)
	status, err := virtual(s, mounts[0], mounts[1:], s.start, stop)
	if err == nil {
		reportExit(status)
	}
	return err
}

// patience is how long a step may take to end when it is killed.
const patience = 3 * time.Second

// endWithWorker ends the step, and this process, when the worker closes its end of the
// control socket.
func endWithWorker(stop chan<- struct{}) {
	var b [1]byte
	n, err := syscall.Read(controlFd, b[:])
	for err == syscall.EINTR || n > 0 {
		n, err = syscall.Read(controlFd, b[:])
	}
	close(stop)
	time.Sleep(patience)
	syscall.Exit(1) // the kernel kills what is traced
}

// start is the Starter.
func (s *Step) start(ruleset *os.File) (pid, listener int, ready func() error, err error) {
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, 0, nil, fail("start command", err)
	}
	here := fds[0]
	there := os.NewFile(uintptr(fds[1]), "socket")
	defer there.Close()
	streams := []*os.File{os.Stdin, os.Stdout, os.Stderr}
	if s.Terminal {
		tty, err := openTerminal()
		if err != nil {
			return 0, 0, nil, err
		}
		defer tty.Close()
		streams = []*os.File{tty, tty, tty}
	}
	p, err := os.StartProcess("/proc/self/exe", []string{CommandName}, &os.ProcAttr{
		Env:   []string{"GOMAXPROCS=1", "GOGC=off", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"},
		Files: append(streams, there),
		Sys:   &syscall.SysProcAttr{Setsid: true, Setctty: s.Terminal, Pdeathsig: syscall.SIGKILL},
	})
	if err != nil {
		return 0, 0, nil, fail("start command", err)
	}
	for fd := range 3 { // a reader of the command's output must not wait for this process
		null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
		if err == nil {
			err = syscall.Dup3(int(null.Fd()), fd, 0)
		}
		if err != nil {
			return 0, 0, nil, fail("leave standard streams", err)
		}
		_ = null.Close()
	}
	if err := s.sendCommand(here, ruleset); err != nil {
		return 0, 0, nil, err
	}
	listener, err = receiveListener(here)
	if err != nil {
		return 0, 0, nil, err
	}
	ready = func() error {
		if _, err := syscall.Write(here, []byte{'g'}); err != nil {
			return fail("start command", err)
		}
		return receiveError(here)
	}
	return p.Pid, listener, ready, nil
}

// sendCommand tells the second process what it needs of the step, as the worker tells this
// one.
func (s *Step) sendCommand(socket int, ruleset *os.File) error {
	c := *s
	c.Mounts = nil
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return fail("start command", err)
	}
	defer null.Close()
	if ruleset == nil {
		ruleset = null
	}
	n := int(null.Fd())
	msg := c.Encode()
	head := le32(le32(nil, uint32(len(msg))), streams+1)
	if err := syscall.Sendmsg(socket, head, syscall.UnixRights(n, n, n, int(ruleset.Fd())), nil, 0); err != nil {
		return fail("start command", err)
	}
	for len(msg) > 0 {
		n, err := syscall.Write(socket, msg)
		if err != nil {
			return fail("start command", err)
		}
		msg = msg[n:]
	}
	return nil
}

// receiveListener receives the listener of the second process's filter, or why there is none.
func receiveListener(socket int) (int, error) {
	var b [1]byte
	var oob [64]byte
	n, oobn, _, _, err := syscall.Recvmsg(socket, b[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
	for err == syscall.EINTR {
		n, oobn, _, _, err = syscall.Recvmsg(socket, b[:], oob[:], syscall.MSG_CMSG_CLOEXEC)
	}
	if err != nil || n == 0 {
		return 0, fail("start command", errMessage)
	}
	if b[0] != listenerMark {
		return 0, receiveError(socket)
	}
	fds := rights(oob[:oobn])
	if len(fds) != 1 {
		return 0, fail("start command", errMessage)
	}
	return fds[0], nil
}

// receiveError reads why the second process could not run the command; nil: it could, or it
// is dead.
func receiveError(socket int) error {
	var b []byte
	var buf [512]byte
	for {
		n, err := syscall.Read(socket, buf[:])
		if err == syscall.EINTR {
			continue
		}
		if n <= 0 {
			break
		}
		b = append(b, buf[:n]...)
	}
	if len(b) < 4 {
		return nil
	}
	return &told{string(b[4:]), syscall.Errno(uint32At(b))}
}

// told is an error of the second process.
type told struct {
	text  string
	errno syscall.Errno
}

func (t *told) Error() string { return t.text }
func (t *told) Unwrap() error { return t.errno }

// openTerminal makes the step's terminal, and sends its other end to the worker.
func openTerminal() (*os.File, error) {
	master, err := syscall.Open("/dev/ptmx", syscall.O_RDWR|syscall.O_NOCTTY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fail("make terminal", err)
	}
	defer syscall.Close(master)
	_, slave, err := unlockTerminal(master)
	if err == nil {
		err = sendConsole(master)
	}
	if err != nil {
		return nil, fail("make terminal", err)
	}
	return os.NewFile(uintptr(slave), "terminal"), nil
}

// CommandMain is the life of the second process up to the command. It does not return.
func CommandMain() {
	_ = prctl(prSetName, uintptr(unsafe.Pointer(unsafe.StringData(CommandName+"\x00"))))
	err := commandMain()
	text := "start command"
	if err != nil {
		text = err.Error()
	}
	_, _ = syscall.Write(controlFd, append(le32(nil, uint32(errnoOf(err))), text...)) // the other end may be gone
	syscall.Exit(1)
}

func errnoOf(err error) syscall.Errno {
	if f, ok := err.(*fault); ok {
		err = f.err
	}
	e, _ := err.(syscall.Errno)
	return e
}

func commandMain() error {
	var head [8]byte
	files, err := receiveFiles(head[:])
	if err != nil {
		return err
	}
	b := make([]byte, uint32At(head[:]))
	if err := readFull(b); err != nil {
		return err
	}
	s, err := Decode(b)
	if err == nil && len(files) != streams+1 {
		err = errMessage
	}
	if err != nil {
		return err
	}
	listener, err := (&container{Step: s}).confineVirtual(files[streams])
	if err != nil {
		// The first byte says that it is no listener.
		_, _ = syscall.Write(controlFd, []byte{'e'})
		return err
	}
	if err := sendListener(listener); err != nil {
		return err
	}
	var goOn [1]byte
	if err := readFull(goOn[:]); err != nil {
		return err
	}
	// From here on paths are the step's.
	dir := s.Dir
	if dir == "" {
		dir = "/"
	}
	if err := syscall.Chdir(dir); err != nil {
		return fail("change to directory "+dir, err)
	}
	path, err := lookPath(s.Args[0], s.Env)
	if err != nil {
		return err
	}
	err = execError(path, s.exec(path))
	if _, ok := err.(*foreign); ok {
		return &fault{"exec " + path + " (a program of 32 bits, or for another machine: at level vroot there are none of these)", syscall.ENOEXEC}
	}
	return err
}

// confineVirtual is confine for a process without privileges.
func (c *container) confineVirtual(ruleset *os.File) (listener int, err error) {
	if err := c.setLimits(); err != nil {
		return 0, err
	}
	if err := joinKeyring(); err != nil {
		return 0, err
	}
	if err := prctl(prSetNoNewPrivs, 1); err != nil {
		return 0, fail("set no_new_privs", err)
	}
	if c.Scoped {
		if err := fail("confine to own files (landlock)", restrict(ruleset)); err != nil {
			return 0, err
		}
	}
	if _, _, e := syscall.Syscall(sysCloseRange, 3, 1<<32-1, closeRangeCloexec); e != 0 {
		return 0, fail("close_range", e)
	}
	listener, err = install.Listen(c.Seccomp)
	if err == syscall.EBUSY {
		return 0, fail("install listener of system calls (the container around has one)", err)
	}
	return listener, fail("install listener of system calls", err)
}
