// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"fmt"
	"strings"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// A conversion gives the name that an attribute gets in a copy; ok is false for
// what belongs to a file's place in a layer or to this machine.
type conversion func(name string) (as string, ok bool)

// unescaped is the conversion from a tree to what an overlay of it shows.
func unescaped(disk string) (string, bool) {
	if disk == record.Owner || strings.HasPrefix(disk, stackerPrefix) {
		return disk, true
	}
	return archiveXattr(disk)
}

// escaped is the inverse of unescaped.
func escaped(name string) (string, bool) {
	if name == record.Owner || strings.HasPrefix(name, stackerPrefix) {
		return name, true
	}
	return diskXattr(name)
}

// kept is the conversion between trees.
func kept(disk string) (string, bool) { return disk, copiedXattr(disk) }

// copyFile copies what is no directory, with all that stat(2) tells of it but its
// change time and its other names.
func copyFile(from *rootfs.Dir, name string, st *unix.Stat_t, to *rootfs.Dir, convert conversion) error {
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return copyPlain(from, name, to, convert)
	case unix.S_IFLNK:
		target, err := from.Readlink(name)
		if err == nil {
			err = to.Symlink(target, name)
		}
		if err != nil {
			return err
		}
	case unix.S_IFIFO:
		if err := to.Mknod(name, unix.S_IFIFO|0o600, 0); err != nil {
			return err
		}
		if err := to.Chmod(name, st.Mode&modeBits); err != nil {
			return err
		}
	default:
		return fmt.Errorf("a layer tree cannot hold a file of type %o", st.Mode&unix.S_IFMT)
	}
	if err := giveName(to, name, st); err != nil {
		return err
	}
	if note, err := from.SpecialAttr(name, record.Special); err == nil { // an owner that is played
		if err := to.SetSpecialAttr(name, record.Special, note); err != nil {
			return err
		}
	}
	return to.Chtimes(name, st.Atim, st.Mtim)
}

// giveName sets the owner where it is not right already.
func giveName(to *rootfs.Dir, name string, st *unix.Stat_t) error {
	now, err := to.Lstat(name)
	if err != nil || now.Uid == st.Uid && now.Gid == st.Gid {
		return err
	}
	if err := to.Lchown(name, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFIFO { // chown(2) takes the set-id bits
		return to.Chmod(name, st.Mode&modeBits)
	}
	return nil
}

func copyPlain(from *rootfs.Dir, name string, to *rootfs.Dir, convert conversion) (err error) {
	in, err := from.OpenFd(name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	var st unix.Stat_t
	if err := rootfs.Fstat(in, &st); err != nil {
		return err
	}
	out, err := to.OpenFd(name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if cerr := unix.Close(out); err == nil {
			err = cerr
		}
	}()
	if st.Size > 0 {
		if err := CopyContent(out, in); err != nil {
			return err
		}
	}
	return copyAttributes(out, in, &st, convert)
}

// copyAttributes gives the open file out the owner, attributes, mode and times of
// the open file in, which st describes.
func copyAttributes(out, in int, st *unix.Stat_t, convert conversion) error {
	var now unix.Stat_t
	if err := rootfs.Fstat(out, &now); err != nil {
		return err
	}
	if now.Uid != st.Uid || now.Gid != st.Gid {
		if err := rootfs.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
			return ownerError(st.Uid, st.Gid, err)
		}
	}
	names, err := rootfs.Flistxattr(in)
	if err != nil {
		return err
	}
	for _, name := range names {
		as, ok := convert(name)
		if !ok {
			continue
		}
		value, err := rootfs.Fgetxattr(in, name)
		if err != nil {
			return err
		}
		if err := rootfs.Fsetxattr(out, as, value); err != nil {
			return fmt.Errorf("set attribute %s: %w", as, err)
		}
	}
	if err := unix.Fchmod(out, st.Mode&modeBits); err != nil {
		return err
	}
	return rootfs.Futimens(out, st.Atim, st.Mtim)
}
