// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package native is the snapshot driver that needs nothing of a file system but
// files: an active snapshot is a copy of the whole stack. Where the file system can
// share the content of files (FICLONE: btrfs, XFS), the copy takes no space.
//
// It is for places where the kernel refuses overlays, such as a state directory
// that lies on one. Trees are those of package overlay: the two drivers can take
// turns on one state directory.
package native

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
)

// Driver keeps its trees below one directory. It implements snapshot.Driver.
type Driver struct {
	*overlay.Driver // trees, and the directories of active snapshots

	mu     sync.Mutex
	stamps map[string]*layer.Stamps // of active snapshots, when their steps began
}

var _ snapshot.Driver = (*Driver)(nil)

// New returns a driver that keeps its trees in those of another one.
func New(trees *overlay.Driver) *Driver {
	return &Driver{Driver: trees, stamps: map[string]*layer.Stamps{}}
}

// Name implements snapshot.Driver.
func (d *Driver) Name() string { return snapshot.Native }

// Prepare implements snapshot.Driver.
func (d *Driver) Prepare(ctx context.Context, id string, lower []string) (snapshot.Active, error) {
	a, err := d.Driver.Prepare(ctx, id, lower)
	if err != nil {
		return a, err
	}
	a.Root = filepath.Join(filepath.Dir(a.Upper), "root")
	if err := os.Mkdir(a.Root, 0o755); err != nil {
		return a, fmt.Errorf("prepare snapshot: %w", err)
	}
	if err := layer.Flatten(ctx, a.Lowers, a.Root, layer.FlattenOptions{}); err != nil {
		return a, fmt.Errorf("prepare snapshot: %w", err)
	}
	return a, nil
}

// Begin implements snapshot.Driver.
func (d *Driver) Begin(ctx context.Context, a snapshot.Active, _ []string) error {
	s, err := layer.ReadStamps(ctx, a.Root)
	if err == nil {
		err = layer.Settle(filepath.Dir(a.Root))
	}
	if err != nil {
		return fmt.Errorf("begin step: %w", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.stamps[a.ID] = s
	return nil
}

// Restored says that paths, relative to the root of a, hold again what they held at Begin,
// though their change time is another: something else stood in their place meanwhile.
func (d *Driver) Restored(a snapshot.Active, paths []string) error {
	d.mu.Lock()
	s := d.stamps[a.ID]
	d.mu.Unlock()
	if s == nil {
		return nil // it was not begun: nothing is kept of it
	}
	notes, err := layer.Note(a.Root, paths)
	if err != nil {
		return fmt.Errorf("end step: %w", err)
	}
	s.Add(notes)
	return nil
}

// Capture implements snapshot.Driver.
func (d *Driver) Capture(ctx context.Context, a snapshot.Active) error {
	d.mu.Lock()
	s := d.stamps[a.ID]
	delete(d.stamps, a.ID)
	d.mu.Unlock()
	if s == nil {
		return fmt.Errorf("capture changes: snapshot %s was not begun", a.ID)
	}
	return layer.Changes(ctx, s, a.Root, a.Upper)
}

// Discard implements snapshot.Driver.
func (d *Driver) Discard(id string) error {
	d.mu.Lock()
	delete(d.stamps, id)
	d.mu.Unlock()
	return d.Driver.Discard(id)
}
