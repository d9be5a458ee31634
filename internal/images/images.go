// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package images is the local store of images: names, and the images that they
// name.
//
// An image in the store is complete: its documents and blobs are in the blob store
// of the state directory when its name appears, and stay as long as it is there.
// An image without a name is called by its digest. The store does not know
// registries, and removes no blobs: prune asks [Store.Needs].
//
// Any number of processes may use one store at the same time. A name is a file
// that is replaced as a whole; of two that set one name at the same time the later
// wins. What is read is only trusted with its checksum.
package images

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/transfer"
)

// ErrNotFound is returned for an image that is not in the store.
var ErrNotFound = errors.New("no such image in the local store")

// Image is one name with what it names.
type Image struct {
	Name       string // complete: registry/repository:tag, or with a digest; empty: none
	Descriptor ocispec.Descriptor
	Created    time.Time // when the name was first given
	Updated    time.Time // when it was given to this image
}

// String is the name as people write it, or the digest.
func (i Image) String() string {
	ref, err := reference.Parse(i.Name)
	if err != nil {
		return string(i.Descriptor.Digest)
	}
	return ref.Familiar()
}

// Store is a store of named images.
type Store struct {
	dir   string
	blobs *blob.Store
}

// Open opens the store in dir, which is made with the first name.
func Open(dir string, blobs *blob.Store) *Store { return &Store{dir: dir, blobs: blobs} }

// Blobs are the blobs of all images, and of whatever else the state directory has.
func (s *Store) Blobs() *blob.Store { return s.blobs }

