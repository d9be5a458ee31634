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
	"slices"
	"sort"
	"time"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/lockfile"
	"build.stacker.dev/internal/userns"
)

// PruneOptions say what is to go.
type PruneOptions struct {
	Dir         string
	Plan        func() (userns.Plan, error)
	OnWait      func()
	UnusedSince time.Time // results last used before this go
	// Keep is how many bytes may stay: the results not used for the longest time go
	// until no more is there. Nil: no limit.
	Keep *int64
}

// Prune removes results that were not used since a time, images without a name that
// are older, and everything that no image and no remaining result needs. It waits until no build runs. The returned usage is
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
	if err := s.removeUnnamed(o.UnusedSince); err != nil {
		return Usage{}, err
	}
	old, all, err := s.unneeded(ctx, o)
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

// removeUnnamed removes images without a name that were made before since, and
// records of images that are damaged.
func (s *State) removeUnnamed(since time.Time) error {
	all, err := s.Images.List()
	if err != nil {
		return err
	}
	for _, i := range all {
		if i.Name == "" && i.Updated.Before(since) {
			if err := s.Images.Remove(i); err != nil {
				return err
			}
		}
	}
	return s.Images.RemoveDamaged()
}

// unneeded lists the records that go, and everything with what is reclaimable then.
func (s *State) unneeded(ctx context.Context, o PruneOptions) (old []cache.Key, all Usage, err error) {
	n, old, err := s.needs(ctx, o.UnusedSince)
	if err != nil {
		return nil, all, err
	}
	if all, err = s.usage(ctx, n); err != nil || o.Keep == nil || all.kept() <= *o.Keep {
		return old, all, err
	}
	since, err := s.lastUses(o.UnusedSince)
	if err != nil {
		return nil, all, err
	}
	if len(since) == 0 {
		return old, all, nil
	}
	// The more goes, the less is kept; the sizes are known and stay.
	i := sort.Search(len(since)-1, func(i int) bool {
		if n, old, err = s.needs(ctx, since[i].Add(1)); err != nil {
			return true
		}
		all.reclaim(n)
		return all.kept() <= *o.Keep
	})
	if err != nil {
		return nil, all, err
	}
	n, old, err = s.needs(ctx, since[i].Add(1))
	all.reclaim(n)
	return old, all, err
}

// lastUses lists when the records were used last, from since on, each time once.
func (s *State) lastUses(since time.Time) ([]time.Time, error) {
	var out []time.Time
	err := s.Cache.Walk(func(_ *cache.Record, used time.Time, _ int64) error {
		if !used.Before(since) {
			out = append(out, used)
		}
		return nil
	})
	slices.SortFunc(out, time.Time.Compare)
	return slices.CompactFunc(out, time.Time.Equal), err
}

// kept is what stays after prune.
func (u Usage) kept() int64 { return u.Total() - u.Reclaimable() }

// reclaim notes again what is reclaimable.
func (u Usage) reclaim(n needs) {
	for i := range u.Entries {
		e := &u.Entries[i]
		switch e.Kind {
		case Tree, Names:
			_, needed := n.trees[e.tree]
			e.Reclaimable = !needed
		case Blob:
			_, needed := n.blobs[e.blob]
			e.Reclaimable = !needed
		case CacheMount:
			e.Reclaimable = e.Used.Before(n.since)
		case Files, Partial:
		}
	}
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
