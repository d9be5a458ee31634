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
	"build.stacker.dev/internal/worker"
)

// Grab copies a file or directory of a root file system into dir, as the user's
// own. Modes are kept, without set-user-id bits; devices are left out. The copy
// stays inside dir whatever links the tree holds.
func (b *Builder) Grab(ctx context.Context, r cache.Result, from, dir string) error {
	name := path.Base(path.Clean("/" + from))
	if name == "/" {
		name = "rootfs"
	}
	_, err := b.copyOut(ctx, r.Layers, from, dir, name)
	return err
}

// WriteDir implements export.Files: Grab of what a directory holds, or of a file,
// straight into dir.
func (b *Builder) WriteDir(ctx context.Context, layers []cache.Layer, from, dir string) ([]string, error) {
	trees, err := b.trees(ctx, layers, nil)
	if err != nil {
		return nil, err
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return nil, err
	}
	kinds, err := w.Stat(ctx, trees, []string{from})
	if err != nil {
		return nil, err
	}
	top := "."
	if kinds[0] == worker.OtherFile {
		top = path.Base(from)
	}
	return b.copyOut(ctx, layers, from, dir, top)
}

// Unpack implements export.Files.
func (b *Builder) Unpack(ctx context.Context, layers []cache.Layer) error {
	_, err := b.trees(ctx, layers, nil)
	return err
}

// WriteTar implements export.Files.
func (b *Builder) WriteTar(ctx context.Context, layers []cache.Layer, from string, out *os.File) error {
	trees, err := b.trees(ctx, layers, nil)
	if err != nil {
		return err
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return err
	}
	return w.ReadTar(ctx, worker.ReadTarRequest{Lower: trees, Path: from}, out)
}

// copyOut copies from as top into dir, and names what is there now.
func (b *Builder) copyOut(ctx context.Context, layers []cache.Layer, from, dir, top string) ([]string, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", dir, err)
	}
	defer root.Close()
	var names []string
	var dirs []func() error
	err = b.readPick(ctx, &cache.Pick{Layers: layers, Path: from}, func(e entry) error {
		to := filepath.Join(top, filepath.FromSlash(e.name))
		after, err := grabEntry(root, top, to, e)
		if after != nil {
			dirs = append(dirs, after)
		}
		names = append(names, filepath.ToSlash(to))
		return err
	})
	if err != nil {
		return nil, err
	}
	// Modes and times of directories last: they may forbid writing, and writing
	// into them changes their times.
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := dirs[i](); err != nil {
			return nil, err
		}
	}
	return names, nil
}

func grabEntry(root *os.Root, top, to string, e entry) (after func() error, err error) {
	mode := e.header.FileInfo().Mode().Perm()
	switch e.header.Typeflag {
	case tar.TypeDir:
		if info, err := root.Lstat(to); err == nil && !info.IsDir() {
			_ = root.Remove(to)
		}
		if to == "." {
			return nil, nil // the user's own directory
		}
		err := root.Mkdir(to, 0o700)
		if errors.Is(err, fs.ErrExist) {
			err = root.Chmod(to, 0o700) // that of the last time may forbid writing
		}
		if err != nil {
			return nil, fmt.Errorf("make directory: %w", err)
		}
		return func() error {
			return errors.Join(root.Chmod(to, mode), root.Chtimes(to, e.header.ModTime, e.header.ModTime))
		}, nil
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
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		return nil, root.Chtimes(to, e.header.ModTime, e.header.ModTime)
	}
	return nil, nil
}
