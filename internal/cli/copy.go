// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

type copyOptions struct {
	platforms           []string
	referrers           bool
	skipTLS, skipSrcTLS bool
}

func (a *app) copyCommand() *cobra.Command {
	var o copyOptions
	cmd := &cobra.Command{
		Use:   "copy SOURCE DESTINATION...",
		Short: "copy an image between registries, layouts, archives and the local store",
		Long: "copy copies an image, or an index with all its images, as it is. SOURCE and DESTINATION are docker://NAME,\n" +
			"oci:DIRECTORY:TAG, oci-archive:FILE, docker-archive:FILE or dir:DIRECTORY; a SOURCE without any of these is\n" +
			"in the local store. Several destinations are fed from one download.",
		Args: cobra.MinimumNArgs(2),
		RunE: func(cmd *cobra.Command, args []string) error { return a.copy(cmd.Context(), o, args[0], args[1:]) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.platforms, "platform", nil, "copy only the image for OS/ARCH[/VARIANT] (several make an index)")
	f.BoolVar(&o.referrers, "referrers", false, "copy what refers to the image, too: signatures, bills of materials (from registries, to registries and layouts)")
	f.BoolVar(&o.skipSrcTLS, "src-skip-tls", false, "accept plain http and certificates that cannot be verified, where the image is")
	f.BoolVar(&o.skipTLS, "dest-skip-tls", false, "the same, where it shall be")
	return cmd
}

func (a *app) copy(ctx context.Context, o copyOptions, source string, destinations []string) error {
	src, err := parseLocation(source)
	if err != nil {
		return err
	}
	var to []location
	for _, text := range destinations {
		l, err := parseLocation(text)
		if err != nil {
			return err
		}
		if l.transport == inStore {
			return fmt.Errorf("copy to %q: write docker://NAME, oci:DIRECTORY:TAG, oci-archive:FILE, docker-archive:FILE or dir:DIRECTORY; stacker pull copies into the local store", text)
		}
		if o.referrers && l.transport != inRegistry && l.transport != inLayout {
			return fmt.Errorf("copy to %s: --referrers: only registries (docker://) and layouts (oci:) have a place for what refers to an image", text)
		}
		to = append(to, l)
	}
	if o.referrers && src.transport != inRegistry {
		return errors.New("--referrers: the source must be docker://NAME")
	}
	pick := pullOptions{platforms: o.platforms, all: len(o.platforms) == 0}
	if err := pick.check(); err != nil {
		return err
	}
	return a.transferring(ctx, func(s *state.State, e *export.Exporter) error {
		from, err := a.find(ctx, e, src, o.skipSrcTLS)
		if err != nil {
			return fmt.Errorf("copy %s: %w", source, err)
		}
		defer from.close()
		c := &copying{app: a, options: o, exporter: e, src: src, from: from}
		if src.transport == inRegistry && len(to) > 1 {
			c.from.Source = &spool{Source: from.Source, state: s, client: e.Registry(o.skipSrcTLS), ref: src.ref}
		}
		root, extra, err := pick.choose(ctx, c.from)
		if err != nil {
			return fmt.Errorf("copy %s: %w", source, err)
		}
		c.from.Source, c.from.image = layered{extra, c.from.Source}, root
		for _, l := range to {
			if err := c.to(ctx, l); err != nil {
				return fmt.Errorf("copy %s to %s: %w", source, l.text, err)
			}
		}
		return nil
	})
}

// copying is one copy under way.
type copying struct {
	app      *app
	options  copyOptions
	exporter *export.Exporter
	src      location
	from     found
}

// to copies to one destination, and then what refers to the image.
func (c *copying) to(ctx context.Context, l location) error {
	if l.transport != inRegistry {
		if err := c.app.send(ctx, c.exporter, c.from, l, c.options.skipTLS); err != nil {
			return err
		}
	} else if err := c.push(ctx, l.ref, c.from.image, false); err != nil {
		return err
	}
	if err := c.app.say("Copied %s to %s\n", c.from.image.Digest, l.text); err != nil || !c.options.referrers {
		return err
	}
	return c.referrers(ctx, l, c.from.image.Digest, map[digest.Digest]bool{})
}

// push uploads an image; where source and destination are one registry, it takes the
// blobs from there itself.
func (c *copying) push(ctx context.Context, ref reference.Reference, d ocispec.Descriptor, attach bool) error {
	v := solve.Vertex{ID: "push " + ref.String() + string(d.Digest), Name: "push to " + ref.Name()}
	o := registry.PushOptions{Progress: func(b ocispec.Descriptor, done int64) {
		c.exporter.Events(solve.Event{Kind: solve.Progress, Vertex: v, Time: c.app.now(), Item: "push " + b.Digest.Encoded()[:12], Current: done, Total: b.Size})
	}}
	if c.src.transport == inRegistry && c.src.ref.Registry == ref.Registry {
		o.MountFrom = func(ocispec.Descriptor) []string { return []string{c.src.ref.Repository} }
	}
	client := c.exporter.Registry(c.options.skipTLS)
	return c.exporter.Report(ctx, v, func() error {
		if attach {
			return client.Attach(ctx, ref, d, c.from, o)
		}
		return client.Push(ctx, ref, d, c.from, o)
	})
}

// maxReferrers bounds what is copied with one image.
const maxReferrers = 10_000

// referrers copies what refers to a manifest, and what refers to that.
func (c *copying) referrers(ctx context.Context, l location, subject digest.Digest, seen map[digest.Digest]bool) error {
	list, err := c.exporter.Registry(c.options.skipSrcTLS).Referrers(ctx, c.src.ref, subject, "")
	if err != nil {
		return err
	}
	for _, d := range list {
		if seen[d.Digest] {
			continue
		}
		if seen[d.Digest] = true; len(seen) > maxReferrers {
			return fmt.Errorf("more than %d manifests refer to the image", maxReferrers)
		}
		d = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size, ArtifactType: d.ArtifactType}
		switch l.transport {
		case inRegistry:
			err = c.push(ctx, l.ref, d, true)
		case inLayout:
			err = c.keep(ctx, l, d)
		case inStore, inDockerArchive, inOCIArchive, inDir: // refused by copy
		}
		if err == nil {
			err = c.app.say("Copied referrer %s\n", d.Digest)
		}
		if err == nil {
			err = c.referrers(ctx, l, d.Digest, seen)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// keep puts a referrer into a layout, where only its digest names it.
func (c *copying) keep(ctx context.Context, l location, d ocispec.Descriptor) error {
	to, err := layout.Create(ctx, l.path)
	if err != nil {
		return err
	}
	defer to.Close()
	release, err := to.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	if err := transfer.Image(ctx, c.from, d, c.exporter.Blobs(to.Blobs(), l.path), transfer.Options{}); err != nil {
		return err
	}
	return to.Tag(ctx, layout.Entry{Descriptor: d})
}

// spool is an image in a registry that is downloaded once for several readers, by
// way of the state directory.
type spool struct {
	transfer.Source
	state  *state.State
	client *registry.Client
	ref    reference.Reference
}

// Open implements transfer.Source.
func (s *spool) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if image.IsIndex(d.MediaType) || image.IsManifest(d.MediaType) {
		return s.Source.Open(ctx, d)
	}
	if err := s.client.Fetch(ctx, s.ref, d, s.state.Blobs, nil); err != nil {
		return nil, err
	}
	return s.state.Blobs.Open(ctx, d)
}
