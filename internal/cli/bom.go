// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/solve"
)

// The formats of stacker bom.
const (
	formatSPDX      = "spdx"
	formatCycloneDX = "cyclonedx"
	formatText      = "text"
)

// bomStep is what people see.
const bomStep = "bill of materials"

// maxBom bounds a document that is printed, in bytes.
const maxBom = 1 << 30

func (a *app) bomCommand() *cobra.Command {
	format := formatText
	cmd := &cobra.Command{
		Use:   "bom [TAG]",
		Short: "print the bill of materials of an image in the OCI layout",
		Long: "bom prints what is in an image: packages, and the files that no package owns. The documents that a build\n" +
			"attached (see bom: in docs/stackerfile.md) are printed as they are; for other images they are made now.",
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.bom(cmd.Context(), strings.Join(args, ""), format)
		},
	}
	cmd.Flags().StringVar(&format, "format", formatText, "what to print: text, spdx or cyclonedx")
	return cmd
}

func (a *app) bom(ctx context.Context, tag, format string) error {
	mediaType, known := map[string]string{
		formatText: bom.MediaTypeCycloneDX, formatCycloneDX: bom.MediaTypeCycloneDX, formatSPDX: bom.MediaTypeSPDX,
	}[format]
	if !known {
		return fmt.Errorf("--format %s: it is text, spdx or cyclonedx", format)
	}
	l, err := layout.Open(a.settings.ociDir)
	if err != nil {
		return err
	}
	defer l.Close()
	d, err := l.Resolve(ctx, tag)
	if err != nil {
		return err
	}
	data, err := attachedBom(ctx, l, d.Digest, mediaType)
	if err == nil && data == nil {
		if tag == "" {
			tag = d.Annotations[ocispec.AnnotationRefName]
		}
		data, err = a.makeBom(ctx, d, tag, mediaType)
	}
	if err != nil {
		return err
	}
	if format == formatText {
		return bom.Text(progress.NewSafeWriter(a.std.Out, false), data)
	}
	_, err = a.std.Out.Write(data) // JSON has no control characters
	return err
}

// makeBom makes a document for an image that has none.
func (a *app) makeBom(ctx context.Context, d ocispec.Descriptor, tag, mediaType string) ([]byte, error) {
	inv, subject, err := a.inventory(ctx, d, tag)
	if err != nil {
		return nil, err
	}
	if mediaType == bom.MediaTypeSPDX {
		return bom.SPDX(inv, subject)
	}
	return bom.CycloneDX(inv, subject)
}

// attachedBom reads the document of a type that a build attached to an image, or
// nil.
func attachedBom(ctx context.Context, l *layout.Layout, subject digest.Digest, mediaType string) ([]byte, error) {
	list, err := l.Referrers(ctx, subject)
	if err != nil {
		return nil, err
	}
	for _, d := range slices.Backward(list) {
		if d.ArtifactType != mediaType || d.Annotations[export.AttachedBy] == "" {
			continue
		}
		raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
		if err != nil {
			return nil, err
		}
		m, err := image.ParseManifest(raw, d.MediaType)
		if err != nil {
			return nil, err
		}
		if len(m.Layers) != 1 {
			return nil, fmt.Errorf("artifact %s has %d documents, want 1", d.Digest, len(m.Layers))
		}
		return l.Blobs().ReadAll(ctx, m.Layers[0], maxBom)
	}
	return nil, nil
}

// inventory looks through an image of the layout.
func (a *app) inventory(ctx context.Context, d ocispec.Descriptor, tag string) (bom.Inventory, bom.Subject, error) {
	var none bom.Inventory
	dir, err := filepath.Abs(a.settings.ociDir)
	if err != nil {
		return none, bom.Subject{}, fmt.Errorf("find working directory: %w", err)
	}
	s, err := a.openState(ctx)
	if err != nil {
		return none, bom.Subject{}, err
	}
	display, err := a.display()
	if err != nil {
		return none, bom.Subject{}, err
	}
	b := a.builder(ctx, s)
	img, layers, err := b.Layers(ctx, "oci:"+dir+":"+string(d.Digest))
	inv := none
	if err == nil {
		inv, err = a.scan(ctx, b, layers, tag, onlyWork(display))
	}
	if cerr := display.Close(err); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.Sync()
	}
	made := export.Made{Name: tag, Image: img.Manifest, Annotations: img.Document.Annotations}
	if img.Config.Created != nil {
		made.Created = *img.Config.Created
	}
	return inv, a.subject(made, nil), err
}

