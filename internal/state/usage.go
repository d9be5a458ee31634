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
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/lockfile"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/userns"
)

// Entry is one thing that takes space.
type Entry struct {
	ID          string // as short as people can tell it apart
	Description string // what it is, or the step that made it
	Bytes       int64  // on disk
	Used        time.Time
	Reclaimable bool // nothing that is kept needs it

	tree string
	blob digest.Digest
	tmp  string
}

// Usage is everything that takes space, biggest first.
type Usage struct{ Entries []Entry }

// Total is the sum of all entries.
func (u Usage) Total() (n int64) {
	for _, e := range u.Entries {
		n += e.Bytes
	}
	return n
}

// Reclaimable is the sum of what prune would remove.
func (u Usage) Reclaimable() (n int64) {
	for _, e := range u.Entries {
		if e.Reclaimable {
			n += e.Bytes
		}
	}
	return n
}

// needs says what the kept results need and when they were used last.
type needs struct {
	trees map[string]use
	blobs map[digest.Digest]use
}

type use struct {
	by   string
	last time.Time
	top  bool // by made the thing, and does not just stand on it
}

// needs reads all records that were used at or after since; older ones count
// as gone and are listed.
func (s *State) needs(since time.Time) (n needs, old []cache.Key, err error) {
	n = needs{trees: map[string]use{}, blobs: map[digest.Digest]use{}}
	err = s.Cache.Walk(func(r *cache.Record, used time.Time, _ int64) error {
		if used.Before(since) {
			old = append(old, r.Key)
			return nil
		}
		for i, l := range r.Result.Layers {
			u := use{by: r.Step, last: used, top: i == len(r.Result.Layers)-1}
			if l.Blob != nil {
				u.by = "base " + l.Origin
				note(n.blobs, l.Blob.Digest, u)
			}
			note(n.trees, snapshot.LayerTree(cache.Chain(r.Result.Layers[:i+1])), u)
		}
		return nil
	})
	return n, old, err
}

// note keeps the latest use, and the step that made the thing.
func note[K comparable](m map[K]use, k K, u use) {
	if was, ok := m[k]; ok {
		if was.last.After(u.last) {
			u.last = was.last
		}
		if was.top {
			u.by, u.top = was.by, true
		}
	}
	m[k] = u
}

// Usage measures everything in the state.
func (s *State) Usage(ctx context.Context) (Usage, error) {
	n, _, err := s.needs(time.Time{})
	if err != nil {
		return Usage{}, err
	}
	return s.usage(ctx, n)
}

func (s *State) usage(ctx context.Context, n needs) (Usage, error) {
	var out Usage
	for _, t := range s.Trees() {
		u, needed := n.trees[t]
		kind, name, _ := strings.Cut(t, "/")
		e := Entry{ID: short(name), Used: u.last, Reclaimable: !needed, Description: u.by, tree: t}
		if kind == "files" { // made again from the imports whenever it is missing
			e.Description, e.Reclaimable = "imports of a step", true
		} else if !needed {
			e.Description = "unpacked layer that no kept result needs"
		}
		out.Entries = append(out.Entries, e)
	}
	for _, id := range s.leftovers() {
		out.Entries = append(out.Entries, Entry{ID: short(id), Description: "step that was interrupted, or runs now", tmp: id, tree: "tmp/" + id})
	}
	if err := s.measure(ctx, out.Entries); err != nil {
		return out, err
	}
	err := s.Blobs.Walk(func(d digest.Digest, size int64) error {
		u, needed := n.blobs[d]
		e := Entry{ID: short(d.Encoded()), Bytes: size, Used: u.last, Reclaimable: !needed, Description: u.by, blob: d}
		if !needed {
			e.Description = "downloaded blob that no kept result needs"
		}
		out.Entries = append(out.Entries, e)
		return nil
	})
	sort.SliceStable(out.Entries, func(i, j int) bool { return out.Entries[i].Bytes > out.Entries[j].Bytes })
	return out, err
}

func short(name string) string { return name[:min(12, len(name))] }

// leftovers lists active snapshots.
func (s *State) leftovers() []string {
	var out []string
	entries, _ := os.ReadDir(filepath.Join(s.Dir, treesDir, "tmp"))
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// measure asks the worker: only it can look into every directory.
func (s *State) measure(ctx context.Context, entries []Entry) error {
	if len(entries) == 0 {
		return nil
	}
	var trees []string
	for _, e := range entries {
		trees = append(trees, e.tree)
	}
	w, err := s.Worker(ctx)
	if err != nil {
		return err
	}
	sizes, err := w.Usage(ctx, trees)
	if err != nil {
		return err
	}
	for i := range entries {
		entries[i].Bytes = sizes[i]
	}
	return nil
}

// PruneOptions say what is to go.
type PruneOptions struct {
	Dir         string
	Plan        func() (userns.Plan, error)
	OnWait      func()
	UnusedSince time.Time // results last used before this go
}

// Prune removes results that were not used since a time, and everything that no
// remaining result needs. It waits until no build runs. The returned usage is
// what was removed.
func Prune(ctx context.Context, o PruneOptions) (removed Usage, err error) {
	if _, err := os.Stat(filepath.Join(o.Dir, formatName)); errors.Is(err, fs.ErrNotExist) {
		return Usage{}, nil
	}
	if err := prepare(o.Dir); err != nil {
		return Usage{}, err
	}
	unlock, err := lockfile.Lock(ctx, filepath.Join(o.Dir, lockName), o.OnWait)
	if err != nil {
		return Usage{}, fmt.Errorf("lock state directory: %w", err)
	}
	s := &State{Dir: o.Dir, plan: o.Plan, unlock: unlock}
	if err := s.open(); err != nil {
		unlock()
		return Usage{}, err
	}
	defer s.Close()
	n, old, err := s.needs(o.UnusedSince)
	if err != nil {
		return Usage{}, err
	}
	all, err := s.usage(ctx, n)
	if err != nil {
		return Usage{}, err
	}
	// Records first: a result must not be served whose files are going.
	for _, k := range old {
		if err := s.Cache.Remove(k); err != nil {
			return removed, fmt.Errorf("remove record: %w", err)
		}
	}
	return s.remove(ctx, all)
}

func (s *State) remove(ctx context.Context, all Usage) (removed Usage, err error) {
	var trees []string
	for _, e := range all.Entries {
		if !e.Reclaimable && e.tmp == "" { // no build runs: every left-over is one
			continue
		}
		if e.blob != "" {
			if err := s.Blobs.Remove(e.blob); err != nil {
				return removed, err
			}
		} else {
			trees = append(trees, e.tree)
		}
		removed.Entries = append(removed.Entries, e)
	}
	if err := s.Blobs.RemoveStale(); err != nil {
		return removed, err
	}
	if err := s.Cache.RemoveUnused(); err != nil {
		return removed, err
	}
	if len(trees) == 0 {
		return removed, nil
	}
	w, err := s.Worker(ctx)
	if err != nil {
		return removed, err
	}
	if err := w.Remove(ctx, trees); err != nil {
		return removed, fmt.Errorf("remove trees: %w", err)
	}
	return removed, s.Sync()
}
