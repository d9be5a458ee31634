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

// Changes finds what was changed in the directory tree dir since it had the stamps
// base, and puts it into the empty directory upper as an overlay would have: what
// is new or changed, the directories on the way, whiteouts of what is gone, opaque
// marks on directories that stand where others stood. Changed files are moved from
// dir, or copied where upper is in another volume.
//
// Nothing else may use dir meanwhile, and it is of no use afterwards.
func Changes(ctx context.Context, base *Stamps, dir, upper string) error {
	from, err := rootfs.Open(dir)
	if err != nil {
		return fmt.Errorf("find changes: %w", err)
	}
	defer from.Close()
	to, err := rootfs.Open(upper)
	if err != nil {
		return fmt.Errorf("find changes: %w", err)
	}
	defer to.Close()
	c := changes{ctx: ctx, from: from, to: to, copied: map[inode]string{}}
	if err := c.root(base); err != nil {
		return fmt.Errorf("find changes: %w", err)
	}
	return nil
}

// changes is one run of Changes.
type changes struct {
	ctx    context.Context
	from   *rootfs.Root
	to     *rootfs.Root
	apart  bool             // upper is in another volume
	copied map[inode]string // there: the first name of each file that has several
}

// place is a directory of upper, which is made when the first change in it is found.
type place struct {
	parent *place
	name   string
	source *rootfs.Dir // the directory that it describes
	st     unix.Stat_t // of source, before anything was moved out of it
	dir    *rootfs.Dir // nil: not made
	opaque bool
}

func (p *place) open() (*rootfs.Dir, error) {
	if p.dir != nil {
		return p.dir, nil
	}
	in, err := p.parent.open()
	if err != nil {
		return nil, err
	}
	if err := in.Mkdir(p.name, 0o700); err != nil {
		return nil, err
	}
	p.dir, err = in.OpenDir(p.name)
	return p.dir, err
}

// finish describes the directory, after all that is in it.
func (p *place) finish() error {
	if p.dir == nil {
		return nil
	}
	if p.opaque {
		if err := rootfs.Fsetxattr(p.dir.Fd(), xattrOpaque, []byte("y")); err != nil {
			return fmt.Errorf("set attribute %s: %w", xattrOpaque, err)
		}
	}
	return copyAttributes(p.dir.Fd(), p.source.Fd(), &p.st, escaped)
}

func (p *place) close() {
	if p.dir != nil && p.parent != nil {
		_ = p.dir.Close() // a directory
	}
}

func (c *changes) root(base *Stamps) error {
	d, err := c.from.Dir()
	if err != nil {
		return err
	}
	defer d.Close()
	top, err := c.to.Dir()
	if err != nil {
		return err
	}
	defer top.Close()
	st, err := d.Stat()
	if err != nil {
		return err
	}
	if err := d.Unlock(&st); err != nil {
		return err
	}
	p := &place{source: d, st: st, dir: top}
	if err := c.directory(base, p, "."); err != nil {
		return err
	}
	return p.finish()
}

// directory looks at what is in a directory; base is nil where there was none.
func (c *changes) directory(base *Stamps, p *place, name string) error {
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	if len(name) > maxName {
		return &EntryError{Name: name, Err: fmt.Errorf("name of %d bytes: the limit is %d", len(name), maxName)}
	}
	list, err := p.source.ReadDir()
	if err != nil {
		return err
	}
	here := make(map[string]bool, len(list))
	for _, e := range list {
		var was *Stamps
		if base != nil {
			was = base.names[e.Name]
		}
		there, err := c.entry(was, p, e.Name, joinName(name, e.Name))
		if err != nil {
			if entryErr := (*EntryError)(nil); errors.As(err, &entryErr) || c.ctx.Err() != nil {
				return err
			}
			return &EntryError{Name: joinName(name, e.Name), Err: err}
		}
		here[e.Name] = there
	}
	if base == nil {
		return nil
	}
	for gone := range base.names {
		if here[gone] {
			continue
		}
		dir, err := p.open()
		if err != nil {
			return err
		}
		if err := makeWhiteout(dir, gone); err != nil {
			return &EntryError{Name: joinName(name, gone), Err: err}
		}
	}
	return nil
}

// entry looks at one name. there is false for what no layer can hold.
func (c *changes) entry(was *Stamps, p *place, leaf, name string) (there bool, err error) {
	now, err := stampAt(p.source.Fd(), leaf)
	if err != nil {
		return false, err
	}
	if now.dir {
		return true, c.subdirectory(was, now, p, leaf, name)
	}
	if was != nil && was.of == now {
		return true, nil
	}
	st, err := p.source.Lstat(leaf)
	if err != nil {
		return false, err
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFLNK, unix.S_IFIFO:
	case unix.S_IFSOCK:
		return false, nil
	case unix.S_IFCHR:
		if isWhiteout(&st) { // an overlay refuses to make one
			return false, nil
		}
		fallthrough
	default:
		return false, fmt.Errorf("a layer cannot hold a file of type %o", st.Mode&unix.S_IFMT)
	}
	dir, err := p.open()
	if err != nil {
		return false, err
	}
	return true, c.take(p.source, dir, name, &st)
}

func (c *changes) subdirectory(was *Stamps, now stamp, parent *place, leaf, name string) error {
	d, err := parent.source.OpenDir(leaf)
	if err != nil {
		return err
	}
	defer d.Close()
	st, err := d.Stat()
	if err != nil {
		return err
	}
	if err := d.Unlock(&st); err != nil {
		return err
	}
	p := &place{parent: parent, name: leaf, source: d, st: st}
	defer p.close()
	stayed := was != nil && was.of.same(now)
	if !stayed {
		p.opaque = was != nil && was.of.dir
		was = nil
	}
	if !stayed || was.of != now {
		if _, err := p.open(); err != nil {
			return err
		}
	}
	if err := c.directory(was, p, name); err != nil {
		return err
	}
	return p.finish()
}

// take moves the file name to upper. Another volume gets a copy, of a file with
// several names one.
func (c *changes) take(from, to *rootfs.Dir, name string, st *unix.Stat_t) error {
	_, leaf := splitName(name)
	if !c.apart {
		err := from.Rename(leaf, to, leaf)
		if err == nil {
			return escapeMarks(to, leaf, st)
		}
		if !errors.Is(err, unix.EXDEV) {
			return err
		}
		c.apart = true
	}
	if st.Nlink > 1 {
		id := inode{dev: uint64(st.Dev), ino: st.Ino}
		if first, ok := c.copied[id]; ok {
			return c.to.Link(first, name)
		}
		c.copied[id] = name
	}
	return copyFile(from, leaf, st, to, escaped)
}

// escapeMarks renames attributes of a file that came from a step which read as
// marks of an overlay in a tree. Links and FIFOs have none.
func escapeMarks(d *rootfs.Dir, leaf string, st *unix.Stat_t) error {
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	fd, err := d.OpenFd(leaf, unix.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	names, err := rootfs.Flistxattr(fd)
	if err != nil {
		return err
	}
	type attribute struct {
		old, name string
		value     []byte
	}
	var marks []attribute
	for _, name := range names {
		as, ok := escaped(name)
		if !ok || as == name {
			continue
		}
		value, err := rootfs.Fgetxattr(fd, name)
		if err != nil {
			return err
		}
		marks = append(marks, attribute{name, as, value})
	}
	for _, m := range marks {
		if err := unix.Fremovexattr(fd, m.old); err != nil {
			return err
		}
	}
	for _, m := range marks {
		if err := rootfs.Fsetxattr(fd, m.name, m.value); err != nil {
			return err
		}
	}
	return nil
}
