// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/localtree"
)

// errLinked says that a file has several names: which of them is the file, and
// which are links to it, is decided when all others are made.
var errLinked = errors.New("the file has several names")

// hand makes regular files, one after the other. What they need stays open for
// the next one, which mostly is a neighbour: a file costs few system calls.
type hand struct {
	*copier
	from, to place
	buf      []byte
}

// place is a directory that stays open.
type place struct {
	path string
	dir  *rootfs.Dir // nil: none is open
}

// parent opens the directory that a path lies in, or finds it open.
func (p *place) parent(root *rootfs.Root, name string) (*rootfs.Dir, string, error) {
	// Mostly it is a neighbour of the one before.
	if leaf, ok := strings.CutPrefix(name, p.path); ok && p.dir != nil && neighbour(leaf) {
		return p.dir, leaf, nil
	}
	in, leaf := path.Split(rootfs.Clean(name))
	if p.dir != nil && p.path == in {
		return p.dir, leaf, nil
	}
	p.close()
	dir, leaf, err := root.OpenParent(name)
	if err != nil {
		return nil, "", err
	}
	p.path, p.dir = in, dir
	return dir, leaf, nil
}

// neighbour tells whether what follows the path of a directory is a name in it.
func neighbour(leaf string) bool {
	return leaf != "" && leaf != "." && leaf != ".." && strings.IndexByte(leaf, '/') < 0
}

func (p *place) close() {
	if p.dir != nil {
		_ = p.dir.Close()
		p.dir = nil
	}
}

func (h *hand) close() {
	h.from.close()
	h.to.close()
}

// file makes one file. It fills in what the listing of i did not say. Of a file
// with several names it makes nothing.
func (h *hand) file(ctx context.Context, i *item, to string) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	in, err := h.open(i)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	if i.info.st.Nlink > 1 {
		return errLinked
	}
	return h.copy(ctx, i, in, to)
}

// link makes a file with several names: the first one is a copy.
func (h *hand) link(ctx context.Context, i *item, to string) error {
	id := inode{i.info.st.Dev, i.info.st.Ino}
	if first, ok := h.linked[id]; ok {
		return h.Root.Link(first, to)
	}
	in, err := h.open(i)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	h.linked[id], h.placed[to] = to, id
	return h.copy(ctx, i, in, to)
}

// open opens a source, which must be a regular file still, and describes it.
func (h *hand) open(i *item) (fd int, err error) {
	if fd, err = h.unseen(i); err != nil {
		return -1, err
	}
	if err := h.see(i, fd); err != nil {
		_ = unix.Close(fd)
		return -1, err
	}
	return fd, nil
}

// unseen opens a source, which can be of any type by now. Nothing waits for it.
func (h *hand) unseen(i *item) (fd int, err error) {
	dir, leaf, err := h.from.parent(h.src.root, h.src.place(i.path))
	if err != nil {
		return -1, err
	}
	fd, err = dir.OpenFd(leaf, unix.O_RDONLY, 0)
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.ENXIO) {
		err = changed(i)
	}
	return fd, err
}

// see describes an open source, which must be a regular file.
func (h *hand) see(i *item, fd int) error {
	var st unix.Stat_t
	if err := rootfs.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return changed(i)
	}
	i.info = h.src.seen(i.info, st)
	return nil
}

func changed(i *item) error { return fmt.Errorf("/%s %w", i.path, localtree.ErrChanged) }

// statBlock is the unit of Stat_t.Blocks, in bytes (stat(2)).
const statBlock = 512

// copy makes the copy of an open file, with all that belongs to it.
func (h *hand) copy(ctx context.Context, i *item, in int, to string) error {
	dir, leaf, err := h.to.parent(h.Root, to)
	if err != nil {
		return err
	}
	out, err := dir.OpenFd(leaf, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, h.mode(i.info.st.Mode)&0o777|0o200)
	if err != nil {
		return err
	}
	st := &i.info.st
	switch {
	case i.info.digest != "":
		err = h.verified(ctx, out, in, i)
	case st.Blocks*statBlock < st.Size:
		err = h.sparse(ctx, out, reader(in))
	default:
		err = layer.CopyContent(out, in)
	}
	if err == nil {
		err = h.describe(i, in, out)
	}
	if err = errors.Join(err, unix.Close(out)); err != nil {
		return fmt.Errorf("copy /%s: %w", i.path, err)
	}
	return nil
}

