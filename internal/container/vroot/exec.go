// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"errors"
	"strings"
	"syscall"
	"unsafe"
)

// program is what a process runs, as the step names it.
type program struct{ path string }

// plan says how a program is to be run.
type plan struct {
	exec   int   // open file that the kernel runs: the program, or the loader that it asks for
	loader image // of exec, if there is a loader
	prog   int   // open file of the program for the loader; -1: none
	image  image // of it

	words []string // of a script: what comes in place of the first argument
	path  string   // of the program, in the step
	name  string   // what process lists show
}

func (p *plan) close() {
	if p.exec >= 0 {
		closeFd(p.exec)
	}
	if p.prog >= 0 {
		closeFd(p.prog)
	}
	p.exec, p.prog = -1, -1
}

// maxScripts is how often the interpreter of a script may be a script.
const maxScripts = 4

// planFor finds out how to run the program at path. set says whether its mode and owner
// change ids.
func (e *engine) planFor(path string) (p *plan, errno syscall.Errno) {
	p = &plan{exec: -1, prog: -1, name: path[strings.LastIndexByte(path, '/')+1:]}
	defer func() {
		if errno != 0 {
			p.close()
		}
	}()
	for range maxScripts + 1 {
		fd, st, errno := e.openProgram(path)
		if errno != 0 {
			return p, errno
		}
		first, arg, script := scriptLine(reader(fd))
		if script {
			closeFd(fd)
			if first == "" {
				return p, syscall.ENOEXEC
			}
			words := []string{first}
			if arg != "" {
				words = append(words, arg)
			}
			if len(p.words) > 0 { // that script's own words, but its name
				words = append(words, append([]string{path}, p.words[1:]...)...)
			} else {
				words = append(words, path)
			}
			p.words, path = words, first
			continue
		}
		_, p.path, _ = e.placeOf(fd)
		if p.path == "" {
			p.path = path
		}
		return p, e.planImage(p, fd, &st)
	}
	return p, syscall.ELOOP
}

// planImage is planFor for the program that is open as fd, which it keeps.
func (e *engine) planImage(p *plan, fd int, st *syscall.Stat_t) (errno syscall.Errno) {
	p.exec = fd
	if p.image, errno = readImage(reader(fd)); errno != 0 {
		return errno
	}
	uid, gid := e.ownerOf(fd, st)
	run := *st
	if p.image.loader != "" {
		loader, st, errno := e.openProgram(p.image.loader)
		if errno != 0 {
			return errno
		}
		p.exec, p.prog, run = loader, fd, st
		if p.loader, errno = readImage(reader(loader)); errno != 0 || p.loader.loader != "" {
			return syscall.ELIBBAD
		}
	}
	if p.exec, errno = e.allowed(p.exec, &run); errno != 0 {
		return errno
	}
	return e.core.Exec(st.Mode, uid, gid)
}

// allowed gives, of a program that root may run, a file that the kernel runs for this user: fd, or a
// copy in memory where the file's mode forbids the user to run or to read it. Root may do both. And the kernel
// shows nobody the memory of a process whose user may not read its program (would_dump() in fs/exec.c), so
// that no call of it could be answered. It closes fd if that is not what it gives.
func (e *engine) allowed(fd int, st *syscall.Stat_t) (int, syscall.Errno) {
	const userBits = 0o500
	if st.Uid != e.uid || st.Mode&userBits == userBits {
		return fd, 0
	}
	defer closeFd(fd)
	return inMemory(fd, st.Size)
}

// inMemory gives a copy of the open file fd that can be read and run, and changed by nobody.
func inMemory(fd int, size int64) (int, syscall.Errno) {
	const closeOnExec, executable = 1, 16 // MFD_CLOEXEC, MFD_EXEC (Linux 6.3)
	name := uintptr(unsafe.Pointer(cstr("program")))
	copied, _, errno := syscall.Syscall(sysMemfdCreate, name, closeOnExec|executable, 0)
	if errno == syscall.EINVAL {
		copied, _, errno = syscall.Syscall(sysMemfdCreate, name, closeOnExec, 0)
	}
	if errno != 0 {
		return -1, errno
	}
	defer closeFd(int(copied)) // what is open for writing cannot be run
	for at := int64(0); at < size; {
		n, err := syscall.Sendfile(int(copied), fd, &at, int(min(size-at, 1<<30)))
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil {
			return -1, syscall.EIO
		}
		if n == 0 {
			break
		}
	}
	return openat(atFdcwd, procFd(int(copied)), syscall.O_RDONLY, 0)
}

