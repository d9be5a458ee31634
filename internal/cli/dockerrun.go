// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/pflag"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/cache/shared"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/frontend/dockerfile"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
)

// build reads the Dockerfile, brings its images about and exports them.
func (d *dockerBuild) build(ctx context.Context, s *state.State) error {
	r, err := d.load(ctx)
	if r != nil {
		for _, w := range r.Warnings {
			d.warn(fmt.Sprintf("%s: %s (%s)", w.Pos, w.Text, w.Rule))
		}
	}
	if err != nil {
		return err
	}
	if r.Unused != "" {
		d.warn("build arguments that no ARG takes: " + r.Unused)
	}
	d.app.buildFile, d.app.buildFileData = d.frontend.File, r.Data
	with, err := d.shared.cache.parse()
	if err != nil {
		return err
	}
	if d.app.offline {
		with = with.local()
	}
	tags := d.shared.output.tags
	err = d.attempt(ctx, s, r, with)
	if !errors.Is(err, source.ErrLost) || ctx.Err() != nil || d.exporting && d.app.stdoutTaken {
		return err
	}
	d.events(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: time.Now(), Text: fmt.Sprintf("%v: building again without shared results", err)})
	if err := shared.Forget(s.Cache); err != nil {
		return err
	}
	with.from, d.shared.output.tags = nil, tags
	return d.attempt(ctx, s, r, with)
}

// attempt builds and exports. Where a shared cache does not give what it said it
// had, the error is source.ErrLost.
func (d *dockerBuild) attempt(ctx context.Context, s *state.State, r *dockerfile.Result, with sharing) error {
	exporter := d.app.exporter(s, d.builder, d.events)
	outputs, layouts, err := d.outputs(ctx, exporter)
	if err != nil {
		return err
	}
	kept, end := d.app.sharedCache(ctx, with, d.builder, d.events)
	defer end()
	err = d.solve(ctx, r, kept, outputs, layouts)
	if cerr := outputs.Close(ctx, err); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	with.shareMounts(ctx, kept, d.builder, func(text string) {
		d.events(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: time.Now(), Text: text})
	})
	end()
	if err := s.Sync(); err != nil {
		return err
	}
	return d.tell(outputs, layouts)
}

// tell says what was made and how it is called. With --quiet it is the id alone.
func (d *dockerBuild) tell(outputs *outputSet, layouts []layoutTag) error {
	for _, r := range outputs.results {
		id := imageID(r.outcome)
		if id == "" {
			continue // files, or nothing
		}
		if d.app.onlyID() {
			if _, err := fmt.Fprintln(d.app.messages(), id); err != nil {
				return err
			}
			continue
		}
		built := "Successfully built " + string(r.outcome.Image.Digest) // as ls has it
		if len(r.outcome.Names) == 0 && len(layouts) == 0 && outputs.inStore() {
			built += ", which has no name: --tag gives it one"
		}
		d.note(built)
		for _, n := range r.outcome.Names {
			if ref, err := reference.Parse(n); err == nil {
				n = ref.Familiar()
			}
			d.note("Successfully tagged " + n)
		}
	}
	if !d.app.onlyID() {
		for _, l := range layouts {
			d.note("Successfully tagged oci:" + l.dir + ":" + l.tag)
		}
	}
	return nil
}

func (d *dockerBuild) warn(text string) {
	d.events(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: time.Now(), Text: text})
}

func (d *dockerBuild) note(text string) {
	d.events(solve.Event{Kind: solve.Note, Time: time.Now(), Text: text})
}

