// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package layout reads and writes OCI image layouts: directories with oci-layout,
// index.json and blobs/sha256/<hex>.
//
// A layout may come from anyone. Neither the three fixed names nor a blob may be a
// symbolic link, FIFO or device; such a file is refused, never followed and never
// written through. Blobs are verified when they are read and when they are written.
//
// Several processes may write one layout. index.json is replaced as a whole, under
// an exclusive flock of the layout's directory; no lock file is left behind. GC
// removes what no tag needs, and a blob is not needed before its tag is written:
// writers bracket both with Hold (a shared flock of blobs/), and GC does nothing
// while one holds. Lock order: blobs/, then the directory.
//
// Files are made with mode 0644 and directories with 0755, whatever the umask is.
package layout

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/transfer"
)

// ErrNotFound is returned for a tag or a digest that the layout does not have.
var ErrNotFound = errors.New("not found")

// ErrNoLayout is returned by Open for a directory that is not a layout.
var ErrNoLayout = errors.New("not an OCI image layout")

const (
	indexName = "index.json"
	blobsName = "blobs"
	fileMode  = 0o644
	dirMode   = 0o755
)

// markerContent is what is written to oci-layout.
const markerContent = `{"imageLayoutVersion":"1.0.0"}`

// Layout is an open image layout.
type Layout struct {
	path  string
	dir   *os.File
	blobs *blob.Store
}

// Open opens an existing layout, which may be read-only.
func Open(dir string) (*Layout, error) {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOTDIR) {
		return nil, fmt.Errorf("open layout %s: %w: it is not a directory", dir, ErrNoLayout)
	}
	if err != nil {
		return nil, fmt.Errorf("open layout %s: %w", dir, err)
	}
	l := &Layout{path: dir, dir: os.NewFile(uintptr(fd), dir)}
	if err := l.open(); err != nil {
		_ = l.dir.Close()
		return nil, fmt.Errorf("open layout %s: %w", dir, err)
	}
	return l, nil
}

// open checks the marker and opens the blobs.
func (l *Layout) open() error {
	data, err := l.readFile(ocispec.ImageLayoutFile)
	if errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("%w: it has no file oci-layout", ErrNoLayout)
	}
	if err != nil {
		return err
	}
	var marker ocispec.ImageLayout
	if err := json.Unmarshal(data, &marker); err != nil {
		return fmt.Errorf("%w: oci-layout: %w", ErrNoLayout, err)
	}
	if !strings.HasPrefix(marker.Version, "1.") {
		return fmt.Errorf("%w: imageLayoutVersion is %q, want 1.0.0", ErrNoLayout, marker.Version)
	}
	l.blobs, err = blob.Open(filepath.Join(l.path, blobsName), blob.Options{FileMode: fileMode, DirMode: dirMode, Sync: true})
	return err
}

// Create opens the layout in dir, or makes an empty one where dir is missing or is
// an empty directory.
func Create(ctx context.Context, dir string) (*Layout, error) {
	l, err := Open(dir)
	if err == nil {
		return l, nil
	}
	if !errors.Is(err, os.ErrNotExist) && !errors.Is(err, ErrNoLayout) {
		return nil, err
	}
	if err := makeDir(dir); err != nil {
		return nil, fmt.Errorf("create layout: %w", err)
	}
	free, rerr := Free(dir)
	if rerr != nil {
		return nil, fmt.Errorf("create layout: %w", rerr)
	}
	if !free {
		return nil, fmt.Errorf("create layout: %s exists, but does not look like an OCI Layout: choose another directory", dir)
	}
	if err := fill(ctx, dir); err != nil {
		return nil, fmt.Errorf("create layout %s: %w", dir, err)
	}
	return Open(dir)
}

// Free reports whether a layout can be made in dir: it is missing, empty, or has a
// layout that somebody is making just now.
func Free(dir string) (bool, error) {
	names, err := readNames(dir)
	if errors.Is(err, os.ErrNotExist) {
		return true, nil
	}
	return err == nil && !slices.ContainsFunc(names, func(n string) bool { return !ours(n) }), err
}

// ours reports whether a name is one that a half-made layout has.
func ours(name string) bool {
	return name == ocispec.ImageLayoutFile || name == indexName || name == blobsName || strings.HasPrefix(name, tempPrefix)
}

// fill makes the files of an empty layout. The marker comes last, so that a
// directory with it is complete.
func fill(ctx context.Context, dir string) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	l := &Layout{path: dir, dir: os.NewFile(uintptr(fd), dir)}
	defer func() { _ = l.dir.Close() }()
	// Two processes may make the same layout: the second must not empty index.json.
	unlock, err := lockDir(ctx, fd, unix.LOCK_EX)
	if err != nil {
		return err
	}
	defer unlock()
	if err := makeDir(filepath.Join(dir, blobsName)); err != nil {
		return err
	}
	if err := makeDir(filepath.Join(dir, blobsName, "sha256")); err != nil {
		return err
	}
	if _, err := l.readFile(indexName); errors.Is(err, os.ErrNotExist) {
		if err := l.writeIndex(emptyIndex()); err != nil {
			return err
		}
	} else if err != nil {
		return err
	}
	return l.writeFile(ocispec.ImageLayoutFile, []byte(markerContent))
}

// Close releases the layout's descriptors.
func (l *Layout) Close() error {
	return errors.Join(l.blobs.Close(), l.dir.Close())
}

