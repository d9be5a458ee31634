// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// A Dir is an open directory of a tree. Its methods take one name in this
// directory and never follow a link. It may be used by several goroutines at
// once, but not while Close runs.
type Dir struct {
	fd int
}

// Dir returns the root directory of the tree.
func (r *Root) Dir() (*Dir, error) {
	return r.OpenDir(".")
}

// Close releases the directory. Closed again, it gives EBADF and does nothing,
// as a Root does.
func (d *Dir) Close() error {
	fd := d.fd
	d.fd = -1
	return unix.Close(fd)
}

// Fd returns the descriptor, which stays owned by d. It may be one that was
// opened with O_PATH.
func (d *Dir) Fd() int {
	return d.fd
}

// checkName refuses what is not a single name in a directory. A NUL is refused
// by the system call wrappers.
func checkName(op, name string) error {
	if name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 {
		return &fs.PathError{Op: op, Path: name, Err: unix.EINVAL}
	}
	return nil
}

func pathError(op, name string, err error) error {
	if err == nil {
		return nil
	}
	return &fs.PathError{Op: op, Path: name, Err: err}
}

// OpenDir opens the directory name for reading.
func (d *Dir) OpenDir(name string) (*Dir, error) {
	return d.child(name, unix.O_RDONLY)
}

// Walk opens the directory name only for going further down: it needs no read
// permission, and the attributes of the Dir itself cannot be read or set.
func (d *Dir) Walk(name string) (*Dir, error) {
	return d.child(name, unix.O_PATH)
}

func (d *Dir) child(name string, flags int) (*Dir, error) {
	if err := checkName("open directory", name); err != nil {
		return nil, err
	}
	fd, err := openat(d.fd, name, flags|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, pathError("open directory", name, err)
	}
	return &Dir{fd: fd}, nil
}

// OpenFile opens the file name with the flags of open(2) and O_NOFOLLOW. Anything
// that is not a regular file or a directory is refused with ErrSpecial.
func (d *Dir) OpenFile(name string, flags int, perm uint32) (*os.File, error) {
	fd, err := d.OpenFd(name, flags, perm)
	if err != nil {
		return nil, err
	}
	if err := plainOnly(fd); err != nil {
		closeFd(fd)
		return nil, pathError("open", name, err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// OpenFd is OpenFile for those who count system calls: it returns the bare
// descriptor, non-blocking and of any kind of file, which the caller closes.
func (d *Dir) OpenFd(name string, flags int, perm uint32) (int, error) {
	if err := checkName("open", name); err != nil {
		return -1, err
	}
	fd, err := openat(d.fd, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, perm)
	if err != nil {
		return -1, pathError("open", name, err)
	}
	return fd, nil
}

// Lstat describes name.
func (d *Dir) Lstat(name string) (unix.Stat_t, error) {
	var st unix.Stat_t
	if err := checkName("lstat", name); err != nil {
		return st, err
	}
	err := unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.EACCES {
		err = asOwner(d.fd, func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) })
	}
	inside(&st)
	return st, pathError("lstat", name, err)
}

// Stat describes the directory itself.
func (d *Dir) Stat() (unix.Stat_t, error) {
	var st unix.Stat_t
	return st, pathError("stat", ".", Fstat(d.fd, &st))
}

// Readlink returns the target of the symbolic link name.
func (d *Dir) Readlink(name string) (string, error) {
	if err := checkName("readlink", name); err != nil {
		return "", err
	}
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(d.fd, name, buf)
		if err == unix.EACCES {
			err = asOwner(d.fd, func() (err error) {
				n, err = unix.Readlinkat(d.fd, name, buf)
				return err
			})
		}
		if err != nil {
			return "", pathError("readlink", name, err)
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

// Mkdir makes the directory name.
func (d *Dir) Mkdir(name string, perm uint32) error {
	if err := checkName("mkdir", name); err != nil {
		return err
	}
	return pathError("mkdir", name, unix.Mkdirat(d.fd, name, perm))
}

// Symlink makes name a symbolic link to target. The target is stored as it is.
func (d *Dir) Symlink(target, name string) error {
	if err := checkName("symlink", name); err != nil {
		return err
	}
	return pathError("symlink", name, unix.Symlinkat(target, d.fd, name))
}

// Link makes name a hard link to oldName in the directory old, which may be a
// symbolic link: then the link itself gets the second name.
func (d *Dir) Link(old *Dir, oldName, name string) error {
	if err := checkName("link", oldName); err != nil {
		return err
	}
	if err := checkName("link", name); err != nil {
		return err
	}
	return pathError("link", name, unix.Linkat(old.fd, oldName, d.fd, name, 0))
}

// Mknod makes the FIFO, socket or device name. The file type is part of mode.
func (d *Dir) Mknod(name string, mode uint32, dev uint64) error {
	if err := checkName("mknod", name); err != nil {
		return err
	}
	return pathError("mknod", name, unix.Mknodat(d.fd, name, mode, int(dev)))
}

// Rename moves name to newName in the directory to, replacing what is there as
// rename(2) does.
func (d *Dir) Rename(name string, to *Dir, newName string) error {
	if err := checkName("rename", name); err != nil {
		return err
	}
	if err := checkName("rename", newName); err != nil {
		return err
	}
	return pathError("rename", name, unix.Renameat(d.fd, name, to.fd, newName))
}

// Remove removes the file or empty directory name.
func (d *Dir) Remove(name string) error {
	if err := checkName("remove", name); err != nil {
		return err
	}
	err := unix.Unlinkat(d.fd, name, 0)
	if err == unix.EISDIR || err == unix.EPERM {
		if dirErr := unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR); dirErr != unix.ENOTDIR {
			err = dirErr
		}
	}
	return pathError("remove", name, err)
}
