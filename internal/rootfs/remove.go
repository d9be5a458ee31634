// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io/fs"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxOpen bounds the directories that RemoveAll holds open at once.
const maxOpen = 64

// RemoveAll removes the file or directory tree at name. It is no error if there
// is none. The root itself is emptied and stays.
func (r *Root) RemoveAll(name string) error {
	if Clean(name) == "." {
		d, err := r.OpenDir(".")
		if err != nil {
			return err
		}
		defer closeFd(d.fd)
		return d.RemoveContents()
	}
	err := r.at("remove", name, func(d *Dir, leaf string) error { return d.RemoveAll(leaf) })
	if pe, ok := err.(*fs.PathError); ok && pe.Err == unix.ENOENT {
		return nil
	}
	return err
}

// RemoveAll removes the file or directory tree name. It is no error if there is
// none. Directories that the owner made unreadable are made readable first; no
// depth of nesting exhausts descriptors or path length.
func (d *Dir) RemoveAll(name string) error {
	if err := checkName("remove", name); err != nil {
		return err
	}
	switch err := unix.Unlinkat(d.fd, name, 0); err {
	case nil, unix.ENOENT:
		return nil
	case unix.EISDIR, unix.EPERM:
	default:
		return pathError("remove", name, err)
	}
	child, err := d.openForRemoval(name)
	switch {
	case err == unix.ENOTDIR:
		return pathError("remove", name, unix.EPERM)
	case err != nil:
		return pathError("remove", name, err)
	}
	err = child.RemoveContents()
	closeFd(child.fd)
	if err != nil {
		return err
	}
	err = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	if err == unix.ENOENT {
		err = nil
	}
	return pathError("remove", name, err)
}

// RemoveContents removes all that is in the directory.
func (d *Dir) RemoveContents() error {
	c := cleaner{top: d}
	for {
		c.moved = false
		if err := c.empty(d, 0); err != nil {
			return err
		}
		if !c.moved {
			return nil
		}
	}
}

// cleaner empties the directory top. Trees deeper than maxOpen are cut: what is
// below is moved up into top, which is emptied once more.
type cleaner struct {
	top   *Dir
	n     int
	moved bool
}

func (c *cleaner) empty(d *Dir, depth int) error {
	list, err := d.ReadDir()
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Type != unix.DT_DIR {
			err := unix.Unlinkat(d.fd, e.Name, 0)
			if err == nil || err == unix.ENOENT {
				continue
			}
			if err != unix.EISDIR && err != unix.EPERM {
				return pathError("remove", e.Name, err)
			}
		}
		if err := c.emptyDir(d, e.Name, depth); err != nil {
			return err
		}
	}
	return nil
}

func (c *cleaner) emptyDir(d *Dir, name string, depth int) error {
	err := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	if err == nil || err == unix.ENOENT {
		return nil
	}
	if depth >= maxOpen {
		return c.moveUp(d, name)
	}
	child, err := d.openForRemoval(name)
	if err != nil {
		return pathError("remove", name, err)
	}
	err = c.empty(child, depth+1)
	closeFd(child.fd)
	if err != nil {
		return err
	}
	err = unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR)
	if err == unix.ENOENT {
		err = nil
	}
	return pathError("remove", name, err)
}

// moveUp moves the directory name from far down into the top directory.
func (c *cleaner) moveUp(d *Dir, name string) error {
	for {
		c.n++
		free := ".removed-" + strconv.Itoa(c.n)
		err := unix.Renameat2(d.fd, name, c.top.fd, free, unix.RENAME_NOREPLACE)
		if err == unix.EEXIST {
			continue
		}
		c.moved = c.moved || err == nil
		return pathError("remove", name, err)
	}
}

// openForRemoval opens the directory name so that its names can be read and
// removed, giving its owner the permission if that is what is missing.
func (d *Dir) openForRemoval(name string) (*Dir, error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW
	fd, err := openat(d.fd, name, flags, 0)
	if err == nil && unix.Faccessat(fd, ".", unix.W_OK|unix.X_OK, unix.AT_EACCESS) != nil {
		// Best effort: if it fails, so does the removal, with a better error.
		_ = unix.Fchmod(fd, 0o700)
	}
	if err == unix.EACCES {
		// Needs fchmodat2(2), Linux 6.6: before, only what can be opened could
		// be changed without the risk of following a link.
		if unix.Fchmodat(d.fd, name, 0o700, unix.AT_SYMLINK_NOFOLLOW) != nil {
			return nil, err
		}
		fd, err = openat(d.fd, name, flags, 0)
	}
	if err != nil {
		return nil, err
	}
	return &Dir{fd: fd}, nil
}
