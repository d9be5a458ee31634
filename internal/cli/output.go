// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/spf13/pflag"
	"golang.org/x/term"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/state"
)

// outputOptions say where images go, for both kinds of build file.
type outputOptions struct {
	outputs      []string
	tags         []string
	annotations  []string
	load, push   bool
	metadataFile string
	iidFile      string
}

func (o *outputOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVarP(&o.outputs, "output", "o", nil, "where to put the result: type=image|registry|oci|docker|tar|local|cacheonly,KEY=VALUE,… (may be repeated)")
	f.StringArrayVarP(&o.tags, "tag", "t", nil, "name of the image (may be repeated)")
	f.StringArrayVar(&o.annotations, "annotation", nil, "[manifest|index|…:]KEY=VALUE for the image's documents (may be repeated)")
	f.BoolVar(&o.load, "load", false, "the same as --output type=docker: load the image into docker or podman")
	f.BoolVar(&o.push, "push", false, "the same as --output type=registry: push the image")
	f.StringVar(&o.metadataFile, "metadata-file", "", "write what was built to this file, as JSON")
	f.StringVar(&o.iidFile, "iidfile", "", "write the id of the image to this file")
}

// any tells whether the user asked for an output.
func (o *outputOptions) any() bool { return len(o.outputs) > 0 || o.load || o.push || len(o.tags) > 0 }

// names are the tags in full.
func (o *outputOptions) names() ([]string, error) {
	var out []string
	for _, t := range o.tags {
		ref, err := reference.Parse(t)
		if err != nil {
			return nil, fmt.Errorf("--tag: %w", err)
		}
		if ref.Digest != "" {
			return nil, fmt.Errorf("--tag %s: a tag has no digest", t)
		}
		out = append(out, ref.String())
	}
	return out, nil
}

// specs are the outputs: those of --output, --load and --push, and else the local
// store.
func (o *outputOptions) specs() ([]export.Spec, error) {
	texts := append([]string(nil), o.outputs...)
	if o.load {
		texts = append(texts, "type=docker")
	}
	if o.push {
		texts = append(texts, "type=registry")
	}
	if len(texts) == 0 {
		texts = []string{"type=image"}
	}
	var specs []export.Spec
	stdout := 0
	for _, t := range texts {
		s, err := export.ParseSpec(t)
		if err != nil {
			return nil, err
		}
		if s.ToStdout() {
			stdout++
		}
		if s.IsImage() {
			for _, text := range o.annotations {
				a, err := export.ParseAnnotations(text)
				if err != nil {
					return nil, fmt.Errorf("--annotation: %w", err)
				}
				s.Annotations = append(s.Annotations, a...)
			}
		}
		specs = append(specs, s)
	}
	if stdout > 1 {
		return nil, errors.New("only one --output can go to the standard output")
	}
	return specs, nil
}

// outputSet is all outputs of a build.
type outputSet struct {
	app     *app
	options outputOptions
	specs   []export.Spec
	outputs []export.Output

	mu      sync.Mutex
	results []result
}

// result is what became of one target.
type result struct {
	target  string
	outcome export.Outcome
}

// openOutputs begins all outputs. They must be closed.
func (a *app) openOutputs(ctx context.Context, o outputOptions, e *export.Exporter) (*outputSet, error) {
	specs, err := o.specs()
	if err != nil {
		return nil, err
	}
	set := &outputSet{app: a, options: o, specs: specs}
	images := 0
	for _, s := range specs {
		if s.IsImage() {
			images++
		}
	}
	e.Several = images > 1
	for _, s := range specs {
		out, err := a.openOutput(ctx, s, e)
		if err != nil {
			return nil, errors.Join(fmt.Errorf("output type=%s: %w", s.Type, err), set.Close(ctx, err))
		}
		set.outputs = append(set.outputs, out)
	}
	return set, nil
}

func (a *app) openOutput(ctx context.Context, s export.Spec, e *export.Exporter) (export.Output, error) {
	if s.ToStdout() && term.IsTerminal(int(a.std.Out.Fd())) {
		return nil, errors.New("refusing to write to a terminal: give dest=FILE or redirect the standard output")
	}
	return e.Open(ctx, s)
}

