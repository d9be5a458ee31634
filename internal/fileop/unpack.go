// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
)

// maxEntries bounds how many files an archive may have.
const maxEntries = 16 << 20

// unpack puts the contents of an archive into the destination; done is false
// where the source is no archive, and is to be copied.
func (k *copier) unpack(ctx context.Context, s source) (done bool, err error) {
	if len(s.items) != 1 || !s.items[0].info.isRegular() {
		return false, nil
	}
	f, err := k.src.open(s.top)
	if err != nil {
		return false, err
	}
	defer f.Close()
	if !isArchive(f) {
		return false, nil
	}
	if k.Draft != nil {
		return false, fmt.Errorf("unpack %s: %w", s.name, ErrUndecided)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return false, err
	}
	dest, err := k.dest.resolve(k.a.Dest, true)
	if err != nil {
		return false, err
	}
	// A mode is for what is copied: of an archive it changes nothing, as in BuildKit.
	if err := k.makeDirs(dest, defaultDirMode); err != nil {
		return false, err
	}
	err = k.extract(ctx, f, dest)
	if errors.Is(err, io.ErrUnexpectedEOF) {
		err = fmt.Errorf("the archive is cut off: %w", err)
	}
	if err != nil {
		return false, fmt.Errorf("unpack %s: %w", s.name, err)
	}
	return true, nil
}

// isArchive tells whether a file is a tar, compressed or not.
func isArchive(f *os.File) bool {
	z, _, err := compress.NewReader(f)
	if err != nil {
		return false
	}
	defer z.Close()
	_, err = tar.NewReader(z).Next()
	return err == nil
}

// extract unpacks a tar below dest. Links on the way are followed inside the
// root's dest: an archive cannot write elsewhere.
func (k *copier) extract(ctx context.Context, f io.Reader, dest string) error {
	z, _, err := compress.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	d, err := k.Root.OpenDir(dest)
	if err != nil {
		return err
	}
	defer d.Close()
	root, err := rootfs.OpenAt(d.Fd(), ".")
	if err != nil {
		return err
	}
	defer root.Close()
	x := &extractor{doer: newDoer(Options{Root: root, SingleID: k.SingleID, Tree: k.Tree}), owner: k.owner}
	return x.all(ctx, z)
}

// Extract unpacks a tar, compressed or not, into root as files of whoever calls:
// owners and extended attributes in it are passed over.
func Extract(ctx context.Context, f io.Reader, root *rootfs.Root) error {
	z, _, err := compress.NewReader(f)
	if err != nil {
		return err
	}
	defer z.Close()
	x := &extractor{doer: newDoer(Options{Root: root})}
	x.plain = true
	return x.all(ctx, z)
}

func (x *extractor) all(ctx context.Context, z io.Reader) error {
	r := tar.NewReader(z)
	for n := 0; ; n++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err == nil && n == maxEntries {
			err = fmt.Errorf("the archive has more than %d entries", maxEntries)
		}
		if err == nil {
			err = context.Cause(ctx)
		}
		if err == nil {
			err = x.entry(ctx, h, r)
		}
		if err != nil {
			return err
		}
	}
	return x.stampAll()
}

type extractor struct {
	*doer
	owner   *owner
	pending []stamp
	modes   []func() error // of directories, which may forbid writing
}

func (x *extractor) stampAll() error {
	for i := len(x.modes) - 1; i >= 0; i-- {
		if err := x.modes[i](); err != nil {
			return err
		}
	}
	k := copier{doer: x.doer, pending: x.pending}
	return k.stampAll()
}

