// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// Lay changes dir, which shows a stack of trees as Flatten made it, so that it
// shows the tree on top of them too.
func Lay(ctx context.Context, tree, dir string) error {
	err := lay(ctx, tree, dir)
	if err != nil {
		return fmt.Errorf("merge layer tree: %w", err)
	}
	return nil
}

func lay(ctx context.Context, tree, dir string) error {
	from, err := rootfs.Open(tree)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer to.Close()
	src, err := from.Dir()
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := to.Dir()
	if err != nil {
		return err
	}
	defer dst.Close()
	return layDirectory(ctx, src, dst)
}

// layDirectory lays what is in src over dst, and gives dst its attributes.
func layDirectory(ctx context.Context, src, dst *rootfs.Dir) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	st, err := src.Stat()
	if err != nil {
		return err
	}
	if isOpaque(src) {
		if err := dst.RemoveContents(); err != nil {
			return err
		}
	}
	list, err := src.ReadDir()
	if err != nil {
		return err
	}
	for _, e := range list {
		if err := layEntry(ctx, src, dst, e.Name); err != nil {
			if entryErr := (*EntryError)(nil); errors.As(err, &entryErr) || ctx.Err() != nil {
				return err
			}
			return &EntryError{Name: e.Name, Err: err}
		}
	}
	if err := clearXattrs(dst); err != nil {
		return err
	}
	return copyAttributes(dst.Fd(), src.Fd(), &st, unescaped)
}

func layEntry(ctx context.Context, src, dst *rootfs.Dir, name string) error {
	st, err := src.Lstat(name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		gone, err := whiteoutAt(src, name, &st)
		if err == nil {
			err = dst.RemoveAll(name)
		}
		if err != nil || gone {
			return err
		}
		return copyFile(src, name, &st, dst, unescaped)
	}
	was, err := dst.Lstat(name)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err == nil && was.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := dst.Remove(name); err != nil {
			return err
		}
	}
	if err != nil || was.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := dst.Mkdir(name, 0o700); err != nil {
			return err
		}
	}
	from, err := src.OpenDir(name)
	if err != nil {
		return err
	}
	defer from.Close()
	to, err := dst.OpenDir(name)
	if err != nil {
		return err
	}
	defer to.Close()
	return layDirectory(ctx, from, to)
}

// clearXattrs takes away the attributes that a directory has from the layers below.
func clearXattrs(d *rootfs.Dir) error {
	names, err := rootfs.Flistxattr(d.Fd())
	if err != nil {
		return err
	}
	for _, name := range names {
		if _, ours := escaped(name); !ours {
			continue
		}
		if err := unix.Fremovexattr(d.Fd(), name); err != nil {
			return err
		}
	}
	return nil
}