// Add gives a finished target to all outputs. known is what is told of it where no
// output makes an image.
func (s *outputSet) Add(ctx context.Context, target string, names []string, known export.Outcome, products ...export.Product) error {
	r := result{target: target}
	for i, out := range s.outputs {
		o, err := out.Add(ctx, names, products...)
		if err != nil {
			return fmt.Errorf("output type=%s: %w", s.specs[i].Type, err)
		}
		if o.Image.Digest != "" && (r.outcome.Image.Digest == "" || len(o.Names) > len(r.outcome.Names)) {
			r.outcome = o
		}
	}
	if r.outcome.Image.Digest == "" {
		r.outcome = known
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.results = append(s.results, r)
	return nil
}

// early tells the outputs what a target that is being built begins with.
func (s *outputSet) early(names []string, p export.Product, in *export.Layout) {
	for _, out := range s.outputs {
		if o, ok := out.(export.Early); ok && len(p.Layers) > 0 {
			o.Early(names, p, in)
		}
	}
}

// drafts says which layers of a build go into images as they are, and how these want
// them.
func (s *outputSet) drafts(g *graph.Build) build.Drafts {
	files := false // some output is no image of tar layers
	var want *export.LayerOptions
	for _, spec := range s.specs {
		archive := spec.Layers.Archive == "" || spec.Layers.Archive == image.Tar
		files = files || spec.Type == export.Tar || spec.Type == export.Local || !archive
		if spec.IsImage() && want == nil {
			want = &spec.Layers
		}
	}
	d := build.Drafts{Read: g.Read(func(*graph.Target) bool { return files }), Compression: compress.Gzip}
	switch {
	case want != nil && want.Compression != "":
		d.Compression, d.Level = want.Compression, want.Level
	case want == nil && len(s.specs) > 0: // nobody wants an image yet
		d.Compression = compress.None
	}
	return d
}

// inStore tells whether the local store is one of the outputs.
func (s *outputSet) inStore() bool {
	return slices.ContainsFunc(s.specs, func(spec export.Spec) bool { return spec.Type == "image" })
}

// Close ends all outputs, and after success writes --metadata-file and --iidfile.
func (s *outputSet) Close(ctx context.Context, failed error) error {
	var errs []error
	for i, out := range s.outputs {
		if err := out.Close(ctx, failed); err != nil {
			errs = append(errs, fmt.Errorf("output type=%s: %w", s.specs[i].Type, err))
			failed = err
		}
	}
	if failed != nil || len(errs) > 0 {
		return errors.Join(errs...)
	}
	return s.writeResults()
}

// toStdout tells whether an output needs the standard output for itself.
func (o *outputOptions) toStdout() bool {
	specs, err := o.specs()
	if err != nil {
		return false
	}
	for _, s := range specs {
		if s.ToStdout() {
			return true
		}
	}
	return false
}

// exporter makes images of what b builds.
func (a *app) exporter(s *state.State, b *build.Builder, events solve.Sink) *export.Exporter {
	var mu sync.Mutex
	clients := map[bool]*registry.Client{}
	return &export.Exporter{
		State: s, Images: b.Images, Now: a.now, Events: events, Files: b, Stdout: a.std.Out, Loader: a.loadInto,
		Registry: func(insecure bool) *registry.Client {
			mu.Lock()
			defer mu.Unlock()
			if clients[insecure] == nil {
				clients[insecure] = registry.New(registryOptions(insecure))
			}
			return clients[insecure]
		},
	}
}

// namesOf are the names of one target: the tags, where there is only one; else its
// own name.
func namesOf(tags []string, target string, alone bool) ([]string, error) {
	if len(tags) == 0 {
		return []string{target}, nil
	}
	if !alone {
		return nil, fmt.Errorf("--tag names one image, but the build makes several: choose with --target, or leave out --tag (%s)", strings.Join(tags, ", "))
	}
	return tags, nil
}
