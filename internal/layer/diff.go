// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"
	"time"

	"build.stacker.dev/internal/rootfs"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// DiffOptions say how a tree becomes an archive. The zero value keeps all times.
type DiffOptions struct {
	// SourceDateEpoch is the latest modification time that may appear.
	SourceDateEpoch *time.Time

	// ClampFrom, where SourceDateEpoch is set too, is the time from which on
	// the tree was changed by the step whose layer this is: later modification
	// times, which differ from run to run, become SourceDateEpoch.
	ClampFrom *time.Time

	// Tidy takes away what hides nothing: opaque marks of directories that Lower,
	// the trees below (bottom first), does not have (the kernel marks every new
	// directory), and whiteouts of what is not there. The tree is changed, so
	// that later calls need neither.
	Tidy  bool
	Lower []string

	// Root is the root directory as it is below this layer. The archive gets an
	// entry "./" only if the tree's root differs; nil means never.
	Root *RootMeta
}

// tidy tells whether the opaque mark of the directory name has something to hide,
// and takes it away where it has not.
func (d *differ) tidy(dir *rootfs.Dir, name string) (bool, error) {
	if d.below == nil {
		return true, nil
	}
	if mode, err := d.below(name); err != nil || mode == unix.S_IFDIR {
		return true, err
	}
	if err := unix.Fremovexattr(dir.Fd(), xattrOpaque); err != nil {
		return false, fmt.Errorf("remove attribute %s: %w", xattrOpaque, err)
	}
	return false, nil
}

// hides tells whether a whiteout has something to hide, and removes it where it
// has not: what it hid was there for the step only. The directory keeps its times,
// with which it is in the archive already.
func (d *differ) hides(dir *rootfs.Dir, leaf, name string) (bool, error) {
	if d.below == nil {
		return true, nil
	}
	if mode, err := d.below(name); err != nil || mode != 0 {
		return true, err
	}
	st, err := dir.Stat()
	if err == nil {
		err = dir.Remove(leaf)
	}
	if err == nil {
		err = rootfs.Futimens(dir.Fd(), st.Atim, st.Mtim)
	}
	return false, err
}

// types finds out what names are in a stack of trees: the type bits of a mode, 0
// where there is nothing.
func types(lower []string) (of func(name string) (uint32, error), done func(), err error) {
	if len(lower) == 0 {
		return func(string) (uint32, error) { return 0, nil }, func() {}, nil
	}
	stack, err := OpenStack(lower)
	if err != nil {
		return nil, nil, err
	}
	return func(name string) (uint32, error) {
		f, err := stack.lookup(name)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return 0, nil
		}
		return f.Stat.Mode & unix.S_IFMT, err
	}, stack.Close, nil
}

// RootMeta is what can change about the root directory.
type RootMeta struct {
	Mode     uint32 // permission bits, set-id and sticky bits included
	UID, GID int
}

// RootOf is the root directory of the tree at dir, a path that the program itself
// chose.
func RootOf(dir string) (RootMeta, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return RootMeta{}, err
	}
	defer root.Close()
	top, err := root.Dir()
	if err != nil {
		return RootMeta{}, err
	}
	defer top.Close()
	st, err := top.Stat()
	if err != nil {
		return RootMeta{}, err
	}
	hdr, _, err := new(differ).describe(top.Fd(), &st)
	if err != nil {
		return RootMeta{}, err
	}
	return RootMeta{Mode: uint32(hdr.Mode), UID: hdr.Uid, GID: hdr.Gid}, nil
}

// A DiffResult describes an archive that was written.
type DiffResult struct {
	DiffID  digest.Digest
	Size    int64
	Entries int
	Empty   bool // no entries: the layer changes nothing
}

// clockGrain is how much older than the clock a file's time may be: the kernel
// stamps files with the time of the last timer tick, at least every 10 ms.
const clockGrain = 10 * time.Millisecond

const blockSize = 512

