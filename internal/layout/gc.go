// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
)

// ErrBusy is returned by GC while a writer holds the layout.
var ErrBusy = errors.New("layout is being written")

// Hold keeps GC, also that of other processes, from removing blobs until release
// is called. A writer holds from its first blob to its last tag.
func (l *Layout) Hold(ctx context.Context) (release func(), err error) {
	fd, err := l.openBlobs()
	if err != nil {
		return nil, err
	}
	if _, err := lockDir(ctx, fd, unix.LOCK_SH); err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("hold layout %s: %w", l.path, err)
	}
	return func() { _ = unix.Close(fd) }, nil // closing unlocks
}

// openBlobs opens the directory of the blobs once more, for a lock of its own.
func (l *Layout) openBlobs() (int, error) {
	fd, err := unix.Openat(int(l.dir.Fd()), blobsName, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("lock layout %s: open %s: %w", l.path, filepath.Join(l.path, blobsName), err)
	}
	return fd, nil
}

// GC removes the blobs that no image of index.json needs, and returns how many
// bytes that were. What has no tag and is about an image that goes, goes with it. It returns ErrBusy and removes nothing while the layout is held.
// A manifest that cannot be read is an error, and nothing is removed either.
func (l *Layout) GC(ctx context.Context) (freed int64, err error) {
	fd, err := l.openBlobs()
	if err != nil {
		return 0, err
	}
	defer func() { _ = unix.Close(fd) }()
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = ErrBusy
		}
		return 0, fmt.Errorf("collect garbage in layout %s: %w", l.path, err)
	}
	idx, err := l.Index()
	if err != nil {
		return 0, err
	}
	m := marker{layout: l, needed: map[digest.Digest]bool{}, walked: map[digest.Digest]bool{}}
	gone, err := m.roots(ctx, idx)
	if err != nil {
		return 0, fmt.Errorf("collect garbage in layout %s: %w", l.path, err)
	}
	if err := l.Forget(ctx, gone...); err != nil {
		return 0, err
	}
	err = l.blobs.Walk(func(d digest.Digest, size int64) error {
		if m.needed[d] {
			return ctx.Err()
		}
		freed += size
		return l.blobs.Remove(d)
	})
	return freed, errors.Join(err, l.blobs.RemoveStale())
}

// roots marks what the entries of an index need, and returns the entries that are
// to go: those without a tag whose subject is here and is not needed. One whose
// subject was never here stays.
func (m *marker) roots(ctx context.Context, idx ocispec.Index) (gone []digest.Digest, err error) {
	about := map[digest.Digest]ocispec.Descriptor{}
	for _, d := range idx.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == "" {
			subject, err := m.layout.subject(ctx, d)
			if err != nil {
				return nil, err
			}
			if subject != nil && m.layout.blobs.Has(*subject) {
				about[d.Digest] = *subject
				continue
			}
		}
		if err := m.mark(ctx, d); err != nil {
			return nil, err
		}
	}
	for again := true; again; { // there may be referrers of referrers
		again = false
		for _, d := range idx.Manifests {
			subject, ok := about[d.Digest]
			if !ok || !m.needed[subject.Digest] {
				continue
			}
			delete(about, d.Digest)
			again = true
			if err := m.mark(ctx, d); err != nil {
				return nil, err
			}
		}
	}
	for d := range about {
		gone = append(gone, d)
	}
	return gone, nil
}

// marker collects the blobs that images need.
type marker struct {
	layout *Layout
	needed map[digest.Digest]bool
	walked map[digest.Digest]bool // manifests and indexes; one may also be named as a mere blob
}

// mark records the blobs that an image needs. Blobs that are missing are passed
// over: a layout may hold a part of an index only.
func (m *marker) mark(ctx context.Context, d ocispec.Descriptor) error {
	m.needed[d.Digest] = true
	if m.walked[d.Digest] || (!image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType)) {
		return nil
	}
	m.walked[d.Digest] = true
	data, err := m.layout.blobs.ReadAll(ctx, d, image.MaxManifestSize)
	if errors.Is(err, blob.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	if image.IsIndex(d.MediaType) {
		idx, err := image.ParseIndex(data, d.MediaType)
		if err != nil {
			return fmt.Errorf("image %s: %w", d.Digest, err)
		}
		for _, entry := range idx.Manifests {
			if err := m.mark(ctx, entry); err != nil {
				return err
			}
		}
		return nil
	}
	manifest, err := image.ParseManifest(data, d.MediaType)
	if err != nil {
		return fmt.Errorf("image %s: %w", d.Digest, err)
	}
	m.needed[manifest.Config.Digest] = true
	for _, layer := range manifest.Layers {
		m.needed[layer.Digest] = true
	}
	return nil
}
