// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// Marks of fuse-overlayfs (1.0 to 1.14, main.c). It makes a directory opaque by
// all that it can: an attribute and two entries. Names that begin as whiteouts do
// are refused to whoever writes to its mounts, so what has such a name is a mark.
const (
	fusePrefix       = "user.fuseoverlayfs."
	fuseOpaque       = fusePrefix + "opaque"
	privilegedOpaque = "trusted.overlay.opaque"
	fuseOpaqueEntry  = ".wh..opq" // beside opaqueMarker
)

// FromFuse turns the upper directory dir of a mount of fuse-overlayfs, which is
// gone, into a tree. What still has the stamp that it has in made was not changed
// by what used the mount, and is dropped.
func FromFuse(ctx context.Context, dir string, made Notes) error {
	root, err := rootfs.Open(dir)
	if err != nil {
		return fmt.Errorf("read marks of fuse-overlayfs: %w", err)
	}
	defer root.Close()
	top, err := root.Dir()
	if err != nil {
		return fmt.Errorf("read marks of fuse-overlayfs: %w", err)
	}
	defer top.Close()
	f := fromFuse{ctx: ctx, unchanged: map[string]bool{}}
	for name, was := range made {
		now, err := note(root, name)
		f.unchanged[name] = err == nil && now == was
	}
	if err := f.directory(top, "."); err != nil {
		return fmt.Errorf("read marks of fuse-overlayfs: %w", err)
	}
	return nil
}

// fromFuse is one run of FromFuse.
type fromFuse struct {
	ctx       context.Context
	unchanged map[string]bool // what was made for the mount, by name
}

// directory cleans a directory, and leaves it with the times that it had.
func (f *fromFuse) directory(d *rootfs.Dir, name string) error {
	if f.ctx.Err() != nil {
		return context.Cause(f.ctx)
	}
	st, err := d.Stat()
	if err != nil {
		return err
	}
	list, err := d.ReadDir()
	if err != nil {
		return err
	}
	opaque, err := f.attributes(d.Fd(), true)
	if err != nil {
		return err
	}
	for _, e := range list {
		if e.Name == opaqueMarker || e.Name == fuseOpaqueEntry {
			opaque = true
			err = d.Remove(e.Name)
		} else {
			err = f.entry(d, e.Name, joinName(name, e.Name))
		}
		if err != nil {
			return &EntryError{Name: joinName(name, e.Name), Err: err}
		}
	}
	if opaque {
		if err := unix.Fsetxattr(d.Fd(), xattrOpaque, []byte("y"), 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", xattrOpaque, err)
		}
	}
	times := []unix.Timespec{st.Atim, st.Mtim}
	return unix.UtimesNanoAt(d.Fd(), "", times, unix.AT_EMPTY_PATH)
}

func (f *fromFuse) entry(d *rootfs.Dir, leaf, name string) error {
	if victim, ok := strings.CutPrefix(leaf, whiteoutPrefix); ok {
		if err := d.Remove(leaf); err != nil {
			return err
		}
		return makeWhiteout(d, victim)
	}
	st, err := d.Lstat(leaf)
	if err != nil {
		return err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		sub, err := d.OpenDir(leaf)
		if err != nil {
			return err
		}
		err = f.directory(sub, name)
		_ = sub.Close() // a directory
		if err != nil || !f.unchanged[name] {
			return err
		}
		if err := d.Remove(leaf); !errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		return nil // something in it was changed
	case unix.S_IFREG:
		if f.unchanged[name] {
			break
		}
		fd, err := d.OpenFd(leaf, unix.O_RDONLY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		_, err = f.attributes(fd, false)
		return err
	}
	if f.unchanged[name] {
		err = d.Remove(leaf)
	}
	return err
}

// attributes takes the marks off a file, and tells whether one said that a
// directory hides what is below it.
func (f *fromFuse) attributes(fd int, dir bool) (opaque bool, err error) {
	names, err := rootfs.Flistxattr(fd)
	if err != nil {
		return false, err
	}
	for _, n := range names {
		mark := strings.HasPrefix(n, fusePrefix) || n == privilegedOpaque
		if dir && (n == fuseOpaque || n == privilegedOpaque || n == xattrOpaque) {
			value, err := rootfs.Fgetxattr(fd, n)
			if err != nil {
				return false, err
			}
			opaque = opaque || string(value) == "y"
		}
		if !mark {
			continue
		}
		if err := unix.Fremovexattr(fd, n); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, fmt.Errorf("remove attribute %s: %w", n, err)
		}
	}
	return opaque, nil
}