// List returns all images, sorted by name. Damaged records are left out.
func (s *Store) List() ([]Image, error) {
	entries, err := os.ReadDir(filepath.Join(s.dir, namesDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	var out []Image
	for _, e := range entries {
		img, err := s.read(e.Name())
		if errors.Is(err, errDamaged) || errors.Is(err, atomicfile.ErrDamaged) || errors.Is(err, fs.ErrNotExist) {
			continue // removed meanwhile, or of no use
		}
		if err != nil {
			return nil, fmt.Errorf("list images: %w", err)
		}
		out = append(out, img)
	}
	slices.SortFunc(out, func(a, b Image) int {
		return strings.Compare(a.Name+"@"+string(a.Descriptor.Digest), b.Name+"@"+string(b.Descriptor.Digest))
	})
	return out, nil
}

func (s *Store) read(file string) (Image, error) {
	data, err := atomicfile.ReadRegular(filepath.Join(s.dir, namesDir, file), maxRecord)
	if err != nil {
		return Image{}, err
	}
	r, err := parseRecord(data, file)
	return Image{Name: r.Name, Descriptor: r.Image, Created: r.Created, Updated: r.Updated}, err
}

// Named returns the image that has exactly this name.
func (s *Store) Named(ref reference.Reference) (Image, error) {
	img, err := s.read(fileName(ref.String(), ocispec.Descriptor{}))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, errDamaged) || errors.Is(err, atomicfile.ErrDamaged) {
		return Image{}, fmt.Errorf("image %s: %w", ref.Familiar(), ErrNotFound)
	}
	if err != nil {
		return Image{}, fmt.Errorf("find image %s: %w", ref.Familiar(), err)
	}
	return img, nil
}

// Resolve returns the image that a reference names. With a digest, it is the image
// of that repository that has the digest, under whatever tag.
func (s *Store) Resolve(_ context.Context, ref reference.Reference) (Image, error) {
	if ref.Digest == "" {
		return s.Named(ref)
	}
	// An index of which only one image was pulled is kept under its digest.
	ref.Tag = ""
	if img, err := s.Named(ref); err == nil || !errors.Is(err, ErrNotFound) {
		return img, err
	}
	all, err := s.List()
	if err != nil {
		return Image{}, err
	}
	for _, i := range all {
		if i.Descriptor.Digest != ref.Digest {
			continue
		}
		if have, err := reference.Parse(i.Name); err == nil && have.Name() == ref.Name() {
			return i, nil
		}
	}
	return Image{}, fmt.Errorf("image %s: %w", ref.Familiar(), ErrNotFound)
}

// minID is the shortest beginning of an id that Find takes, in digits.
const minID = 4

// Find returns the image that people mean: a name, or the beginning of the digest
// of a manifest, an index or a config, with or without "sha256:".
func (s *Store) Find(ctx context.Context, what string) (Image, error) {
	ref, perr := reference.Parse(what)
	if perr == nil {
		img, err := s.Resolve(ctx, ref)
		if err == nil || !errors.Is(err, ErrNotFound) {
			return img, err
		}
	}
	hex := strings.TrimPrefix(what, "sha256:")
	if len(hex) < minID || strings.Trim(hex, "0123456789abcdef") != "" {
		if perr != nil {
			return Image{}, perr
		}
		return Image{}, fmt.Errorf("image %s: %w", ref.Familiar(), ErrNotFound)
	}
	return s.findID(ctx, hex)
}

func (s *Store) findID(ctx context.Context, hex string) (Image, error) {
	all, err := s.List()
	if err != nil {
		return Image{}, err
	}
	var found []Image
	for _, i := range all {
		if strings.HasPrefix(i.Descriptor.Digest.Encoded(), hex) || strings.HasPrefix(s.ConfigOf(ctx, i).Encoded(), hex) {
			found = append(found, i)
		}
	}
	if len(found) == 0 {
		return Image{}, fmt.Errorf("image %s: %w", hex, ErrNotFound)
	}
	for _, i := range found[1:] {
		if i.Descriptor.Digest != found[0].Descriptor.Digest {
			return Image{}, fmt.Errorf("image %s: several images begin so: give more of the digest", hex)
		}
	}
	return found[0], nil
}

// ConfigOf returns the digest of an image's config, which other programs call the
// image's id; of an index, or where it cannot be read, that of the image itself.
func (s *Store) ConfigOf(ctx context.Context, i Image) digest.Digest {
	if !image.IsManifest(i.Descriptor.MediaType) {
		return i.Descriptor.Digest
	}
	m, err := transfer.ReadManifest(ctx, s.blobs, i.Descriptor)
	if err != nil {
		return i.Descriptor.Digest
	}
	return m.Config.Digest
}

// Set gives an image its names; none makes it an image without a name. All that it
// needs must be in the blob store. What is the same already is not written.
func (s *Store) Set(d ocispec.Descriptor, now time.Time, names ...reference.Reference) error {
	d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	if err := image.CheckDescriptor(d); err != nil {
		return fmt.Errorf("store image: %w", err)
	}
	if !s.blobs.Has(d) {
		return fmt.Errorf("store image %s: %w", d.Digest, blob.ErrNotFound)
	}
	texts := []string{""}
	if len(names) > 0 {
		texts = texts[:0]
		for _, n := range names {
			texts = append(texts, n.String())
		}
	}
	flushed := false
	for _, name := range texts {
		old, err := s.read(fileName(name, d))
		if err == nil && old.Descriptor.Digest == d.Digest {
			continue
		}
		if !flushed { // nothing may have a name that a power cut can tear
			if err := s.blobs.Sync(); err != nil {
				return err
			}
			flushed = true
		}
		r := record{Name: name, Image: d, Created: now.UTC(), Updated: now.UTC()}
		if err == nil {
			r.Created = old.Created
		}
		if err := s.write(r); err != nil {
			return fmt.Errorf("store image %s: %w", name, err)
		}
	}
	return nil
}

func (s *Store) write(r record) error {
	dir := filepath.Join(s.dir, namesDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	data, err := r.marshal()
	if err != nil {
		return err
	}
	return atomicfile.Write(filepath.Join(dir, fileName(r.Name, r.Image)), data, recordMode, atomicfile.Sync)
}

// Remove takes a name away; the blobs go with the next prune. A name that is gone
// already is no error.
func (s *Store) Remove(i Image) error {
	err := os.Remove(filepath.Join(s.dir, namesDir, fileName(i.Name, i.Descriptor)))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", i, err)
	}
	return nil
}
