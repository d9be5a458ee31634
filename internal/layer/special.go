// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"errors"
	"fmt"
	"strings"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// foreign tells whether the entry's owner has to be noted because it cannot be
// set.
func (a *applier) foreign(hdr *tar.Header) bool {
	return a.opt.SingleID && (uint32(hdr.Uid) != a.uid || uint32(hdr.Gid) != a.gid)
}

// chown gives the open file, still owned by this process, to uid and gid. An id
// that cannot be set is noted in an attribute.
func (a *applier) chown(fd int, uid, gid uint32) error {
	if uid == a.uid && gid == a.gid {
		return nil
	}
	if !a.opt.SingleID {
		err := rootfs.Fchown(fd, int(uid), int(gid))
		if err != unix.EINVAL {
			return ownerError(uid, gid, err)
		}
		// An id that this user namespace does not have.
	}
	if err := rootfs.Fsetxattr(fd, record.Owner, record.EncodeOwner(uid, gid)); err != nil {
		return fmt.Errorf("note owner %d:%d: %w", uid, gid, err)
	}
	return nil
}

// lchown gives leaf, a link or a FIFO, to uid and gid, as chown does.
func (a *applier) lchown(d *rootfs.Dir, leaf string, uid, gid uint32) error {
	if uid == a.uid && gid == a.gid {
		return nil
	}
	if !a.opt.SingleID {
		err := d.Lchown(leaf, int(uid), int(gid))
		if !errors.Is(err, unix.EINVAL) {
			return ownerError(uid, gid, err)
		}
	}
	err := d.SetSpecialAttr(leaf, record.Special, record.EncodeSpecial(uid, gid))
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EPERM) {
		a.droppedAttr++ // a file system without such attributes on links
		return nil
	}
	if err != nil {
		return fmt.Errorf("note owner %d:%d: %w", uid, gid, err)
	}
	return nil
}

// specialOwner is the owner of leaf, a link or a FIFO whose state is st.
func specialOwner(d *rootfs.Dir, leaf string, st *unix.Stat_t) (uid, gid uint32) {
	value, err := d.SpecialAttr(leaf, record.Special)
	if err == nil {
		if u, g, ok := record.DecodeSpecial(value); ok {
			return u, g
		}
	}
	return st.Uid, st.Gid
}

func ownerError(uid, gid uint32, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("set owner %d:%d: %w", uid, gid, err)
}

func (a *applier) symlink(hdr *tar.Header, d *rootfs.Dir, at spot) error {
	if hdr.Linkname == "" {
		return fmt.Errorf("symbolic link to nothing")
	}
	err := a.replacing(d, at, func() error { return d.Symlink(hdr.Linkname, at.leaf) })
	if err != nil {
		return err
	}
	if err := a.lchown(d, at.leaf, uint32(hdr.Uid), uint32(hdr.Gid)); err != nil {
		return err
	}
	return d.Chtimes(at.leaf, modTime(hdr), modTime(hdr))
}

func (a *applier) fifo(hdr *tar.Header, d *rootfs.Dir, at spot) error {
	mode := uint32(hdr.Mode) & modeBits
	err := a.replacing(d, at, func() error { return d.Mknod(at.leaf, unix.S_IFIFO|mode&permBits, 0) })
	if err != nil {
		return err
	}
	if err := a.lchown(d, at.leaf, uint32(hdr.Uid), uint32(hdr.Gid)); err != nil {
		return err
	}
	if mode != mode&permBits&^a.umask {
		if err := d.Chmod(at.leaf, mode); err != nil {
			return err
		}
	}
	return d.Chtimes(at.leaf, modTime(hdr), modTime(hdr))
}

// device notes a device node in an empty file that nobody can open.
func (a *applier) device(hdr *tar.Header, d *rootfs.Dir, at spot) error {
	if hdr.Devmajor < 0 || hdr.Devminor < 0 || hdr.Devmajor > 1<<31 || hdr.Devminor > 1<<31 {
		return fmt.Errorf("device %d:%d is not valid", hdr.Devmajor, hdr.Devminor)
	}
	n := node{
		kind:  'c',
		major: uint32(hdr.Devmajor),
		minor: uint32(hdr.Devminor),
		mode:  uint32(hdr.Mode) & modeBits,
	}
	if hdr.Typeflag == tar.TypeBlock {
		n.kind = 'b'
	}
	fd, err := a.create(d, at, 0o600)
	if err != nil {
		return err
	}
	err = rootfs.Fsetxattr(fd, xattrNode, n.encode())
	if err == nil {
		err = a.describeFile(fd, hdr, 0, 0o600)
	}
	_ = unix.Close(fd) // nothing was written
	return err
}

// hardlink makes leaf in the directory at place another name of the file that
// the entry links to.
func (a *applier) hardlink(hdr *tar.Header, at spot) error {
	name, err := cleanName(hdr.Linkname)
	if err != nil {
		return fmt.Errorf("link to %q: %w", hdr.Linkname, err)
	}
	if name == "." || hdr.Linkname == "" {
		return fmt.Errorf("hard link to a directory: %q", hdr.Linkname)
	}
	if kind, _, err := parseRemoval(name); err != nil || kind != notRemoval {
		return fmt.Errorf("hard link to a whiteout: %q", hdr.Linkname)
	}
	dir, old := splitName(name)
	oldPlace, err := a.place(dir)
	if err != nil {
		return fmt.Errorf("link to %q: %w", hdr.Linkname, err)
	}
	// What the new name replaces must not be what it links to, or around it.
	from, to := spot{oldPlace, old}, at.path()
	if from.path() == to || strings.HasPrefix(from.path(), to+"/") {
		return fmt.Errorf("hard link to itself: %q", hdr.Linkname)
	}
	err = a.link(from, at)
	if errors.Is(err, unix.ENOENT) {
		err = a.linkBelow(from.path(), at)
	}
	if errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("hard link to %q, which does not exist", hdr.Linkname)
	}
	return err
}

// link links within the tree. It is ENOENT if the old name is not there.
func (a *applier) link(old, at spot) error {
	from, err := a.dir(old.place)
	if err != nil {
		return err
	}
	d, err := a.dir(at.place)
	if err != nil {
		return err
	}
	st, err := from.Lstat(old.leaf)
	if err != nil {
		return err
	}
	gone, err := whiteoutAt(from, old.leaf, &st)
	switch {
	case err != nil:
		return err
	case gone:
		return unix.ENOENT
	case st.Mode&unix.S_IFMT == unix.S_IFDIR:
		return fmt.Errorf("hard link to a directory: %q", old.path())
	}
	return a.replacing(d, at, func() error { return d.Link(from, old.leaf, at.leaf) })
}

// linkBelow copies the file at the place old of the layers below: a tree cannot
// have a link into another one.
func (a *applier) linkBelow(old string, at spot) error {
	if first, ok := a.copied[old]; ok {
		dir, name := splitName(first)
		if err := a.link(spot{dir, name}, at); err == nil {
			return nil
		}
	}
	f, ok, err := a.below(old)
	if err != nil {
		return err
	}
	if !ok {
		return unix.ENOENT
	}
	a.usedLower = true
	if err := a.copyUp(f, at); err != nil {
		return fmt.Errorf("copy %q from the layers below: %w", old, err)
	}
	a.copied[old] = at.path()
	return nil
}
