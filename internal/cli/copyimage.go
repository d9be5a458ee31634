// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/transfer"
)

// place is where an image is or shall be: in a layout, or in a registry.
type place struct {
	dir, tag string
	ref      reference.Reference
}

func parsePlace(s string) (place, error) {
	if rest, ok := strings.CutPrefix(s, "docker://"); ok {
		ref, err := reference.Parse(rest)
		return place{ref: ref}, err
	}
	if rest, ok := strings.CutPrefix(s, "oci:"); ok {
		dir, tag, ok := strings.Cut(rest, ":")
		if !ok || dir == "" || tag == "" {
			return place{}, fmt.Errorf("bad OCI tag: %s: write oci:DIRECTORY:TAG", s)
		}
		return place{dir: dir, tag: tag}, nil
	}
	return place{}, fmt.Errorf("%s names no image: write oci:DIRECTORY:TAG or docker://REFERENCE", s)
}

// copyImage copies the image of this machine's platform, as it is.
func (a *app) copyImage(ctx context.Context, src, dst string) (err error) {
	from, err := parsePlace(src)
	if err != nil {
		return err
	}
	to, err := parsePlace(dst)
	if err != nil {
		return err
	}
	client := registry.New(registryOptions(false))
	defer func() {
		if cerr := client.Close(); err == nil {
			err = cerr
		}
	}()
	blobs, desc, done, err := from.open(ctx, client)
	if err != nil {
		return err
	}
	defer done()
	fmt.Fprintf(a.std.Out, "copying %s to %s\n", src, dst)
	if to.dir == "" {
		return client.Push(ctx, to.ref, desc, blobs, registry.PushOptions{})
	}
	l, err := layout.Create(ctx, to.dir)
	if err != nil {
		return err
	}
	defer l.Close()
	release, err := l.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := transfer.Image(ctx, blobs, desc, l, transfer.Options{}); err != nil {
		return err
	}
	return l.Tag(ctx, layout.Entry{Tag: to.tag, Descriptor: desc})
}

// open finds an image, and where to read its blobs.
func (p place) open(ctx context.Context, c *registry.Client) (registry.Provider, ocispec.Descriptor, func(), error) {
	var blobs registry.Provider
	var desc ocispec.Descriptor
	done := func() {}
	if p.dir == "" {
		d, _, err := c.Resolve(ctx, p.ref)
		if err != nil {
			return nil, d, done, err
		}
		blobs, desc = c.Source(p.ref), d
	} else {
		l, err := layout.Open(p.dir)
		if err != nil {
			return nil, desc, done, err
		}
		done = func() { _ = l.Close() }
		if desc, err = l.Resolve(ctx, p.tag); err != nil {
			done()
			return nil, desc, done, err
		}
		blobs = l
	}
	desc, err := transfer.Choose(ctx, blobs, desc, image.HostPlatform())
	if err != nil {
		done()
		return nil, desc, func() {}, err
	}
	return blobs, desc, done, nil
}