// entry makes what one entry describes, in the place of what is there.
func (x *extractor) entry(ctx context.Context, h *tar.Header, r io.Reader) error {
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeLink, tar.TypeFifo, tar.TypeChar, tar.TypeBlock, tar.TypeGNUSparse, tar.TypeCont:
	default:
		return fmt.Errorf("%s: unknown type %q", h.Name, h.Typeflag)
	}
	if outside(h.Name) {
		return fmt.Errorf("%s leads out of the archive", h.Name)
	}
	p, err := x.dest.resolve(h.Name, false)
	if err != nil {
		return err
	}
	if _, err := x.mkdirs(path.Dir(p), defaultDirMode, nil, nil); err != nil {
		return err
	}
	was, err := x.look(p)
	if err != nil {
		return err
	}
	if was.Mode != 0 && p != "." && !(isDir(was) && h.Typeflag == tar.TypeDir) {
		if err := x.Root.RemoveAll(p); err != nil {
			return err
		}
		was.Mode = 0
	}
	return x.make(ctx, h, r, p, was.Mode != 0)
}

func (x *extractor) make(ctx context.Context, h *tar.Header, r io.Reader, p string, there bool) error {
	kind := uint32(unix.S_IFREG)
	var err error
	switch h.Typeflag {
	case tar.TypeDir:
		kind = unix.S_IFDIR
		if !there {
			err = x.Root.Mkdir(p, 0o700)
		}
	case tar.TypeSymlink:
		kind = unix.S_IFLNK
		err = x.Root.Symlink(h.Linkname, p)
	case tar.TypeLink:
		to, rerr := x.dest.resolve(h.Linkname, false)
		if rerr != nil {
			return rerr
		}
		return x.Root.Link(to, p)
	case tar.TypeFifo:
		kind = unix.S_IFIFO
		err = x.Root.Mknod(p, unix.S_IFIFO|0o600, 0)
	case tar.TypeChar, tar.TypeBlock:
		return nil // as in a rootless docker: no device can be made
	default:
		err = x.write(ctx, p, r)
	}
	if err != nil {
		return err
	}
	return x.attributes(h, p, kind)
}

func (x *extractor) write(ctx context.Context, p string, r io.Reader) error {
	if x.buf == nil {
		x.buf = make([]byte, copyBuffer)
	}
	f, err := x.Root.OpenFile(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	return errors.Join(sparse(ctx, int(f.Fd()), r, x.buf), f.Close())
}

func (x *extractor) attributes(h *tar.Header, p string, kind uint32) error {
	o := owner{uint32(h.Uid), uint32(h.Gid)}
	if x.owner != nil {
		o = *x.owner
	}
	if x.plain {
		return x.plainAttributes(h, p, kind)
	}
	if err := x.finish(p, kind, uint32(h.Mode), &o, nil); err != nil {
		return err
	}
	for name, v := range h.PAXRecords {
		n, ok := strings.CutPrefix(name, "SCHILY.xattr.")
		if !ok || kind == unix.S_IFLNK || strings.HasPrefix(n, "trusted.") || layer.OwnAttribute(n) {
			continue
		}
		_ = x.Root.Lsetxattr(p, x.keptAttribute(n), []byte(v)) // what cannot be set here is left out
	}
	t := h.ModTime.UnixNano()
	if kind == unix.S_IFDIR {
		ts := unix.NsecToTimespec(t)
		x.pending = append(x.pending, stamp{p, ts, ts})
		return nil
	}
	return x.settime(p, &t)
}

// plainAttributes gives a file of the caller's its mode and time. What its owner
// could not read would be lost for the build.
func (x *extractor) plainAttributes(h *tar.Header, p string, kind uint32) error {
	t := h.ModTime.UnixNano()
	switch kind {
	case unix.S_IFLNK:
		return nil
	case unix.S_IFDIR:
		x.modes = append(x.modes, func() error { return x.Root.Chmod(p, uint32(h.Mode)&0o7777|0o500) })
		ts := unix.NsecToTimespec(t)
		x.pending = append(x.pending, stamp{p, ts, ts})
		return nil
	}
	if err := x.Root.Chmod(p, uint32(h.Mode)&0o7777|0o400); err != nil {
		return err
	}
	return x.settime(p, &t)
}

// outside tells whether a name has more ".." than directories.
func outside(name string) bool {
	depth := 0
	for _, e := range elements(name) {
		if e == ".." {
			depth--
		} else {
			depth++
		}
		if depth < 0 {
			return true
		}
	}
	return false
}
