// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"context"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/snapshot"
)

// Entry is one thing that takes space.
type Entry struct {
	ID          string // as short as people can tell it apart
	Description string // what it is, or the step that made it
	Bytes       int64  // on disk
	Used        time.Time
	Made        time.Time // when it came here; zero: not known
	Kind        Kind
	Reclaimable bool // nothing that is kept needs it
	Unnamed     bool // no named image needs it: it goes with everything that builds use again

	tree string
	blob digest.Digest
	tmp  string
}

// Kind says what an entry is.
type Kind string

// The kinds of entries.
const (
	Tree    Kind = "tree"    // an unpacked layer
	Names   Kind = "names"   // the names in a layer
	Files   Kind = "files"   // imports of a step
	Blob    Kind = "blob"    // a blob of an image or of a result
	Partial Kind = "partial" // a step that was interrupted or runs now

	CacheMount Kind = "cache mount" // a directory of RUN --mount=type=cache
)

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

// Unnamed is the sum of what would go with everything that only later builds need.
func (u Usage) Unnamed() (n int64) {
	for _, e := range u.Entries {
		if e.Unnamed {
			n += e.Bytes
		}
	}
	return n
}

// needs says what the kept results need and when they were used last.
type needs struct {
	trees map[string]use
	blobs map[digest.Digest]use
	since time.Time // what was used before is not needed
}

type use struct {
	by   string
	last time.Time
	top  bool // by made the thing, and does not just stand on it
}

// needs reads the images, and all records that were used at or after since; older
// ones count as gone and are listed.
func (s *State) needs(ctx context.Context, since time.Time) (n needs, old []cache.Key, err error) {
	n = needs{trees: map[string]use{}, blobs: map[digest.Digest]use{}, since: since}
	if err := s.imageNeeds(ctx, n); err != nil {
		return n, nil, err
	}
	err = s.Cache.Walk(func(r *cache.Record, used time.Time, _ int64) error {
		if used.Before(since) {
			old = append(old, r.Key)
			return nil
		}
		for i, l := range r.Result.Layers {
			u := use{by: r.Step, last: used, top: i == len(r.Result.Layers)-1}
			if l.Blob != nil {
				switch {
				case r.Step == cache.PackStep, r.Step == cache.ConvertStep:
					u.by, u.top = "packed layer of a result", false
				case l.Origin != "": // else it was packed here
					u.by = "base " + l.Origin
				}
				note(n.blobs, l.Blob.Digest, u)
			}
			if r.Step == cache.PackStep || r.Step == cache.ConvertStep {
				continue
			}
			note(n.trees, cache.Tree(r.Result.Layers, i), u)
			note(n.trees, snapshot.NamesTree(cache.Chain(r.Result.Layers[:i+1])), u)
		}
		return nil
	})
	return n, old, err
}

// imageNeeds adds the blobs of all images: each by its first name.
func (s *State) imageNeeds(ctx context.Context, n needs) error {
	all, err := s.Images.List()
	if err != nil {
		return err
	}
	for _, i := range all {
		u := use{by: "image " + i.String(), last: i.Updated, top: true}
		if err := s.Images.Needs(ctx, i, func(d ocispec.Descriptor) { note(n.blobs, d.Digest, u) }); err != nil {
			return err
		}
	}
	return nil
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
	n, _, err := s.needs(ctx, time.Time{})
	if err != nil {
		return Usage{}, err
	}
	named := needs{trees: map[string]use{}, blobs: map[digest.Digest]use{}}
	if err := s.imageNeeds(ctx, named); err != nil {
		return Usage{}, err
	}
	out, err := s.usage(ctx, n)
	for i, e := range out.Entries {
		_, needed := named.blobs[e.blob]
		out.Entries[i].Unnamed = e.blob == "" || !needed
	}
	return out, err
}

func (s *State) usage(ctx context.Context, n needs) (Usage, error) {
	var out Usage
	for _, t := range s.Trees() {
		u, needed := n.trees[t]
		kind, name, _ := strings.Cut(t, "/")
		e := Entry{ID: short(name), Used: u.last, Reclaimable: !needed, Description: u.by, tree: t, Kind: Tree, Made: s.changed(t)}
		if kind == "files" { // made again from the imports whenever it is missing
			e.Description, e.Reclaimable, e.Kind = "files that steps see: imports, or this program", true, Files
		} else if kind == "names" {
			e.Kind, e.Description = Names, "names in "+e.Description
		}
		if !needed && kind != "files" {
			e.Description = "unpacked layer that no kept result needs"
		}
		out.Entries = append(out.Entries, e)
	}
	for _, id := range s.leftovers() {
		out.Entries = append(out.Entries, Entry{ID: short(id), Description: "step that was interrupted, or runs now", tmp: id, tree: "tmp/" + id, Kind: Partial})
	}
	out.Entries = append(out.Entries, s.cacheMounts(n.since)...)
	if err := s.measure(ctx, out.Entries); err != nil {
		return out, err
	}
	err := s.Blobs.Walk(func(d digest.Digest, size int64) error {
		u, needed := n.blobs[d]
		e := Entry{ID: short(d.Encoded()), Bytes: size, Used: u.last, Reclaimable: !needed, Description: u.by, blob: d, Kind: Blob}
		if !needed {
			e.Description = "blob that no image and no kept result needs"
		}
		out.Entries = append(out.Entries, e)
		return nil
	})
	sort.SliceStable(out.Entries, func(i, j int) bool { return out.Entries[i].Bytes > out.Entries[j].Bytes })
	return out, err
}

// cacheMounts lists the directories that RUN --mount=type=cache keeps. No result
// needs them: they go when they were not used since a time.
func (s *State) cacheMounts(since time.Time) []Entry {
	var out []Entry
	entries, _ := os.ReadDir(filepath.Join(s.Dir, treesDir, mountsDir))
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		used := s.changed(mountsDir + "/" + e.Name() + ".lock")
		out = append(out, Entry{
			ID: short(e.Name()), Description: "cache mount of steps", Used: used, Made: used, Kind: CacheMount,
			Reclaimable: used.Before(since), tree: mountsDir + "/" + e.Name(),
		})
	}
	return out
}

// changed is when a tree was renamed into its place.
func (s *State) changed(tree string) time.Time {
	var st unix.Stat_t
	if unix.Fstatat(int(s.trees.Fd()), tree, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return time.Time{}
	}
	return time.Unix(st.Ctim.Unix())
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
