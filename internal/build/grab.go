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
// own. Modes and user.* attributes are kept, set-user-id bits and devices left out. The copy
// stays inside dir whatever links the tree holds.
func (b *Builder) Grab(ctx context.Context, r cache.Result, from, dir string) error {
	name := path.Base(path.Clean("/" + from))
	if name == "/" {
		name = "rootfs"
	}
	return b.copyOut(ctx, r.Layers, from, dir, &copies{top: name})
}

// UnpackOptions say how files are unpacked for the user.
type UnpackOptions struct {
	// Capabilities keeps those of files (security.capability), which only root may set.
	Capabilities bool
}

// UnpackTo copies all files of an image into dir as Grab does, and tells what they lost.
func (b *Builder) UnpackTo(ctx context.Context, layers []cache.Layer, dir string, o UnpackOptions) (Lost, error) {
	c := &copies{top: ".", opt: o}
	if len(layers) == 0 {
		return c.lost, nil
	}
	err := b.copyOut(ctx, layers, "/", dir, c)
	return c.lost, err
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
	c := &copies{top: top}
	err = b.copyOut(ctx, layers, from, dir, c)
	return c.names, err
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

// copies are files on their way out of a root file system.
type copies struct {
	top   string // the name in root of what is copied; "." for what it holds
	opt   UnpackOptions
	root  *os.Root
	names []string // what is there now
	lost  Lost
}

// copyOut copies from into dir.
func (b *Builder) copyOut(ctx context.Context, layers []cache.Layer, from, dir string, c *copies) error {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return fmt.Errorf("open %s: %w", dir, err)
	}
	defer root.Close()
	c.root = root
	var dirs []func() error
	err = b.readPick(ctx, &cache.Pick{Layers: layers, Path: from}, func(e entry) error {
		to := filepath.Join(c.top, filepath.FromSlash(e.name))
		after, err := c.entry(to, e)
		if after != nil {
			dirs = append(dirs, after)
		}
		c.names = append(c.names, filepath.ToSlash(to))
		return err
	})
	if err != nil {
		return err
	}
	// Modes and times of directories last: they may forbid writing, and writing
	// into them changes their times.
	for i := len(dirs) - 1; i >= 0; i-- {
		if err := dirs[i](); err != nil {
			return err
		}
	}
	return nil
}

// entry copies one file. after, which may be nil, is what has to be done when all are there.
func (c *copies) entry(to string, e entry) (after func() error, err error) {
	mode := e.header.FileInfo().Mode().Perm()
	if to != "." { // the user's own directory
		c.lost.note(e.header)
	}
	switch e.header.Typeflag {
	case tar.TypeDir:
		return c.directory(to, e)
	case tar.TypeSymlink:
		_ = c.root.Remove(to)
		return nil, c.root.Symlink(e.header.Linkname, to)
	case tar.TypeLink:
		_ = c.root.Remove(to)
		return nil, c.root.Link(filepath.Join(c.top, filepath.FromSlash(path.Clean("/"+e.header.Linkname))), to)
	case tar.TypeReg:
		_ = c.root.Remove(to) // a link in its place would be followed
		f, err := c.root.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, fmt.Errorf("make file: %w", err)
		}
		err = e.copyTo(f)
		if err == nil {
			err = c.attributes(f, e.header) // behind the bytes: writing takes capabilities away
		}
		if err == nil {
			err = f.Chmod(mode)
		}
		if err = errors.Join(err, f.Close()); err != nil {
			return nil, err
		}
		return nil, c.root.Chtimes(to, e.header.ModTime, e.header.ModTime)
	}
	return nil, nil
}

func (c *copies) directory(to string, e entry) (after func() error, err error) {
	if info, err := c.root.Lstat(to); err == nil && !info.IsDir() {
		_ = c.root.Remove(to)
	}
	if to == "." {
		return nil, nil
	}
	err = c.root.Mkdir(to, 0o700)
	if errors.Is(err, fs.ErrExist) {
		err = c.root.Chmod(to, 0o700) // that of the last time may forbid writing
	}
	if err != nil {
		return nil, fmt.Errorf("make directory: %w", err)
	}
	if len(e.header.PAXRecords) > 0 {
		d, err := c.root.Open(to)
		if err != nil {
			return nil, fmt.Errorf("open directory: %w", err)
		}
		err = c.attributes(d, e.header)
		_ = d.Close()
		if err != nil {
			return nil, err
		}
	}
	return func() error {
		return errors.Join(c.root.Chmod(to, e.header.FileInfo().Mode().Perm()), c.root.Chtimes(to, e.header.ModTime, e.header.ModTime))
	}, nil
}
