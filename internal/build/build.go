// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package build says how each op of a graph becomes a result: one file per op.
//
// A Builder is the solver's Runner. Sources are found in the main process; all
// that touches a root file system is asked of the worker, which is started by
// the first step that really runs. What a step's key is made of stands beside
// what the step does, so that one is not changed without the other.
package build

import (
	"context"
	"fmt"
	"slices"
	"sort"
	"strconv"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/par"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/source/git"
	"build.stacker.dev/internal/source/httpfile"
	"build.stacker.dev/internal/source/localtree"
	"build.stacker.dev/internal/state"
)

// Options are what a Builder works with.
type Options struct {
	State  *state.State
	Images *source.Images
	HTTP   httpfile.Options // Dir is set by New
	Now    func() time.Time
	// StackerDir is the directory of the project for imports; Given: the user
	// named it, so that it may be a link.
	StackerDir      string
	StackerDirGiven bool
	// SingleID says that steps have one id only: what they do can differ.
	SingleID func() bool
	// OnFailure is a command to run in the place of a failed step; Console gives
	// it the user's terminal. Nil: none.
	OnFailure []string
	Console   Console
	Secrets   Secrets     // nil: there are none
	Mounts    CacheMounts // nil: cache mounts are not shared
	Path      string      // the user's PATH: where emulators of other machines are looked for
	// Git holds what sources from git need of the user: Environ and KnownHosts.
	Git git.Options
	// Drafts are set before a build is solved.
	Drafts Drafts
	// Looking says that no step will run, so that no worker is started ahead.
	Looking bool
}

// Builder does what vertices say. It implements solve.Runner.
type Builder struct {
	Options
	index   *localtree.Index
	lists   listings
	unpacks par.Group[string, []string]           // by chain: equal unpacking is done once
	packs   par.Group[string, ocispec.Descriptor] // by chain
	packing sync.Mutex
	mounts  mountUses
	drafted sync.Map // chains of what the worker has a draft of
}

var _ solve.Runner = (*Builder)(nil)

// New returns a Builder.
func New(o Options) *Builder {
	o.HTTP.Dir = o.State.Path(state.HTTPDir)
	return &Builder{Options: o, index: localtree.OpenIndex(o.State.Path(state.IndexDir))}
}

// Probe implements solve.Runner.
func (b *Builder) Probe(ctx context.Context, v *graph.Vertex, in []cache.Result, emit solve.Sink) (solve.Probe, error) {
	switch op := v.Op.(type) {
	case graph.Scratch:
		return solve.Probe{Result: &cache.Result{}}, nil
	case graph.Image:
		return found(b.image(ctx, op))
	case graph.Local:
		return found(b.local(ctx, op))
	case graph.HTTP:
		return found(b.http(ctx, op, emit))
	case graph.Pick:
		return solve.Probe{Result: pick(op, in[0])}, nil
	case graph.Imports:
		return solve.Probe{Result: &in[0]}, nil
	case graph.Tar:
		return solve.Probe{Ingredients: tarKey(in[0])}, nil
	case graph.File:
		return solve.Probe{Ingredients: fileKey(op, v, in)}, nil
	case graph.Exec:
		return b.execProbe(op, v, in)
	case graph.Context:
		return found(b.context(ctx, op))
	case graph.Download:
		return found(b.download(ctx, op, emit))
	case graph.Git:
		return found(b.git(ctx, op))
	case graph.Merge:
		return found(b.merge(ctx, in))
	case graph.Diff:
		return found(b.diff(in))
	case graph.Change:
		key, err := b.changeKey(op, in, nil)
		return solve.Probe{Ingredients: key, Volatile: v.Ignore, Content: b.changeContent(op, in, emit)}, err
	}
	return solve.Probe{}, fmt.Errorf("probe: unknown op %T", v.Op)
}

func found(r *cache.Result, err error) (solve.Probe, error) {
	return solve.Probe{Result: r}, err
}

// Run implements solve.Runner.
func (b *Builder) Run(ctx context.Context, v *graph.Vertex, in []cache.Result, emit solve.Sink) (cache.Result, error) {
	switch op := v.Op.(type) {
	case graph.Tar:
		return b.runTar(ctx, in[0])
	case graph.File:
		return b.runFile(ctx, op, v, in, emit)
	case graph.Exec:
		return b.runExec(ctx, op, v, in, emit)
	case graph.Change:
		return b.runChange(ctx, op, v, in, emit)
	}
	return cache.Result{}, fmt.Errorf("run: unknown op %T", v.Op)
}

