// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/registry/auth"
	"build.stacker.dev/internal/solve"
)

// publishRun is one publishing under way.
type publishRun struct {
	app     *app
	options publishOptions
	from    *layout.Layout
	display *progress.Display
}

func (r *publishRun) do(ctx context.Context, images []*publication, notes []string, to destination) error {
	for _, n := range notes {
		r.note(n)
	}
	if to.dir != "" {
		return r.toLayout(ctx, images, to.dir)
	}
	client := registry.New(r.registryOptions())
	placed := map[digest.Digest]string{}
	var err error
	for _, i := range images {
		err = r.image(i, func(sink solve.Sink) error {
			return r.upload(ctx, client, i, placed, sink)
		})
		if err != nil {
			break
		}
	}
	return errors.Join(err, client.Close())
}

func (r *publishRun) note(text string) {
	r.display.Handle(solve.Event{Kind: solve.Note, Text: text, Time: r.app.now()})
}

// registryOptions are those of the user, with the credentials that were given:
// all images go to one registry.
func (r *publishRun) registryOptions() registry.Options {
	o := registryOptions(r.options.skipTLS)
	if r.options.username != "" {
		given := auth.Credentials{Username: r.options.username, Password: r.options.password}
		o.Credentials = func(context.Context, string, string) (auth.Credentials, error) { return given, nil }
	}
	return o
}

// image shows the work for one image.
func (r *publishRun) image(i *publication, work func(solve.Sink) error) error {
	for _, u := range i.urls {
		r.note(fmt.Sprintf("publishing %s %s to %s", i.stage.File.Name, i.name(), u))
	}
	v := solve.Vertex{ID: "publish " + i.name(), Stage: i.stage.Name, Name: "publish", Pos: i.stage.Pos.String()}
	sink := func(e solve.Event) {
		e.Vertex, e.Time = v, r.app.now()
		r.display.Handle(e)
	}
	start := r.app.now()
	sink(solve.Event{Kind: solve.Started})
	err := work(sink)
	end := solve.Event{Kind: solve.Done, Dur: r.app.now().Sub(start)}
	if err != nil {
		end.Kind, end.Err = solve.Failed, err
	}
	sink(end)
	return err
}

// contents reads a manifest and lists its blobs, each once.
func (r *publishRun) contents(ctx context.Context, desc ocispec.Descriptor) (manifest []byte, blobs []ocispec.Descriptor, err error) {
	manifest, err = r.from.Blobs().ReadAll(ctx, desc, image.MaxManifestSize)
	if err != nil {
		return nil, nil, err
	}
	m, err := image.ParseManifest(manifest, desc.MediaType)
	if err != nil {
		return nil, nil, fmt.Errorf("image %s: %w", desc.Digest, err)
	}
	for _, d := range append(slices.Clone(m.Layers), m.Config) {
		if !slices.ContainsFunc(blobs, func(b ocispec.Descriptor) bool { return b.Digest == d.Digest }) {
			blobs = append(blobs, d)
		}
	}
	return manifest, blobs, nil
}

// upload puts an image into a registry and gives it its tags last. placed tells
// which repository has a blob already: the registry takes it from there.
func (r *publishRun) upload(ctx context.Context, c *registry.Client, i *publication, placed map[digest.Digest]string, sink solve.Sink) error {
	_, blobs, err := r.contents(ctx, i.desc)
	if err != nil {
		return err
	}
	ref := i.refs[0]
	o := registry.PushOptions{
		Progress: func(d ocispec.Descriptor, done int64) {
			sink(solve.Event{Kind: solve.Progress, Item: "push " + d.Digest.Encoded()[:12], Current: done, Total: d.Size})
		},
		MountFrom: func(d ocispec.Descriptor) []string {
			if repo := placed[d.Digest]; repo != "" && repo != ref.Repository {
				return []string{repo}
			}
			return nil
		},
	}
	for _, more := range i.refs[1:] { // they differ in their tags only
		o.Tags = append(o.Tags, more.Tag)
	}
	if err := c.Push(ctx, ref, i.desc, r.from, o); err != nil {
		return fmt.Errorf("publish %s: %w", i.name(), err)
	}
	for _, d := range blobs {
		placed[d.Digest] = ref.Repository
	}
	// What is about the image comes after it, and goes where it goes.
	list, err := r.from.Referrers(ctx, i.desc.Digest)
	if err != nil {
		return err
	}
	for _, d := range list {
		if err := c.Attach(ctx, ref, d, r.from, registry.PushOptions{Progress: o.Progress}); err != nil {
			return fmt.Errorf("publish %s: %w", i.name(), err)
		}
	}
	return nil
}

// toLayout copies images into another layout and tags all of them at once.
func (r *publishRun) toLayout(ctx context.Context, images []*publication, dir string) error {
	to, err := layout.Create(ctx, dir)
	if err != nil {
		return err
	}
	defer to.Close()
	release, err := to.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	same := sameDir(dir, r.app.settings.ociDir)
	var entries []layout.Entry
	for _, i := range images {
		err := r.image(i, func(solve.Sink) error {
			if same {
				return nil
			}
			return r.copy(ctx, i.desc, to)
		})
		if err != nil {
			return fmt.Errorf("publish %s: %w", i.name(), err)
		}
		for _, t := range i.tags {
			entries = append(entries, layout.Entry{Tag: t, Descriptor: i.desc})
		}
		if same {
			continue
		}
		attached, err := r.copyReferrers(ctx, i.desc, to)
		if err != nil {
			return fmt.Errorf("publish %s: %w", i.name(), err)
		}
		entries = append(entries, attached...)
	}
	return to.Tag(ctx, entries...)
}

// copy puts an image's blobs into a layout, verified.
func (r *publishRun) copy(ctx context.Context, desc ocispec.Descriptor, to *layout.Layout) error {
	manifest, blobs, err := r.contents(ctx, desc)
	if err != nil {
		return err
	}
	for _, d := range blobs {
		if err := ctx.Err(); err != nil {
			return err
		}
		if whole(ctx, to.Blobs(), d) {
			continue
		}
		if err := copyBlob(ctx, r.from, to, d); err != nil {
			return err
		}
	}
	return to.PutBlob(desc, bytes.NewReader(manifest))
}

// copyReferrers copies what is about an image, and returns the entries for it.
func (r *publishRun) copyReferrers(ctx context.Context, subject ocispec.Descriptor, to *layout.Layout) ([]layout.Entry, error) {
	list, err := r.from.Referrers(ctx, subject.Digest)
	if err != nil {
		return nil, err
	}
	var entries []layout.Entry
	for _, d := range list {
		if err := r.copy(ctx, d, to); err != nil {
			return nil, err
		}
		delete(d.Annotations, ocispec.AnnotationRefName)
		entries = append(entries, layout.Entry{Descriptor: d})
	}
	return entries, nil
}

func copyBlob(ctx context.Context, from, to *layout.Layout, d ocispec.Descriptor) error {
	b, err := from.Open(ctx, d)
	if err != nil {
		return err
	}
	defer b.Close()
	return to.PutBlob(d, b)
}

// whole tells whether a store has a blob, undamaged.
func whole(ctx context.Context, s *blob.Store, d ocispec.Descriptor) bool {
	if !s.Has(d) {
		return false
	}
	b, err := s.Open(ctx, d)
	if err != nil {
		return false
	}
	defer b.Close()
	_, err = io.Copy(io.Discard, b)
	return err == nil
}
