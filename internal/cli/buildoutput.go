// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"

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
	tags, err := r.options.output.names()
	if err != nil {
		return err
	}
	names, err := namesOf(tags, t.Name, len(r.images()) == 1)
	if err != nil {
		return err
	}
	return outputs.Add(ctx, t.Name, names, inLayout, p)
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