// Complete implements solve.Runner. The layers below a step's own are those of
// this build's base: another image with the same content may have other blobs,
// and come from somewhere else.
func (b *Builder) Complete(v *graph.Vertex, in []cache.Result, kept cache.Result) cache.Result {
	if len(v.Inputs) == 0 {
		return kept
	}
	if _, ok := v.Op.(graph.Tar); ok {
		return kept // its input is the archive
	}
	if op, ok := v.Op.(graph.Exec); ok && op.Collect != "" {
		return kept // files, and no layers
	}
	below := in[0].Layers
	kept.Layers = append(slices.Clone(below), kept.Layers[min(len(below), len(kept.Layers)):]...)
	return kept
}

// Present implements solve.Runner: the trees or blobs of layers made here must exist;
// those of images can be had again.
func (b *Builder) Present(r cache.Result) bool {
	trees := cache.Trees(r.Layers)
	for i, l := range r.Layers {
		made := l.Blob == nil || l.Packed()
		if made && !b.State.HasTree(trees[i]) && (l.Blob == nil || !b.State.Blobs.Has(*l.Blob)) {
			return false
		}
	}
	return true
}

// DescribeLists implements solve.Runner.
func (b *Builder) DescribeLists(old, new []byte) []string {
	was, err := localtree.Unmarshal(old)
	if err != nil {
		return nil
	}
	is, err := localtree.Unmarshal(new)
	if err != nil {
		return nil
	}
	const most = 20
	var out []string
	changes := localtree.Diff(was, is)
	for i, c := range changes {
		if i == most {
			out = append(out, fmt.Sprintf("  and %d more", len(changes)-most))
			break
		}
		name := c.Path
		if name == "" {
			name = "." // the imported file or directory itself
		}
		out = append(out, "  "+name+": "+string(c.What))
	}
	return out
}

// image finds an image: a source, asked for in every build.
func (b *Builder) image(ctx context.Context, op graph.Image) (*cache.Result, error) {
	want := image.HostPlatform()
	if op.OS != "" || op.Arch != "" {
		p := want.OCI()
		if op.OS != "" {
			p.OS = op.OS
		}
		if op.Arch != "" && op.Arch != p.Architecture {
			p.Architecture, p.Variant = op.Arch, op.Variant
		}
		want = image.NewPlatform(p)
	}
	img, err := b.Images.Resolve(ctx, op.Reference, op.Insecure, want)
	if err != nil {
		return nil, err
	}
	r := &cache.Result{Image: &cache.SourceImage{Manifest: img.Manifest, Config: img.RawConfig, Annotations: img.Document.Annotations}}
	r.Layers, err = layersOf(op.Reference, img)
	return r, err
}

// layersOf gives the layers of an image that was found.
func layersOf(reference string, img source.Image) ([]cache.Layer, error) {
	var layers []cache.Layer
	for i, d := range img.Document.Layers {
		if _, ok := image.ParseLayerType(d.MediaType); !ok {
			return nil, fmt.Errorf("image %s: layer %d has the unknown media type %q", reference, i+1, d.MediaType)
		}
		layers = append(layers, cache.Layer{DiffID: img.Config.RootFS.DiffIDs[i], Blob: &d, Origin: img.Origin, Insecure: img.Insecure})
	}
	return layers, nil
}

// addClamp adds SOURCE_DATE_EPOCH to a key.
func addClamp(in *cache.Ingredients, t *time.Time) {
	if t != nil {
		in.Add("SOURCE_DATE_EPOCH", strconv.FormatInt(t.Unix(), 10))
	}
}

// unixTime gives seconds since 1970; nil stays nil.
func unixTime(t *time.Time) *int64 {
	if t == nil {
		return nil
	}
	n := t.Unix()
	return &n
}

// addEnv adds an environment, sorted: its order does not change a step.
func addEnv(in *cache.Ingredients, env []graph.KV) {
	sorted := append([]graph.KV(nil), env...)
	sort.Slice(sorted, func(i, j int) bool { return sorted[i].Key < sorted[j].Key })
	for _, kv := range sorted {
		in.Add("environment "+kv.Key, kv.Value)
	}
}