// Index returns index.json, parsed and checked.
func (l *Layout) Index() (ocispec.Index, error) {
	data, err := l.readFile(indexName)
	if err != nil {
		return ocispec.Index{}, fmt.Errorf("read layout %s: %w", l.path, err)
	}
	idx, err := image.ParseIndex(data, "")
	if err != nil {
		return idx, fmt.Errorf("layout %s: index.json: %w", l.path, err)
	}
	return idx, nil
}

// Resolve returns the descriptor that a tag or a digest names. The empty string
// names the only image of a layout; what is about an image counts as none.
func (l *Layout) Resolve(ctx context.Context, name string) (ocispec.Descriptor, error) {
	idx, err := l.Index()
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if name == "" {
		if len(idx.Manifests) == 1 {
			return idx.Manifests[0], nil
		}
		if only := withoutArtifacts(idx.Manifests); len(only) == 1 {
			return only[0], nil
		}
	}
	if image.ValidDigest(digest.Digest(name)) {
		return l.resolveDigest(ctx, idx, digest.Digest(name))
	}
	var found []ocispec.Descriptor
	for _, d := range idx.Manifests {
		if d.Annotations[ocispec.AnnotationRefName] == name && name != "" {
			found = append(found, d)
		}
	}
	switch len(found) {
	case 1:
		return found[0], nil
	case 0:
		return ocispec.Descriptor{}, l.unknownTag(name, idx)
	}
	return ocispec.Descriptor{}, fmt.Errorf("layout %s: tag %q names %d images: give a digest", l.path, name, len(found))
}

// withoutArtifacts leaves out the entries that are no images.
func withoutArtifacts(list []ocispec.Descriptor) []ocispec.Descriptor {
	return slices.DeleteFunc(slices.Clone(list), func(d ocispec.Descriptor) bool { return d.ArtifactType != "" })
}

// resolveDigest finds a manifest by its digest, also one that only another index
// of the layout names.
func (l *Layout) resolveDigest(ctx context.Context, idx ocispec.Index, d digest.Digest) (ocispec.Descriptor, error) {
	for _, m := range idx.Manifests {
		if m.Digest == d {
			return m, nil
		}
	}
	size, err := l.blobs.Stat(d)
	if errors.Is(err, blob.ErrNotFound) {
		return ocispec.Descriptor{}, fmt.Errorf("layout %s: image %s %w", l.path, d, ErrNotFound)
	}
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layout %s: %w", l.path, err)
	}
	desc := ocispec.Descriptor{Digest: d, Size: size}
	data, err := l.blobs.ReadAll(ctx, desc, image.MaxManifestSize)
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layout %s: %w", l.path, err)
	}
	desc.MediaType, err = image.MediaType(data, "")
	if err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("layout %s: blob %s is no image: %w", l.path, d, err)
	}
	return desc, nil
}

// unknownTag returns the error for a tag that is not there.
func (l *Layout) unknownTag(name string, idx ocispec.Index) error {
	var tags []string
	for _, d := range idx.Manifests {
		if t := d.Annotations[ocispec.AnnotationRefName]; t != "" {
			tags = append(tags, fmt.Sprintf("%q", t))
		}
	}
	const limit = 50
	more := ""
	if len(tags) > limit {
		more = fmt.Sprintf(" and %d more", len(tags)-limit)
		tags = tags[:limit]
	}
	switch {
	case len(tags) == 0:
		return fmt.Errorf("layout %s: tag %q %w: it has no tags", l.path, name, ErrNotFound)
	case name == "":
		return fmt.Errorf("layout %s: say which image; the tags are %s%s", l.path, strings.Join(tags, ", "), more)
	}
	return fmt.Errorf("layout %s: tag %q %w; the tags are %s%s", l.path, name, ErrNotFound, strings.Join(tags, ", "), more)
}

// Open opens a blob for reading, verified: the reader ends with blob.ErrCorrupt in
// place of io.EOF when the bytes are not those of the digest.
func (l *Layout) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := l.blobs.Open(ctx, desc)
	if err != nil {
		return nil, fmt.Errorf("layout %s: %w", l.path, err)
	}
	return r, nil
}

// Blobs returns the blobs of the layout. They are durable when they are committed.
func (l *Layout) Blobs() *blob.Store { return l.blobs }

// Has implements transfer.Destination.
func (l *Layout) Has(_ context.Context, desc ocispec.Descriptor) (bool, error) {
	return l.blobs.Has(desc), nil
}

// Put implements transfer.Destination: an image is copied into the layout by
// transfer.Image, and named by Tag.
func (l *Layout) Put(ctx context.Context, desc ocispec.Descriptor, from transfer.Source) error {
	r, err := from.Open(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	return l.PutBlob(desc, r)
}

// PutBlob stores the bytes of r as the blob that desc names.
func (l *Layout) PutBlob(desc ocispec.Descriptor, r io.Reader) error {
	w, err := l.blobs.Create()
	if err != nil {
		return fmt.Errorf("layout %s: %w", l.path, err)
	}
	defer func() { _ = w.Close() }()
	// One byte more than is due is enough to see that there are too many.
	if _, err := io.Copy(w, io.LimitReader(r, max(desc.Size, desc.Size+1))); err != nil {
		return fmt.Errorf("layout %s: write blob %s: %w", l.path, desc.Digest, err)
	}
	if _, err := w.Commit(desc.Digest, desc.Size); err != nil {
		return fmt.Errorf("layout %s: %w", l.path, err)
	}
	return nil
}
