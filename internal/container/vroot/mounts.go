// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"errors"
	"strings"
	"syscall"
	"unsafe"
)

// ident tells files apart.
type ident struct{ dev, ino uint64 }

func identOf(st *syscall.Stat_t) ident { return ident{st.Dev, st.Ino} }

// node is an open directory or file that stays open.
type node struct {
	fd   int
	id   ident
	host string // its path outside
}

// openNode describes the open file fd.
func openNode(fd int) (node, error) {
	st, e := fstat(fd)
	if e != 0 {
		return node{}, e
	}
	host, e := readlinkat(atFdcwd, procFd(fd))
	if e != 0 {
		return node{}, e
	}
	return node{fd, identOf(&st), host}, nil
}

// mount shows a file or directory of outside in the step.
type mount struct {
	node
	target   string // where the step sees it: absolute, clean
	dir      bool
	readOnly bool
	proc     bool
	device   bool

	parent ident // the directory that it is in, and its name there
	name   string
	above  node // the same directory, for ".."
}

// Mount is a row of the table: what the open file shows, and where. Later rows are over
// earlier ones.
type Mount struct {
	Target   string // clean, relative to the root, without links
	FD       int
	ReadOnly bool
	Make     bool // Target may be missing, inside an earlier mount
	File     bool
}

var errPlace = errors.New("its place is not there")

// add puts a mount in its place.
func (e *engine) add(m Mount) error {
	n, err := openNode(m.FD)
	if err != nil {
		return err
	}
	dir, name := "/", m.Target
	if i := strings.LastIndexByte(m.Target, '/'); i >= 0 {
		dir, name = "/"+m.Target[:i], m.Target[i+1:]
	}
	above, err := e.directory(dir, m.Make)
	if err != nil {
		return err
	}
	st, errno := fstat(m.FD)
	if errno != 0 {
		return errno
	}
	if m.Make {
		if err := makePlace(above.fd, name, m.File); err != nil {
			return err
		}
	}
	e.names[name] = true
	e.mounts = append(e.mounts, &mount{
		node: n, target: "/" + m.Target, dir: st.Mode&typeMask == syscall.S_IFDIR, readOnly: m.ReadOnly,
		device: st.Mode&typeMask == syscall.S_IFCHR || st.Mode&typeMask == syscall.S_IFBLK,
		proc:   m.Target == "proc", parent: above.id, name: name, above: above,
	})
	return nil
}

// makePlace makes what a mount inside another one is over, so that it is in the listing.
func makePlace(dir int, name string, file bool) error {
	var errno syscall.Errno
	if file {
		var fd int
		if fd, errno = openat(dir, name, syscall.O_CREAT|syscall.O_EXCL|syscall.O_WRONLY|syscall.O_NOFOLLOW, 0o644); errno == 0 {
			closeFd(fd)
		}
	} else {
		_, _, errno = syscall.Syscall(syscall.SYS_MKDIRAT, uintptr(dir), uintptr(unsafe.Pointer(cstr(name))), 0o755)
	}
	if errno == 0 || errno == syscall.EEXIST {
		return nil
	}
	return errno
}

// directory opens a directory of the step, for the program itself.
func (e *engine) directory(path string, create bool) (node, error) {
	n := e.root
	for name := range strings.SplitSeq(path, "/") {
		if name == "" {
			continue
		}
		if m := e.mountAt(n.id, name); m != nil {
			n = m.node
			continue
		}
		if create {
			if err := makePlace(n.fd, name, false); err != nil {
				return node{}, err
			}
		}
		fd, errno := openat(n.fd, name, oPath|syscall.O_NOFOLLOW|syscall.O_DIRECTORY, 0)
		if errno == syscall.ENOENT {
			return node{}, errPlace
		}
		if errno != 0 {
			return node{}, errno
		}
		var err error
		if n, err = openNode(fd); err != nil {
			return node{}, err
		}
	}
	return n, nil
}

// mountAt gives the mount that is over an entry of a directory; nil: none.
func (e *engine) mountAt(dir ident, name string) *mount {
	for i := len(e.mounts) - 1; i >= 0; i-- {
		if m := e.mounts[i]; m.name == name && m.parent == dir {
			return m
		}
	}
	return nil
}

// covered tells whether a mount is over an entry of the open directory dir.
func (e *engine) covered(dir int, name string) *mount {
	if !e.names[name] {
		return nil
	}
	st, errno := fstat(dir)
	if errno != 0 {
		return nil
	}
	return e.mountAt(identOf(&st), name)
}

// inside tells whether a path outside is dir or below it, and what the rest is.
func inside(path, dir string) (rest string, ok bool) {
	rest, ok = strings.CutPrefix(path, dir)
	if dir == "/" {
		return path, true
	}
	return rest, ok && (rest == "" || rest[0] == '/')
}

// place tells in which mount a path of outside lies, nil for the root, and its path in the
// step. ok is false for what the step does not see.
func (e *engine) place(host string) (m *mount, path string, ok bool) {
	longest := -1
	for _, c := range e.mounts {
		if rest, in := inside(host, c.host); in && len(c.host) > longest {
			m, path, ok, longest = c, c.target+rest, true, len(c.host)
		}
	}
	if rest, in := inside(host, e.root.host); in && len(e.root.host) > longest {
		m, path, ok = nil, rest, true
		if path == "" {
			path = "/"
		}
	}
	return m, path, ok
}

// placeOf is place for an open file.
func (e *engine) placeOf(fd int) (m *mount, path string, ok bool) {
	host, errno := readlinkat(atFdcwd, procFd(fd))
	if errno != 0 {
		return nil, "", false
	}
	return e.place(host)
}

// writable tells whether the step may change what the open directory or file fd is or has.
func (e *engine) writable(fd int) syscall.Errno {
	host, errno := readlinkat(atFdcwd, procFd(fd))
	if errno != 0 {
		return errno
	}
	m, path, ok := e.place(host)
	if ok && m != nil && (m.readOnly || m.proc && !ofProcess(path)) {
		return syscall.EROFS
	}
	return 0
}

// ofProcess tells whether a path in /proc is in the directory of a process. Nothing else there is
// to be changed: the rest is the machine's, and the kernel would let the user 0 do it, who needs no
// capability for /proc/sys.
func ofProcess(path string) bool {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, "/proc/"), "/")
	_, ok := decimal(name)
	return ok
}
