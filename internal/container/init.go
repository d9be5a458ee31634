// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container/initproc"
)

// initProcess is the first process of a container, in namespaces of its own,
// that waits on its socket for what it is to do.
type initProcess struct {
	proc    *os.Process
	control *net.UnixConn
	kind    initKind
}

// initKind is what must be known of a step when its first process is started.
type initKind struct {
	network Network
	ahead   bool // an ordinary step: most of its mounts are made before it is known
	single  bool // Spec.SingleID
	forker  bool // not an init, but the process that forks them
}

func kindOf(s *Spec) initKind {
	shm := s.ShmSize <= 0 || s.ShmSize == initproc.DefaultShm
	return initKind{network: s.Network, ahead: s.Network != NetworkNone && shm && !s.Privileged && !s.Terminal, single: s.SingleID}
}

// forked tells whether the first process of a step is made by a forking process. It decides for
// all: the rest get a process of this program to themselves, because they need more of it than
// system calls that can be listed before the step begins: an answer to its calls, a terminal,
// a network.
func forked(s *Spec) bool {
	k := kindOf(s)
	return k.ahead && !k.single && s.Args[0] != ""
}

func (k initKind) args() []string {
	args := []string{initproc.Name}
	if k.forker {
		return append(args, initproc.ArgFork)
	}
	if k.ahead {
		args = append(args, initproc.ArgAhead)
	}
	if k.ahead && k.single {
		args = append(args, initproc.ArgSingle)
	}
	return args
}

// kill ends a process that is not needed any more, and waits for that.
func (p *initProcess) kill() {
	_ = p.control.Close()
	_ = p.proc.Kill()
	_, _ = p.proc.Wait()
}

// startInit starts such a process.
func startInit(k initKind) (*initProcess, error) {
	p, err := connected(func(files []*os.File) (*os.Process, error) { return spawnInit(k, files) })
	if err != nil {
		return nil, err
	}
	p.kind = k
	return p, nil
}

// connected starts an init by spawn, with no standard streams and a control socket.
func connected(spawn func(files []*os.File) (*os.Process, error)) (*initProcess, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	here, there, err := controlSocket()
	if err != nil {
		return nil, err
	}
	// Only init has its end of the socket afterwards: it goes when init goes.
	defer there.Close()
	proc, err := spawn([]*os.File{null, null, null, there})
	if err != nil {
		_ = here.Close()
		return nil, err
	}
	return &initProcess{proc: proc, control: here}, nil
}

func spawnInit(k initKind, files []*os.File) (*os.Process, error) {
	exe, err := program()
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	high, path, err := above(exe, files)
	if err != nil {
		return nil, err
	}
	defer high.Close()
	proc, err := os.StartProcess(path, k.args(), &os.ProcAttr{
		Env:   k.env(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Cloneflags: k.namespaces()},
	})
	if err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	return proc, nil
}

// namespaces are those that the process is started in.
func (k initKind) namespaces() uintptr {
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP)
	if k.forker {
		return flags
	}
	flags |= unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if k.network == NetworkNone {
		flags |= unix.CLONE_NEWNET
	}
	return flags
}

// env is the environment of the process. A forking process lives as long as the worker, and
// is copied for each step: its memory is kept small. It has one goroutine, which nobody needs to
// interrupt; the runtime would, after each time that it waited for long.
func (k initKind) env() []string {
	if k.forker {
		return []string{"GOMAXPROCS=1", "GODEBUG=asyncpreemptoff=1,containermaxprocs=0,updatemaxprocs=0"}
	}
	return initEnv()
}

// initEnv is an init's environment. The process lives for one command: collecting garbage would
// not pay, unless much is asked of a supervisor in it, nor would reading how many processors its
// cgroup allows. Nor are there goroutines that one which computes for long would keep waiting.
func initEnv() []string {
	return []string{"GOMAXPROCS=1", "GOGC=off", "GOMEMLIMIT=64MiB", "GODEBUG=asyncpreemptoff=1,containermaxprocs=0,updatemaxprocs=0"}
}

// controlSocket makes the two ends of an init's socket.
func controlSocket() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	there := os.NewFile(uintptr(fds[1]), "init's control socket")
	here := os.NewFile(uintptr(fds[0]), "control")
	defer here.Close()
	c, err := net.FileConn(here)
	if err != nil {
		_ = there.Close()
		return nil, nil, fmt.Errorf("make control socket: %w", err)
	}
	return c.(*net.UnixConn), there, nil
}
