// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"strings"
	"syscall"
	"unsafe"
)

// maxLinks is how many symbolic links may be followed on the way to a file.
const maxLinks = 40

// spot is where a path leads: an entry of a directory, which need not exist, or an open file
// of which no entry is known.
type spot struct {
	dir   int    // the directory; without leaf the file itself
	leaf  string // empty: dir is meant
	slash bool   // the path ends in a slash: only a directory will do

	// link says that the entry is a link of /proc that is not what it says to the kernel.
	link   string
	behind int // the open file that it leads to; -1: resolve link as a path

	walk *walk
	own  bool // close dir
}

// walk is a path on its way.
type walk struct {
	e     *engine
	root  node
	dir   int
	own   bool
	rest  string
	links int
	proc  []string // where in /proc, if inProc
	in    bool
}

func (w *walk) enter(fd int, own bool) {
	if w.own {
		closeFd(w.dir)
	}
	w.dir, w.own, w.in = fd, own, false
}

func (w *walk) close() {
	if w.own {
		closeFd(w.dir)
	}
	w.own = false
}

// close gives back what the spot holds.
func (s *spot) close() {
	if s.own {
		closeFd(s.dir)
	}
	if s.behind >= 0 {
		closeFd(s.behind)
	}
	s.own, s.behind = false, -1
}

// start begins a walk for the process that called.
func (e *engine) start(dir int, path string) (*walk, syscall.Errno) {
	w := &walk{e: e, root: e.rootOf(), rest: path}
	if strings.HasPrefix(path, "/") {
		w.dir = w.root.fd
		return w, 0
	}
	fd, errno := e.openDir(dir)
	if errno != 0 {
		return nil, errno
	}
	w.dir, w.own = fd, true
	if errno := w.whereInProc(); errno != 0 {
		w.close()
		return nil, errno
	}
	return w, 0
}

// openDir opens what relative paths of the process that called start from.
func (e *engine) openDir(dir int) (int, syscall.Errno) {
	name := "/proc/" + itoa(uint64(e.call.PID))
	switch {
	case dir == atFdcwd:
		name += "/cwd"
	case dir < 0:
		return -1, syscall.EBADF
	default:
		name += "/fd/" + itoa(uint64(dir))
	}
	fd, errno := openat(atFdcwd, name, oPath, 0)
	if errno == syscall.ENOENT && dir >= 0 {
		errno = syscall.EBADF
	}
	return fd, errno
}

// rootOf is the root directory of the process that called.
func (e *engine) rootOf() node {
	n := e.core.Place().Root
	if int(n) >= len(e.roots) {
		n = 0
	}
	return e.roots[n]
}

// find resolves a path as seen from dir, but for a link at its end.
func (e *engine) find(dir int, path string) (spot, syscall.Errno) {
	if path == "" {
		return spot{behind: -1}, syscall.ENOENT
	}
	w, errno := e.start(dir, path)
	if errno != 0 {
		return spot{behind: -1}, errno
	}
	return w.run()
}

// run walks to the last element.
func (w *walk) run() (spot, syscall.Errno) {
	for {
		w.rest = strings.TrimLeft(w.rest, "/")
		name, more, slash := strings.Cut(w.rest, "/")
		last := strings.Trim(more, "/") == ""
		w.rest = more
		if w.in {
			s, stop, errno := w.procStep(name, last, slash)
			if errno != 0 || stop {
				if errno != 0 {
					w.close()
				}
				return s, errno
			}
			continue
		}
		if name == "" || name == "." || name == ".." {
			if name == ".." {
				if errno := w.up(); errno != 0 {
					w.close()
					return spot{behind: -1}, errno
				}
			}
			if last {
				return w.here(true), 0
			}
			continue
		}
		if len(name) > nameMax {
			w.close()
			return spot{behind: -1}, syscall.ENAMETOOLONG
		}
		if m := w.e.covered(w.dir, name); m != nil {
			if m.proc {
				w.enter(m.fd, false)
				w.in, w.proc = true, nil
				continue
			}
			w.enter(m.fd, false)
			if last {
				return w.here(slash), 0
			}
			if !m.dir {
				w.close()
				return spot{behind: -1}, syscall.ENOTDIR
			}
			continue
		}
		if last {
			return spot{dir: w.dir, own: w.own, leaf: name, slash: slash, walk: w, behind: -1}, 0
		}
		if errno := w.down(name); errno != 0 {
			w.close()
			return spot{behind: -1}, errno
		}
	}
}

// here is the spot of the directory that the walk has come to.
func (w *walk) here(slash bool) spot {
	return spot{dir: w.dir, own: w.own, slash: slash, walk: w, behind: -1}
}

