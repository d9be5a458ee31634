// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
)

// LayOptions say how a draft becomes a tree.
type LayOptions struct {
	SingleID bool // see Options
	// Wrote, which may be nil, is told how many bytes a copied file has when it is in
	// the tree, from several goroutines.
	Wrote func(bytes int64)
}

// Lay is Archive without an output, and makes the draft a layer tree in the empty
// directory root beside that: what is copied is read once, hashed, and written once, by
// several goroutines.
func (d *Draft) Lay(ctx context.Context, root *rootfs.Root, o LayOptions) (layer.DiffResult, bool, error) {
	t := &laying{root: root, wrote: o.Wrote, doer: newDoer(Options{Root: root, SingleID: o.SingleID, Tree: true})}
	list := d.flatten()
	if err := t.begin(list); err != nil {
		return layer.DiffResult{}, false, err
	}
	res, withRoot, err := d.write(ctx, nil, t)
	if err == nil {
		err = t.end(list)
	}
	return res, withRoot, err
}

// laying is a tree being made of a draft.
type laying struct {
	*doer
	root  *rootfs.Root
	wrote func(bytes int64)
	uid   uint32 // owner of what this process makes
	gid   uint32
	umask uint32
}

// begin makes all but the copied files: directories are there before what is in them,
// and open for us until the end.
func (t *laying) begin(list []named) error {
	if err := t.probe(); err != nil {
		return err
	}
	for _, n := range list[1:] {
		if n.copied != nil {
			continue
		}
		if err := t.make(n); err != nil {
			return err
		}
	}
	return nil
}

// probe makes and removes a directory to learn owner and umask of this process, which
// cannot be read without changing it for other goroutines.
func (t *laying) probe() error {
	const name = "probe"
	if err := t.root.Mkdir(name, 0o777); err != nil {
		return err
	}
	st, err := t.root.Lstat(name)
	if err != nil {
		return err
	}
	t.uid, t.gid, t.umask = st.Uid, st.Gid, 0o777&^st.Mode
	return t.root.Remove(name)
}

func (t *laying) make(n named) error {
	switch kind := n.mode & unix.S_IFMT; {
	case n.mode == 0:
		return layer.MakeWhiteout(t.root, n.name)
	case kind == unix.S_IFDIR:
		return t.root.Mkdir(n.name, 0o700)
	case kind == unix.S_IFLNK:
		if err := t.root.Symlink(n.target, n.name); err != nil {
			return err
		}
	case kind == unix.S_IFREG:
		f, err := t.root.OpenFile(n.name, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			return err
		}
		_, err = f.Write(n.data)
		if err = errors.Join(err, f.Close()); err != nil {
			return err
		}
	default:
		if err := t.root.Mknod(n.name, kind|0o600, 0); err != nil {
			return err
		}
	}
	return t.attributes(n)
}

// attributes gives something its own: owner before mode, and the time last.
func (t *laying) attributes(n named) error {
	if err := t.chown(n.name, owner{n.uid, n.gid}, n.mode&unix.S_IFMT); err != nil {
		return err
	}
	for _, x := range n.xattrs {
		if t.SingleID && strings.HasPrefix(x.Name, aclPrefix) { // it may name ids that there are not
			return fmt.Errorf("/%s: %w", n.name, ErrUndecided)
		}
		if err := t.root.Lsetxattr(n.name, x.Name, []byte(x.Value)); err != nil {
			return err
		}
	}
	if n.opaque {
		x := layer.Opaque()
		if err := t.root.Lsetxattr(n.name, x.Name, []byte(x.Value)); err != nil {
			return err
		}
	}
	if n.mode&unix.S_IFMT != unix.S_IFLNK {
		if err := t.root.Chmod(n.name, n.mode&0o7777); err != nil {
			return err
		}
	}
	return t.root.Chtimes(n.name, n.mtime, n.mtime)
}

// end gives the directories their attributes, the deepest first: they may be closed to
// us afterwards.
func (t *laying) end(list []named) error {
	for i := len(list) - 1; i >= 0; i-- {
		if list[i].isDir() {
			if err := t.attributes(list[i]); err != nil {
				return err
			}
		}
	}
	return nil
}

// create makes a copied file without its content. in is a hand's own.
func (t *laying) create(in *place, l *loaded) (fd int, err error) {
	dir, leaf, err := in.parent(t.root, l.name)
	if err != nil {
		return -1, err
	}
	perm := l.node.mode & 0o777
	if len(l.node.xattrs) > 0 || t.SingleID {
		perm |= 0o200 // without capabilities, only a writable file takes attributes
	}
	return dir.OpenFd(leaf, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY, perm)
}

// finish gives a copied file its attributes. What it has already is not set: each of
// these calls is a change for the file system to log.
func (t *laying) finish(fd int, l *loaded) error {
	n, perm := &l.node, l.node.mode&0o777
	if len(n.xattrs) > 0 || t.SingleID {
		perm |= 0o200
	}
	if err := t.fchown(fd, owner{n.uid, n.gid}, unix.Stat_t{Uid: t.uid, Gid: t.gid}); err != nil {
		return fmt.Errorf("set owner: %w", err)
	}
	for _, x := range n.xattrs {
		if err := unix.Fsetxattr(fd, x.Name, []byte(x.Value), 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", x.Name, err)
		}
	}
	if perm&^t.umask != n.mode {
		if err := unix.Fchmod(fd, n.mode); err != nil {
			return fmt.Errorf("set mode: %w", err)
		}
	}
	if err := rootfs.Futimens(fd, l.atime, n.mtime); err != nil {
		return err
	}
	if t.wrote != nil {
		t.wrote(l.size)
	}
	return nil
}

// file writes a copied file that was read as a whole.
func (t *laying) file(in *place, l *loaded) error {
	fd, err := t.create(in, l)
	if err != nil {
		return err
	}
	_, err = writeAll(fd, l.data)
	if err == nil {
		err = t.finish(fd, l)
	}
	return errors.Join(err, unix.Close(fd))
}

func writeAll(fd int, b []byte) (n int, err error) {
	for n < len(b) {
		m, err := unix.Write(fd, b[n:])
		if err != nil && !errors.Is(err, unix.EINTR) {
			return n, fmt.Errorf("write: %w", err)
		}
		n += max(m, 0)
	}
	return n, nil
}
