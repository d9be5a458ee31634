// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package rootfs opens, makes, changes and removes files inside one directory
// tree by names that nobody vouches for: names from images, build files and
// archives. It is the only package that resolves such names.
//
// A Root is the tree. Its methods take a path, which is cleaned lexically as if
// it started at "/", so that "../x" and "/x" both mean x in the tree. The kernel
// resolves what is left with openat2(2) and RESOLVE_IN_ROOT: a symbolic link,
// absolute or not, leads to a place inside the tree, whatever another process
// does to the tree at the same time.
//
// A Dir is one directory of the tree, held open. Its methods take a single name
// (no slash, not "." or ".."), never follow a link and cost one system call.
// Work on many files goes through Dir.
//
// Where a method's name says nothing else, the last element of a path is not
// followed when it is a symbolic link; Open, OpenFile, OpenDir, Stat and
// MkdirAll follow it, within the tree.
//
// The package does not know images, layers or users: ids and modes are set as
// they are given, never from a default. The umask of the process applies to what
// is made by Mkdir, Mknod and OpenFile, as in the system calls of these names.
//
// It needs openat2(2), so Linux 5.6 or later, and no /proc.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxAgain bounds how often openat2(2) is repeated: it answers EAGAIN when a
// rename anywhere in the system coincides with a ".." that it had to check.
const maxAgain = 512

// ErrSpecial says that a path leads to a FIFO, a socket or a device where a
// regular file or a directory is wanted.
var ErrSpecial = errors.New("not a regular file or directory")

// ErrNoOpenat2 says that the kernel has no openat2(2), or that a seccomp filter
// around this process refuses it.
var ErrNoOpenat2 = errors.New("openat2 is not available: use Linux 5.11 or later and a seccomp profile that allows it")

// A Root is a directory tree that paths cannot leave. It may be used by several
// goroutines at once, but not while Close runs.
type Root struct {
	fd int
}

// Open opens the directory dir, a path that the program itself chose, as a Root.
func Open(dir string) (*Root, error) {
	return OpenAt(unix.AT_FDCWD, dir)
}

// OpenAt opens dir, relative to the directory descriptor dirfd, as a Root. The
// path dir is one that the program itself chose.
func OpenAt(dirfd int, dir string) (*Root, error) {
	fd, err := openat(dirfd, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open root", Path: dir, Err: err}
	}
	r := &Root{fd: fd}
	probe, err := r.resolve(".", unix.O_PATH, 0)
	if err != nil {
		r.Close()
		if err == unix.ENOSYS || err == unix.EPERM {
			err = fmt.Errorf("%w (%w)", ErrNoOpenat2, err)
		}
		return nil, &fs.PathError{Op: "open root", Path: dir, Err: err}
	}
	closeFd(probe)
	return r, nil
}

// Close releases the Root. Directories and files opened through it stay usable.
// Closed again, it gives EBADF and does nothing: the number may be another file's
// by then.
func (r *Root) Close() error {
	fd := r.fd
	r.fd = -1
	return unix.Close(fd)
}

// Clean returns name as a path relative to the root of a tree, without leading
// slash, "." and ".." elements. The root itself is ".".
func Clean(name string) string {
	// Most names are clean, and to find that out takes no memory.
	if name != "" && name[0] != '/' && name[0] != '.' && path.Clean(name) == name {
		return name
	}
	p := path.Clean("/" + name)
	if p == "/" {
		return "."
	}
	return p[1:]
}

// OpenDir opens the directory at name, following links within the tree. The Dir
// can be read.
func (r *Root) OpenDir(name string) (*Dir, error) {
	fd, err := r.resolve(Clean(name), unix.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open directory", Path: name, Err: err}
	}
	return &Dir{fd: fd}, nil
}

// Walk opens the directory at name, following links within the tree, only for
// going further down; see Dir.Walk.
func (r *Root) Walk(name string) (*Dir, error) {
	fd, err := r.resolve(Clean(name), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open directory", Path: name, Err: err}
	}
	return &Dir{fd: fd}, nil
}

