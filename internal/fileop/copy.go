// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
)

// defaultDirMode is that of directories that a copy makes on its way.
const defaultDirMode = 0o755

// inode is a file with several names.
type inode struct{ dev, ino uint64 }

// copier is one copy under way.
type copier struct {
	*doer
	a       *action.Copy
	src     *Tree
	owner   *owner
	modes   *mode.Set
	linked  map[inode]string // where a file with several names was put first
	placed  map[string]inode // the inverse of linked
	pending []stamp          // directories whose time is set when all is in them
	fresh   map[string]bool  // directories that the source under way made: nothing is in them but its own
}

// stamp is the time that a directory is to have.
type stamp struct {
	path         string
	atime, mtime unix.Timespec
}

func (d *doer) copy(ctx context.Context, a *action.Copy) error {
	src := d.Inputs[a.Input]
	if src == nil {
		return fmt.Errorf("copy %s: there is no input %d", a.Src, a.Input)
	}
	sources, err := choose(src, a)
	var missing *fs.PathError
	if errors.As(err, &missing) && errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%q is not there: %w", strings.TrimPrefix(missing.Path, "/"), missing.Err)
	}
	if err != nil {
		return err
	}
	o, err := d.owner(a.Owner)
	if err != nil {
		return err
	}
	k := &copier{doer: d, a: a, src: src, owner: o, linked: map[inode]string{}, placed: map[string]inode{}}
	if a.ModeText != "" {
		set, err := mode.ParseWithUmask(a.ModeText, 0)
		if err != nil {
			return fmt.Errorf("mode %q: %w", a.ModeText, err)
		}
		k.modes = &set
	}
	if err := k.checkParent(); err != nil {
		return err
	}
	for _, s := range sources {
		if a.Unpack {
			done, err := k.unpack(ctx, s)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := k.one(ctx, s); err != nil {
			return err
		}
	}
	return k.stampAll()
}

// checkParent refuses a destination whose directory is missing, where it may not
// be made.
func (k *copier) checkParent() error {
	if k.a.MakeDest {
		return nil
	}
	p, err := k.dest.resolve(k.a.Dest, true)
	if err != nil {
		return err
	}
	if _, err := k.at.Lstat(path.Dir(p)); err != nil {
		return fmt.Errorf("copy to %s: %w", k.a.Dest, err)
	}
	return nil
}

// one copies a source.
func (k *copier) one(ctx context.Context, s source) error {
	// A destination with a slash at its end is a directory, made if need be.
	parent := k.a.Dest
	if !strings.HasSuffix(parent, "/") && !strings.HasSuffix(parent, "/.") {
		parent = path.Dir(rootfs.Clean(parent))
	}
	if err := k.parents(parent); err != nil {
		return err
	}
	dest, err := k.dest.resolve(k.a.Dest, true)
	if err != nil {
		return err
	}
	top, err := k.src.stat(s.top)
	if err != nil {
		return err
	}
	if dest, err = k.place(dest, s, top); err != nil {
		return err
	}
	k.fresh = map[string]bool{}
	c := &crew{copier: k}
	for _, i := range s.items {
		if err = context.Cause(ctx); err == nil {
			err = k.item(ctx, c, i, below(dest, i.rel))
		}
		if err != nil {
			break
		}
	}
	if err != nil {
		c.failed.Store(true)
	}
	if first := c.finish(ctx); first != nil {
		return first
	}
	return err
}

// parents makes a directory of the destination, following links.
func (k *copier) parents(name string) error {
	p, err := k.dest.resolve(name, true)
	if err != nil {
		return err
	}
	return k.makeDirs(p, k.dirMode())
}

// dirMode is that of directories made for what is copied.
func (k *copier) dirMode() uint32 {
	if k.a.Mode != nil {
		return *k.a.Mode
	}
	return defaultDirMode
}

