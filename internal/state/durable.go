// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
)

// Trees are renamed into place without a flush: that costs nothing, and a
// process that dies loses nothing. Only a power cut can leave a name without
// its content. So a process that makes trees leaves a marker that carries the
// kernel's boot id; Sync flushes once at the end of a build and takes the
// marker away. A marker of an earlier boot means: what was made since then may
// be torn. Such trees are removed, and made again when they are needed.
type marker struct {
	path string
	file *os.File
}

func bootID() (string, error) {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", fmt.Errorf("read boot id: %w", err)
	}
	return strings.TrimSpace(string(b)), nil
}

func (s *State) mark() (*marker, error) {
	id, err := bootID()
	if err != nil {
		return nil, err
	}
	p := filepath.Join(s.Dir, unsyncedDir, id+"."+snapshot.NewID())
	f, err := os.OpenFile(p, os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("mark unflushed state: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("mark unflushed state: %w", err)
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("mark unflushed state: %w", err)
	}
	dir, err := os.Open(filepath.Dir(p))
	if err == nil {
		err = errors.Join(dir.Sync(), dir.Close())
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("mark unflushed state: %w", err)
	}
	return &marker{path: p, file: f}, nil
}

// release gives up the lock; the file stays unless Sync removed it.
func (m *marker) release() { _ = m.file.Close() }

// Sync makes all that this process put into the state durable. It does nothing
// where nothing was made.
func (s *State) Sync() error {
	if s.marker == nil {
		return nil
	}
	done := s.abandoned()
	// The marker was opened before anything was made: through it the kernel tells of each
	// write that failed since, also if a flush of somebody else was told first.
	if err := unix.Syncfs(int(s.marker.file.Fd())); err != nil {
		return fmt.Errorf("flush state directory: %w", err)
	}
	for _, p := range append(done, s.marker.path) {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("flush state directory: %w", err)
		}
	}
	return nil
}

// abandoned lists the markers of processes of this boot that have ended: the
// coming flush covers them too.
func (s *State) abandoned() []string {
	id, err := bootID()
	if err != nil {
		return nil
	}
	names, _ := filepath.Glob(filepath.Join(s.Dir, unsyncedDir, id+".*"))
	var out []string
	for _, p := range names {
		f, err := os.Open(p)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			out = append(out, p)
		}
		_ = f.Close()
	}
	return out
}

// distrust removes trees that a power cut may have torn.
func (s *State) distrust(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(s.Dir, unsyncedDir))
	if err != nil {
		return fmt.Errorf("open state directory: %w", err)
	}
	if len(entries) == 0 {
		return nil
	}
	id, err := bootID()
	if err != nil {
		return err
	}
	var since time.Time
	var old []string
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || strings.HasPrefix(e.Name(), id+".") {
			continue
		}
		old = append(old, filepath.Join(s.Dir, unsyncedDir, e.Name()))
		if t := info.ModTime(); since.IsZero() || t.Before(since) {
			since = t
		}
	}
	if len(old) == 0 {
		return nil
	}
	// The clock's granularity on disk may be seconds.
	trees := s.treesSince(since.Add(-3 * time.Second))
	if len(trees) > 0 {
		w, err := s.Worker(ctx)
		if err != nil {
			return fmt.Errorf("remove what a power cut may have damaged: %w", err)
		}
		if err := w.Remove(ctx, trees); err != nil {
			return fmt.Errorf("remove what a power cut may have damaged: %w", err)
		}
	}
	for _, p := range old {
		if err := os.Remove(p); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("open state directory: %w", err)
		}
	}
	return nil
}

// treesSince lists trees whose root changed at or after t. The change time is
// that of the rename into place, and nobody can set it.
func (s *State) treesSince(t time.Time) []string {
	var out []string
	for _, name := range append(s.Trees(), s.list(overlay.FlatDir)...) {
		var st unix.Stat_t
		if unix.Lstat(filepath.Join(s.Dir, treesDir, name), &st) == nil && time.Unix(st.Ctim.Unix()).Before(t) {
			continue
		}
		out = append(out, name)
	}
	return out
}

// Trees lists all committed trees.
func (s *State) Trees() []string {
	var out []string
	for _, d := range overlay.Dirs() {
		if d == "tmp" {
			continue
		}
		out = append(out, s.list(d)...)
	}
	return out
}

// list names what is in a directory of the tree area.
func (s *State) list(dir string) []string {
	var out []string
	entries, _ := os.ReadDir(filepath.Join(s.Dir, treesDir, dir))
	for _, e := range entries {
		out = append(out, dir+"/"+e.Name())
	}
	return out
}