// solve brings the images about and gives them to the outputs.
func (d *dockerBuild) solve(ctx context.Context, r *dockerfile.Result, kept *shared.Cache, outputs *outputSet, layouts []layoutTag) error {
	g := &graph.Build{}
	for i := range r.Images {
		g.Targets = append(g.Targets, &graph.Target{Name: imageName(r, i), Vertex: r.Images[i].Vertex})
	}
	results := make([]cache.Result, len(r.Images))
	o := d.solverOptions()
	names, err := d.shared.output.names()
	if err != nil {
		return err
	}
	o.Part = func(t *graph.Target, got cache.Result) {
		outputs.early(names, export.Product{Name: t.Name, Layers: got.Layers}, nil)
	}
	if kept != nil {
		o.Shared = kept
	}
	d.solver = solve.New(o)
	d.builder.Drafts = outputs.drafts(g)
	err = d.solver.Solve(ctx, g, func(ctx context.Context, t *graph.Target, got cache.Result) (err error) {
		for i := range g.Targets {
			if g.Targets[i] == t {
				results[i], err = d.builder.Layered(ctx, got)
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	d.exporting = true
	var products []export.Product
	for i, img := range r.Images {
		p, err := export.NewProduct(imageName(r, i), img.Config, results[i].Layers, img.Epoch)
		if err != nil {
			return err
		}
		products = append(products, p)
	}
	for _, l := range layouts {
		if err := l.put(ctx, outputs, products); err != nil {
			return err
		}
	}
	if len(outputs.outputs) == 0 {
		return nil
	}
	return outputs.Add(ctx, "image", names, export.Outcome{}, products...)
}

// imageName is how messages call an image of a build.
func imageName(r *dockerfile.Result, i int) string {
	if len(r.Images) == 1 {
		return "image"
	}
	p := r.Images[i].Platform
	return "image " + image.NewPlatform(p).String()
}

// layoutTag is a --tag oci:DIRECTORY:TAG: a place and not a name.
type layoutTag struct {
	exporter *export.Exporter
	dir, tag string
}

// outputs opens where the images go. Tags that are places are taken out of the
// others.
func (d *dockerBuild) outputs(ctx context.Context, e *export.Exporter) (*outputSet, []layoutTag, error) {
	o := &d.shared.output
	var layouts []layoutTag
	var names []string
	for _, t := range o.tags {
		rest, ok := strings.CutPrefix(t, "oci:")
		if !ok {
			names = append(names, t)
			continue
		}
		dir, tag, ok := strings.Cut(rest, ":")
		if !ok || tag == "" || dir == "" {
			return nil, nil, fmt.Errorf("--tag %s: write oci:DIRECTORY:TAG", t)
		}
		abs, err := filepath.Abs(dir)
		if err != nil {
			return nil, nil, err
		}
		layouts = append(layouts, layoutTag{e, abs, tag})
	}
	o.tags = names
	if len(layouts) > 0 && !o.any() {
		return &outputSet{app: d.app, options: *o}, layouts, nil
	}
	set, err := d.app.openOutputs(ctx, *o, e)
	return set, layouts, err
}

// put writes the image and gives it its tag.
func (l layoutTag) put(ctx context.Context, outputs *outputSet, products []export.Product) error {
	out, err := layout.Create(ctx, l.dir)
	if err != nil {
		return err
	}
	defer out.Close()
	release, err := out.Hold(ctx)
	if err != nil {
		return err
	}
	defer release()
	e := &export.Layout{Exporter: l.exporter, Layout: out, Dir: l.dir}
	made, err := e.Put(ctx, products...)
	if err != nil {
		return err
	}
	desc := made.Image
	desc.Platform = nil
	if old, err := out.Resolve(ctx, l.tag); err != nil || old.Digest != desc.Digest {
		if err := out.Tag(ctx, layout.Entry{Tag: l.tag, Descriptor: desc}); err != nil {
			return err
		}
	}
	if len(outputs.outputs) == 0 && len(outputs.results) == 0 {
		outputs.results = append(outputs.results, result{target: "image", outcome: made})
	}
	return nil
}

// fromStdin takes the build context from the standard input: an archive, or a
// Dockerfile that needs none.
func (d *dockerBuild) fromStdin(ctx context.Context) error {
	in := bufio.NewReaderSize(d.app.std.In, 1<<16)
	if d.shared.file == "-" {
		return errors.New("the standard input cannot be both the build context and the Dockerfile")
	}
	dir, err := d.tempDir("context")
	if err != nil {
		return err
	}
	d.frontend.LLB.Locals["context"] = dir
	head, err := in.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("read standard input: %w", err)
	}
	if !looksLikeTar(head) {
		data, err := io.ReadAll(io.LimitReader(in, dockerfileLimit+1))
		if err != nil {
			return fmt.Errorf("read Dockerfile from the standard input: %w", err)
		}
		if len(data) > dockerfileLimit {
			return fmt.Errorf("the Dockerfile on the standard input has more than %d bytes", dockerfileLimit)
		}
		d.frontend.File = "Dockerfile"
		return d.writeDockerfile(data, nil)
	}
	if err := extractContext(ctx, in, dir); err != nil {
		return fmt.Errorf("unpack build context: %w", err)
	}
	file := d.shared.file
	if file == "" {
		file = "Dockerfile"
	}
	d.frontend.File = file
	d.frontend.LLB.Locals["dockerfile"] = dir
	d.frontend.Attributes["filename"] = file
	return nil
}

func looksLikeTar(head []byte) bool {
	return compress.Detect(head) != compress.None || len(head) >= 262 && string(head[257:262]) == "ustar"
}

// Flags of one kind of build file that the other has not.
var (
	stackerFlags = []string{"substitute", "substitute-file", "shell-fail", "on-run-failure", "order-only", "annotations-namespace", "no-yaml-annotation", "layer-type", "require-hash"}
	dockerNames  = []string{"Dockerfile", "Containerfile", "dockerfile"}
)

// dockerKind decides which kind of build file is meant.
func dockerKind(file string, fileGiven bool, args []string, llb string) bool {
	if len(args) > 0 || llb != "" {
		return true
	}
	if !fileGiven {
		if _, err := os.Stat(file); err == nil {
			return false
		}
		return slices.ContainsFunc(dockerNames, func(n string) bool {
			_, err := os.Stat(n)
			return err == nil
		})
	}
	return isDockerfile(file)
}

// isDockerfile looks at a file: one that begins with an instruction, or a parser
// directive, is no YAML of stages.
func isDockerfile(name string) bool {
	f, err := os.Open(name)
	if err != nil {
		return false
	}
	defer f.Close()
	lines := bufio.NewScanner(io.LimitReader(f, 1<<20))
	for lines.Scan() {
		l := strings.TrimSpace(lines.Text())
		if l == "" || strings.HasPrefix(l, "#") {
			continue
		}
		word, _, _ := strings.Cut(l, " ")
		return strings.EqualFold(word, "FROM") || strings.EqualFold(word, "ARG")
	}
	return false
}

// refuseOthers names a flag that belongs to the other kind of build file.
func refuseOthers(f *pflag.FlagSet, docker bool, dockerFlags []string) error {
	var err error
	f.Visit(func(fl *pflag.Flag) {
		if err != nil {
			return
		}
		if docker && slices.Contains(stackerFlags, fl.Name) {
			err = fmt.Errorf("--%s belongs to stacker.yaml builds", fl.Name)
		}
		if !docker && slices.Contains(dockerFlags, fl.Name) {
			err = fmt.Errorf("--%s belongs to Dockerfile builds", fl.Name)
		}
	})
	return err
}