// Diff writes the tree at dir, which nothing changes meanwhile, as a layer
// archive to w; w may be nil if only the digest is wanted. Equal trees give equal
// archives:
//
//   - directories are walked in the byte order of names, which end in "/" for
//     directories and have no leading "./";
//   - ".wh..wh..opq" follows its directory, ".wh.x" stands where x would;
//     both have mode, owner and time 0;
//   - of the names of one file the first in order is the file, the others are
//     hard links;
//   - times are whole seconds, user and group names are left out, and PAX records
//     appear only for what plain headers cannot say and for attributes;
//   - sockets are left out.
//
// A file whose name would read as a whiteout is an EntryError.
func Diff(ctx context.Context, w io.Writer, dir string, o DiffOptions) (DiffResult, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return DiffResult{}, fmt.Errorf("pack layer: %w", err)
	}
	defer root.Close()
	top, err := root.Dir()
	if err != nil {
		return DiffResult{}, fmt.Errorf("pack layer: %w", err)
	}
	defer top.Close()

	d := differ{opt: o, links: map[inode]string{}}
	if o.Tidy {
		below, done, err := types(o.Lower)
		if err != nil {
			return DiffResult{}, fmt.Errorf("pack layer: %w", err)
		}
		defer done()
		d.below = below
	}
	d.out = newSink(w)
	err = d.root(ctx, top)
	if err == nil {
		d.out.zeros(2 * blockSize)
	}
	res := DiffResult{Entries: d.count, Empty: d.count == 0}
	var writeErr error
	res.DiffID, res.Size, writeErr = d.out.finish()
	switch {
	case writeErr != nil:
		return DiffResult{}, fmt.Errorf("write layer: %w", writeErr)
	case err != nil:
		return DiffResult{}, fmt.Errorf("pack layer: %w", err)
	}
	return res, nil
}

// inode identifies a file with several names.
type inode struct {
	dev, ino uint64
}

// differ is one run of Diff.
type differ struct {
	opt   DiffOptions
	out   *sink
	links map[inode]string // the first name of each file that has several
	head  headers
	count int
	below func(name string) (uint32, error) // type of what is below; nil: it is not looked at
}

func (d *differ) root(ctx context.Context, top *rootfs.Dir) error {
	st, err := top.Stat()
	if err != nil {
		return err
	}
	hdr, isOpaque, err := d.describe(top.Fd(), &st)
	if err != nil {
		return &EntryError{Name: ".", Err: err}
	}
	if m := d.opt.Root; m != nil && (m.Mode != uint32(hdr.Mode) || m.UID != hdr.Uid || m.GID != hdr.Gid) {
		hdr.Name, hdr.Typeflag = "./", tar.TypeDir
		if err := d.header(hdr); err != nil {
			return err
		}
	}
	if isOpaque {
		if err := d.header(removed(opaqueMarker)); err != nil {
			return err
		}
	}
	return d.directory(ctx, top, "")
}

// directory writes what is in dir, whose name is prefix, with a "/" at its end
// except for the root.
func (d *differ) directory(ctx context.Context, dir *rootfs.Dir, prefix string) error {
	list, err := dir.ReadDir()
	if err != nil {
		return &EntryError{Name: prefix, Err: err}
	}
	slices.SortFunc(list, func(a, b rootfs.Dirent) int { return strings.Compare(a.Name, b.Name) })
	for _, e := range list {
		name := prefix + e.Name
		if err := d.entry(ctx, dir, e, name); err != nil {
			if entryErr := (*EntryError)(nil); errors.As(err, &entryErr) || ctx.Err() != nil {
				return err
			}
			return &EntryError{Name: name, Err: err}
		}
	}
	return nil
}

func (d *differ) entry(ctx context.Context, dir *rootfs.Dir, e rootfs.Dirent, name string) error {
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case d.out.failed.Load():
		return errors.New("the output failed") // Diff reports why
	case strings.HasPrefix(e.Name, whiteoutPrefix):
		return fmt.Errorf("a layer cannot hold a file whose name starts with %q: rename it", whiteoutPrefix)
	case len(name) > maxName:
		return fmt.Errorf("name of %d bytes: the limit is %d", len(name), maxName)
	}
	switch e.Type {
	case unix.DT_REG:
		return d.regular(dir, e.Name, name)
	case unix.DT_DIR:
		return d.subdirectory(ctx, dir, e.Name, name)
	case unix.DT_SOCK:
		return nil
	}
	st, err := dir.Lstat(e.Name)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		return d.regular(dir, e.Name, name)
	case unix.S_IFDIR:
		return d.subdirectory(ctx, dir, e.Name, name)
	case unix.S_IFSOCK:
		return nil
	}
	return d.special(dir, e.Name, name, &st)
}

