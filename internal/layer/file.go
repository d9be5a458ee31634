// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

const (
	permBits    = 0o777
	specialBits = 0o7000
	modeBits    = permBits | specialBits

	// holeBlock is the unit in which zeros become holes, in files of at least
	// sparseMin bytes: below, looking for them costs more than it saves.
	holeBlock = 64 << 10
	sparseMin = 1 << 20
)

// A spot is where an entry goes: a name in the directory at a place.
type spot struct {
	place, leaf string
}

func (s spot) path() string {
	return joinName(s.place, s.leaf)
}

// file makes the file of an entry, called leaf in the directory at place.
func (a *applier) file(ctx context.Context, hdr *tar.Header, at spot) error {
	switch hdr.Typeflag {
	case tar.TypeDir:
		return a.directory(hdr, at)
	case tar.TypeLink:
		if a.opt.NamesOnly && WithContent(at.path()) {
			return ErrNamesOnly
		}
		return a.hardlink(hdr, at)
	}
	d, err := a.dir(at.place)
	if err != nil {
		return err
	}
	switch hdr.Typeflag {
	case tar.TypeSymlink:
		return a.symlink(hdr, d, at)
	case tar.TypeFifo:
		return a.fifo(hdr, d, at)
	case tar.TypeChar, tar.TypeBlock:
		return a.device(hdr, d, at)
	}
	return a.regular(ctx, hdr, d, at)
}

// replacing runs create, which makes leaf in d. If there is something by that
// name from an earlier entry, it is removed first.
func (a *applier) replacing(d *rootfs.Dir, at spot, create func() error) error {
	// Only somebody who works against us makes the name appear again.
	for range 3 {
		err := create()
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		if _, err := a.remove(d, at); err != nil {
			return err
		}
	}
	return unix.EEXIST
}

// remove removes what an earlier entry made and tells whether it was a whiteout.
func (a *applier) remove(d *rootfs.Dir, at spot) (wasWhiteout bool, err error) {
	st, err := d.Lstat(at.leaf)
	if err != nil {
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		a.forget(at.path())
		return false, d.RemoveAll(at.leaf)
	case unix.S_IFLNK:
		a.forget(at.path())
	}
	if wasWhiteout, err = whiteoutAt(d, at.leaf, &st); err != nil {
		return false, err
	}
	return wasWhiteout, d.Remove(at.leaf)
}

func (a *applier) directory(hdr *tar.Header, at spot) error {
	d, err := a.dir(at.place)
	if err != nil {
		return err
	}
	err = d.Mkdir(at.leaf, 0o700)
	if errors.Is(err, unix.EEXIST) {
		err = a.directoryOver(d, at)
	}
	if err != nil {
		return err
	}
	return a.describeDir(at.path(), hdr)
}

// directoryOver makes a directory where something is: a directory stays.
func (a *applier) directoryOver(d *rootfs.Dir, at spot) error {
	st, err := d.Lstat(at.leaf)
	if err != nil || st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return err
	}
	wasWhiteout, err := a.remove(d, at)
	if err != nil {
		return err
	}
	if err := d.Mkdir(at.leaf, 0o700); err != nil || !wasWhiteout {
		return err
	}
	return a.setOpaque(at.path())
}

// describeDir notes what the directory at place shall become.
func (a *applier) describeDir(place string, hdr *tar.Header) error {
	m := dirMeta{
		mode:  uint32(hdr.Mode) & modeBits,
		uid:   uint32(hdr.Uid),
		gid:   uint32(hdr.Gid),
		mtime: modTime(hdr),
	}
	if _, again := a.meta[place]; again {
		if err := a.clearXattrs(place); err != nil {
			return err
		}
	}
	for key, value := range hdr.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		if !ok {
			continue
		}
		disk, ok := diskXattr(name)
		if !ok {
			a.droppedAttr++
			continue
		}
		if err := a.dirXattr(place, &m, disk, value); err != nil {
			return err
		}
	}
	a.meta[place] = m
	return nil
}

// clearXattrs removes what an earlier description gave the directory at place.
func (a *applier) clearXattrs(place string) error {
	names, err := a.root.Llistxattr(place)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !copiedXattr(name) {
			continue
		}
		if err := a.root.Lremovexattr(place, name); err != nil {
			return err
		}
	}
	return nil
}

// dirXattr sets an attribute of the directory at place, or notes it in m if it
// has to wait.
func (a *applier) dirXattr(place string, m *dirMeta, name, value string) error {
	if !strings.HasPrefix(name, aclPrefix) {
		err := a.root.Lsetxattr(place, name, []byte(value))
		return a.xattrError(name, err)
	}
	if a.aclBytes += len(value); a.aclBytes > maxACLBytes {
		return fmt.Errorf("more than %d bytes of access control lists in a layer", maxACLBytes)
	}
	if m.acls == nil {
		m.acls = map[string]string{}
	}
	m.acls[name] = value
	return nil
}

// xattrError decides whether an attribute that could not be set matters: not if
// nobody in our place could keep this kind of attribute or value here.
func (a *applier) xattrError(name string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.ENOTSUP), errors.Is(err, unix.EINVAL):
		a.droppedAttr++
		return nil
	}
	return fmt.Errorf("set attribute %s: %w", name, err)
}

