// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/graph"
)

// outputs begins the outputs that were asked for beside the layout.
func (r *buildRun) outputs(ctx context.Context, e *export.Exporter) (*outputSet, error) {
	o := r.options.output
	if !o.any() {
		if o.metadataFile == "" && o.iidFile == "" {
			return &outputSet{}, nil
		}
		o.outputs = []string{"type=cacheonly"}
	}
	if types := r.options.layers.types; o.any() && !slices.Equal(types, []string{"tar"}) {
		return nil, fmt.Errorf("--layer-type %s is for the project's layout: --output and --tag have layers of type tar", strings.Join(types, ","))
	}
	return r.app.openOutputs(ctx, o, e)
}

// addOutput gives a finished stage to the outputs.
func (r *buildRun) addOutput(ctx context.Context, outputs *outputSet, t *graph.Target, inLayout export.Outcome) error {
	if len(outputs.outputs) == 0 {
		return nil
	}
	p, err := export.Assemble(t, r.solver.Result)
	if err != nil {
		return err
	}
	names, err := r.names(t)
	if err != nil {
		return err
	}
	return outputs.Add(ctx, t.Name, names, inLayout, p)
}

// names are what the outputs call a stage.
func (r *buildRun) names(t *graph.Target) ([]string, error) {
	tags, err := r.options.output.names()
	if err != nil {
		return nil, err
	}
	return namesOf(tags, t.Name, len(r.images()) == 1)
}

// early tells the outputs what a stage that is being built begins with.
func (r *buildRun) early(outputs *outputSet, in *export.Layout, t *graph.Target, layers []cache.Layer) {
	if t.BuildOnly || !slices.Contains(r.images(), t) {
		return
	}
	if names, err := r.names(t); err == nil { // else addOutput says why
		outputs.early(names, export.Product{Name: t.Name, Layers: layers, Epoch: t.Config.SourceEpoch}, in)
	}
}

// images are the targets that go to the outputs: those asked for.
func (r *buildRun) images() []*graph.Target {
	var out []*graph.Target
	for _, t := range r.graph.Targets {
		if !t.BuildOnly && (len(r.options.targets) == 0 || slices.Contains(r.options.targets, t.Name)) {
			out = append(out, t)
		}
	}
	return out
}
