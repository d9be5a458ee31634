// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/solve"
)

// upToDate finds the images in the layout and, unless that is forced, refuses
// those that a build would change.
func (a *app) upToDate(ctx context.Context, o publishOptions, p *stackerfile.Project, from *layout.Layout, images []*publication) error {
	var names []string
	for _, i := range images {
		if !slices.Contains(names, i.stage.Name) {
			names = append(names, i.stage.Name)
		}
	}
	if !o.force && len(images) > 0 {
		if err := a.compare(ctx, o, p, from, names); err != nil {
			return err
		}
	}
	for _, i := range images {
		var err error
		i.desc, err = from.Resolve(ctx, i.name())
		if errors.Is(err, layout.ErrNotFound) {
			return stale(i.stage.Pos, i.name(), "it is not in "+a.settings.ociDir+": run stacker build")
		}
		if err != nil {
			return err
		}
		if b := i.stage.Bom; b != nil && b.Generate && !o.force {
			if data, err := attachedBom(ctx, from, i.desc.Digest, bom.MediaTypeSPDX); data == nil || err != nil {
				return errors.Join(err, stale(i.stage.Pos, i.stage.Name, "it has no bill of materials: run stacker build"))
			}
		}
	}
	return nil
}

// stale is the error for an image that must not be published.
func stale(pos stackerfile.Pos, name, hint string) error {
	return &stackerfile.Error{Pos: pos, Msg: "layer needs to be rebuilt before publishing: " + name, Hint: hint}
}

// compare solves without running anything, and compares images with those in the layout.
func (a *app) compare(ctx context.Context, o publishOptions, p *stackerfile.Project, from *layout.Layout, names []string) error {
	g, err := a.graph(ctx, p, o.build)
	if err != nil {
		return err
	}
	if g, err = g.Select(names); err != nil {
		return err
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	b := a.builder(ctx, s)
	b.Looking = true
	solver := solve.New(solve.Options{Cache: s.Cache, Runner: onlyKept{lastResult{b}}, Now: a.now, Dir: workingDir()})
	e := &export.Layout{
		Exporter: &export.Exporter{State: s, Now: a.now}, Layout: from, Results: solver.Result,
		Layers: o.build.layers.options(), Archives: o.build.layers.archives,
	}
	const remedy = "run stacker build, and publish with the same --substitute and other options; or publish what is in oci-dir with --force"
	err = solver.Solve(ctx, g, func(ctx context.Context, t *graph.Target, _ cache.Result) error {
		if !slices.Contains(names, t.Name) {
			return nil
		}
		ok, err := e.Current(ctx, t)
		if err == nil && !ok {
			err = stale(p.Stage(t.Name).Pos, t.Name, "the image in oci-dir is another: "+remedy)
		}
		return err
	})
	var step *solve.StepError
	if errors.As(err, &step) && errors.Is(err, errNotKept) {
		pos := stackerfile.Pos{File: step.Pos.File, Line: step.Pos.Line, Column: step.Pos.Column}
		return stale(pos, step.Stage, fmt.Sprintf("no result of the step %q is kept: %s", step.Step, remedy))
	}
	return err
}

var errNotKept = errors.New("no result is kept")

// lastResult is for commands that look at what was built: a step that runs in each
// build, as one with binds, does not run for them.
type lastResult struct{ solve.Runner }

// Probe lets the last result stand.
func (r lastResult) Probe(ctx context.Context, v *graph.Vertex, in []cache.Result, emit solve.Sink) (solve.Probe, error) {
	p, err := r.Runner.Probe(ctx, v, in, emit)
	p.Volatile = ""
	return p, err
}

// onlyKept finds kept results and runs nothing.
type onlyKept struct{ lastResult }

// Run refuses.
func (onlyKept) Run(context.Context, *graph.Vertex, []cache.Result, solve.Sink) (cache.Result, error) {
	return cache.Result{}, errNotKept
}
