// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"fmt"
	"io"
	"strings"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// copyDirMeta gives the directory at place, which this layer does not describe,
// the attributes of f in the layers below.
func (t *tree) copyDirMeta(f Found, place string) error {
	src := t.lower.Root(f.Layer)
	names, err := src.Llistxattr(f.Path)
	if err != nil {
		return err
	}
	m := dirMeta{mode: f.Stat.Mode & modeBits, uid: f.Stat.Uid, gid: f.Stat.Gid, mtime: f.Stat.Mtim}
	for _, name := range names {
		if !copiedXattr(name) {
			continue
		}
		value, err := src.Lgetxattr(f.Path, name)
		if err != nil {
			return err
		}
		if !strings.HasPrefix(name, aclPrefix) {
			if err := t.root.Lsetxattr(place, name, value); err != nil {
				return err
			}
			continue
		}
		if t.aclBytes += len(value); t.aclBytes > maxACLBytes {
			return fmt.Errorf("more than %d bytes of access control lists in a layer", maxACLBytes)
		}
		if m.acls == nil {
			m.acls = map[string]string{}
		}
		m.acls[name] = string(value)
	}
	t.meta[place] = m
	return nil
}

// copiedXattr tells whether an attribute belongs to the file itself, in whatever
// form it is kept in a tree, rather than to its place in a layer.
func copiedXattr(disk string) bool {
	if disk == record.Owner || disk == xattrNode {
		return true
	}
	if _, noted := record.Noted(disk); noted {
		return true
	}
	_, ok := archiveXattr(disk)
	return ok
}

// copyUp copies the file f of the layers below, as it is on disk.
func (a *applier) copyUp(f Found, at spot) error {
	from, name, err := a.lower.Root(f.Layer).OpenParent(f.Path)
	if err != nil {
		return err
	}
	defer from.Close()
	d, err := a.dir(at.place)
	if err != nil {
		return err
	}
	switch f.Stat.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return a.copyRegular(from, name, d, at)
	case unix.S_IFLNK:
		target, err := from.Readlink(name)
		if err != nil {
			return err
		}
		err = a.replacing(d, at, func() error { return d.Symlink(target, at.leaf) })
		if err != nil {
			return err
		}
	case unix.S_IFIFO:
		mode := unix.S_IFIFO | f.Stat.Mode&permBits
		err = a.replacing(d, at, func() error { return d.Mknod(at.leaf, mode, 0) })
		if err == nil {
			err = d.Chmod(at.leaf, f.Stat.Mode&modeBits)
		}
		if err != nil {
			return err
		}
	default:
		return fmt.Errorf("hard link to a directory or device")
	}
	uid, gid := specialOwner(from, name, &f.Stat)
	if err := a.lchown(d, at.leaf, uid, gid); err != nil {
		return err
	}
	return d.Chtimes(at.leaf, f.Stat.Atim, f.Stat.Mtim)
}

func (a *applier) copyRegular(from *rootfs.Dir, name string, d *rootfs.Dir, at spot) error {
	src, err := from.OpenFile(name, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer src.Close()
	in := int(src.Fd())
	var st unix.Stat_t
	if err := rootfs.Fstat(in, &st); err != nil {
		return err
	}
	fd, err := a.create(d, at, 0o600)
	if err != nil {
		return err
	}
	err = CopyContent(fd, in)
	if err == nil {
		err = a.copyMeta(fd, in, &st)
	}
	if closeErr := unix.Close(fd); err == nil {
		err = closeErr
	}
	return err
}

// CopyContent shares the content of in with the new file out where the file
// system can, and copies it elsewhere. Both are descriptors of regular files.
func CopyContent(out, in int) error {
	if unix.IoctlFileClone(out, in) == nil {
		return nil
	}
	for {
		n, err := unix.CopyFileRange(in, nil, out, nil, 1<<30, 0)
		switch {
		case err == unix.EINTR:
		case err == unix.EXDEV || err == unix.EINVAL || err == unix.ENOSYS || err == unix.EOPNOTSUPP:
			return copyBytes(out, in)
		case err != nil:
			return err
		case n == 0:
			return nil
		}
	}
}

// copyBytes copies the rest of in.
func copyBytes(out, in int) error {
	buf := make([]byte, copyBuffer)
	for {
		n, err := unix.Read(in, buf)
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return nil
		case n < 0:
			return io.ErrUnexpectedEOF
		}
		if err := writeFull(out, buf[:n]); err != nil {
			return err
		}
	}
}

// copyMeta gives the file out the attributes of the file in, which st describes.
func (a *applier) copyMeta(out, in int, st *unix.Stat_t) error {
	names, err := rootfs.Flistxattr(in)
	if err != nil {
		return err
	}
	if st.Uid != a.uid || st.Gid != a.gid {
		if err := rootfs.Fchown(out, int(st.Uid), int(st.Gid)); err != nil {
			return ownerError(st.Uid, st.Gid, err)
		}
	}
	for _, name := range names {
		if !copiedXattr(name) {
			continue
		}
		value, err := rootfs.Fgetxattr(in, name)
		if err != nil {
			return err
		}
		if err := a.setXattr(out, name, string(value)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(out, st.Mode&modeBits); err != nil {
		return err
	}
	return rootfs.Futimens(out, st.Mtim, st.Mtim)
}
