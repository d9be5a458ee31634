// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// subdir opens a directory of the store, which is made first if create is given.
// The caller closes the descriptor.
func (s *Store) subdir(name string, create bool) (int, error) {
	root := int(s.root.Fd())
	fd, err := openDir(root, name)
	if err != nil && create && errors.Is(err, ErrNotFound) {
		if err := makeDir(root, name, s.opts.DirMode); err != nil {
			return -1, err
		}
		return openDir(root, name)
	}
	return fd, err
}

// list returns the names in a directory of the store; none if it is missing.
func (s *Store) list(name string) ([]string, error) {
	fd, err := s.subdir(name, false)
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}

// openDir opens a directory; a symbolic link as last component is refused.
func openDir(at int, name string) (int, error) {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENOTDIR) {
		return -1, fmt.Errorf("%s is not a directory: %w", name, err)
	}
	if err != nil {
		return -1, notFound(err)
	}
	return fd, nil
}

// makeDir makes a directory with exactly that mode. One that exists is left alone.
func makeDir(at int, name string, mode os.FileMode) error {
	err := unix.Mkdirat(at, name, uint32(mode.Perm()))
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	// The umask may have taken bits away.
	return unix.Fchmodat(at, name, uint32(mode.Perm()), 0)
}

// openRegular opens a regular file and returns its size. Links are not followed,
// and a FIFO does not block.
func openRegular(dir int, name string, flags int) (*os.File, int64, error) {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(dir, name, flags|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		return nil, 0, fmt.Errorf("%w: not a regular file", ErrCorrupt)
	}
	if err != nil {
		return nil, 0, notFound(err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		_ = unix.Close(fd)
		return nil, 0, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = unix.Close(fd)
		return nil, 0, fmt.Errorf("%w: not a regular file", ErrCorrupt)
	}
	// A regular file ignores O_NONBLOCK, but Go would add it to its poller.
	if err := unix.SetNonblock(fd, false); err != nil {
		_ = unix.Close(fd)
		return nil, 0, err
	}
	return os.NewFile(uintptr(fd), name), st.Size, nil
}

// notFound turns ENOENT into ErrNotFound.
func notFound(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return ErrNotFound
	}
	return err
}

// ignoringEINTR repeats a call that a signal interrupted.
func ignoringEINTR(call func() (int, error)) (int, error) {
	for {
		fd, err := call()
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}
