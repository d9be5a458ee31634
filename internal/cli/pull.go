// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/images"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

type pullOptions struct {
	platforms []string
	all       bool
	insecure  bool
}

func (o *pullOptions) check() error {
	if o.all && len(o.platforms) > 0 {
		return errors.New("--all-platforms and --platform exclude each other")
	}
	_, err := o.wanted()
	return err
}

// wanted parses the platforms.
func (o *pullOptions) wanted() ([]image.Platform, error) {
	var out []image.Platform
	for _, list := range o.platforms {
		for one := range strings.SplitSeq(list, ",") {
			p, err := image.ParsePlatform(one)
			if err != nil {
				return nil, fmt.Errorf("--platform: %w", err)
			}
			out = append(out, p)
		}
	}
	return out, nil
}

func (a *app) pullCommand() *cobra.Command {
	var o pullOptions
	cmd := &cobra.Command{
		Use:   "pull NAME...",
		Short: "copy images from a registry, a layout or an archive into the local store",
		Args:  cobra.MinimumNArgs(1),
		RunE:  func(cmd *cobra.Command, args []string) error { return a.pull(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.StringArrayVar(&o.platforms, "platform", nil, "OS/ARCH[/VARIANT] of the image (default: this machine's; several make an index)")
	f.BoolVar(&o.all, "all-platforms", false, "pull the images for all platforms, and their index")
	f.BoolVar(&o.insecure, "insecure-registry", false, "accept plain http and certificates that cannot be verified")
	return cmd
}

func (a *app) pull(ctx context.Context, o pullOptions, names []string) error {
	if err := o.check(); err != nil {
		return err
	}
	return a.transferring(ctx, func(s *state.State, e *export.Exporter) error {
		for _, n := range names {
			if err := a.pullOne(ctx, o, s, e, n); err != nil {
				return fmt.Errorf("pull %s: %w", n, err)
			}
		}
		return nil
	})
}

// transferring opens what commands need that copy images, and shows their progress.
func (a *app) transferring(ctx context.Context, do func(*state.State, *export.Exporter) error) error {
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	display, err := a.display()
	if err != nil {
		return err
	}
	err = do(s, a.exporter(s, a.builder(ctx, s), display.Handle))
	if cerr := display.Close(err); err == nil {
		err = cerr
	}
	return err
}

func (a *app) pullOne(ctx context.Context, o pullOptions, s *state.State, e *export.Exporter, name string) error {
	l, err := parseLocation(name)
	if err != nil {
		return err
	}
	if err := a.say("Pulling %s...\n", name); err != nil {
		return err
	}
	var from found
	if l.transport == inStore {
		from, err = a.findNamed(ctx, e, &l, name, o.insecure)
	} else {
		from, err = a.find(ctx, e, l, o.insecure)
	}
	if err != nil {
		return err
	}
	defer from.close()
	d, err := a.bring(ctx, e, from, l, o)
	if err != nil {
		return err
	}
	var refs []reference.Reference
	if l.transport == inRegistry {
		if l.ref.Digest != "" {
			l.ref.Tag = ""
		}
		refs = []reference.Reference{l.ref}
	} else if ref, err := reference.Parse(l.tag); err == nil {
		refs = []reference.Reference{ref}
	}
	if err := s.Images.Set(d, a.now(), refs...); err != nil {
		return err
	}
	size, err := s.Images.Size(ctx, images.Image{Descriptor: d})
	if err != nil {
		return err
	}
	return a.say("Pulled: %s\nSize: %s\n", d.Digest, progress.Bytes(size))
}

// findNamed finds an image in a registry by its plain name, and notes in l which one
// that is. Of several that a short name may mean it is the first that there is.
func (a *app) findNamed(ctx context.Context, e *export.Exporter, l *location, name string, insecure bool) (found, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return found{}, err
	}
	candidates, why, err := userShortNames()(name)
	if err != nil {
		return found{}, err
	}
	if len(candidates) == 0 {
		candidates = []string{ref.String()}
	}
	l.transport = inRegistry
	var all error
	for _, c := range candidates {
		if l.ref, err = reference.Parse(c); err != nil {
			return found{}, err
		}
		from, err := a.find(ctx, e, *l, insecure)
		if err == nil && why != "" {
			err = a.say("%s\n", tookName(name, c, why))
		}
		if err == nil || ctx.Err() != nil {
			return from, err
		}
		if all == nil {
			all = err
		} else {
			all = fmt.Errorf("%w; %w", all, err)
		}
	}
	return found{}, all
}

// tookName says what a short name means.
func tookName(short, name, why string) string { return fmt.Sprintf("%s is %s (%s)", short, name, why) }

// bring copies an image into the local store: of an index what is wanted of it.
func (a *app) bring(ctx context.Context, e *export.Exporter, from found, l location, o pullOptions) (ocispec.Descriptor, error) {
	root, extra, err := o.choose(ctx, from)
	if err != nil {
		return root, err
	}
	v := solve.Vertex{ID: "pull " + from.name, Name: "pull " + from.name}
	var to transfer.Destination = e.Store()
	if l.transport == inRegistry {
		to = fetching{Destination: to, fetch: func(ctx context.Context, d ocispec.Descriptor, told func(int64)) error {
			return e.Registry(o.insecure).Fetch(ctx, l.ref, d, e.State.Blobs, told)
		}, tell: func(d ocispec.Descriptor, done int64) { a.tellProgress(e, v, d, done) }}
	}
	e.Events(solve.Event{Kind: solve.Started, Vertex: v, Time: a.now()})
	start := a.now()
	err = transfer.Image(ctx, layered{extra, from}, root, to, transfer.Options{
		Progress: func(d ocispec.Descriptor, done int64) { a.tellProgress(e, v, d, done) },
	})
	end := solve.Event{Kind: solve.Done, Vertex: v, Dur: a.now().Sub(start)}
	if err != nil {
		end.Kind, end.Err = solve.Failed, err
	}
	e.Events(end)
	return root, err
}

func (a *app) tellProgress(e *export.Exporter, v solve.Vertex, d ocispec.Descriptor, done int64) {
	e.Events(solve.Event{Kind: solve.Progress, Vertex: v, Time: a.now(), Item: "pull " + d.Digest.Encoded()[:12], Current: done, Total: d.Size})
}

// choose finds what of an image is wanted: one manifest, or an index; extra has the
// index where it is made here, since what the store has is complete.
func (o pullOptions) choose(ctx context.Context, from found) (root ocispec.Descriptor, extra transfer.Bytes, err error) {
	root = ocispec.Descriptor{MediaType: from.image.MediaType, Digest: from.image.Digest, Size: from.image.Size}
	if o.all || !image.IsIndex(root.MediaType) && len(o.platforms) == 0 {
		return root, nil, nil
	}
	want, err := o.wanted()
	if err != nil {
		return root, nil, err
	}
	if len(want) == 0 {
		want = []image.Platform{image.HostPlatform()}
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex}
	idx.SchemaVersion = 2
	for _, p := range want {
		d, err := transfer.Choose(ctx, from, root, p)
		if err != nil {
			return root, nil, err
		}
		if err := checkPlatform(ctx, from, d, p, len(o.platforms) > 0); err != nil {
			return root, nil, err
		}
		idx.Manifests = append(idx.Manifests, d)
	}
	if len(want) == 1 {
		return idx.Manifests[0], nil, nil
	}
	data, err := image.Marshal(idx)
	if err != nil {
		return root, nil, err
	}
	extra = transfer.Bytes{}
	return extra.Add(data, idx.MediaType), extra, nil
}

// checkPlatform refuses an image without an index that is for other machines, where
// the user asked for some.
func checkPlatform(ctx context.Context, from transfer.Source, d ocispec.Descriptor, want image.Platform, asked bool) error {
	if !asked {
		return nil
	}
	m, err := transfer.ReadManifest(ctx, from, d)
	if err != nil {
		return err
	}
	_, c, err := transfer.ReadConfig(ctx, from, m)
	if err != nil {
		return err
	}
	if have := image.NewPlatform(c.Platform); have.Architecture != "" && want.Runs(have) < 0 {
		return fmt.Errorf("no image for %s; it is for %s", want, have)
	}
	return nil
}

// layered is a source whose first part has documents that the second has not.
type layered struct {
	extra transfer.Bytes
	transfer.Source
}

// Open implements transfer.Source.
func (l layered) Open(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if _, ok := l.extra[d.Digest]; ok {
		return l.extra.Open(ctx, d)
	}
	return l.Source.Open(ctx, d)
}

// fetching is a destination that fetches blobs itself: in several parts at once, and
// from where it stopped.
type fetching struct {
	transfer.Destination
	fetch func(ctx context.Context, d ocispec.Descriptor, told func(int64)) error
	tell  func(d ocispec.Descriptor, done int64)
}

// Put implements transfer.Destination.
func (f fetching) Put(ctx context.Context, d ocispec.Descriptor, from transfer.Source) error {
	if image.IsIndex(d.MediaType) || image.IsManifest(d.MediaType) {
		return f.Destination.Put(ctx, d, from)
	}
	return f.fetch(ctx, d, func(done int64) { f.tell(d, done) })
}
