// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"strings"
	"syscall"

	"build.stacker.dev/internal/container/initproc"
)

// The step sees the /proc of outside. What is the same for all is passed on; processes that
// are not the step's are not there. The links of /proc that the kernel follows without
// looking at their text (fd, cwd, root, exe) are followed here, and have the text that they
// would have inside.

// procRoot is where /proc is mounted in the step; nil: nowhere.
func (e *engine) procRoot() *mount {
	for _, m := range e.mounts {
		if m.proc {
			return m
		}
	}
	return nil
}

// whereInProc notices that the walk has come into /proc other than through its mount.
func (w *walk) whereInProc() syscall.Errno {
	m := w.e.procRoot()
	if m == nil {
		return 0
	}
	st, errno := fstat(w.dir)
	if errno != 0 {
		return errno
	}
	if st.Dev != m.id.dev {
		return 0
	}
	host, errno := readlinkat(atFdcwd, procFd(w.dir))
	if errno != 0 {
		return errno
	}
	rest, ok := inside(host, m.host)
	if !ok {
		return 0
	}
	w.in, w.proc = true, nil
	for name := range strings.SplitSeq(rest, "/") {
		if name != "" {
			w.proc = append(w.proc, name)
		}
	}
	return 0
}

// procStep takes one element inside /proc. stop: it was the last one, and s is the spot.
func (w *walk) procStep(name string, last, slash bool) (s spot, stop bool, errno syscall.Errno) {
	none := spot{behind: -1}
	switch name {
	case "", ".":
		if !last {
			return none, false, 0
		}
		errno = w.leaveTo(w.proc)
		return w.here(true), true, errno
	case "..":
		if len(w.proc) == 0 {
			w.enter(w.e.procRoot().above.fd, false)
		} else {
			w.proc = w.proc[:len(w.proc)-1]
		}
		if last {
			w.rest = ""
		}
		return none, false, 0
	}
	above := w.proc
	w.proc = append(above[:len(above):len(above)], name)
	if n, ok := decimal(w.proc[0]); ok && !w.e.has(n) || w.proc[0] != "self" && len(w.proc) > 1 && name == "map_files" {
		return none, false, syscall.ENOENT
	}
	if len(w.proc) == 1 && initproc.Hidden(name) {
		errno = w.coverWithNull()
		if errno == 0 && !last {
			errno = syscall.ENOTDIR
		}
		return w.here(slash), true, errno
	}
	text, behind, errno := w.e.procLink(w.proc)
	if errno != 0 {
		return none, false, errno
	}
	switch {
	case last:
		if errno = w.leaveTo(above); errno != 0 {
			return none, false, errno
		}
		return spot{dir: w.dir, own: w.own, leaf: name, slash: slash, link: text, behind: behind, walk: w}, true, 0
	case behind >= 0:
		w.enter(behind, true)
		return none, false, w.whereInProc()
	case text != "":
		w.proc = above
		return none, false, w.followText(text)
	}
	return none, false, 0
}

// coverWithNull ends being in /proc at /dev/null, which hides what is there.
func (w *walk) coverWithNull() syscall.Errno {
	for _, m := range w.e.mounts {
		if m.target == "/dev/null" {
			w.enter(m.fd, false)
			return 0
		}
	}
	return syscall.ENOENT
}

// leaveTo ends being in /proc, in the directory of it that was come to.
func (w *walk) leaveTo(path []string) syscall.Errno {
	fd, errno := openat(w.e.procRoot().fd, strings.Join(append([]string{"."}, path...), "/"), oPath|syscall.O_NOFOLLOW, 0)
	if errno != 0 {
		return errno
	}
	w.enter(fd, true)
	return 0
}

// procLink gives the text of the link that a path in /proc is, empty for other files; and,
// where the kernel would not go by the text, the file behind it.
func (e *engine) procLink(path []string) (text string, behind int, errno syscall.Errno) {
	own := itoa(uint64(e.leader(e.call.PID)))
	if len(path) == 1 {
		switch path[0] {
		case "self":
			return own, -1, 0
		case "thread-self":
			return own + "/task/" + itoa(uint64(e.call.PID)), -1, 0
		case "mounts", "net":
			return "self/" + path[0], -1, 0
		}
		return "", -1, 0
	}
	pid, ok := decimal(path[0])
	if !ok {
		return "", -1, 0
	}
	of := path[1:]
	if len(of) > 2 && of[0] == "task" {
		if _, ok := decimal(of[1]); !ok {
			return "", -1, 0
		}
		of = of[2:]
	}
	name := "/proc/" + strings.Join(path, "/")
	switch {
	case len(of) == 1 && of[0] == "exe":
		if p := e.program(pid); p != nil {
			return p.path, -1, 0
		}
		return "", -1, syscall.ENOENT
	case len(of) == 1 && of[0] == "root":
		fd, errno := dup(e.rootOf().fd)
		return "/", fd, errno
	case len(of) == 1 && of[0] == "cwd", len(of) == 2 && of[0] == "fd":
		if text, errno = readlinkat(atFdcwd, name); errno != 0 {
			return "", -1, errno
		}
		behind, errno = openat(atFdcwd, name, oPath, 0)
		return e.seen(text), behind, errno
	}
	return "", -1, 0
}

// seen is a path of outside as the process that called sees it.
func (e *engine) seen(host string) string {
	_, path, ok := e.place(host)
	if !ok {
		return host
	}
	root := e.rootOf()
	if root.id == e.root.id {
		return path
	}
	_, prefix, _ := e.place(root.host)
	if rest, in := inside(path, prefix); in {
		if rest == "" {
			return "/"
		}
		return rest
	}
	return path
}