func (k *copier) makeDirs(p string, m uint32) error {
	made, err := k.mkdirs(p, m, k.owner, k.a.Time)
	if err != nil {
		return err
	}
	if k.a.Time != nil {
		for _, m := range made {
			ts := unix.NsecToTimespec(*k.a.Time)
			k.pending = append(k.pending, stamp{m, ts, ts})
		}
	}
	return nil
}

// place decides what a source becomes: dest itself, or something in it.
func (k *copier) place(dest string, s source, top info) (string, error) {
	st, err := k.look(dest)
	if err != nil {
		return "", err
	}
	there := st.Mode != 0
	if !k.a.ContentsOnly && top.isDir() && there || !top.isDir() && there && isDir(st) {
		dest = path.Join(dest, path.Base(s.name))
	}
	target := path.Dir(dest)
	if k.a.ContentsOnly && top.isDir() && !there {
		target = dest
	}
	return dest, k.makeDirs(target, k.dirMode())
}

// item makes one file, or has it made.
func (k *copier) item(ctx context.Context, c *crew, i *item, to string) (err error) {
	if !k.fresh[path.Dir(to)] {
		if err := k.makeWay(i, to); err != nil {
			return err
		}
	}
	if i.info.isRegular() && k.Draft != nil {
		return k.Draft.add(to, &node{mode: unix.S_IFREG, copied: &copied{k, i}})
	}
	if i.info.isRegular() {
		c.add(ctx, i, to)
		return nil
	}
	if i.info, err = k.src.complete(i.path, i.info); err != nil {
		return err
	}
	if i.info.isDir() {
		return k.directory(i, to)
	}
	return k.leaf(i, to)
}

// makeWay removes what is in the place of a file.
func (k *copier) makeWay(i *item, to string) error {
	was, err := k.look(to)
	if err != nil || was.Mode == 0 {
		return err
	}
	switch {
	case i.info.isDir() && isDir(was):
		return nil
	case k.a.Replace:
		err = k.at.RemoveAll(to)
	case i.info.isDir():
		return fmt.Errorf("cannot copy to /%s: it is no directory", to)
	case isDir(was):
		return fmt.Errorf("cannot replace directory /%s with a file", to)
	default:
		err = k.at.Remove(to)
	}
	if err == nil {
		k.forget(to, isDir(was))
	}
	return err
}

// forget is for what was removed: an earlier source may have put it there ("COPY
// */* /"), and further names of its file are not those of what comes in its place.
func (k *copier) forget(p string, below bool) {
	if id, ok := k.placed[p]; ok {
		delete(k.placed, p)
		delete(k.linked, id)
	}
	if !below {
		return
	}
	for q, id := range k.placed {
		if strings.HasPrefix(q, p+"/") {
			delete(k.placed, q)
			delete(k.linked, id)
		}
	}
}

// directory makes a directory, or gives one that is there the attributes of the
// source's; not so the top, which is the user's to name.
func (k *copier) directory(i *item, to string) error {
	err := fs.ErrExist
	if to != "." { // the root itself is there
		err = k.at.Mkdir(to, 0o700)
	}
	if err == nil {
		k.fresh[to] = true
		return k.attributes(i, to)
	}
	if !errors.Is(err, fs.ErrExist) {
		return err
	}
	if i.rel == "" {
		k.stampLater(i, to)
		return nil
	}
	if !i.asked {
		return k.at.Chmod(to, i.info.st.Mode&0o7777)
	}
	return k.attributes(i, to)
}

