// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// DropUnchanged removes from the tree upper what the trees lower below it, bottom first, have
// just so: files and directories with the same type, content, owner, mode, attributes and
// modification time. An overlay copies a file into its upper layer when it is opened for
// writing, and the directories above it, whether or not anything is written then; and a file
// can be given the mode that it has.
func DropUnchanged(ctx context.Context, upper string, lower []string) error {
	if len(lower) == 0 {
		return nil
	}
	below, err := OpenStack(lower)
	if err != nil {
		return fmt.Errorf("drop what is unchanged: %w", err)
	}
	defer below.Close()
	root, err := rootfs.Open(upper)
	if err != nil {
		return fmt.Errorf("drop what is unchanged: %w", err)
	}
	defer root.Close()
	top, err := root.Dir()
	if err != nil {
		return fmt.Errorf("drop what is unchanged: %w", err)
	}
	defer top.Close()
	if _, err := (&pruner{ctx: ctx, below: below}).directory(top, "."); err != nil {
		return fmt.Errorf("drop what is unchanged: %w", err)
	}
	return nil
}

// pruner is one run of DropUnchanged.
type pruner struct {
	ctx   context.Context
	below *Stack
}

// directory looks at what is in d. empty tells that nothing is left.
func (p *pruner) directory(d *rootfs.Dir, name string) (empty bool, err error) {
	if p.ctx.Err() != nil {
		return false, context.Cause(p.ctx)
	}
	st, err := d.Stat()
	if err != nil {
		return false, err
	}
	list, err := d.ReadDir()
	if err != nil {
		return false, err
	}
	left := len(list)
	for _, e := range list {
		same, err := p.entry(d, e.Name, joinName(name, e.Name))
		if err == nil && same {
			err = d.Remove(e.Name)
			left--
		}
		if err != nil {
			return false, &EntryError{Name: joinName(name, e.Name), Err: err}
		}
	}
	if left < len(list) {
		err = rootfs.Futimens(d.Fd(), st.Atim, st.Mtim)
	}
	return left == 0, err
}

// entry tells whether leaf is nothing new. Files with several names are kept: what they are
// is more than each of them.
func (p *pruner) entry(d *rootfs.Dir, leaf, name string) (same bool, err error) {
	st, err := d.Lstat(leaf)
	if err != nil {
		return false, err
	}
	kind := st.Mode & unix.S_IFMT
	if kind != unix.S_IFDIR && (kind != unix.S_IFREG || st.Nlink > 1) {
		return false, nil
	}
	old, err := p.below.lookup(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil || old.Stat.Mode&unix.S_IFMT != kind {
		return false, err
	}
	if kind == unix.S_IFREG {
		return p.file(d, leaf, &st, old)
	}
	sub, err := d.OpenDir(leaf)
	if err != nil {
		return false, err
	}
	defer sub.Close()
	if isOpaque(sub) {
		return false, nil
	}
	empty, err := p.directory(sub, name)
	if err != nil || !empty || !sameMeta(&st, &old.Stat) {
		return false, err
	}
	was, err := p.below.Root(old.Layer).OpenDir(old.Path)
	if err != nil {
		return false, err
	}
	defer was.Close()
	return sameAttributes(sub.Fd(), was.Fd())
}

func (p *pruner) file(d *rootfs.Dir, leaf string, st *unix.Stat_t, old Found) (bool, error) {
	if st.Size != old.Stat.Size || !sameMeta(st, &old.Stat) {
		return false, nil
	}
	now, err := d.OpenFile(leaf, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer now.Close()
	was, err := p.below.Root(old.Layer).OpenFile(old.Path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false, err
	}
	defer was.Close()
	same, err := sameAttributes(int(now.Fd()), int(was.Fd()))
	if err != nil || !same {
		return false, err
	}
	return sameContent(now, was)
}

func sameMeta(a, b *unix.Stat_t) bool {
	return a.Mode == b.Mode && a.Uid == b.Uid && a.Gid == b.Gid && a.Mtim == b.Mtim
}

// sameAttributes compares the attributes of two open files of trees, but for marks of overlays.
func sameAttributes(a, b int) (bool, error) {
	inA, err := attributesOf(a)
	if err != nil {
		return false, err
	}
	inB, err := attributesOf(b)
	return err == nil && maps.Equal(inA, inB), err
}

func attributesOf(fd int) (map[string]string, error) {
	names, err := rootfs.Flistxattr(fd)
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, n := range names {
		as, ok := unescaped(n)
		if !ok {
			continue
		}
		value, err := rootfs.Fgetxattr(fd, n)
		if err != nil {
			return nil, err
		}
		out[as] = string(value)
	}
	return out, nil
}

// sameContent compares two files of the same size.
func sameContent(a, b io.Reader) (bool, error) {
	bufA, bufB := make([]byte, copyBuffer), make([]byte, copyBuffer)
	for {
		n, err := io.ReadFull(a, bufA)
		m, errB := io.ReadFull(b, bufB)
		if n != m || !bytes.Equal(bufA[:n], bufB[:m]) {
			return false, nil
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return true, nil
		}
		if err = errors.Join(err, errB); err != nil {
			return false, err
		}
	}
}
