// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/worker"
)

// changeContent gives the function for what a Change depends on if it is asked for the
// content of what it copies from stages, and not for their layers: a stage that was built again has other
// layers, if only because of the times of its files. Nil: no stage that can be built
// again is copied from.
func (b *Builder) changeContent(op graph.Change, in []cache.Result, emit solve.Sink) func(context.Context) (cache.Ingredients, error) {
	stages := map[int]bool{}
	for n := range copied(op.Actions) {
		if b.lists.get(in[n]) == nil && made(in[n].Layers) {
			stages[n] = true
		}
	}
	if len(stages) == 0 {
		return nil
	}
	return func(ctx context.Context) (cache.Ingredients, error) {
		key, err := b.changeKey(op, in, stages)
		if err != nil {
			return nil, err
		}
		taken, err := b.taken(ctx, op, in, stages, emit)
		if err != nil || taken == "" {
			return nil, err
		}
		key[0].Value = "change, by content"
		key.Add("taken from stages", taken)
		return key, nil
	}
}

// made tells whether a step made one of the layers, here or on a machine that shares its results.
func made(layers []cache.Layer) bool {
	return slices.ContainsFunc(layers, func(l cache.Layer) bool { return l.Origin == "" || strings.HasPrefix(l.Origin, source.CachePrefix) })
}

// taken is the digest of what a Change copies from stages; empty where it cannot be
// told, or where copying fails: the step itself says why.
func (b *Builder) taken(ctx context.Context, op graph.Change, in []cache.Result, stages map[int]bool, emit solve.Sink) (string, error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return "", err
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	r := worker.ChangeRequest{Actions: fileop.Taken(op.Actions, stages), Draft: &worker.DraftRequest{Digest: true}}
	for n := range stages {
		input, err := b.input(ctx, n, in[n], &files, emit)
		if err != nil {
			return "", fmt.Errorf("read what is copied: %w", err)
		}
		r.Inputs = append(r.Inputs, input)
	}
	reply, err := w.Change(ctx, r, files)
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if err != nil || reply.Undecided {
		return "", nil
	}
	return string(reply.DiffID), nil
}
