// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package fileop copies, makes and removes files inside a root file system, with
// the results that Docker's COPY, ADD and WORKDIR have.
//
// Do works in the worker on a Draft, which becomes a layer without being a file
// system, or on a mounted root; sources are other roots or a listed local tree.
// Choose tells which files a copy takes, without touching any: the key of a step is
// made of these. All paths are resolved inside their tree, and
// what is made has exactly the modes, owners and times that are asked for,
// whatever the umask is. The package mounts nothing and makes no layers.
package fileop

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
)

// Root is what actions change: a mounted root file system, which is a rootfs.Root, or
// a Draft. Its methods are those of rootfs.Root; links are followed by the caller.
type Root interface {
	Lstat(name string) (unix.Stat_t, error)
	Readlink(name string) (string, error)
	ReadDir(name string) ([]rootfs.Dirent, error)
	Mkdir(name string, perm uint32) error
	Symlink(target, name string) error
	Mknod(name string, mode uint32, dev uint64) error
	Remove(name string) error
	RemoveAll(name string) error
	Lchown(name string, uid, gid int) error
	Chmod(name string, mode uint32) error
	Chtimes(name string, atime, mtime unix.Timespec) error
	Lsetxattr(name, attr string, value []byte) error
}

// Options are what Do works with. Root or Draft is set.
type Options struct {
	Root     *rootfs.Root  // what is changed
	Draft    *Draft        // what is changed, where there are no files yet
	Inputs   map[int]*Tree // what copies read, by their number
	SingleID bool          // files can have no other owner: it is recorded in an attribute
	// Tree says that Root is no mounted overlay but one tree of its format, in which
	// attributes can be its marks.
	Tree bool
}