// OpenParent opens the directory that holds the last element of name, following
// links within the tree, and returns it with that element. The root itself has
// no parent: for it the error is EINVAL.
func (r *Root) OpenParent(name string) (*Dir, string, error) {
	d, leaf, err := r.parent(name)
	if err != nil {
		return nil, "", &fs.PathError{Op: "open parent", Path: name, Err: err}
	}
	return d, leaf, nil
}

func (r *Root) parent(name string) (*Dir, string, error) {
	p := Clean(name)
	if p == "." {
		return nil, "", unix.EINVAL
	}
	dir, leaf := ".", p
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		dir, leaf = p[:i], p[i+1:]
	}
	fd, err := r.resolve(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", err
	}
	return &Dir{fd: fd}, leaf, nil
}

// Open opens the regular file or directory at name for reading, following links
// within the tree. It does not wait for a FIFO: see OpenFile.
func (r *Root) Open(name string) (*os.File, error) {
	return r.OpenFile(name, unix.O_RDONLY, 0)
}

// OpenFile opens the file at name with the flags of open(2), following links
// within the tree unless flags has O_NOFOLLOW. Anything that is not a regular
// file or a directory is refused with ErrSpecial, without waiting for it.
func (r *Root) OpenFile(name string, flags int, perm uint32) (*os.File, error) {
	p := Clean(name)
	fd, err := r.resolve(p, flags|unix.O_NONBLOCK|unix.O_NOCTTY, perm)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	if err := plainOnly(fd); err != nil {
		closeFd(fd)
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), p), nil
}

// resolve opens the cleaned path p by openat2(2), scoped to the tree.
func (r *Root) resolve(p string, flags int, perm uint32) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_CLOEXEC),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if flags&(unix.O_CREAT|unix.O_TMPFILE) != 0 {
		how.Mode = uint64(perm)
	}
	if flags&unix.O_PATH != 0 {
		// openat2 refuses what O_PATH makes meaningless; open ignores it.
		how.Flags &= unix.O_PATH | unix.O_CLOEXEC | unix.O_DIRECTORY | unix.O_NOFOLLOW
	}
	var err error
	for range maxAgain {
		var fd int
		fd, err = unix.Openat2(r.fd, p, &how)
		if err == nil {
			return fd, nil
		}
		if err == unix.EACCES && flags&(unix.O_CREAT|unix.O_PATH) == 0 {
			how.Flags = how.Flags&(unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC) | unix.O_PATH
			if fd, err = unix.Openat2(r.fd, p, &how); err != nil {
				return -1, unix.EACCES
			}
			return openOwn(fd, flags)
		}
		if err != unix.EAGAIN && err != unix.EINTR {
			return -1, err
		}
	}
	return -1, err
}

// plainOnly refuses a descriptor of a special file and makes the others blocking
// again.
func plainOnly(fd int) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR:
		return unix.SetNonblock(fd, false)
	}
	return ErrSpecial
}

func openat(dirfd int, name string, flags int, perm uint32) (int, error) {
	fd, err := openAt(dirfd, name, flags, perm)
	if err == unix.EACCES {
		err = asOwner(dirfd, func() (err error) {
			fd, err = openAt(dirfd, name, flags, perm)
			return err
		})
	}
	return fd, err
}

// openAt is openat for a directory that lets its owner find names.
func openAt(dirfd int, name string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dirfd, name, flags|unix.O_CLOEXEC, perm)
		if err == unix.EACCES && flags&unix.O_CREAT == 0 {
			own, err := unix.Openat(dirfd, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
			if err != nil {
				return -1, unix.EACCES
			}
			return openOwn(own, flags)
		}
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// closeFd closes a descriptor that was not written to: no error of close(2)
// could matter.
func closeFd(fd int) {
	_ = unix.Close(fd)
}