func (a *applier) setXattr(fd int, name, value string) error {
	err := unix.Fsetxattr(fd, name, []byte(value), 0)
	if note, ok := record.ACL(name); ok && err == unix.EINVAL && a.opt.SingleID {
		err = unix.Fsetxattr(fd, note, []byte(value), 0) // it names ids that do not exist here
	}
	if name == xattrCapability && err == unix.EPERM && a.opt.SingleID {
		err = unix.Fsetxattr(fd, record.Capability, []byte(value), 0) // outside of user namespaces
	}
	return a.xattrError(name, err)
}

// regular writes a regular file.
func (a *applier) regular(ctx context.Context, hdr *tar.Header, d *rootfs.Dir, at spot) error {
	mode := uint32(hdr.Mode) & modeBits
	perm := mode & permBits
	if a.opt.NamesOnly && !WithContent(at.path()) {
		fd, err := a.create(d, at, perm)
		if err != nil {
			return err
		}
		return unix.Close(fd)
	}
	xattrs := len(hdr.PAXRecords) > 0 || a.foreign(hdr)
	if xattrs {
		perm |= 0o200 // without capabilities, only a writable file takes attributes
	}
	fd, err := a.create(d, at, perm)
	if err != nil {
		return err
	}
	err = a.content(ctx, fd, hdr)
	if err == nil {
		err = a.describeFile(fd, hdr, mode, perm&^a.umask)
	}
	if closeErr := unix.Close(fd); err == nil && closeErr != nil {
		err = fmt.Errorf("close: %w", closeErr)
	}
	return err
}

func (a *applier) create(d *rootfs.Dir, at spot, perm uint32) (fd int, err error) {
	err = a.replacing(d, at, func() (err error) {
		fd, err = d.OpenFd(at.leaf, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL, perm)
		return err
	})
	return fd, err
}

// describeFile gives the open file all that is not content. The order matters:
// chown(2) clears set-id bits and file capabilities.
func (a *applier) describeFile(fd int, hdr *tar.Header, mode, current uint32) error {
	if err := a.chown(fd, uint32(hdr.Uid), uint32(hdr.Gid)); err != nil {
		return err
	}
	for key, value := range hdr.PAXRecords {
		if name, ok := strings.CutPrefix(key, paxXattr); ok {
			disk, ok := diskXattr(name)
			if !ok {
				a.droppedAttr++
				continue
			}
			if err := a.setXattr(fd, disk, value); err != nil {
				return err
			}
			current = ^uint32(0) // an access control list changes the mode
		}
	}
	if mode != current {
		if err := unix.Fchmod(fd, mode); err != nil {
			return fmt.Errorf("set mode %04o: %w", mode, err)
		}
	}
	mtime := modTime(hdr)
	if err := rootfs.Futimens(fd, mtime, mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// content writes the content of the current entry into the new file fd.
func (a *applier) content(ctx context.Context, fd int, hdr *tar.Header) error {
	sparse := hdr.Size >= sparseMin
	var off int64
	hole := false
	for off < hdr.Size {
		// The holes of a sparse entry come from no reader that would stop.
		if err := ctx.Err(); err != nil {
			return err
		}
		b := a.buf[:min(int64(len(a.buf)), hdr.Size-off)]
		if _, err := io.ReadFull(a.tar, b); err != nil {
			if err == io.EOF {
				err = io.ErrUnexpectedEOF
			}
			return fmt.Errorf("read content: %w", err)
		}
		var err error
		if sparse {
			hole, err = WriteSparse(fd, b, off)
		} else {
			err = writeFull(fd, b)
		}
		if err != nil {
			return fmt.Errorf("write: %w", err)
		}
		off += int64(len(b))
	}
	if hole {
		if err := unix.Ftruncate(fd, hdr.Size); err != nil {
			return fmt.Errorf("set size %d: %w", hdr.Size, err)
		}
	}
	return nil
}

// WriteSparse writes b at off of a new file, leaving out blocks of zeros, and tells
// whether the last one was left out: then the file may still be too short.
func WriteSparse(fd int, b []byte, off int64) (hole bool, err error) {
	start := 0 // of what must be written
	for i := 0; i < len(b); i += holeBlock {
		block := b[i:min(i+holeBlock, len(b))]
		hole = allZero(block)
		if !hole {
			continue
		}
		if err := pwriteFull(fd, b[start:i], off+int64(start)); err != nil {
			return false, err
		}
		start = i + len(block)
	}
	return hole, pwriteFull(fd, b[start:], off+int64(start))
}

var zeroBlock [4096]byte

func allZero(b []byte) bool {
	for len(b) > len(zeroBlock) {
		if !bytes.Equal(b[:len(zeroBlock)], zeroBlock[:]) {
			return false
		}
		b = b[len(zeroBlock):]
	}
	return bytes.Equal(b, zeroBlock[:len(b)])
}

func writeFull(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Write(fd, b)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
	}
	return nil
}

func pwriteFull(fd int, b []byte, off int64) error {
	for len(b) > 0 {
		n, err := unix.Pwrite(fd, b, off)
		if err != nil && err != unix.EINTR {
			return err
		}
		b = b[max(n, 0):]
		off += int64(max(n, 0))
	}
	return nil
}

// modTime is the modification time of an entry.
func modTime(hdr *tar.Header) unix.Timespec {
	return unix.Timespec{Sec: hdr.ModTime.Unix(), Nsec: int64(hdr.ModTime.Nanosecond())}
}
