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

// byName finds an image by its plain name, where the policy says. A short name may
// mean several images: those of the local store come first.
func (s *Images) byName(ctx context.Context, name string, insecure bool, want image.Platform) (Image, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return Image{}, err
	}
	o, err := s.candidates(name, ref)
	if err != nil {
		return Image{}, err
	}
	if s.Pull != Always && s.Local != nil {
		img, err := s.fromStore(ctx, name, want)
		for _, c := range o.names {
			if err == nil || !elsewhere(err) {
				break
			}
			if c != ref.String() {
				img, err = s.fromStore(ctx, c, want)
			}
		}
		if err == nil || s.Pull == Never || !elsewhere(err) {
			return img, err
		}
		o.local = err
	}
	return s.fromRegistries(ctx, o, insecure, want)
}

// candidates are what a name may mean.
type candidates struct {
	short string
	names []string
	why   string // empty: the name is not short
	local error  // why none of the local store is it
}

func (s *Images) candidates(name string, ref reference.Reference) (candidates, error) {
	o := candidates{short: name, names: []string{ref.String()}}
	if s.Short == nil {
		return o, nil
	}
	names, why, err := s.Short(name)
	if err != nil || len(names) == 0 {
		return o, err
	}
	o.names, o.why = names, why
	return o, nil
}

// fromRegistries asks for the candidates in their order.
func (s *Images) fromRegistries(ctx context.Context, o candidates, insecure bool, want image.Platform) (Image, error) {
	var all error
	for _, c := range o.names {
		img, err := s.fromRegistry(ctx, DockerPrefix+c, insecure, want)
		if err == nil {
			if o.why != "" && s.Took != nil {
				s.Took(o.short, c, o.why)
			}
			return img, nil
		}
		if o.local != nil && !errors.Is(o.local, images.ErrNotFound) {
			err = fmt.Errorf("%w (and %w)", err, o.local)
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
		if ctx.Err() != nil {
			break
		}
	}
	return Image{}, all
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