// verified copies the bytes of a listed file: they must be those that were listed.
// What a file has beyond its listed size was added since, and is not asked for.
func (h *hand) verified(ctx context.Context, out, in int, i *item) error {
	sum := sha256.New()
	if err := h.sparse(ctx, out, io.TeeReader(io.LimitReader(reader(in), i.info.size), sum)); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != i.info.digest.Encoded() {
		return fmt.Errorf("%w: run it again", changed(i))
	}
	return nil
}

func (h *hand) sparse(ctx context.Context, out int, in io.Reader) error {
	if h.buf == nil {
		h.buf = make([]byte, copyBuffer)
	}
	return sparse(ctx, out, in, h.buf)
}

// copyBuffer is the size of what is read at once, in bytes.
const copyBuffer = 256 << 10

// sparse copies bytes to a new file, in which zeros become holes: a file of a few
// bytes may say that it has terabytes of them.
func sparse(ctx context.Context, out int, in io.Reader, buf []byte) error {
	var off int64
	hole := false
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := fill(in, buf)
		if n > 0 {
			var werr error
			if hole, werr = layer.WriteSparse(out, buf[:n], off); werr != nil {
				return fmt.Errorf("write: %w", werr)
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) && hole {
			return unix.Ftruncate(out, off)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill is io.ReadFull that tells the end of the input, io.EOF, from an error of its
// reader: an archive that is cut off has io.ErrUnexpectedEOF.
func fill(in io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = in.Read(b[n:])
		n += m
	}
	return n, err
}

// reader reads a descriptor.
type reader int

// Read implements io.Reader.
func (r reader) Read(b []byte) (int, error) {
	for {
		n, err := unix.Read(int(r), b)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return 0, fmt.Errorf("read: %w", err)
		case n == 0 && len(b) > 0:
			return 0, io.EOF
		default:
			return n, nil
		}
	}
}

// describe gives a copy owner, extended attributes, mode and times. What it has
// already is not set: each of these calls is a change for the file system to log.
func (h *hand) describe(i *item, in, out int) error {
	var st unix.Stat_t
	if err := rootfs.Fstat(out, &st); err != nil {
		return fmt.Errorf("stat: %w", err)
	}
	o := owner{i.info.st.Uid, i.info.st.Gid}
	if h.owner != nil {
		o = *h.owner
	}
	if err := h.fchown(out, o, st); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	if err := h.fxattrs(i, in, out); err != nil {
		return err
	}
	// An access list among the attributes changes permissions.
	if want := h.mode(i.info.st.Mode); st.Mode&0o7777 != want || h.src.entries == nil {
		if err := unix.Fchmod(out, want); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	atime, mtime := i.info.st.Atim, i.info.st.Mtim
	if h.a.Time != nil {
		mtime = unix.NsecToTimespec(*h.a.Time)
		atime = mtime
	}
	if err := rootfs.Futimens(out, atime, mtime); err != nil {
		return fmt.Errorf("set times: %w", err)
	}
	return nil
}

// fchown is chown of an open regular file that has the owner that st says.
func (d *doer) fchown(fd int, o owner, st unix.Stat_t) error {
	switch {
	case d.plain:
		return nil
	case d.SingleID && o != (owner{}):
		name, value := ownerAttribute(o.uid, o.gid)
		return rootfs.Fsetxattr(fd, name, value)
	case st.Uid == o.uid && st.Gid == o.gid:
		return nil
	}
	return rootfs.Fchown(fd, int(o.uid), int(o.gid))
}

// fxattrs is xattrs between open files.
func (h *hand) fxattrs(i *item, in, out int) error {
	return h.eachXattr(i, in, func(name string, value []byte) error {
		_ = rootfs.Fsetxattr(out, name, value)
		return nil
	})
}

// eachXattr calls set with the attributes that the copy of an open file gets.
func (h *hand) eachXattr(i *item, in int, set func(name string, value []byte) error) error {
	if h.src.entries != nil {
		return h.listed(i.info.xattrs, set)
	}
	names, err := rootfs.Flistxattr(in)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list attributes: %w", err)
	}
	for _, n := range names {
		as, ok := h.attribute(n)
		if !ok {
			continue
		}
		v, err := rootfs.Fgetxattr(in, n)
		if err != nil {
			return fmt.Errorf("read attribute %s: %w", n, err)
		}
		if err := set(as, v); err != nil {
			return err
		}
	}
	return nil
}