// scan looks through the files of a stack of layers, and shows that as work of the
// stage unless it is known.
func (a *app) scan(ctx context.Context, b *build.Builder, layers []cache.Layer, stage string, sink solve.Sink) (bom.Inventory, error) {
	v := solve.Vertex{ID: "bom " + stage, Stage: stage, Name: bomStep}
	emit := func(e solve.Event) {
		e.Vertex, e.Time = v, a.now()
		sink(e)
	}
	start := a.now()
	inv, known, err := b.Inventory(ctx, layers, emit)
	end := solve.Event{Kind: solve.Done, Dur: a.now().Sub(start)}
	switch {
	case err != nil:
		end.Kind, end.Err = solve.Failed, err
		if ctx.Err() != nil {
			end.Err = context.Canceled
		}
		err = fmt.Errorf("bill of materials of %s: %w", stage, err)
	case known:
		end.Kind = solve.Cached
	}
	emit(end)
	return inv, err
}

// subject says which image a bill of materials is about.
func (a *app) subject(made export.Made, declared *graph.Bom) bom.Subject {
	s := bom.Subject{
		Name: made.Name, Digest: made.Image.Digest, Created: made.Created, Tool: Version(),
		Author: made.Annotations[ocispec.AnnotationAuthors], Vendor: made.Annotations[ocispec.AnnotationVendor],
		Licenses: made.Annotations[ocispec.AnnotationLicenses],
	}
	if declared != nil {
		s.Namespace = declared.Namespace
		for _, p := range declared.Packages {
			s.Declared = append(s.Declared, bom.Declared{Name: p.Name, Version: p.Version, License: p.License, Paths: p.Paths})
		}
	}
	return s
}

// attachBom makes the two documents for each of a target's images, if its stage asks
// for them.
func (r *buildRun) attachBom(ctx context.Context, b *build.Builder, e *export.Layout, t *graph.Target, res cache.Result) error {
	if t.Config.Bom == nil {
		return nil
	}
	for _, m := range e.Made(t) {
		s := r.app.subject(m, t.Config.Bom)
		key, err := bomKey(res.Layers, s)
		if err != nil {
			return err
		}
		again, err := e.Reattach(ctx, m, key, bom.MediaTypeSPDX, bom.MediaTypeCycloneDX)
		if err != nil {
			return err
		}
		if again {
			v := solve.Vertex{ID: "bom " + m.Name, Stage: t.Name, Name: bomStep}
			r.display.Handle(solve.Event{Kind: solve.Cached, Vertex: v, Time: r.app.now()})
			continue
		}
		inv, err := r.app.scan(ctx, b, res.Layers, m.Name, r.display.Handle)
		if err != nil {
			return err
		}
		for _, n := range bom.Notes(inv, s) {
			r.display.Handle(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: r.app.now(), Text: m.Name + ": bill of materials: " + n})
		}
		if err := attachDocuments(ctx, e, m, key, inv, s); err != nil {
			return err
		}
	}
	return nil
}

// attachDocuments writes both documents.
func attachDocuments(ctx context.Context, e *export.Layout, to export.Made, key string, inv bom.Inventory, s bom.Subject) error {
	for _, doc := range []struct {
		mediaType, title string
		make             func(bom.Inventory, bom.Subject) ([]byte, error)
	}{
		{bom.MediaTypeSPDX, "bom.spdx.json", bom.SPDX},
		{bom.MediaTypeCycloneDX, "bom.cdx.json", bom.CycloneDX},
	} {
		data, err := doc.make(inv, s)
		if err != nil {
			return err
		}
		if err := e.Attach(ctx, to, export.Document{MediaType: doc.mediaType, Title: doc.title, Key: key, Data: data}); err != nil {
			return err
		}
	}
	return nil
}

// bomKey is the digest of everything that decides what the documents say.
func bomKey(layers []cache.Layer, s bom.Subject) (string, error) {
	about, err := image.Marshal(s)
	if err != nil {
		return "", err
	}
	in := cache.Ingredients{
		{Name: "inventory", Value: cache.Chain(layers)}, {Name: "version", Value: bom.Version}, {Name: "subject", Value: string(about)},
	}
	return string(in.Key()), nil
}
