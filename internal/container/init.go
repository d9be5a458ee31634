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
}

func kindOf(s *Spec) initKind {
	shm := s.ShmSize <= 0 || s.ShmSize == initproc.DefaultShm
	return initKind{network: s.Network, ahead: s.Network != NetworkNone && shm && !s.Privileged && !s.Terminal, single: s.SingleID}
}

func (k initKind) args() []string {
	args := []string{initproc.Name}
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
	flags := uintptr(unix.CLONE_NEWNS | unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWCGROUP)
	if k.network == NetworkNone {
		flags |= unix.CLONE_NEWNET
	}
	proc, err := os.StartProcess(path, k.args(), &os.ProcAttr{
		Env:   initEnv(),
		Files: files,
		Sys:   &syscall.SysProcAttr{Cloneflags: flags},
	})
	if err != nil {
		return nil, fmt.Errorf("start container: %w", err)
	}
	return proc, nil
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
