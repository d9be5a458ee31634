// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"errors"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/par"
)

// CacheMounts shares what cache mounts hold with other machines. What goes wrong
// there is its own: it is told as a warning, and no step fails of it. id is what
// the build file calls the mount, name what it is called in the state directory.
type CacheMounts interface {
	// LoadMount calls load with the archive that others kept, if there is one and
	// it is wanted.
	LoadMount(ctx context.Context, id, name string, load func(context.Context, cache.Layer) error)
	// SaveMount calls save if the mount is to be kept; save gives the archive to keep.
	SaveMount(ctx context.Context, id, name string, save func(ctx context.Context, keep func(l cache.Layer, content io.ReaderAt) error) error)
}

// mountUses notes which cache mounts there are in a build.
type mountUses struct {
	mu     sync.Mutex
	ids    map[string]bool   // of all steps, also of those that did not run
	used   map[string]string // of steps that ran: names in the state directory, and their ids
	loaded map[string]bool   // names
	loads  par.Group[string, struct{}]
}

func (u *mountUses) note(id string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ids == nil {
		u.ids, u.used, u.loaded = map[string]bool{}, map[string]string{}, map[string]bool{}
	}
	u.ids[id] = true
}

// use notes a mount of a step that runs, and calls load where it is the first one.
// The others wait for that.
func (u *mountUses) use(ctx context.Context, name, id string, load func() error) error {
	u.note(id)
	_, err := u.loads.Do(ctx, name, func() (struct{}, error) {
		u.mu.Lock()
		done := u.loaded[name]
		u.used[name], u.loaded[name] = id, true
		u.mu.Unlock()
		if done {
			return struct{}{}, nil
		}
		return struct{}{}, load()
	})
	return err
}

// saves lists the used ones: names, and their ids.
func (u *mountUses) saves() map[string]string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return maps.Clone(u.used)
}

// mountID is what the build file calls a cache mount: BuildKit's frontend puts a
// namespace before it, which is empty, and a slash.
func mountID(m graph.Mount) string { return strings.TrimPrefix(m.ID, "/") }

// CacheMountIDs lists the ids of the cache mounts of all steps that were looked at.
func (b *Builder) CacheMountIDs() []string {
	b.mounts.mu.Lock()
	defer b.mounts.mu.Unlock()
	return slices.Sorted(maps.Keys(b.mounts.ids))
}

// useMount is called before a step gets a cache mount: an empty one is filled with
// what others kept of it.
func (b *Builder) useMount(ctx context.Context, id, name string) error {
	return b.mounts.use(ctx, name, id, func() error {
		if b.Mounts == nil {
			return nil
		}
		w, err := b.State.Worker(ctx)
		if err != nil {
			return err
		}
		if empty, err := w.CacheMountEmpty(ctx, name); err != nil || !empty {
			return err
		}
		b.Mounts.LoadMount(ctx, id, name, func(ctx context.Context, l cache.Layer) error {
			f, err := b.Images.Layer(ctx, l.Origin, l.Insecure, *l.Blob, nil)
			if err != nil {
				return err
			}
			defer f.Close()
			return w.LoadCacheMount(ctx, name, l.DiffID, f)
		})
		return nil
	})
}

// SaveMounts shares the cache mounts of the steps that ran.
func (b *Builder) SaveMounts(ctx context.Context) {
	if b.Mounts == nil {
		return
	}
	used := b.mounts.saves()
	for _, name := range slices.Sorted(maps.Keys(used)) {
		b.Mounts.SaveMount(ctx, used[name], name, func(ctx context.Context, keep func(cache.Layer, io.ReaderAt) error) error {
			return b.saveMount(ctx, name, keep)
		})
	}
}

// saveMount packs a cache mount into a file without a name, which is gone afterwards:
// nobody else needs the archive.
func (b *Builder) saveMount(ctx context.Context, name string, keep func(cache.Layer, io.ReaderAt) error) (err error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return err
	}
	out, err := b.State.Blobs.Create()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	reply, err := w.SaveCacheMount(ctx, name, out.File())
	if err != nil {
		return err
	}
	mediaType := image.LayerType{Archive: image.Tar, Compression: image.Zstd}.MediaType()
	l := cache.Layer{DiffID: reply.DiffID, Blob: &ocispec.Descriptor{MediaType: mediaType, Digest: reply.Digest, Size: reply.Size}}
	return keep(l, out.File())
}
