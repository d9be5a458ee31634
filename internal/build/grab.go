// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"

	"build.stacker.dev/internal/cache"
)

// Grab copies a file or directory of a root file system into dir, as the user's
// own. Modes are kept, without set-user-id bits; devices are left out. The copy
// stays inside dir whatever links the tree holds.
func (b *Builder) Grab(ctx context.Context, r cache.Result, from, dir string) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer root.Close()
	name := path.Base(path.Clean("/" + from))
	if name == "/" {
		name = "rootfs"
	}
	var dirs []func() error
	err = b.readPick(ctx, &cache.Pick{Layers: r.Layers, Path: from}, func(e entry) error {
		to := filepath.Join(name, filepath.FromSlash(e.name))
		after, err := grabEntry(root, name, to, e)
		if after != nil {
			dirs = append(dirs, after)
		}
		return err
	})
	if err != nil {
		return err
	}
	// Modes of directories last: they may forbid writing.
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := dirs[i](); err != nil {
			return err
		}
	}
	return nil
}

func grabEntry(root *os.Root, top, to string, e entry) (after func() error, err error) {
	mode := e.header.FileInfo().Mode().Perm()
	switch e.header.Typeflag {
	case tar.TypeDir:
		if err := root.Mkdir(to, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("make directory: %w", err)
		}
		return func() error { return root.Chmod(to, mode) }, nil
	case tar.TypeSymlink:
		_ = root.Remove(to)
		return nil, root.Symlink(e.header.Linkname, to)
	case tar.TypeLink:
		_ = root.Remove(to)
		return nil, root.Link(filepath.Join(top, filepath.FromSlash(path.Clean("/"+e.header.Linkname))), to)
	case tar.TypeReg:
		_ = root.Remove(to) // a link in its place would be followed
		f, err := root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make file: %w", err)
		}
		err = e.copyTo(f)
		if err == nil {
			err = f.Chmod(mode)
		}
		return nil, errors.Join(err, f.Close())
	}
	return nil, nil
}
