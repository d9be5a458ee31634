// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/worker"
)

// tarKey is what an archive's root file system depends on.
func tarKey(archive cache.Result) cache.Ingredients {
	return cache.Ingredients{
		{Name: "step", Value: "tar"},
		{Name: "archive", Value: archive.Content, List: archive.List},
	}
}

// runTar unpacks an archive as the first layer of a root file system.
func (b *Builder) runTar(ctx context.Context, archive cache.Result) (cache.Result, error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return cache.Result{}, err
	}
	f, err := b.openFile(ctx, archive)
	if err != nil {
		return cache.Result{}, err
	}
	defer f.Close()
	reply, err := w.Apply(ctx, worker.ApplyRequest{Decompress: true}, f)
	if err != nil {
		return cache.Result{}, fmt.Errorf("unpack %s: %w", archive.Path, explainArchive(f, err))
	}
	return b.withLayer(cache.Result{}, reply, cache.Layer{}), nil
}

// explainArchive tells a file that is no archive at all from one that is damaged.
func explainArchive(f *os.File, err error) error {
	z, how, zerr := compress.NewReader(io.NewSectionReader(f, 0, math.MaxInt64))
	if zerr != nil {
		return err
	}
	defer z.Close()
	if how != compress.None {
		return err
	}
	if _, terr := tar.NewReader(z).Next(); terr == nil || errors.Is(terr, io.EOF) {
		return err
	}
	return errors.New("it is no tar archive")
}

// fileKey is what a File op's layer depends on: the layers below (they decide
// where links lead and which directories exist) and what is copied.
func fileKey(op graph.File, v *graph.Vertex, in []cache.Result) cache.Ingredients {
	key := cache.Ingredients{{Name: "step", Value: "file"}, {Name: "base", Value: in[0].Chain()}}
	addCopies(&key, op.Copies, in)
	addClamp(&key, op.Clamp)
	return key
}

func (b *Builder) runFile(ctx context.Context, op graph.File, _ *graph.Vertex, in []cache.Result, emit solve.Sink) (cache.Result, error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return cache.Result{}, err
	}
	lower, err := b.trees(ctx, in[0].Layers, emit)
	if err != nil {
		return cache.Result{}, err
	}
	keep, err := existing(ctx, w, lower, op.Copies)
	if err != nil {
		return cache.Result{}, err
	}
	reply, err := b.apply(ctx, w, worker.ApplyRequest{Lower: lower, Chain: in[0].Chain(), Clamp: unixTime(op.Clamp)}, func(out io.Writer) error {
		return b.writeCopies(ctx, out, op.Copies, in, op.Clamp, keep)
	})
	if err != nil {
		return cache.Result{}, err
	}
	return b.withLayer(in[0], reply, cache.Layer{CreatedBy: op.History, Clamp: unixTime(op.Clamp)}), nil
}

// existing finds the copies' targets that are directories already.
func existing(ctx context.Context, w *worker.Client, lower []string, copies []graph.Copy) (map[string]bool, error) {
	var paths []string
	for _, c := range copies {
		paths = append(paths, target(c))
	}
	kinds, err := w.Stat(ctx, lower, paths)
	if err != nil {
		return nil, err
	}
	keep := map[string]bool{}
	for i, p := range paths {
		keep[p] = kinds[i] == worker.Directory
	}
	return keep, nil
}

// apply hands the worker the tar that write produces, while it is produced.
func (b *Builder) apply(ctx context.Context, w *worker.Client, r worker.ApplyRequest, write func(io.Writer) error) (worker.ApplyReply, error) {
	in, out, err := os.Pipe()
	if err != nil {
		return worker.ApplyReply{}, fmt.Errorf("make pipe: %w", err)
	}
	defer in.Close()
	// A bigger pipe means fewer switches between the two; refusal does no harm.
	_, _ = unix.FcntlInt(out.Fd(), unix.F_SETPIPE_SZ, 1<<20)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	written := make(chan error, 1)
	go func() {
		err := write(out)
		if err != nil {
			cancel() // before the worker sees the end of half a tar
		}
		_ = out.Close()
		written <- err
	}()
	reply, err := w.Apply(ctx, r, in)
	_ = in.Close()
	werr := <-written
	if werr != nil && !errors.Is(werr, unix.EPIPE) && !errors.Is(werr, context.Canceled) {
		return reply, werr
	}
	if err == nil {
		err = werr
	}
	return reply, err
}

// withLayer puts a new layer on a result.
func (b *Builder) withLayer(base cache.Result, reply worker.ApplyReply, l cache.Layer) cache.Result {
	out := cache.Result{Layers: append([]cache.Layer(nil), base.Layers...)}
	if reply.Empty {
		return out
	}
	l.DiffID, l.Size, l.WithRoot, l.Created = reply.DiffID, reply.Size, reply.WithRoot, b.Now()
	out.Layers = append(out.Layers, l)
	return out
}
