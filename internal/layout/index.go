// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"context"
	"errors"
	"fmt"
	"maps"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/image"
)

// Entry gives a tag to an image whose blobs are in the layout.
type Entry struct {
	Tag        string
	Descriptor ocispec.Descriptor
}

// emptyIndex returns the index.json of a layout without images.
func emptyIndex() ocispec.Index {
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	return idx
}

// Tag writes tags, all of them in one step. A tag that exists keeps its place in
// index.json and names the new image; new ones are appended in the order given. An
// entry without a tag appends an image that only its digest names.
func (l *Layout) Tag(ctx context.Context, entries ...Entry) error {
	for _, e := range entries {
		if err := image.CheckDescriptor(e.Descriptor); err != nil {
			return fmt.Errorf("tag %q: %w", e.Tag, err)
		}
		if !l.blobs.Has(e.Descriptor) {
			return fmt.Errorf("tag %q: layout %s has no blob %s of %d bytes", e.Tag, l.path, e.Descriptor.Digest, e.Descriptor.Size)
		}
	}
	return l.update(ctx, func(idx *ocispec.Index) {
		for _, e := range entries {
			setTag(idx, e)
		}
	})
}

// setTag puts one entry into an index.
func setTag(idx *ocispec.Index, e Entry) {
	d := e.Descriptor
	d.Annotations = maps.Clone(d.Annotations)
	if d.Annotations == nil {
		d.Annotations = map[string]string{}
	}
	delete(d.Annotations, ocispec.AnnotationRefName)
	if e.Tag != "" {
		d.Annotations[ocispec.AnnotationRefName] = e.Tag
	}
	place := -1
	kept := idx.Manifests[:0]
	for _, old := range idx.Manifests {
		same := old.Annotations[ocispec.AnnotationRefName] == e.Tag && (e.Tag != "" || old.Digest == d.Digest)
		if same && place >= 0 {
			continue // the tag named several images
		}
		if same {
			place, old = len(kept), d
		}
		kept = append(kept, old)
	}
	if place < 0 {
		kept = append(kept, d)
	}
	idx.Manifests = kept
}

// Untag removes tags, all of them in one step; one that does not exist is no error.
// The blobs stay until GC.
func (l *Layout) Untag(ctx context.Context, tags ...string) error {
	gone := map[string]bool{}
	for _, t := range tags {
		gone[t] = t != ""
	}
	return l.update(ctx, func(idx *ocispec.Index) {
		kept := idx.Manifests[:0]
		for _, d := range idx.Manifests {
			if !gone[d.Annotations[ocispec.AnnotationRefName]] {
				kept = append(kept, d)
			}
		}
		idx.Manifests = kept
	})
}

// update changes index.json under the lock of the layout's directory.
func (l *Layout) update(ctx context.Context, change func(*ocispec.Index)) error {
	// A lock belongs to an open file: two goroutines need two.
	fd, err := unix.Openat(int(l.dir.Fd()), ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("lock layout %s: %w", l.path, err)
	}
	defer func() { _ = unix.Close(fd) }()
	unlock, err := lockDir(ctx, fd, unix.LOCK_EX)
	if err != nil {
		return fmt.Errorf("lock layout %s: %w", l.path, err)
	}
	defer unlock()
	idx, err := l.Index()
	if errors.Is(err, unix.ENOENT) {
		idx, err = emptyIndex(), nil
	}
	if err != nil {
		return err
	}
	change(&idx)
	if err := l.writeIndex(idx); err != nil {
		return fmt.Errorf("write layout %s: %w", l.path, err)
	}
	return nil
}

// writeIndex replaces index.json.
func (l *Layout) writeIndex(idx ocispec.Index) error {
	if idx.Manifests == nil {
		idx.Manifests = []ocispec.Descriptor{} // [] and not null
	}
	data, err := image.Marshal(idx)
	if err != nil {
		return err
	}
	if len(data) > image.MaxManifestSize {
		return fmt.Errorf("index.json would have %d bytes, more than %d", len(data), image.MaxManifestSize)
	}
	return l.writeFile(indexName, data)
}
