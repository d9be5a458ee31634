// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// Where a tree's file system has no character devices 0:0 (an overlay refuses
// them), a whiteout is an empty file of mode 0 with the attribute xattrWhiteout,
// in a directory with the mark opaqueWithFiles: the kernel's second form (Linux
// 6.7, Documentation/filesystems/overlayfs, "Nesting overlayfs mounts").
const (
	xattrWhiteout   = "user.overlay.whiteout"
	opaqueWithFiles = "x"
)

// isWhiteout tells whether st is of a character device 0:0.
func isWhiteout(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// whiteoutAt tells whether name, which st describes, is a whiteout of either form.
func whiteoutAt(d *rootfs.Dir, name string, st *unix.Stat_t) (bool, error) {
	if isWhiteout(st) {
		return true, nil
	}
	if !likeWhiteout(st) {
		return false, nil
	}
	fd, err := d.OpenFd(name, unix.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	defer unix.Close(fd)
	return markedWhiteout(fd), nil
}

// likeWhiteout tells whether a file can be a whiteout of the second form.
func likeWhiteout(st *unix.Stat_t) bool { return st.Mode == unix.S_IFREG && st.Size == 0 }

func markedWhiteout(fd int) bool {
	_, err := rootfs.Fgetxattr(fd, xattrWhiteout)
	return err == nil
}

// MakeWhiteout hides the path name, which a tree does not have, in the trees below.
func MakeWhiteout(tree *rootfs.Root, name string) error {
	d, leaf, err := tree.OpenParent(name)
	if err != nil {
		return err
	}
	defer d.Close()
	return makeWhiteout(d, leaf)
}

// makeWhiteout hides name, which d does not have, in the trees below.
func makeWhiteout(d *rootfs.Dir, name string) error {
	err := d.Mknod(name, unix.S_IFCHR, 0)
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.EOPNOTSUPP) {
		return err
	}
	fd, err := d.OpenFd(name, unix.O_RDONLY|unix.O_CREAT|unix.O_EXCL, 0)
	if err != nil {
		return err
	}
	err = unix.Fsetxattr(fd, xattrWhiteout, []byte("y"), 0)
	_ = unix.Close(fd) // nothing was written
	if err != nil {
		return fmt.Errorf("set attribute %s: %w", xattrWhiteout, err)
	}
	// d may be open for walking only.
	dir, err := unix.Openat(d.Fd(), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(dir)
	err = unix.Fsetxattr(dir, xattrOpaque, []byte(opaqueWithFiles), unix.XATTR_CREATE)
	if err != nil && !errors.Is(err, unix.EEXIST) { // all below is hidden anyway
		return fmt.Errorf("set attribute %s: %w", xattrOpaque, err)
	}
	return nil
}
