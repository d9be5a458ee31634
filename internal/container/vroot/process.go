// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import "syscall"

// getcwd answers getcwd(2): the working directory is really the one of outside.
func (e *engine) getcwd(out, size uint64) answer {
	host, errno := readlinkat(atFdcwd, "/proc/"+itoa(uint64(e.call.PID))+"/cwd")
	if errno != 0 {
		return fails(errno)
	}
	fd, st, errno := e.file(atFdcwd)
	if errno != 0 {
		return fails(errno)
	}
	closeFd(fd)
	if st.Nlink == 0 {
		return fails(syscall.ENOENT)
	}
	b := append([]byte(e.seen(host)), 0)
	if uint64(len(b)) > size {
		return fails(syscall.ERANGE)
	}
	if errno := e.core.Write(out, b); errno != 0 {
		return fails(errno)
	}
	return done(int64(len(b)))
}

const capSysChroot = 18

// chroot notes another root directory for the process.
func (e *engine) chroot(addr uint64) answer {
	if !e.core.Can(capSysChroot) {
		return fails(syscall.EPERM)
	}
	fd, st, errno := e.target(atFdcwd, addr, true, false)
	if errno != 0 {
		return fails(errno)
	}
	if st.Mode&typeMask != syscall.S_IFDIR {
		closeFd(fd)
		return fails(syscall.ENOTDIR)
	}
	p := e.core.Place()
	for i, r := range e.roots {
		if r.id == identOf(&st) {
			closeFd(fd)
			p.Root = uint32(i)
			return fails(e.core.SetPlace(p))
		}
	}
	const most = 256
	n, err := openNode(fd)
	if err != nil || len(e.roots) >= most {
		closeFd(fd)
		return fails(syscall.ENOMEM)
	}
	e.roots = append(e.roots, n)
	p.Root = uint32(len(e.roots) - 1)
	return fails(e.core.SetPlace(p))
}

// setUmask answers umask(2), which sets what files are made with here.
func (e *engine) setUmask(mask uint64) answer {
	p := e.core.Place()
	old := p.Umask
	p.Umask = uint32(mask) & 0o777
	if p.Umask != old {
		_ = e.core.SetPlace(p) // the call has no error
	}
	return done(int64(old))
}

const (
	prSetDumpable = 4
	prCapbsetRead = 23
	prCapbsetDrop = 24
	prCapAmbient  = 47
	lastCap       = 40
)

// prctl answers the options of prctl(2) about what is invented here.
func (e *engine) prctl() answer {
	switch a := e.call.Args[1]; uint32(e.call.Args[0]) {
	case prSetDumpable:
		if a > 1 {
			return fails(syscall.EINVAL)
		}
		return done(0) // the memory has to stay readable for who answers calls
	case prCapbsetRead, prCapbsetDrop:
		if a > lastCap {
			return fails(syscall.EINVAL)
		}
		if uint32(e.call.Args[0]) == prCapbsetRead {
			return done(int64(e.core.Caps() >> a & 1))
		}
		return done(0)
	case prCapAmbient:
		return e.ambient()
	}
	e.core.FollowCaps()
	return done(0)
}

// ambient answers PR_CAP_AMBIENT: no capability is in that set, and none gets in. Programs
// ask for one after the other until there is an error.
func (e *engine) ambient() answer {
	const isSet, raise, lower, clearAll = 1, 2, 3, 4
	a := &e.call.Args
	switch a[1] {
	case clearAll:
		if a[2] != 0 || a[3] != 0 || a[4] != 0 {
			return fails(syscall.EINVAL)
		}
	case isSet, raise, lower:
		if a[2] > lastCap || a[3] != 0 || a[4] != 0 {
			return fails(syscall.EINVAL)
		}
	default:
		return fails(syscall.EINVAL)
	}
	return done(0)
}

// ofStep answers calls that name a process:
// it must be one of the step.
func (e *engine) ofStep(pid int) answer {
	if pid == 0 || pid > 0 && e.has(uint32(pid)) {
		return passed()
	}
	if pid == 1 && e.call.NR == syscall.SYS_KILL {
		// It gets none. A container's first process takes no notice of most either, and
		// maintainer scripts that send it one count on success.
		return done(0)
	}
	return fails(syscall.ESRCH)
}

func (e *engine) kill(pid int, sig uint64) answer {
	switch {
	case pid >= 0:
		return e.ofStep(pid)
	case pid == -1:
		return e.killAll(syscall.Signal(sig))
	}
	for _, member := range e.leaders() {
		group, err := syscall.Getpgid(int(member))
		if err == nil && group == -pid {
			return passed()
		}
	}
	return fails(syscall.ESRCH)
}

// fcntl answers F_SETOWN, which has the kernel send signals of the process's choice, and
// F_SETOWN_EX, whose argument could change while it is looked at.
func (e *engine) fcntl() answer {
	const setOwn = 8
	a := &e.call.Args
	switch pid := arg32(a[2]); {
	case arg32(a[1]) != setOwn:
		return fails(syscall.EPERM)
	case pid < -1:
		return e.kill(pid, 0)
	case pid == -1:
		return fails(syscall.ESRCH)
	default:
		return e.ofStep(pid)
	}
}

// killAll is kill(2) of -1: all processes but the caller.
func (e *engine) killAll(sig syscall.Signal) answer {
	own := e.leader(e.call.PID)
	errno := syscall.ESRCH
	for _, pid := range e.leaders() {
		if pid != own && syscall.Kill(int(pid), sig) == nil {
			errno = 0
		}
	}
	return fails(errno)
}

// priority answers calls of which the second argument is a process if the first one says so.
func (e *engine) priority(process uint64) answer {
	if e.call.Args[0] != process {
		return fails(syscall.EPERM)
	}
	return e.ofStep(arg32(e.call.Args[1]))
}

// bind answers bind(2): one of a pair of Unix sockets, of which there are no others, gets no
// name in the file system. Other addresses are the kernel's matter.
func (e *engine) bind() answer {
	addr, size := e.call.Args[1], e.call.Args[2]
	const longest, family = 128, 2
	if size < family || size > longest {
		return passed() // the kernel says what is wrong
	}
	b := make([]byte, size)
	if errno := e.core.Read(addr, b); errno != 0 {
		return fails(errno)
	}
	if b[0] == syscall.AF_UNIX && b[1] == 0 && size > family && b[family] != 0 {
		return fails(syscall.EOPNOTSUPP)
	}
	return passed()
}
