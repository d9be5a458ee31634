// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
)

// cp is cp: -r, -R, -a, -p, -f, -d, -P, -L, -n, -T, -t.
func cp(ctx context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "rRapfdPLHnTt:vux", "recursive=r archive=a no-dereference=P dereference=L no-clobber=n no-target-directory=T target-directory=t force=f")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	names, target := f.rest, f.last('t', "")
	if target == "" {
		if len(names) < 2 {
			return p.fail(1, "missing file operand")
		}
		names, target = names[:len(names)-1], names[len(names)-1]
	}
	into := !f.has("T") && p.isDir(target, false)
	if !into && len(names) > 1 {
		return p.fail(1, "target '%s': No such directory", target)
	}
	c := &copier{
		recursive: f.has("rRa"), preserve: f.has("pa"),
		keepLinks: f.has("dPa") || f.has("rR") && !f.has("L"), noClobber: f.has("n"),
	}
	status := 0
	for _, name := range names {
		to := target
		if into {
			to = filepath.Join(target, filepath.Base(name))
		}
		if err := c.copy(ctx, p.path(name), p.path(to)); err != nil {
			status = p.failPath(name, err)
		}
	}
	return status
}

// copier copies files and trees.
type copier struct {
	recursive, preserve, keepLinks, noClobber bool
}

func (c *copier) copy(ctx context.Context, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	stat := os.Stat
	if c.keepLinks {
		stat = os.Lstat
	}
	info, err := stat(from)
	if err != nil {
		return err
	}
	old, err := os.Lstat(to)
	if err == nil && c.noClobber && !old.IsDir() {
		return nil
	}
	if err == nil && os.SameFile(info, old) {
		return errors.New("source and target are the same file")
	}
	switch mode := info.Mode(); {
	case mode.IsDir() && !c.recursive:
		return errors.New("-r not specified; omitting directory")
	case mode.IsDir():
		err = c.tree(ctx, from, to, info)
	case mode&fs.ModeSymlink != 0:
		err = copyLink(from, to)
	case mode.IsRegular():
		err = c.file(from, to, uint32(mode.Perm()))
	default:
		err = c.node(from, to, info)
	}
	if err == nil && c.preserve {
		err = keepMetadata(to, info)
	}
	return err
}

// tree copies a directory. Its own mode is set last: it may not be writable.
func (c *copier) tree(ctx context.Context, from, to string, info fs.FileInfo) error {
	err := os.Mkdir(to, 0o700)
	made := err == nil
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	entries, err := os.ReadDir(from)
	if err != nil {
		return err
	}
	for _, e := range entries {
		// The target may lie in the source: cp -r . sub.
		if inner, err := os.Lstat(filepath.Join(from, e.Name())); err == nil {
			if dir, err := os.Lstat(to); err == nil && os.SameFile(inner, dir) {
				continue
			}
		}
		if err := c.copy(ctx, filepath.Join(from, e.Name()), filepath.Join(to, e.Name())); err != nil {
			return fmt.Errorf("%s: %w", e.Name(), err)
		}
	}
	if !made {
		return nil
	}
	return syscall.Chmod(to, unixMode(info)&^currentUmask())
}

// file copies content into a file that is made with perm.
func (c *copier) file(from, to string, perm uint32) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, fs.FileMode(perm))
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

func copyLink(from, to string) error {
	target, err := os.Readlink(from)
	if err != nil {
		return err
	}
	if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Symlink(target, to)
}

// node copies a pipe, socket or device as such in a tree, and its content otherwise.
func (c *copier) node(from, to string, info fs.FileInfo) error {
	if !c.recursive {
		return c.file(from, to, uint32(info.Mode().Perm()))
	}
	st := info.Sys().(*syscall.Stat_t)
	return syscall.Mknod(to, st.Mode, int(st.Rdev))
}

// keepMetadata gives a copy the owner, mode and times of its source. As everywhere, an owner
// that may not be set is no error, and then set-id bits are left out.
func keepMetadata(path string, info fs.FileInfo) error {
	st := info.Sys().(*syscall.Stat_t)
	mode := unixMode(info)
	if err := os.Lchown(path, int(st.Uid), int(st.Gid)); err != nil {
		mode &= 0o1777
	}
	if info.Mode()&fs.ModeSymlink != 0 {
		return nil
	}
	if err := syscall.Chmod(path, mode); err != nil {
		return err
	}
	return os.Chtimes(path, info.ModTime(), info.ModTime())
}
