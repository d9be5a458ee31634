// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// maxLinks is how many symbolic links one name may lead through, as in the
// kernel.
const maxLinks = 40

// A Stack shows layer trees as the overlay of them would, without a mount. It is
// for one goroutine at a time.
type Stack struct {
	roots []*rootfs.Root // bottom first
	tops  []member       // the root directories, top first
}

// A member is one tree's part of a merged directory.
type member struct {
	layer int
	dir   *rootfs.Dir
}

// A Found is a file of a Stack.
type Found struct {
	Layer int    // index of the tree that it is in
	Path  string // where it is in that tree, no link on the way; "." is the root
	Stat  unix.Stat_t
}

// OpenStack opens the trees lower, bottom first, which are paths that the program
// itself chose. A tree whose root is opaque hides those below it.
func OpenStack(lower []string) (*Stack, error) {
	s := &Stack{roots: make([]*rootfs.Root, len(lower))}
	for i := len(lower) - 1; i >= 0; i-- {
		hides, err := s.add(i, lower[i])
		if err != nil {
			s.Close()
			return nil, fmt.Errorf("open layer tree: %w", err)
		}
		if hides {
			break
		}
	}
	return s, nil
}

func (s *Stack) add(i int, dir string) (hides bool, err error) {
	r, err := rootfs.Open(dir)
	if err != nil {
		return false, err
	}
	s.roots[i] = r
	d, err := r.Dir()
	if err != nil {
		return false, err
	}
	s.tops = append(s.tops, member{layer: i, dir: d})
	return isOpaque(d), nil
}

// Close releases the trees.
func (s *Stack) Close() {
	closeMembers(s.tops)
	for _, r := range s.roots {
		if r != nil {
			_ = r.Close() // opened for reading only
		}
	}
}

// Root returns tree number layer, bottom first; nil if it is hidden.
func (s *Stack) Root(layer int) *rootfs.Root {
	return s.roots[layer]
}

// Lookup finds name in the trees lower, bottom first: see Stack.Lookup.
func Lookup(lower []string, name string, follow bool) (Found, error) {
	s, err := OpenStack(lower)
	if err != nil {
		return Found{}, err
	}
	defer s.Close()
	return s.Lookup(name, follow)
}

// Lookup finds name as it would be found in the mounted overlay. Links in the
// directory part are followed within the stack, one in the last element only if
// follow is set. The error is fs.ErrNotExist if there is no such file.
func (s *Stack) Lookup(name string, follow bool) (Found, error) {
	todo := strings.Split(rootfs.Clean(name), "/")
	here := "."
	links := 0
	for len(todo) > 0 {
		elem := todo[0]
		todo = todo[1:]
		switch elem {
		case "", ".":
			continue
		case "..":
			here, _ = splitName(here)
			continue
		}
		next := joinName(here, elem)
		f, err := s.lookup(next)
		if err != nil {
			return Found{}, err
		}
		if f.Stat.Mode&unix.S_IFMT != unix.S_IFLNK || (len(todo) == 0 && !follow) {
			here = next
			continue
		}
		if links++; links > maxLinks {
			return Found{}, &fs.PathError{Op: "lookup", Path: name, Err: unix.ELOOP}
		}
		target, err := s.roots[f.Layer].Readlink(f.Path)
		if err != nil {
			return Found{}, err
		}
		if strings.HasPrefix(target, "/") {
			here = "."
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	return s.lookup(here)
}

// lookup finds the cleaned name p without following any link: below a link there
// is nothing.
func (s *Stack) lookup(p string) (Found, error) {
	if len(s.tops) == 0 {
		return Found{}, &fs.PathError{Op: "lookup", Path: p, Err: unix.ENOENT}
	}
	if p == "." {
		st, err := s.tops[0].dir.Stat()
		return Found{Layer: s.tops[0].layer, Path: p, Stat: st}, err
	}
	level := s.tops
	defer func() {
		if &level[0] != &s.tops[0] {
			closeMembers(level)
		}
	}()
	elems := strings.Split(p, "/")
	for i, elem := range elems {
		last := i == len(elems)-1
		f, next, err := descend(level, elem, !last)
		if err != nil {
			return Found{}, err
		}
		if last {
			f.Path = p
			return f, nil
		}
		if len(next) == 0 {
			break
		}
		if i > 0 {
			closeMembers(level)
		}
		level = next
	}
	return Found{}, &fs.PathError{Op: "lookup", Path: p, Err: unix.ENOENT}
}

// descend finds name in a merged directory. If it is a directory and enter is set
// then next is that directory, merged.
func descend(level []member, name string, enter bool) (f Found, next []member, err error) {
	found := false
	defer func() {
		if err != nil {
			closeMembers(next)
			next = nil
		}
	}()
	for _, m := range level {
		st, err := m.dir.Lstat(name)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			continue
		case err != nil:
			return Found{}, next, err
		}
		isDir := st.Mode&unix.S_IFMT == unix.S_IFDIR
		gone, err := whiteoutAt(m.dir, name, &st)
		if err != nil {
			return Found{}, next, err
		}
		if gone || (found && !isDir) {
			break
		}
		if !found {
			found = true
			f = Found{Layer: m.layer, Stat: st}
		}
		if !isDir || !enter {
			break
		}
		d, err := m.dir.OpenDir(name)
		if err != nil {
			return Found{}, next, err
		}
		next = append(next, member{layer: m.layer, dir: d})
		if isOpaque(d) {
			break
		}
	}
	if !found {
		return Found{}, next, &fs.PathError{Op: "lookup", Path: name, Err: unix.ENOENT}
	}
	return f, next, nil
}

// isOpaque tells whether the open directory hides what is below it.
func isOpaque(d *rootfs.Dir) bool {
	value, err := rootfs.Fgetxattr(d.Fd(), xattrOpaque)
	return err == nil && string(value) == "y"
}

func closeMembers(list []member) {
	for _, m := range list {
		_ = m.dir.Close() // opened for reading only
	}
}