// down goes into the entry name of the directory, or follows it.
func (w *walk) down(name string) syscall.Errno {
	fd, errno := openat(w.dir, name, oPath|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
	if errno == syscall.EACCES {
		fd, errno = w.e.forced(w.dir, func() (int, syscall.Errno) {
			return openat(w.dir, name, oPath|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
		})
	}
	if errno == 0 {
		w.enter(fd, true)
		return 0
	}
	if errno != syscall.ENOTDIR {
		return errno
	}
	return w.follow(name)
}

// follow goes on where the link name leads.
func (w *walk) follow(name string) syscall.Errno {
	text, errno := readlinkat(w.dir, name)
	if errno == syscall.EINVAL {
		return syscall.ENOTDIR
	}
	if errno != 0 {
		return errno
	}
	return w.followText(text)
}

func (w *walk) followText(text string) syscall.Errno {
	w.links++
	switch {
	case w.links > maxLinks:
		return syscall.ELOOP
	case text == "":
		return syscall.ENOENT
	case len(text)+len(w.rest) > pathMax:
		return syscall.ENAMETOOLONG
	}
	if text[0] == '/' {
		w.enter(w.root.fd, false)
	}
	if w.rest != "" {
		text += "/" + w.rest
	}
	w.rest = text
	return 0
}

// up goes to the directory above, at most to the root.
func (w *walk) up() syscall.Errno {
	st, errno := fstat(w.dir)
	if errno != 0 {
		return errno
	}
	id := identOf(&st)
	if id == w.root.id {
		return 0
	}
	for _, m := range w.e.mounts {
		if m.id == id {
			// A mount's root has the directory above that it is mounted in.
			w.enter(m.above.fd, false)
			return 0
		}
	}
	if st.Mode&typeMask != syscall.S_IFDIR {
		return syscall.ENOTDIR
	}
	fd, errno := openat(w.dir, "..", oPath|syscall.O_DIRECTORY, 0)
	if errno != 0 {
		return errno
	}
	// A directory that another step moved to where this one sees nothing has no above.
	if _, _, ok := w.e.placeOf(fd); !ok {
		closeFd(fd)
		return syscall.ENOENT
	}
	w.enter(fd, true)
	return 0
}

// resolve finds the file of a path and opens it to name it (O_PATH). The spot that it was
// found at is given too, both for the caller to close.
func (e *engine) resolve(dir int, path string, follow bool) (fd int, st syscall.Stat_t, errno syscall.Errno) {
	s, errno := e.find(dir, path)
	if errno != 0 {
		return -1, st, errno
	}
	return s.open(follow)
}

// open opens the file of the spot to name it, and closes the spot.
func (s *spot) open(follow bool) (fd int, st syscall.Stat_t, errno syscall.Errno) {
	for {
		fd, st, errno = s.entry(follow)
		if errno != 0 {
			s.close()
			return -1, st, errno
		}
		kind := st.Mode & typeMask
		if kind == syscall.S_IFLNK && (follow || s.slash) && s.leaf != "" {
			closeFd(fd)
			if errno := s.followLeaf(); errno != 0 {
				s.close()
				return -1, st, errno
			}
			continue
		}
		s.close()
		if s.slash && kind != syscall.S_IFDIR {
			closeFd(fd)
			return -1, st, syscall.ENOTDIR
		}
		return fd, st, 0
	}
}

// entry opens the file at the spot, a link not followed; but one of /proc that is to be.
func (s *spot) entry(follow bool) (fd int, st syscall.Stat_t, errno syscall.Errno) {
	switch {
	case s.behind >= 0 && (follow || s.slash):
		fd, s.behind = s.behind, -1
	case s.leaf == "":
		if fd, errno = dup(s.dir); errno != 0 {
			return -1, st, errno
		}
	default:
		fd, errno = openat(s.dir, s.leaf, oPath|syscall.O_NOFOLLOW, 0)
		if errno == syscall.EACCES {
			fd, errno = s.walk.e.forced(s.dir, func() (int, syscall.Errno) {
				return openat(s.dir, s.leaf, oPath|syscall.O_NOFOLLOW, 0)
			})
		}
		if errno != 0 {
			return -1, st, errno
		}
	}
	if st, errno = fstat(fd); errno != 0 {
		closeFd(fd)
		return -1, st, errno
	}
	return fd, st, 0
}

// followLeaf moves the spot to where the link at it leads.
func (s *spot) followLeaf() syscall.Errno {
	w := s.walk
	w.dir, w.own, w.in = s.dir, s.own, false
	s.own = false
	if s.slash {
		w.rest = "/"
	} else {
		w.rest = ""
	}
	text, errno := s.link, syscall.Errno(0)
	if text == "" {
		text, errno = readlinkat(s.dir, s.leaf)
	}
	if errno == 0 {
		errno = w.followText(text)
	}
	if errno != 0 {
		w.close()
		return errno
	}
	next, errno := w.run()
	if errno != 0 {
		next.close()
		next.own = false
	}
	*s = next
	return errno
}

func dup(fd int) (int, syscall.Errno) {
	n, _, errno := syscall.RawSyscall(syscall.SYS_FCNTL, uintptr(fd), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return -1, errno
	}
	return int(n), 0
}

// forced does something in the directory dir, or with the file dir, that its mode forbids
// this process and not root.
func (e *engine) forced(dir int, do func() (int, syscall.Errno)) (int, syscall.Errno) {
	const dacOverride = 1
	if !e.core.Can(dacOverride) {
		return -1, syscall.EACCES
	}
	return e.lifted(dir, do)
}

// lifted is forced for any user of the step.
func (e *engine) lifted(dir int, do func() (int, syscall.Errno)) (int, syscall.Errno) {
	st, errno := fstat(dir)
	if errno != 0 || st.Uid != e.uid {
		return -1, syscall.EACCES
	}
	mode, more := st.Mode&modeBits, uint32(0o600)
	if st.Mode&typeMask == syscall.S_IFDIR {
		more = 0o700
	}
	if mode&more == more {
		return -1, syscall.EACCES
	}
	if errno := chmodFd(dir, mode|more); errno != 0 {
		return -1, syscall.EACCES
	}
	fd, errno := do()
	_ = chmodFd(dir, mode) // as it was set before
	return fd, errno
}

func chmodFd(fd int, mode uint32) syscall.Errno {
	fdcwd := atFdcwd
	_, _, e := syscall.Syscall(syscall.SYS_FCHMODAT, uintptr(fdcwd), uintptr(unsafe.Pointer(cstr(procFd(fd)))), uintptr(mode))
	return e
}
