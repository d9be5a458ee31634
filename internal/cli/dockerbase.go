// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/graph"
)

// dockerfileBase reads the Dockerfile that a stage of a stacker.yaml starts from: what
// brings its files about, and the config of its image.
func (a *app) dockerfileBase(ctx context.Context, s *stackerfile.Stage) (v graph.Vertex, config []byte, err error) {
	info, err := os.Stat(s.From.Path)
	if err != nil {
		return v, nil, err
	}
	d := &dockerBuild{app: a, context: s.From.Path}
	if !info.IsDir() {
		d.context, d.shared.file = filepath.Dir(s.From.Path), s.From.Path
	}
	if s.From.Target != "" {
		d.shared.targets = []string{s.From.Target}
	}
	for _, kv := range s.From.BuildArgs {
		d.options.buildArgs = append(d.options.buildArgs, kv.Key+"="+kv.Value)
	}
	if s.Arch != "" {
		d.options.platforms = []string{platformOf(s)}
	}
	if err := d.prepare(ctx); err != nil {
		return v, nil, err
	}
	st, err := a.openState(ctx)
	if err != nil {
		return v, nil, err
	}
	d.builder = a.builder(ctx, st)
	d.builder.Images.Took = d.shortName
	d.frontend.Engine = d
	r, err := d.load(ctx)
	if err != nil {
		return v, nil, err
	}
	for _, w := range r.Warnings {
		fmt.Fprintf(a.std.Err, "warning: %s: %s (%s)\n", w.Pos, w.Text, w.Rule)
	}
	return *r.Images[0].Vertex, r.Images[0].Config, nil
}

// platformOf is the platform that a stage asks for.
func platformOf(s *stackerfile.Stage) string {
	if s.OS == "" {
		return "linux/" + s.Arch
	}
	return s.OS + "/" + s.Arch
}
