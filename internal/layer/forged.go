// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// DropForged removes notes from the tree upper that a step made up: attributes of
// which package record and this one make owners, devices, capabilities and access control lists. A
// step that no supervisor answers may set any user.* attribute on a file that it
// may write, so that a process without privileges could make a set-user-id
// program of root for the image.
//
// A note is a step's own unless the trees lower below, bottom first, have it in just this form: there
// it came from an archive or a COPY. It need not be on the same file, since steps rename and
// copy files.
func DropForged(ctx context.Context, upper string, lower []string) error {
	root, err := rootfs.Open(upper)
	if err != nil {
		return fmt.Errorf("drop notes: %w", err)
	}
	defer root.Close()
	f := forged{ctx: ctx, lower: lower}
	if err := eachFile(ctx, root, f.file); err != nil {
		return fmt.Errorf("drop notes: %w", err)
	}
	return nil
}

// forged is one run of DropForged.
type forged struct {
	ctx   context.Context
	lower []string
	known map[[sha256.Size]byte]bool // notes below; nil: nobody looked
}

// file looks at one file or directory of the upper tree.
func (f *forged) file(_ string, fd int) error {
	notes, err := notesOf(fd)
	if err != nil {
		return err
	}
	for attr, sum := range notes {
		if err := f.look(); err != nil {
			return err
		}
		if f.known[sum] {
			continue
		}
		if err := unix.Fremovexattr(fd, attr); err != nil {
			return fmt.Errorf("remove attribute %s: %w", attr, err)
		}
	}
	return nil
}

// look finds all notes in the trees below, the first time. Few images have any, and fewer
// steps leave a file with one.
func (f *forged) look() error {
	if f.known != nil {
		return nil
	}
	f.known = map[[sha256.Size]byte]bool{}
	for _, dir := range f.lower {
		root, err := rootfs.Open(dir)
		if err != nil {
			return err
		}
		err = eachFile(f.ctx, root, func(_ string, fd int) error {
			notes, err := notesOf(fd)
			for _, sum := range notes {
				f.known[sum] = true
			}
			return err
		})
		_ = root.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// notesOf gives the notes on an open file, and a digest of each with its value.
func notesOf(fd int) (map[string][sha256.Size]byte, error) {
	names, err := rootfs.Flistxattr(fd)
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var out map[string][sha256.Size]byte
	for _, n := range names {
		if !OwnAttribute(n) {
			continue
		}
		value, err := rootfs.Fgetxattr(fd, n)
		if err != nil {
			return nil, fmt.Errorf("read attribute %s: %w", n, err)
		}
		if out == nil {
			out = map[string][sha256.Size]byte{}
		}
		out[n] = sha256.Sum256(append([]byte(n+"\x00"), value...))
	}
	return out, nil
}

// eachFile calls do for all regular files and directories of a tree: others have
// no user.* attributes.
func eachFile(ctx context.Context, root *rootfs.Root, do func(name string, fd int) error) error {
	top, err := root.Dir()
	if err != nil {
		return err
	}
	defer top.Close()
	return eachBelow(ctx, top, ".", do)
}

func eachBelow(ctx context.Context, d *rootfs.Dir, name string, do func(name string, fd int) error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := do(name, d.Fd())
	if err != nil {
		return &EntryError{Name: name, Err: err}
	}
	list, err := d.ReadDir()
	if err != nil {
		return &EntryError{Name: name, Err: err}
	}
	for _, e := range list {
		child := joinName(name, e.Name)
		if err := eachEntry(ctx, d, e, child, do); err != nil {
			if entry := (*EntryError)(nil); errors.As(err, &entry) || ctx.Err() != nil {
				return err
			}
			return &EntryError{Name: child, Err: err}
		}
	}
	return nil
}

func eachEntry(ctx context.Context, d *rootfs.Dir, e rootfs.Dirent, name string, do func(name string, fd int) error) error {
	kind := e.Type
	if kind == unix.DT_UNKNOWN {
		st, err := d.Lstat(e.Name)
		if err != nil {
			return err
		}
		kind = uint8(st.Mode & unix.S_IFMT >> 12) // as DT_* are made (dirent.h, IFTODT)
	}
	switch kind {
	case unix.DT_DIR:
		sub, err := d.OpenDir(e.Name)
		if err != nil {
			return err
		}
		defer sub.Close()
		return eachBelow(ctx, sub, name, do)
	case unix.DT_REG:
		fd, err := d.OpenFd(e.Name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return do(name, fd)
	}
	return nil
}
