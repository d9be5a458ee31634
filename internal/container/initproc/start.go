// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"os"
	"syscall"
	"unsafe"
)

// defaultPath is searched where the environment has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// index gives the place of c in s; -1: it is not there.
func index(s string, c byte) int {
	for i := range len(s) {
		if s[i] == c {
			return i
		}
	}
	return -1
}

// lookPath finds the command. It runs inside the root, in the step's directory.
func lookPath(name string, env []string) (string, error) {
	if name == "" {
		return "", fail("exec ''", syscall.ENOENT)
	}
	if index(name, '/') >= 0 {
		return name, nil
	}
	for _, path := range candidates(name, env) {
		var st syscall.Stat_t
		if syscall.Stat(path, &st) == nil && st.Mode&syscall.S_IFMT == syscall.S_IFREG && st.Mode&0o111 != 0 {
			return path, nil
		}
	}
	return "", &fault{"exec " + name + notInPath, syscall.ENOENT}
}

const notInPath = " (looked for in PATH)"

// candidates are the paths that PATH makes of a name.
func candidates(name string, env []string) []string {
	path := defaultPath
	for _, e := range env {
		if len(e) > 5 && e[:5] == "PATH=" {
			path = e[5:]
		}
	}
	var out []string
	for path != "" {
		i := 0
		for i < len(path) && path[i] != ':' {
			i++
		}
		dir := path[:i]
		path = path[min(i+1, len(path)):]
		if dir == "" {
			dir = "."
		}
		out = append(out, dir+"/"+name)
	}
	return out
}

// start starts the command.
func (c *container) start(path string) (int, error) {
	attr := &syscall.ProcAttr{
		Env:   c.Env,
		Files: []uintptr{0, 1, 2},
		Sys:   &syscall.SysProcAttr{Setsid: true},
	}
	if !c.Supervised { // else the ids are the supervisor's matter, and it cannot answer during a fork
		attr.Sys.Credential = &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups, NoSetGroups: c.SingleID}
	}
	if c.tty >= 0 {
		t := uintptr(c.tty)
		attr.Files = []uintptr{t, t, t}
		attr.Sys.Setctty = true
	}
	var pid int
	err := retryBusy(func() (err error) {
		pid, err = syscall.ForkExec(path, c.Args, attr)
		return err
	})
	if err != nil {
		return 0, execError(path, err)
	}
	if c.tty >= 0 {
		_ = syscall.Close(c.tty)
	}
	return pid, nil
}

// exec becomes the command. It returns only with an error.
func (s *Step) exec(path string) error {
	return retryBusy(func() error { return syscall.Exec(path, s.Args, s.Env) })
}

// retryBusy calls start again, for a second at most, while its program is open for writing: a first
// process that the worker starts at a moment when another step's files are being written
// has their descriptors until it runs a program of its own.
func retryBusy(start func() error) (err error) {
	for range 100 {
		if err = start(); err != syscall.ETXTBSY {
			break
		}
		pause := syscall.Timespec{Nsec: 1e7}
		_ = syscall.Nanosleep(&pause, nil)
	}
	return err
}

// execError says what ENOENT and ENOEXEC of execve(2) leave open.
func execError(path string, err error) error {
	return explain(path, err, func(path string) (int, error) {
		return syscall.Open(path, syscall.O_RDONLY|syscall.O_CLOEXEC|syscall.O_NONBLOCK, 0)
	})
}

// execErrorIn is execError for a command in the directory dir of a root that is not this
// process's.
func execErrorIn(root *os.File, dir, path string, err error) error {
	return explain(path, err, func(path string) (int, error) {
		if path[0] != '/' {
			path = dir + "/" + path
		}
		f, err := openat2(int(root.Fd()), path, syscall.O_RDONLY|syscall.O_NONBLOCK, resolveInRoot|resolveNoMagicLinks)
		if err != nil {
			return -1, err
		}
		defer f.Close()
		return syscall.Dup(int(f.Fd()))
	})
}

// explain looks at the file of a command that could not be started. open opens it for reading.
func explain(path string, err error, open func(string) (int, error)) error {
	switch {
	case err == syscall.ENOENT && isThere(path, open):
		return &fault{"exec " + path + " (it is there, but the interpreter or loader that it needs is not)", err}
	case err == syscall.ENOEXEC:
		if m := machineOf(path, 1, open); m != 0 {
			return &foreign{fault{"exec " + path + " (a program for another machine)", err}, m}
		}
		return &fault{"exec " + path + " (a script without #! line, or damaged)", err}
	}
	return &fault{"exec " + path, err}
}

func isThere(path string, open func(string) (int, error)) bool {
	fd, err := open(path)
	if err == nil {
		_ = syscall.Close(fd)
	}
	return err == nil || err == syscall.EACCES
}

// machineOf gives the machine that an ELF program is for, or the interpreter of a
// script; 0 where it is neither.
func machineOf(path string, scripts int, open func(string) (int, error)) uint16 {
	fd, err := open(path)
	if err != nil {
		return 0
	}
	var b [256]byte // as much as the kernel reads
	n, err := syscall.Read(fd, b[:])
	_ = syscall.Close(fd)
	if err != nil {
		return 0
	}
	const bigEndian = 2 // ELFDATA2MSB
	switch {
	case n >= 20 && string(b[:4]) == "\x7fELF" && b[5] == bigEndian:
		return uint16(b[18])<<8 | uint16(b[19])
	case n >= 20 && string(b[:4]) == "\x7fELF":
		return uint16(b[19])<<8 | uint16(b[18])
	case n > 2 && string(b[:2]) == "#!" && scripts > 0:
		return machineOf(interpreter(b[2:n]), scripts-1, open)
	}
	return 0
}

// interpreter is the first word of what follows #!.
func interpreter(line []byte) string {
	from := 0
	for from < len(line) && (line[from] == ' ' || line[from] == '\t') {
		from++
	}
	to := from
	for to < len(line) && line[to] > ' ' {
		to++
	}
	return string(line[from:to])
}

// dropSignals gives signals their default action, which for the first process of
// a pid namespace is none, as long as they come from inside (pid_namespaces(7)).
// Go's handlers would let "kill -HUP 1", which maintainer scripts do, end the step.
func dropSignals() {
	var action [4]uint64 // struct sigaction of the kernel: SIG_DFL, no flags, empty mask
	const sigsetSize = 8
	for sig := uintptr(1); sig <= 64; sig++ {
		switch syscall.Signal(sig) {
		case syscall.SIGKILL, syscall.SIGSTOP, syscall.SIGCHLD, syscall.SIGURG: // fixed, or Go's own
			continue
		}
		_, _, _ = syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&action)), 0, sigsetSize, 0, 0)
	}
}

// closeStreams closes the standard streams. Only the command is to have them: a reader of its
// output must not wait for us.
func closeStreams() {
	for fd := range 3 {
		_ = syscall.Close(fd)
	}
}

// reap collects processes that end until the command does, and reports that.
func reap(command int) error {
	closeStreams()
	dropSignals()
	for {
		var status syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &status, 0, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return fail("wait for command", err)
		}
		if pid == command {
			reportExit(status)
			return nil
		}
	}
}