func (d *differ) subdirectory(ctx context.Context, parent *rootfs.Dir, leaf, name string) error {
	dir, err := parent.OpenDir(leaf)
	if err != nil {
		return err
	}
	defer dir.Close()
	st, err := dir.Stat()
	if err != nil {
		return err
	}
	hdr, isOpaque, err := d.describe(dir.Fd(), &st)
	if err != nil {
		return err
	}
	hdr.Typeflag, hdr.Name = tar.TypeDir, name+"/"
	if err := d.header(hdr); err != nil {
		return err
	}
	if isOpaque {
		if isOpaque, err = d.tidy(dir, name); err != nil {
			return err
		}
	}
	if isOpaque {
		if err := d.header(removed(hdr.Name + opaqueMarker)); err != nil {
			return err
		}
	}
	return d.directory(ctx, dir, hdr.Name)
}

// special writes a link, FIFO, device or whiteout.
func (d *differ) special(dir *rootfs.Dir, leaf, name string, st *unix.Stat_t) error {
	if isWhiteout(st) {
		return d.whiteout(dir, leaf, name)
	}
	hdr := d.basics(st)
	hdr.Name = name
	uid, gid := specialOwner(dir, leaf, st)
	hdr.Uid, hdr.Gid = int(uid), int(gid)
	if d.linked(hdr, st) {
		return d.header(hdr)
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := dir.Readlink(leaf)
		if err != nil {
			return err
		}
		hdr.Typeflag, hdr.Linkname, hdr.Mode = tar.TypeSymlink, target, permBits
	case unix.S_IFIFO:
		hdr.Typeflag = tar.TypeFifo
	case unix.S_IFCHR, unix.S_IFBLK:
		hdr.Typeflag = tar.TypeChar
		if st.Mode&unix.S_IFMT == unix.S_IFBLK {
			hdr.Typeflag = tar.TypeBlock
		}
		hdr.Devmajor, hdr.Devminor = int64(unix.Major(st.Rdev)), int64(unix.Minor(st.Rdev))
	default:
		return fmt.Errorf("unknown file type %o", st.Mode&unix.S_IFMT)
	}
	return d.header(hdr)
}

// whiteout writes the mark of removal of name, if it has something to hide.
func (d *differ) whiteout(dir *rootfs.Dir, leaf, name string) error {
	if hides, err := d.hides(dir, leaf, name); err != nil || !hides {
		return err
	}
	return d.header(removed(name[:len(name)-len(leaf)] + whiteoutPrefix + leaf))
}

// regular writes a regular file, or the device that one stands for.
func (d *differ) regular(dir *rootfs.Dir, leaf, name string) error {
	fd, err := dir.OpenFd(leaf, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := rootfs.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("file changed while the layer was packed")
	}
	if likeWhiteout(&st) && markedWhiteout(fd) {
		return d.whiteout(dir, leaf, name)
	}
	hdr, _, err := d.describe(fd, &st)
	if err != nil {
		return err
	}
	hdr.Name = name
	if d.linked(hdr, &st) {
		return d.header(hdr)
	}
	if hdr.Typeflag == 0 {
		hdr.Typeflag, hdr.Size = tar.TypeReg, st.Size
	}
	if err := d.header(hdr); err != nil {
		return err
	}
	return d.content(fd, hdr.Size)
}

// linked makes hdr a hard link if the file was already written under another
// name.
func (d *differ) linked(hdr *tar.Header, st *unix.Stat_t) bool {
	if st.Nlink < 2 {
		return false
	}
	id := inode{dev: uint64(st.Dev), ino: st.Ino}
	first, ok := d.links[id]
	if !ok {
		d.links[id] = hdr.Name
		return false
	}
	hdr.Typeflag, hdr.Linkname, hdr.Size = tar.TypeLink, first, 0
	hdr.Devmajor, hdr.Devminor = 0, 0
	hdr.PAXRecords = nil
	return true
}

// header writes the header of an entry.
func (d *differ) header(hdr *tar.Header) error {
	d.count++
	return d.head.write(d.out, hdr)
}

// content writes size bytes of the file fd and fills the last block.
func (d *differ) content(fd int, size int64) error {
	for left := size; left > 0; {
		if d.out.failed.Load() {
			return errors.New("the output failed") // Diff reports why
		}
		b := d.out.space()
		n, err := unix.Read(fd, b[:min(int64(len(b)), left)])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return fmt.Errorf("read: %w", err)
		case n == 0:
			return errors.New("file became shorter while the layer was packed")
		}
		d.out.advance(n)
		left -= int64(n)
	}
	d.out.zeros(-size & (blockSize - 1))
	return nil
}
