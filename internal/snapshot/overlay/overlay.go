// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package overlay is the snapshot driver that stacks trees with the overlay file
// system. A tree is used as it lies; a commit is a rename; nothing is copied.
package overlay

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/snapshot"
)

// The directory of the driver:
//
//	layer/HEX files/HEX names/HEX   committed trees
//	tmp/ID/{fs,work,extra}          an active snapshot, or (fs alone) a directory of Dir
const tmpDir = "tmp"

// Driver keeps its trees below one directory. It implements snapshot.Driver.
type Driver struct {
	dir     string
	scratch string // see WithScratch; empty: dir
}

var _ snapshot.Driver = (*Driver)(nil)

// New returns a driver for the directory, which Init has made.
func New(dir string) *Driver { return &Driver{dir: dir} }

// WithScratch returns a driver that puts the Extra of active snapshots below
// another directory, best in memory: there are many small files in it, none of
// which outlives its step.
func (d *Driver) WithScratch(dir string) *Driver { return &Driver{dir: d.dir, scratch: dir} }

// Dirs are the directories that must exist before a driver is used.
func Dirs() []string { return []string{"layer", "files", "names", tmpDir} }

// FlatDir is where drivers keep what a tree and those below it show, in one
// directory. It can be made again from the trees, and goes with its tree.
const FlatDir = "flat"

// FlatOf names it, for the topmost tree of a stack.
func FlatOf(tree string) string { return FlatDir + "/" + filepath.Base(tree) }

// MakeDirs makes them in the directory of a driver.
func MakeDirs(dir string) error {
	for _, d := range Dirs() {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return fmt.Errorf("make directories of snapshots: %w", err)
		}
	}
	return nil
}

// Name implements snapshot.Driver.
func (d *Driver) Name() string { return snapshot.Overlay }

// Path implements snapshot.Driver.
func (d *Driver) Path(tree string) string { return filepath.Join(d.dir, tree) }

// Exists implements snapshot.Driver.
func (d *Driver) Exists(tree string) bool {
	info, err := os.Lstat(d.Path(tree))
	return err == nil && info.IsDir()
}

func (d *Driver) active(id string) string { return filepath.Join(d.dir, tmpDir, id) }

// Prepare implements snapshot.Driver.
func (d *Driver) Prepare(_ context.Context, id string, lower []string) (snapshot.Active, error) {
	a := snapshot.Active{ID: id}
	for _, t := range lower {
		if !d.Exists(t) {
			return a, fmt.Errorf("prepare snapshot: tree %s: %w", t, fs.ErrNotExist)
		}
		a.Lowers = append(a.Lowers, d.Path(t))
	}
	base := d.active(id)
	a.Upper, a.Work, a.Extra = filepath.Join(base, "fs"), filepath.Join(base, "work"), filepath.Join(base, "extra")
	dirs := []string{base, a.Upper, a.Work, a.Extra}
	if d.scratch != "" {
		a.Extra = filepath.Join(d.scratch, id, "extra")
		dirs = []string{base, a.Upper, a.Work, filepath.Dir(a.Extra), a.Extra}
	}
	for _, p := range dirs {
		if err := os.Mkdir(p, 0o755); err != nil {
			return a, fmt.Errorf("prepare snapshot: %w", err)
		}
	}
	// The merged root shows the attributes of the topmost directory, so the
	// upper one starts with those of the stack.
	if len(a.Lowers) > 0 {
		if err := copyAttributes(a.Lowers[len(a.Lowers)-1], a.Upper); err != nil {
			return a, fmt.Errorf("prepare snapshot: %w", err)
		}
	}
	return a, nil
}

// Begin implements snapshot.Driver.
func (d *Driver) Begin(context.Context, snapshot.Active, []string) error { return nil }

// Capture implements snapshot.Driver: the kernel has brought everything into Upper.
func (d *Driver) Capture(context.Context, snapshot.Active) error { return nil }

// Dir implements snapshot.Driver.
func (d *Driver) Dir(id string) (string, error) {
	p := filepath.Join(d.active(id), "fs")
	if err := os.MkdirAll(p, 0o755); err != nil {
		return "", fmt.Errorf("make directory for a tree: %w", err)
	}
	return p, nil
}

// Commit implements snapshot.Driver.
func (d *Driver) Commit(a snapshot.Active, tree string) error {
	if err := d.Adopt(a.Upper, tree); err != nil {
		return err
	}
	return d.Discard(a.ID)
}

// Adopt implements snapshot.Driver.
func (d *Driver) Adopt(dir, tree string) error {
	to := d.Path(tree)
	// Renaming over an existing tree would need it to be empty; one that is
	// there has the same content, because trees are named by content.
	err := unix.Renameat2(unix.AT_FDCWD, dir, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) { // a file system without RENAME_NOREPLACE
		err = os.Rename(dir, to)
	}
	if err != nil && !d.Exists(tree) {
		return fmt.Errorf("commit tree %s: %w", tree, err)
	}
	return nil
}

// Discard implements snapshot.Driver.
func (d *Driver) Discard(id string) error {
	err := removeAll(d.active(id))
	if d.scratch != "" {
		err = errors.Join(err, removeAll(filepath.Join(d.scratch, id)))
	}
	return err
}

// Remove implements snapshot.Driver. The tree disappears at once: it is moved
// away first, so that nobody finds half of it.
func (d *Driver) Remove(tree string) error {
	if flat := FlatOf(tree); flat != tree {
		if err := d.remove(flat); err != nil {
			return err
		}
	}
	return d.remove(tree)
}

func (d *Driver) remove(tree string) error {
	id := snapshot.NewID()
	err := os.Rename(d.Path(tree), d.active(id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove tree %s: %w", tree, err)
	}
	return removeAll(d.active(id))
}
