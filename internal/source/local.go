// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/images"
	"build.stacker.dev/internal/reference"
)

// errOtherPlatform is returned for a local image that is for other machines.
var errOtherPlatform = errors.New("it is for another platform")

// byName finds an image by its plain name, where the policy says.
func (s *Images) byName(ctx context.Context, name string, insecure bool, want image.Platform) (Image, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return Image{}, err
	}
	if s.Pull == Always || s.Local == nil {
		return s.fromRegistry(ctx, DockerPrefix+ref.String(), insecure, want)
	}
	img, err := s.fromStore(ctx, name, want)
	if err == nil || s.Pull == Never || !elsewhere(err) {
		return img, err
	}
	img, rerr := s.fromRegistry(ctx, DockerPrefix+ref.String(), insecure, want)
	if rerr != nil && !errors.Is(err, images.ErrNotFound) {
		return img, fmt.Errorf("%w (and %w)", rerr, err)
	}
	return img, rerr
}

// elsewhere tells whether a registry may have what the local store has not.
func elsewhere(err error) bool {
	return errors.Is(err, images.ErrNotFound) || errors.Is(err, errOtherPlatform) || errors.Is(err, blob.ErrNotFound)
}

// fromStore finds an image in the local store.
func (s *Images) fromStore(ctx context.Context, name string, want image.Platform) (Image, error) {
	if s.Local == nil {
		return Image{}, fmt.Errorf("image %s: %w", name, images.ErrNotFound)
	}
	ref, err := reference.Parse(name)
	if err != nil {
		return Image{}, err
	}
	found, err := s.Local.Resolve(ctx, ref)
	if err != nil {
		return Image{}, err
	}
	img, err := s.Named(ctx, found, want)
	img.Origin = StorePrefix + ref.Name() + "@" + string(img.Manifest.Digest)
	return img, err
}

// Named returns an image of the local store.
func (s *Images) Named(ctx context.Context, found images.Image, want image.Platform) (Image, error) {
	read := func(d ocispec.Descriptor, limit int64) ([]byte, error) { return s.Blobs.ReadAll(ctx, d, limit) }
	img, err := load(found.Descriptor, want, read)
	if errors.Is(err, image.ErrNoPlatform) {
		return Image{}, fmt.Errorf("local image %s: %w: %w", found, errOtherPlatform, err)
	}
	if err != nil {
		return Image{}, fmt.Errorf("local image %s: %w", found, err)
	}
	if have := image.NewPlatform(img.Config.Platform); have.OS != "" && have.Architecture != "" && want.Runs(have) < 0 {
		return Image{}, fmt.Errorf("local image %s: %w: %s, not %s", found, errOtherPlatform, have, want)
	}
	img.Origin = StorePrefix + string(found.Descriptor.Digest)
	return img, nil
}
