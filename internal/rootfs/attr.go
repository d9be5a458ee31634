// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Lchown sets the owner of name.
func (d *Dir) Lchown(name string, uid, gid int) error {
	if err := checkName("chown", name); err != nil {
		return err
	}
	if ownAlready(uid, gid) {
		return nil
	}
	return pathError("chown", name, unix.Fchownat(d.fd, name, uid, gid, unix.AT_SYMLINK_NOFOLLOW))
}

// Chmod sets the permission bits of name, set-id and sticky bits included. For a
// symbolic link, which has no permissions, the error is EOPNOTSUPP or ELOOP.
func (d *Dir) Chmod(name string, mode uint32) error {
	if err := checkName("chmod", name); err != nil {
		return err
	}
	// fchmodat2(2) exists since Linux 6.6; older kernels, and filters that do
	// not know it, need a descriptor. O_NOFOLLOW keeps that as safe.
	err := unix.Fchmodat(d.fd, name, mode, unix.AT_SYMLINK_NOFOLLOW)
	if err == unix.ENOSYS || err == unix.EOPNOTSUPP || err == unix.EPERM {
		err = d.withFd(name, func(fd int) error { return unix.Fchmod(fd, mode) })
	}
	return pathError("chmod", name, err)
}

// Chtimes sets the access and modification times of name, to the nanosecond.
func (d *Dir) Chtimes(name string, atime, mtime unix.Timespec) error {
	if err := checkName("chtimes", name); err != nil {
		return err
	}
	ts := []unix.Timespec{atime, mtime}
	return pathError("chtimes", name, unix.UtimesNanoAt(d.fd, name, ts, unix.AT_SYMLINK_NOFOLLOW))
}

// SetSpecialAttr sets the extended attribute attr of name, which may be of any
// type: a link too.
func (d *Dir) SetSpecialAttr(name, attr string, value []byte) error {
	if err := checkName("setxattr", name); err != nil {
		return err
	}
	err := d.withPath(name, func(path string) error { return unix.Setxattr(path, attr, value, 0) })
	return pathError("setxattr "+attr, name, err)
}

// SpecialAttr returns the extended attribute attr, of at most 256 bytes, of name,
// which may be of any type: a link too. It is an error (ENODATA) when there is
// none.
func (d *Dir) SpecialAttr(name, attr string) ([]byte, error) {
	if err := checkName("getxattr", name); err != nil {
		return nil, err
	}
	var buf [256]byte
	n := 0
	err := d.withPath(name, func(path string) (err error) {
		n, err = unix.Getxattr(path, attr, buf[:])
		return err
	})
	if err != nil {
		return nil, pathError("getxattr "+attr, name, err)
	}
	return buf[:n], nil
}

// withPath hands f a path that leads to name and no further, also where name is a
// link: a descriptor that only names a file takes no attributes itself.
func (d *Dir) withPath(name string, f func(path string) error) error {
	fd, err := openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer closeFd(fd)
	return f("/proc/self/fd/" + strconv.Itoa(fd))
}

// Lsetxattr sets the extended attribute attr of name: a regular file, a directory
// or a FIFO.
func (d *Dir) Lsetxattr(name, attr string, value []byte) error {
	if err := checkName("setxattr", name); err != nil {
		return err
	}
	err := d.withFd(name, func(fd int) error { return Fsetxattr(fd, attr, value) })
	return pathError("setxattr "+attr, name, err)
}

// Lremovexattr removes the extended attribute attr of name.
func (d *Dir) Lremovexattr(name, attr string) error {
	if err := checkName("removexattr", name); err != nil {
		return err
	}
	err := d.withFd(name, func(fd int) error { return unix.Fremovexattr(fd, attr) })
	return pathError("removexattr "+attr, name, err)
}

// Lgetxattr returns the extended attribute attr of name; it is an error
// (ENODATA) when there is none.
func (d *Dir) Lgetxattr(name, attr string) ([]byte, error) {
	if err := checkName("getxattr", name); err != nil {
		return nil, err
	}
	var value []byte
	err := d.withFd(name, func(fd int) (err error) {
		value, err = Fgetxattr(fd, attr)
		return err
	})
	return value, pathError("getxattr "+attr, name, err)
}

// Llistxattr returns the names of the extended attributes of name: none for
// links, sockets and devices.
func (d *Dir) Llistxattr(name string) ([]string, error) {
	if err := checkName("listxattr", name); err != nil {
		return nil, err
	}
	var names []string
	err := d.withFd(name, func(fd int) (err error) {
		names, err = Flistxattr(fd)
		return err
	})
	if err == unix.ELOOP || err == unix.ENXIO {
		return nil, nil
	}
	return names, pathError("listxattr", name, err)
}

// withFd opens name without following or waiting and hands the descriptor to f.
func (d *Dir) withFd(name string, f func(fd int) error) error {
	fd, err := openat(d.fd, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return err
	}
	defer closeFd(fd)
	return f(fd)
}

// Fgetxattr returns the extended attribute attr of the open file fd. Errors are
// those of the system call.
func Fgetxattr(fd int, attr string) ([]byte, error) {
	for size := 256; ; {
		buf := make([]byte, size)
		n, err := unix.Fgetxattr(fd, attr, buf)
		if err == nil {
			return buf[:n], nil
		}
		if err == unix.EACCES {
			if err = asOwner(fd, func() (err error) { n, err = unix.Fgetxattr(fd, attr, buf); return err }); err == nil {
				return buf[:n], nil
			}
		}
		if err != unix.ERANGE {
			return nil, err
		}
		err = asOwner(fd, func() (err error) { size, err = unix.Fgetxattr(fd, attr, nil); return err })
		if err != nil {
			return nil, err
		}
	}
}

// Fsetxattr sets the extended attribute attr of the open file fd. Errors are those of
// the system call.
func Fsetxattr(fd int, attr string, value []byte) error {
	return asOwner(fd, func() error { return unix.Fsetxattr(fd, attr, value, 0) })
}

// Flistxattr returns the names of the extended attributes of the open file fd:
// none where the file system has no attributes. Errors are those of the system
// call.
func Flistxattr(fd int) ([]string, error) {
	var small [512]byte
	buf := small[:]
	for {
		n, err := unix.Flistxattr(fd, buf)
		switch err {
		case nil:
			return splitNames(buf[:n]), nil
		case unix.ENOTSUP:
			return nil, nil
		case unix.ERANGE:
		default:
			return nil, err
		}
		size, err := unix.Flistxattr(fd, nil)
		if err != nil {
			return nil, err
		}
		buf = make([]byte, size+256)
	}
}

func splitNames(b []byte) []string {
	if len(b) == 0 {
		return nil
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
}
