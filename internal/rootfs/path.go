// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"golang.org/x/sys/unix"
)

// at opens the parent of name and runs f with it and the last element.
func (r *Root) at(op, name string, f func(d *Dir, leaf string) error) error {
	d, leaf, err := r.parent(name)
	if err != nil {
		return pathError(op, name, err)
	}
	defer closeFd(d.fd)
	return f(d, leaf)
}

// Lstat describes the file at name.
func (r *Root) Lstat(name string) (unix.Stat_t, error) {
	return r.stat("lstat", name, unix.O_NOFOLLOW)
}

// Stat describes the file that name leads to.
func (r *Root) Stat(name string) (unix.Stat_t, error) {
	return r.stat("stat", name, 0)
}

func (r *Root) stat(op, name string, flags int) (unix.Stat_t, error) {
	var st unix.Stat_t
	fd, err := r.resolve(Clean(name), unix.O_PATH|flags, 0)
	if err != nil {
		return st, pathError(op, name, err)
	}
	defer closeFd(fd)
	return st, pathError(op, name, Fstat(fd, &st))
}

// Readlink returns the target of the symbolic link at name.
func (r *Root) Readlink(name string) (target string, err error) {
	err = r.at("readlink", name, func(d *Dir, leaf string) (err error) {
		target, err = d.Readlink(leaf)
		return err
	})
	return target, err
}

// ReadDir returns the names in the directory that name leads to.
func (r *Root) ReadDir(name string) ([]Dirent, error) {
	d, err := r.OpenDir(name)
	if err != nil {
		return nil, err
	}
	defer closeFd(d.fd)
	return readDir(d.fd)
}

// Mkdir makes the directory at name; its parent must exist.
func (r *Root) Mkdir(name string, perm uint32) error {
	return r.at("mkdir", name, func(d *Dir, leaf string) error { return d.Mkdir(leaf, perm) })
}

// Symlink makes a symbolic link to target at name. The target is stored as it is.
func (r *Root) Symlink(target, name string) error {
	return r.at("symlink", name, func(d *Dir, leaf string) error { return d.Symlink(target, leaf) })
}

// Link makes name a hard link to the file at oldName. Neither is followed.
func (r *Root) Link(oldName, name string) error {
	return r.two("link", oldName, name, func(from *Dir, old string, to *Dir, leaf string) error {
		return to.Link(from, old, leaf)
	})
}

// Rename moves the file at oldName to name, replacing what is there as rename(2)
// does.
func (r *Root) Rename(oldName, name string) error {
	return r.two("rename", oldName, name, func(from *Dir, old string, to *Dir, leaf string) error {
		return from.Rename(old, to, leaf)
	})
}

func (r *Root) two(op, oldName, name string, f func(from *Dir, old string, to *Dir, leaf string) error) error {
	return r.at(op, oldName, func(from *Dir, old string) error {
		return r.at(op, name, func(to *Dir, leaf string) error { return f(from, old, to, leaf) })
	})
}

// Mknod makes the FIFO, socket or device at name. The file type is part of mode.
func (r *Root) Mknod(name string, mode uint32, dev uint64) error {
	return r.at("mknod", name, func(d *Dir, leaf string) error { return d.Mknod(leaf, mode, dev) })
}

// Remove removes the file or empty directory at name.
func (r *Root) Remove(name string) error {
	return r.at("remove", name, func(d *Dir, leaf string) error { return d.Remove(leaf) })
}

// Lchown sets the owner of the file at name.
func (r *Root) Lchown(name string, uid, gid int) error {
	if Clean(name) == "." {
		return pathError("chown", name, r.selfFd(func(fd int) error { return Fchown(fd, uid, gid) }))
	}
	return r.at("chown", name, func(d *Dir, leaf string) error { return d.Lchown(leaf, uid, gid) })
}

// Chmod sets the permission bits of the file at name, set-id and sticky bits
// included. It is an error for a symbolic link.
func (r *Root) Chmod(name string, mode uint32) error {
	if Clean(name) == "." {
		return pathError("chmod", name, r.selfFd(func(fd int) error { return unix.Fchmod(fd, mode) }))
	}
	return r.at("chmod", name, func(d *Dir, leaf string) error { return d.Chmod(leaf, mode) })
}

// Chtimes sets the access and modification times of the file at name.
func (r *Root) Chtimes(name string, atime, mtime unix.Timespec) error {
	if Clean(name) == "." {
		return pathError("chtimes", name, r.selfFd(func(fd int) error { return Futimens(fd, atime, mtime) }))
	}
	return r.at("chtimes", name, func(d *Dir, leaf string) error { return d.Chtimes(leaf, atime, mtime) })
}

// Lsetxattr sets the extended attribute attr of the file at name; see
// Dir.Lsetxattr.
func (r *Root) Lsetxattr(name, attr string, value []byte) error {
	if Clean(name) == "." {
		return pathError("setxattr "+attr, name, r.selfFd(func(fd int) error { return unix.Fsetxattr(fd, attr, value, 0) }))
	}
	return r.at("setxattr", name, func(d *Dir, leaf string) error { return d.Lsetxattr(leaf, attr, value) })
}

// Lremovexattr removes the extended attribute attr of the file at name.
func (r *Root) Lremovexattr(name, attr string) error {
	if Clean(name) == "." {
		return pathError("removexattr "+attr, name, r.selfFd(func(fd int) error { return unix.Fremovexattr(fd, attr) }))
	}
	return r.at("removexattr", name, func(d *Dir, leaf string) error { return d.Lremovexattr(leaf, attr) })
}

// Lgetxattr returns the extended attribute attr of the file at name.
func (r *Root) Lgetxattr(name, attr string) (value []byte, err error) {
	if Clean(name) == "." {
		err = r.selfFd(func(fd int) (err error) {
			value, err = Fgetxattr(fd, attr)
			return err
		})
		return value, pathError("getxattr "+attr, name, err)
	}
	err = r.at("getxattr", name, func(d *Dir, leaf string) (err error) {
		value, err = d.Lgetxattr(leaf, attr)
		return err
	})
	return value, err
}

// Llistxattr returns the names of the extended attributes of the file at name.
func (r *Root) Llistxattr(name string) (names []string, err error) {
	if Clean(name) == "." {
		err = r.selfFd(func(fd int) (err error) {
			names, err = Flistxattr(fd)
			return err
		})
		return names, pathError("listxattr", name, err)
	}
	err = r.at("listxattr", name, func(d *Dir, leaf string) (err error) {
		names, err = d.Llistxattr(leaf)
		return err
	})
	return names, err
}

// selfFd runs f with a readable descriptor of the root directory: the one that
// the Root holds was opened with O_PATH.
func (r *Root) selfFd(f func(fd int) error) error {
	fd, err := openat(r.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer closeFd(fd)
	return f(fd)
}