// openProgram opens a file that is to be run, which nobody needs the right to read for.
func (e *engine) openProgram(path string) (int, syscall.Stat_t, syscall.Errno) {
	name, st, errno := e.resolve(atFdcwd, path, true)
	if errno != 0 {
		return -1, st, errno
	}
	defer closeFd(name)
	if st.Mode&typeMask != syscall.S_IFREG || st.Mode&0o111 == 0 {
		return -1, st, syscall.EACCES
	}
	open := func() (int, syscall.Errno) { return openat(atFdcwd, procFd(name), syscall.O_RDONLY, 0) }
	fd, errno := open()
	if errno == syscall.EACCES {
		fd, errno = e.lifted(name, open)
	}
	return fd, st, errno
}

func reader(fd int) func(b []byte, at int64) (int, error) {
	return func(b []byte, at int64) (int, error) {
		have := 0
		for have < len(b) {
			n, err := syscall.Pread(fd, b[have:], at+int64(have))
			if err != nil || n == 0 {
				return have, err
			}
			have += n
		}
		return have, nil
	}
}

// scriptLine reads the first line of a script: interpreter and argument. script is false
// for other files.
func scriptLine(read func(b []byte, at int64) (int, error)) (interpreter, arg string, script bool) {
	var b [256]byte // BINPRM_BUF_SIZE
	n, _ := read(b[:], 0)
	line, ok := strings.CutPrefix(string(b[:n]), "#!")
	if !ok {
		return "", "", false
	}
	line, _, whole := strings.Cut(line, "\n")
	line = strings.Trim(line, " \t")
	if i := strings.IndexByte(line, 0); i >= 0 {
		line = line[:i]
	}
	i := strings.IndexAny(line, " \t")
	if i < 0 {
		if !whole && n == len(b) {
			return "", "", true // cut off
		}
		return line, "", true
	}
	return line[:i], strings.Trim(line[i:], " \t"), true
}

// answerTraced answers the calls that the tracer made of execve(2) and chdir(2).
func (e *engine) answerTraced() answer {
	c := e.changeOf(e.call.PID)
	exec := e.call.NR == sysExecveat
	if c == nil || c.exec != exec || arg32(e.call.Args[0]) != c.at {
		if exec {
			return fails(syscall.ENOSYS) // the C library has other ways
		}
		return passed() // fchdir of a directory that it has
	}
	if !exec {
		return e.chdir(c)
	}
	if c.path == "" {
		return fails(syscall.ENOENT)
	}
	p, errno := e.planFor(c.path)
	if errno != 0 {
		return fails(errno)
	}
	errno = e.core.AddFDAt(e.call.ID, p.exec, c.at, true)
	if errno == 0 && p.prog >= 0 {
		errno = e.core.AddFDAt(e.call.ID, p.prog, c.at-1, false)
	}
	p.close()
	if errno != 0 {
		return fails(errno)
	}
	e.mu.Lock()
	c.plan = p
	e.mu.Unlock()
	return passed()
}

func (e *engine) chdir(c *change) answer {
	name, st, errno := e.resolve(atFdcwd, c.path, true)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(name)
	if st.Mode&typeMask != syscall.S_IFDIR {
		return fails(syscall.ENOTDIR)
	}
	fd, errno := e.readable(name, syscall.O_DIRECTORY)
	if errno != 0 {
		return fails(errno)
	}
	defer closeFd(fd)
	if errno := e.core.AddFDAt(e.call.ID, fd, c.at, true); errno != 0 {
		return fails(errno)
	}
	e.mu.Lock()
	c.given = true
	e.mu.Unlock()
	return passed()
}
