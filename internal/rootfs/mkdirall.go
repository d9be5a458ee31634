// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"strings"

	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links MkdirAll follows, as many as the kernel.
const maxLinks = 40

// MkdirAll makes the directory at name and the parents that are missing, each
// with exactly the mode perm and the owner uid and gid; directories that exist
// stay as they are. Symbolic links are followed within the tree: where one leads
// to nothing, that place is made.
func (r *Root) MkdirAll(name string, perm uint32, uid, gid int) error {
	p := Clean(name)
	if fd, err := r.resolve(p, unix.O_PATH|unix.O_DIRECTORY, 0); err == nil {
		closeFd(fd)
		return nil
	}
	top, err := r.resolve(".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return pathError("mkdir", name, err)
	}
	m := mkdirs{open: []*Dir{{fd: top}}, perm: perm, uid: uid, gid: gid}
	defer m.close()
	return pathError("mkdir", name, m.walk(strings.Split(p, "/")))
}

// mkdirs walks down from the root of a tree one element at a time. It holds each
// directory on the way open, so that ".." in a link is a step back to a directory
// that was entered, never a question to the file system.
type mkdirs struct {
	open     []*Dir // the way from the root to here
	links    int
	perm     uint32
	uid, gid int
}

func (m *mkdirs) close() {
	for _, d := range m.open {
		closeFd(d.fd)
	}
}

// up goes back until n directories are open.
func (m *mkdirs) up(n int) {
	for len(m.open) > max(n, 1) {
		last := len(m.open) - 1
		closeFd(m.open[last].fd)
		m.open = m.open[:last]
	}
}

func (m *mkdirs) walk(todo []string) error {
	for len(todo) > 0 {
		elem := todo[0]
		todo = todo[1:]
		switch elem {
		case "", ".":
			continue
		case "..":
			m.up(len(m.open) - 1)
			continue
		}
		target, err := m.enter(elem)
		if err != nil {
			return err
		}
		if target == "" {
			continue
		}
		if m.links++; m.links > maxLinks {
			return unix.ELOOP
		}
		if strings.HasPrefix(target, "/") {
			m.up(1)
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return nil
}

// enter goes down into the directory elem, making it if need be, or returns the
// target of the link that is there.
func (m *mkdirs) enter(elem string) (target string, err error) {
	here := m.open[len(m.open)-1]
	// Another process may remove or replace what is found: three rounds.
	for range 3 {
		var fd int
		fd, err = openat(here.fd, elem, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
		switch err {
		case nil:
			m.open = append(m.open, &Dir{fd: fd})
			return "", nil
		case unix.ENOENT:
			if err = m.make(here, elem); err != nil && err != unix.EEXIST {
				return "", err
			}
		case unix.ENOTDIR, unix.ELOOP:
			target, linkErr := here.Readlink(elem)
			if linkErr == nil {
				return target, nil
			}
			err = unix.ENOTDIR
		default:
			return "", err
		}
	}
	return "", err
}

func (m *mkdirs) make(here *Dir, elem string) error {
	if err := unix.Mkdirat(here.fd, elem, m.perm&0o777); err != nil {
		return err
	}
	fd, err := openat(here.fd, elem, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer closeFd(fd)
	var st unix.Stat_t
	if err := Fstat(fd, &st); err != nil {
		return err
	}
	if int(st.Uid) != m.uid || int(st.Gid) != m.gid {
		if err := Fchown(fd, m.uid, m.gid); err != nil {
			return err
		}
	}
	if st.Mode&0o7777 == m.perm {
		return nil
	}
	return unix.Fchmod(fd, m.perm)
}
