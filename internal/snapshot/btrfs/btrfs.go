// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package btrfs is the snapshot driver that gives each step a btrfs snapshot of its
// base.
//
// Trees are those of package overlay. Beside a tree, the driver keeps what the tree
// and those below it show, as a subvolume, when a step first needs it: flat/HEX
// beside layer/HEX. A snapshot of that takes no time and no space. It is never
// changed, and everything in it can be made again from the trees.
package btrfs

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
)

// Driver keeps its trees below one directory. It implements snapshot.Driver.
type Driver struct {
	*overlay.Driver // trees, and the directories of active snapshots

	mu     sync.Mutex
	active map[string]*active
	making sync.Mutex // one flat stack is made at a time: steps at once mostly want the same
}

// active is what the driver knows of an active snapshot.
type active struct {
	base  string // the subvolume that it is a snapshot of
	noted layer.Notes
}

var _ snapshot.Driver = (*Driver)(nil)

// New returns a driver that keeps its trees in those of another one.
func New(trees *overlay.Driver) *Driver {
	return &Driver{Driver: trees, active: map[string]*active{}}
}

// Name implements snapshot.Driver.
func (d *Driver) Name() string { return snapshot.Btrfs }

// Probe tries in the directory dir what the driver needs.
func Probe(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("try btrfs: %w", err)
	}
	if st.Type != unix.BTRFS_SUPER_MAGIC {
		return errors.New("the state directory is not on a btrfs")
	}
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	err := create(one)
	if err == nil {
		err = snapshotOf(one, two)
	}
	for _, p := range []string{one, two} {
		if destroy(p) != nil {
			_ = os.RemoveAll(p)
		}
	}
	return err
}

// Prepare implements snapshot.Driver.
func (d *Driver) Prepare(ctx context.Context, id string, lower []string) (snapshot.Active, error) {
	a, err := d.Driver.Prepare(ctx, id, lower)
	if err != nil {
		return a, err
	}
	a.Root = filepath.Join(filepath.Dir(a.Upper), "root")
	known := &active{}
	if len(lower) > 0 {
		if known.base, err = d.flat(ctx, id, lower); err == nil {
			err = snapshotOf(known.base, a.Root)
		}
	} else if err = create(a.Root); err == nil {
		err = os.Chmod(a.Root, 0o755)
	}
	if err != nil {
		return a, fmt.Errorf("prepare snapshot: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.active[id] = known
	return a, nil
}

// flat gives the subvolume that shows the stack lower, making it where it is
// missing, from that of a part of the stack if there is one.
func (d *Driver) flat(ctx context.Context, id string, lower []string) (string, error) {
	d.making.Lock()
	defer d.making.Unlock()
	have := len(lower)
	for have > 0 && !d.Exists(overlay.FlatOf(lower[have-1])) {
		have--
	}
	to := d.Path(overlay.FlatOf(lower[len(lower)-1]))
	if have == len(lower) {
		return to, nil
	}
	if err := os.Mkdir(filepath.Dir(to), 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", err
	}
	tmp := filepath.Join(d.Path("tmp"), id, "flat")
	if err := d.make(ctx, tmp, lower, have); err != nil {
		return "", err
	}
	err := unix.Renameat2(unix.AT_FDCWD, tmp, unix.AT_FDCWD, to, unix.RENAME_NOREPLACE)
	if err != nil && !errors.Is(err, unix.EEXIST) { // else another process was faster
		return "", fmt.Errorf("keep subvolume: %w", err)
	}
	return to, nil
}

// make makes the subvolume tmp of lower, have trees of which are together in one
// already.
func (d *Driver) make(ctx context.Context, tmp string, lower []string, have int) error {
	var paths []string
	for _, t := range lower {
		paths = append(paths, d.Path(t))
	}
	if have == 0 {
		if err := create(tmp); err != nil {
			return err
		}
		return layer.Flatten(ctx, paths, tmp, layer.FlattenOptions{})
	}
	if err := snapshotOf(d.Path(overlay.FlatOf(lower[have-1])), tmp); err != nil {
		return err
	}
	for _, p := range paths[have:] {
		if err := layer.Lay(ctx, p, tmp); err != nil {
			return err
		}
	}
	return nil
}

// Begin implements snapshot.Driver.
func (d *Driver) Begin(_ context.Context, a snapshot.Active, touched []string) error {
	noted, err := layer.Note(a.Root, append([]string{"."}, touched...))
	if err == nil {
		err = layer.Settle(filepath.Dir(a.Root))
	}
	if err != nil {
		return fmt.Errorf("begin step: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.active[a.ID] == nil {
		return fmt.Errorf("begin step: snapshot %s is not active", a.ID)
	}
	d.active[a.ID].noted = noted
	return nil
}

// Capture implements snapshot.Driver. A snapshot has the inode numbers and change
// times of its base.
func (d *Driver) Capture(ctx context.Context, a snapshot.Active) error {
	d.mu.Lock()
	known := d.active[a.ID]
	d.mu.Unlock()
	if known == nil || known.noted == nil {
		return fmt.Errorf("capture changes: snapshot %s was not begun", a.ID)
	}
	stamps := &layer.Stamps{}
	if known.base != "" {
		var err error
		if stamps, err = layer.ReadStamps(ctx, known.base); err != nil {
			return fmt.Errorf("capture changes: %w", err)
		}
	}
	stamps.Add(known.noted)
	return layer.Changes(ctx, stamps, a.Root, a.Upper)
}

// Commit implements snapshot.Driver.
func (d *Driver) Commit(a snapshot.Active, tree string) error {
	if err := d.Adopt(a.Upper, tree); err != nil {
		return err
	}
	return d.Discard(a.ID)
}

// Discard implements snapshot.Driver.
func (d *Driver) Discard(id string) error {
	d.mu.Lock()
	delete(d.active, id)
	d.mu.Unlock()
	for _, name := range []string{"root", "flat"} {
		_ = destroy(filepath.Join(d.Path("tmp"), id, name)) // else it goes as a directory
	}
	return d.Driver.Discard(id)
}

// Remove implements snapshot.Driver.
func (d *Driver) Remove(tree string) error {
	_ = destroy(d.Path(overlay.FlatOf(tree))) // else it goes as a directory
	return d.Driver.Remove(tree)
}