// Do does the actions in order. After an error the root is half changed.
func Do(ctx context.Context, o Options, actions []action.Action) error {
	d := newDoer(o)
	for _, a := range actions {
		var err error
		switch {
		case a.Copy != nil:
			err = d.copy(ctx, a.Copy)
		case a.File != nil:
			err = d.file(a.File)
		case a.Dir != nil:
			err = d.dir(a.Dir)
		case a.Remove != nil:
			err = d.remove(a.Remove)
		case a.Symlink != nil:
			err = d.symlink(a.Symlink)
		default:
			err = errors.New("action without content")
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func newDoer(o Options) *doer {
	if o.Draft != nil {
		return &doer{Options: o, at: o.Draft, dest: &Tree{look: o.Draft}}
	}
	return &doer{Options: o, at: o.Root, dest: RootTree(o.Root)}
}

type doer struct {
	Options
	at    Root // Draft or Root
	dest  *Tree
	plain bool // files belong to whoever makes them
	buf   []byte
}

// look describes what is at a path of the root; a zero mode is nothing.
func (d *doer) look(p string) (unix.Stat_t, error) {
	st, err := d.at.Lstat(p)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return unix.Stat_t{}, nil
	}
	return st, err
}

func isDir(st unix.Stat_t) bool { return st.Mode&unix.S_IFMT == unix.S_IFDIR }

// owner of something new; nil leaves it as it is.
type owner struct{ uid, gid uint32 }

// chown sets an owner. What links and device files cannot hold is lost with a
// single id.
func (d *doer) chown(p string, o owner, kind uint32) error {
	if d.plain {
		return nil
	}
	if !d.SingleID || o == (owner{}) {
		return d.at.Lchown(p, int(o.uid), int(o.gid))
	}
	if kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return nil
	}
	name, value := ownerAttribute(o.uid, o.gid)
	return d.at.Lsetxattr(p, name, value)
}

// mkdirs makes a directory and the parents that are missing. It returns what it
// made, parents first. The path has no links.
func (d *doer) mkdirs(p string, mode uint32, o *owner, t *int64) ([]string, error) {
	st, err := d.look(p)
	if err != nil {
		return nil, err
	}
	if isDir(st) {
		return nil, nil
	}
	if st.Mode != 0 {
		return nil, &fs.PathError{Op: "mkdir", Path: "/" + p, Err: unix.ENOTDIR}
	}
	made, err := d.mkdirs(path.Dir(p), mode, o, t)
	if err != nil {
		return nil, err
	}
	if err := d.at.Mkdir(p, 0o700); err != nil {
		return nil, err
	}
	return append(made, p), d.finish(p, unix.S_IFDIR, mode, o, t)
}

// finish gives something new its owner, mode and time.
func (d *doer) finish(p string, kind, mode uint32, o *owner, t *int64) error {
	if o == nil {
		o = &owner{}
	}
	if err := d.chown(p, *o, kind); err != nil {
		return err
	}
	if kind != unix.S_IFLNK {
		if err := d.at.Chmod(p, mode&0o7777); err != nil {
			return err
		}
	}
	return d.settime(p, t)
}

func (d *doer) settime(p string, t *int64) error {
	if t == nil {
		return nil
	}
	ts := unix.NsecToTimespec(*t)
	return d.at.Chtimes(p, ts, ts)
}

func (d *doer) dir(a *action.Dir) error {
	p, err := d.dest.resolve(a.Path, true)
	if err != nil {
		return err
	}
	o, err := d.owner(a.Owner)
	if err != nil {
		return err
	}
	if a.Parents {
		_, err := d.mkdirs(p, a.Mode&0o777, o, a.Time)
		return err
	}
	err = d.at.Mkdir(p, 0o700)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return d.finish(p, unix.S_IFDIR, a.Mode&0o777, o, a.Time)
}

func (d *doer) file(a *action.File) error {
	p, err := d.dest.resolve(a.Path, true)
	if err != nil {
		return err
	}
	o, err := d.owner(a.Owner)
	if err != nil {
		return err
	}
	st, err := d.look(p)
	if err != nil {
		return err
	}
	if isDir(st) {
		return &fs.PathError{Op: "make file", Path: "/" + p, Err: unix.EISDIR}
	}
	if st.Mode != 0 { // never written through
		if err := d.at.Remove(p); err != nil {
			return err
		}
	}
	if d.Draft != nil {
		if err := d.Draft.add(p, &node{mode: unix.S_IFREG | 0o600, data: a.Data, mtime: d.Draft.now}); err != nil {
			return err
		}
		return d.finish(p, unix.S_IFREG, a.Mode&0o777, o, a.Time)
	}
	f, err := d.Root.OpenFile(p, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(a.Data)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return d.finish(p, unix.S_IFREG, a.Mode&0o777, o, a.Time)
}

func (d *doer) symlink(a *action.Symlink) error {
	p, err := d.dest.resolve(a.Path, true)
	if err != nil {
		return err
	}
	o, err := d.owner(a.Owner)
	if err != nil {
		return err
	}
	if err := d.at.Symlink(a.Target, p); err != nil {
		return err
	}
	return d.finish(p, unix.S_IFLNK, 0, o, a.Time)
}

func (d *doer) remove(a *action.Remove) error {
	names := []string{rootfs.Clean(a.Path)}
	if a.Wildcard {
		var err error
		names, err = wildcards(d.dest, &action.Copy{Src: a.Path, Wildcard: true, AllowNone: true})
		if err != nil {
			return err
		}
	}
	for _, n := range names {
		if n == "." {
			return errors.New("remove /: the root cannot be removed")
		}
		p, err := d.dest.resolve(n, false)
		if err != nil {
			return err
		}
		st, err := d.look(p)
		if err != nil {
			return err
		}
		if st.Mode == 0 && !a.AllowNone {
			return notExist("remove", strings.TrimPrefix(p, "/"))
		}
		if st.Mode == 0 {
			continue
		}
		if err := d.at.RemoveAll(p); err != nil {
			return fmt.Errorf("remove /%s: %w", p, err)
		}
	}
	return nil
}
