// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package scan finds out what a root file system holds: packages of dpkg, apk and
// rpm, of programming languages, and the files that belong to none of them.
//
// It reads the tree through package rootfs and nothing else; it runs where every
// file can be read. Everything in the tree may be hostile: what is read at once is
// bounded, links are followed inside the tree only, and paths in databases are
// names to compare, never opened outside of it.
//
// The database of a package manager that cannot be read is an error: a bill of
// materials without it would be wrong. Any other file that only looks like one
// that names packages is passed over with a note.
package scan

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/rootfs"
)

// Bounds of a scan.
const (
	maxDatabase = 256 << 20 // bytes of a package manager's file
	maxDocument = 32 << 20  // bytes of any other file that is read as a whole
	maxNotes    = 100
)

// Scan looks through a root file system, which nothing changes meanwhile.
func Scan(ctx context.Context, root *rootfs.Root) (bom.Inventory, error) {
	s := &scanner{ctx: ctx, root: root, files: map[string]*file{}, links: map[string]string{}, dirs: map[string]string{}, done: map[*file]bool{}}
	if err := s.walk(); err != nil {
		return bom.Inventory{}, fmt.Errorf("look through files: %w", err)
	}
	if err := s.system(); err != nil {
		return bom.Inventory{}, err
	}
	if err := s.languages(); err != nil {
		return bom.Inventory{}, err
	}
	if err := s.unowned(); err != nil {
		return bom.Inventory{}, err
	}
	s.out.Packages = merge(s.out.Packages)
	return s.out, nil
}

// file is a regular file of the tree.
type file struct {
	path  string // relative to the root, no link on the way
	size  int64
	mode  uint32
	owned bool
}

// scanner is one scan under way.
type scanner struct {
	ctx   context.Context //nolint:containedctx // it lives as long as the one call that has it
	root  *rootfs.Root
	files map[string]*file
	order []*file           // by path
	links map[string]string // symbolic links and their targets
	dirs  map[string]string // directories as named → as they are
	done  map[*file]bool    // databases that were read: each may have several names
	// What packages of languages own: files, and directories with all that is below.
	claims, trees []string
	out           bom.Inventory
}

// system reads what package managers of the operating system keep.
func (s *scanner) system() error {
	if err := s.osRelease(); err != nil {
		return err
	}
	for _, read := range []func() error{s.dpkg, s.apk, s.rpm} {
		if err := read(); err != nil {
			return err
		}
	}
	return nil
}

// note keeps that something could not be read.
func (s *scanner) note(f *file, err error) {
	switch n := len(s.out.Notes); {
	case n < maxNotes:
		s.out.Notes = append(s.out.Notes, printable(fmt.Sprintf("/%s was not read: %v", f.path, err)))
	case n == maxNotes:
		s.out.Notes = append(s.out.Notes, "more files were not read")
	}
}

// add appends a package that the file named.
func (s *scanner) add(p bom.Package, found string) {
	p.Found = append(p.Found, "/"+printable(found))
	s.out.Packages = append(s.out.Packages, p)
}

// exists tells whether there is such a file, following links.
func (s *scanner) exists(name string) bool {
	_, err := s.root.Stat(name)
	return err == nil
}

// read returns a file of at most limit bytes. Links are followed inside the tree.
func (s *scanner) read(name string, limit int64) ([]byte, error) {
	f, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f, name, limit)
}

func readAll(f *os.File, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err == nil && int64(len(data)) > limit {
		err = fmt.Errorf("it has more than %d bytes", limit)
	}
	if err != nil {
		return nil, fmt.Errorf("read /%s: %w", name, err)
	}
	return data, nil
}

// optional is read for a file that need not be there: ok is false then.
func (s *scanner) optional(name string) (data []byte, ok bool, err error) {
	data, err = s.read(name, maxDatabase)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, false, nil
	}
	return data, err == nil, err
}

// own marks the regular file that a package manager knows under this name.
func (s *scanner) own(name string) {
	if f := s.find(name); f != nil {
		f.owned = true
	}
}

// find gives the regular file that has this name, or nil. Directories on the way
// may be links (/lib is one to usr/lib); the last element is taken as it is.
func (s *scanner) find(name string) *file {
	name = rootfs.Clean(name)
	dir, leaf := path.Split(name)
	return s.files[path.Join(s.realDir(strings.TrimSuffix(dir, "/")), leaf)]
}

// maxLinks is how many links one name may lead through, as in the kernel.
const maxLinks = 40

// realDir gives the place of a directory after following all links.
func (s *scanner) realDir(dir string) string {
	if dir == "" || dir == "." {
		return ""
	}
	if real, ok := s.dirs[dir]; ok {
		return real
	}
	todo, here, links := strings.Split(dir, "/"), "", 0
	for len(todo) > 0 {
		elem := todo[0]
		todo = todo[1:]
		switch elem {
		case "", ".":
			continue
		case "..":
			here = strings.TrimPrefix(path.Dir("/"+here), "/")
			continue
		}
		next := path.Join(here, elem)
		target, ok := s.links[next]
		if !ok {
			here = next
			continue
		}
		if links++; links > maxLinks {
			return dir
		}
		if strings.HasPrefix(target, "/") {
			here = ""
		}
		todo = append(strings.Split(target, "/"), todo...)
	}
	s.dirs[dir] = here
	return here
}

// ownBelow marks all files below a directory.
func (s *scanner) ownBelow(dir string) {
	prefix := dir + "/"
	i, _ := slices.BinarySearchFunc(s.order, prefix, func(f *file, p string) int { return strings.Compare(f.path, p) })
	for ; i < len(s.order) && strings.HasPrefix(s.order[i].path, prefix); i++ {
		s.order[i].owned = true
	}
}

// merge sorts packages, and makes one of those that differ in the file that names
// them only: what is installed and in a lock file is installed.
func merge(list []bom.Package) []bom.Package {
	slices.SortStableFunc(list, compare)
	var out []bom.Package
	for _, p := range list {
		if n := len(out); n > 0 && compare(out[n-1], p) == 0 {
			last := &out[n-1]
			last.Listed = last.Listed && p.Listed
			last.Found = append(last.Found, p.Found...)
			if len(last.Licenses) == 0 {
				last.Licenses = p.Licenses
			}
			continue
		}
		out = append(out, p)
	}
	for i := range out {
		slices.Sort(out[i].Found)
		out[i].Found = slices.Compact(out[i].Found)
	}
	return out
}

func compare(a, b bom.Package) int {
	for _, pair := range [][2]string{{string(a.Kind), string(b.Kind)}, {a.Name, b.Name}, {a.Version, b.Version}, {a.Arch, b.Arch}, {a.Source, b.Source}} {
		if c := strings.Compare(pair[0], pair[1]); c != 0 {
			return c
		}
	}
	return 0
}
