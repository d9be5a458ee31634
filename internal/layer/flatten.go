// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// FlattenOptions say how a stack becomes one directory. The zero value copies it.
type FlattenOptions struct {
	// Link makes the files further names of those in the trees, in the form that
	// they have there. It is quick and takes no space, but only for what nobody
	// writes to. Without it the files are copies, which share their content where
	// the file system can do that (FICLONE).
	Link bool

	// Apart takes only what has several names in one of the trees, as files of their
	// own, and the directories that lead there, in the form that they have there.
	Apart bool
}

// Flatten fills the empty directory dir with what the overlay of the trees lower,
// bottom first, would show. A copy has the attributes as the overlay shows them.
//
// Copies of one file with several names become files of their own: an overlay
// without an index does the same to a name that is written to, so that a step's
// layer is the same in both.
func Flatten(ctx context.Context, lower []string, dir string, o FlattenOptions) error {
	f := flattener{ctx: ctx, opt: o}
	err := f.run(lower, dir)
	if err != nil {
		return fmt.Errorf("merge layer trees: %w", err)
	}
	return nil
}

// flattener is one run of Flatten. It holds few descriptors open, however many
// trees there are and however deep they are.
type flattener struct {
	ctx   context.Context
	opt   FlattenOptions
	roots []*rootfs.Root // of the trees, bottom first
	to    *rootfs.Root
}

func (f *flattener) run(lower []string, dir string) (err error) {
	defer func() {
		for _, r := range f.roots {
			_ = r.Close() // opened for reading only
		}
	}()
	level := make([]int, 0, len(lower))
	for i, l := range lower {
		r, err := rootfs.Open(l)
		if err != nil {
			return err
		}
		f.roots = append(f.roots, r)
		level = append(level, len(lower)-1-i)
	}
	if f.to, err = rootfs.Open(dir); err != nil {
		return err
	}
	defer f.to.Close()
	if len(level) == 0 {
		return nil
	}
	return f.directory(level, ".")
}

// merged is what the members of a directory have by one name.
type merged struct {
	dirs []int // trees with a directory of that name, top first
	done bool  // what is further down is hidden
}

// directory fills the directory name of the result with that of the trees, top
// first. Its attributes come last: filling it changes its times.
func (f *flattener) directory(level []int, name string) error {
	if err := f.ctx.Err(); err != nil {
		return context.Cause(f.ctx)
	}
	out, err := f.to.OpenDir(name)
	if err != nil {
		return err
	}
	names, order, err := f.files(level, name, out)
	_ = out.Close() // a directory
	if err != nil {
		return err
	}
	for _, leaf := range order {
		m := names[leaf]
		if len(m.dirs) == 0 {
			continue
		}
		place := joinName(name, leaf)
		if err := f.to.Mkdir(place, 0o700); err != nil {
			return err
		}
		if err := f.directory(m.dirs, place); err != nil {
			return err
		}
		if !f.opt.Apart {
			continue
		}
		if err := f.dropEmpty(place); err != nil {
			return err
		}
	}
	return f.attributes(level[0], name)
}

// dropEmpty removes the directory name of the result if nothing is in it.
func (f *flattener) dropEmpty(name string) error {
	d, leaf, err := f.to.OpenParent(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Remove(leaf); !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// files makes the files of a merged directory and lists its names.
func (f *flattener) files(level []int, name string, out *rootfs.Dir) (map[string]*merged, []string, error) {
	names := map[string]*merged{}
	var order []string
	for _, n := range level {
		d, err := f.roots[n].OpenDir(name)
		if err != nil {
			return nil, nil, err
		}
		order, err = f.member(n, d, out, names, order)
		hides := isOpaque(d)
		_ = d.Close() // opened for reading only
		if err != nil {
			return nil, nil, fmt.Errorf("/%s: %w", name, err)
		}
		if hides {
			break
		}
	}
	return names, order, nil
}

func (f *flattener) member(n int, d, out *rootfs.Dir, names map[string]*merged, order []string) ([]string, error) {
	list, err := d.ReadDir()
	if err != nil {
		return order, err
	}
	for _, e := range list {
		m := names[e.Name]
		if m != nil && m.done {
			continue
		}
		st, err := d.Lstat(e.Name)
		if err != nil {
			return order, err
		}
		if m == nil {
			m = &merged{}
			names[e.Name] = m
			order = append(order, e.Name)
		}
		if st.Mode&unix.S_IFMT == unix.S_IFDIR {
			m.dirs = append(m.dirs, n)
			if m.done, err = opaqueAt(d, e.Name); err != nil {
				return order, err
			}
			continue
		}
		first := len(m.dirs) == 0
		m.done = true
		if !first {
			continue // a directory of a tree above stands before it
		}
		gone, err := whiteoutAt(d, e.Name, &st)
		if err != nil {
			return order, err
		}
		if !gone {
			if err := f.file(d, e.Name, &st, out); err != nil {
				return order, fmt.Errorf("%s: %w", e.Name, err)
			}
		}
	}
	return order, nil
}

func opaqueAt(d *rootfs.Dir, name string) (bool, error) {
	sub, err := d.OpenDir(name)
	if err != nil {
		return false, err
	}
	defer sub.Close()
	return isOpaque(sub), nil
}

func (f *flattener) file(d *rootfs.Dir, name string, st *unix.Stat_t, out *rootfs.Dir) error {
	if f.opt.Apart && (st.Mode&unix.S_IFMT != unix.S_IFREG || st.Nlink < 2) {
		return nil
	}
	if f.opt.Link {
		err := out.Link(d, name, name)
		if err == nil || !errors.Is(err, unix.EMLINK) && !errors.Is(err, unix.EPERM) {
			return err
		}
	}
	return copyFile(d, name, st, out, f.conversion())
}

// attributes gives the directory name of the result what that of tree n has.
func (f *flattener) attributes(n int, name string) error {
	src, err := f.roots[n].OpenDir(name)
	if err != nil {
		return err
	}
	defer src.Close()
	dst, err := f.to.OpenDir(name)
	if err != nil {
		return err
	}
	defer dst.Close()
	st, err := src.Stat()
	if err != nil {
		return err
	}
	return copyAttributes(dst.Fd(), src.Fd(), &st, f.conversion())
}

func (f *flattener) conversion() conversion {
	if f.opt.Link || f.opt.Apart {
		return kept
	}
	return unescaped
}