// leaf makes what is neither a directory nor a regular file.
func (k *copier) leaf(i *item, to string) error {
	switch i.info.kind() {
	case unix.S_IFLNK:
		target, err := k.src.readlink(i.path)
		if err != nil {
			return err
		}
		if err := k.at.Symlink(target, to); err != nil {
			return err
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
		if err := k.at.Mknod(to, i.info.kind()|0o600, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("copy /%s: devices cannot be made here", i.path)
	}
	return k.attributes(i, to)
}

// attributes gives a copy owner, mode, extended attributes and time.
func (k *copier) attributes(i *item, to string) error {
	kind := i.info.kind()
	o := owner{i.info.st.Uid, i.info.st.Gid}
	if k.owner != nil {
		o = *k.owner
	}
	if err := k.chown(to, o, kind); err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := k.xattrs(i, to); err != nil {
			return err
		}
	}
	if kind != unix.S_IFLNK {
		if err := k.at.Chmod(to, k.mode(i.info.st.Mode)); err != nil {
			return err
		}
	}
	if kind == unix.S_IFDIR {
		k.stampLater(i, to)
		return nil
	}
	if k.a.Time != nil {
		return k.settime(to, k.a.Time)
	}
	return k.at.Chtimes(to, i.info.st.Atim, i.info.st.Mtim)
}

// mode gives the permission bits of a copy.
func (k *copier) mode(was uint32) uint32 {
	switch {
	case k.modes != nil:
		return unixMode(k.modes.Apply(goMode(was)))
	case k.a.Mode != nil:
		return *k.a.Mode & 0o7777
	}
	return was & 0o7777
}

func goMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			out |= flag
		}
	}
	if m&unix.S_IFMT == unix.S_IFDIR {
		out |= fs.ModeDir
	}
	return out
}

func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&flag != 0 {
			out |= bit
		}
	}
	return out
}

// xattrs copies extended attributes. Labels of security modules are the
// machine's; other ones that cannot be set here are left out, as in BuildKit.
func (k *copier) xattrs(i *item, to string) error {
	if k.src.entries != nil {
		return k.listed(i.info.xattrs, func(name string, value []byte) error {
			err := k.at.Lsetxattr(to, name, value)
			if errors.Is(err, ErrUndecided) {
				return err
			}
			return nil
		})
	}
	names, err := k.src.root.Llistxattr(i.path)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		as, ok := k.attribute(n)
		if !ok {
			continue
		}
		v, err := k.src.root.Lgetxattr(i.path, n)
		if err != nil {
			return err
		}
		if err := k.at.Lsetxattr(to, as, v); errors.Is(err, ErrUndecided) {
			return err
		}
	}
	return nil
}

// listed gives the attributes of a listed file, in order, under the names that they are
// kept under. What would be taken for a note of this program is left out: who writes the
// files of a build context would choose owners, and make devices of files.
func (k *copier) listed(all map[string]string, set func(name string, value []byte) error) error {
	if len(all) == 0 {
		return nil
	}
	for _, n := range slices.Sorted(maps.Keys(all)) {
		if layer.OwnAttribute(n) {
			continue
		}
		if as, ok := k.attribute(n); ok {
			if err := set(as, []byte(all[n])); err != nil {
				return err
			}
		}
	}
	return nil
}

// attribute gives the name that an attribute has in a copy; ok is false for one of
// this machine, for a mark, and for an owner where another one is asked for.
func (k *copier) attribute(name string) (as string, ok bool) {
	own, _ := ownerAttribute(0, 0)
	if strings.HasPrefix(name, "trusted.") || name == "security.selinux" || name == own && k.owner != nil {
		return "", false
	}
	as, ok = name, true
	if k.src.marked {
		as, ok = layer.UnescapeAttribute(name)
	}
	return k.keptAttribute(as), ok
}

// keptAttribute gives the name under which an attribute is kept in the root. A mark
// of overlays would hide files from steps that the layer has.
func (d *doer) keptAttribute(name string) string {
	if d.Tree {
		return layer.EscapeAttribute(name)
	}
	return name
}

func (k *copier) stampLater(i *item, to string) {
	s := stamp{to, i.info.st.Atim, i.info.st.Mtim}
	if k.a.Time != nil {
		s.atime = unix.NsecToTimespec(*k.a.Time)
		s.mtime = s.atime
	}
	k.pending = append(k.pending, s)
}

// stampAll sets the times of directories, now that nothing is added to them.
func (k *copier) stampAll() error {
	for i := len(k.pending) - 1; i >= 0; i-- {
		s := k.pending[i]
		if err := k.at.Chtimes(s.path, s.atime, s.mtime); err != nil {
			return err
		}
	}
	return nil
}
