// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"fmt"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// separateDir is where Separate makes copies, in the directory.
const separateDir = ".stacker-separate"

// Separate makes copies of the files in the directory tree dir that have names outside of it, so
// that who changes one of the names changes nothing in dir. Each name gets a copy of its own.
// Nothing else may use dir meanwhile.
func Separate(ctx context.Context, dir string) error {
	root, err := rootfs.Open(dir)
	if err != nil {
		return fmt.Errorf("separate %s: %w", dir, err)
	}
	defer root.Close()
	s := separator{ctx: ctx, names: map[inode]*shared{}}
	if err := s.walk(root, "."); err != nil {
		return fmt.Errorf("separate %s: %w", dir, err)
	}
	for _, f := range s.names {
		if uint64(len(f.names)) >= f.links {
			continue
		}
		for _, name := range f.names {
			if err := s.copy(root, name); err != nil {
				return fmt.Errorf("separate %s/%s: %w", dir, name, err)
			}
		}
	}
	return nil
}

// separator is one run of Separate.
type separator struct {
	ctx   context.Context
	names map[inode]*shared
}

// shared is a file with several names.
type shared struct {
	links uint64 // names that it has
	names []string
}

func (s *separator) walk(root *rootfs.Root, name string) error {
	if s.ctx.Err() != nil {
		return context.Cause(s.ctx)
	}
	d, err := root.OpenDir(name)
	if err != nil {
		return err
	}
	defer d.Close()
	list, err := d.ReadDir()
	if err != nil {
		return err
	}
	for _, e := range list {
		st, err := d.Lstat(e.Name)
		if err != nil {
			return err
		}
		switch {
		case st.Mode&unix.S_IFMT == unix.S_IFDIR:
			if err := s.walk(root, joinName(name, e.Name)); err != nil {
				return err
			}
		case st.Mode&unix.S_IFMT == unix.S_IFREG && st.Nlink > 1:
			id := inode{dev: uint64(st.Dev), ino: st.Ino}
			if s.names[id] == nil {
				s.names[id] = &shared{links: uint64(st.Nlink)}
			}
			s.names[id].names = append(s.names[id].names, joinName(name, e.Name))
		}
	}
	return nil
}

// copy puts a copy in the place of the file name.
func (s *separator) copy(root *rootfs.Root, name string) error {
	if err := root.RemoveAll(separateDir); err != nil {
		return err
	}
	if err := root.Mkdir(separateDir, 0o700); err != nil {
		return err
	}
	defer root.RemoveAll(separateDir)
	tmp, err := root.OpenDir(separateDir)
	if err != nil {
		return err
	}
	defer tmp.Close()
	d, leaf, err := root.OpenParent(name)
	if err != nil {
		return err
	}
	defer d.Close()
	st, err := d.Lstat(leaf)
	if err != nil {
		return err
	}
	if err := copyFile(d, leaf, &st, tmp, kept); err != nil {
		return err
	}
	return tmp.Rename(leaf, d, leaf)
}
