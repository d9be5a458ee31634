// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"sort"
	"strconv"
	"strings"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source/localtree"
	"build.stacker.dev/internal/worker"
)

// changeKey is what the layer of a Change depends on: the layers below (they
// decide where links lead, who names mean, and what exists), the actions, and
// the files that copies take; of inputs in skip these are left out.
func (b *Builder) changeKey(op graph.Change, in []cache.Result, skip map[int]bool) (cache.Ingredients, error) {
	key := cache.Ingredients{{Name: "step", Value: "change"}}
	if b.SingleID != nil && b.SingleID() {
		key.Add("user ids", "one only")
	}
	key.Add("base", b.identity(in[0]))
	for i, a := range op.Actions {
		text, err := json.Marshal(a)
		if err != nil {
			return nil, fmt.Errorf("encode action: %w", err)
		}
		key.Add("action "+strconv.Itoa(i+1), string(text))
		if a.Copy == nil {
			continue
		}
		if skip[a.Copy.Input] {
			continue
		}
		if err := b.addCopied(&key, a.Copy, in[a.Copy.Input]); err != nil {
			return nil, err
		}
	}
	addClamp(&key, op.Clamp)
	return key, nil
}

// identity names what a result holds, wherever it came from.
func (b *Builder) identity(r cache.Result) string {
	if l := b.lists.get(r); l != nil {
		return "files:" + l.digest()
	}
	return r.Chain()
}

// addCopied adds what one copy takes. Of a local tree these are the files
// themselves: others of the build context may change.
func (b *Builder) addCopied(key *cache.Ingredients, c *action.Copy, from cache.Result) error {
	l := b.lists.get(from)
	if l == nil {
		key.Add("files of "+c.Src, from.Chain())
		return nil
	}
	chosen, err := l.choose(c)
	if err != nil {
		return l.explainMissing(c, err)
	}
	list, err := b.State.Cache.PutList(localtree.Marshal(chosen))
	if err != nil {
		return err
	}
	*key = append(*key, cache.Ingredient{Name: "files of " + c.Src, Value: list, List: list})
	return nil
}

// choose lists the files that a copy takes, sorted by path.
func (l *listing) choose(c *action.Copy) ([]localtree.Entry, error) {
	if part := l.below(c); part != nil {
		return part, nil
	}
	return l.matching(c)
}

// matching is choose by the rules of package fileop, for every copy.
func (l *listing) matching(c *action.Copy) ([]localtree.Entry, error) {
	byPath := map[string]bool{}
	err := fileop.Choose(l.tree(), c, func(p, _ string) error {
		byPath[p] = true
		return nil
	})
	if err != nil {
		return nil, err
	}
	if len(l.entries) == 1 && l.name != "" {
		e := l.entries[0]
		return []localtree.Entry{e}, nil
	}
	out := make([]localtree.Entry, 0, len(byPath))
	for _, e := range l.entries {
		p := e.Path
		if p == "" {
			p = "."
		}
		if byPath[p] {
			out = append(out, e)
		}
	}
	sort.Slice(out, func(i, j int) bool { return out[i].Path < out[j].Path })
	return out, nil
}

// below lists what a copy of one path takes, which are neighbours in the list. It
// is nil where a link, a pattern or a missing file wants a closer look.
func (l *listing) below(c *action.Copy) []localtree.Entry {
	patterns := len(c.Include) > 0 || len(c.Exclude) > 0 || c.Wildcard && strings.ContainsAny(c.Src, `*?[\`)
	if patterns || l.name != "" {
		return nil
	}
	top := rootfs.Clean(c.Src)
	if top == "." {
		return l.entries
	}
	for i := range len(top) + 1 {
		if i < len(top) && top[i] != '/' {
			continue
		}
		at, found := l.find(top[:i])
		if !found || l.entries[at].IsSymlink() {
			return nil
		}
	}
	at, _ := l.find(top)
	out := l.entries[at : at+1 : at+1]
	first, _ := l.find(top + "/")
	end, _ := l.find(top + "0") // "0" follows "/"
	return append(out, l.entries[first:end]...)
}

// find is where a path is in the list, or would be.
func (l *listing) find(p string) (int, bool) {
	return slices.BinarySearchFunc(l.entries, p, func(e localtree.Entry, p string) int { return strings.Compare(e.Path, p) })
}

func (b *Builder) runChange(ctx context.Context, op graph.Change, v *graph.Vertex, in []cache.Result, emit solve.Sink) (cache.Result, error) {
	base, err := b.layered(ctx, in[0])
	if err != nil {
		return cache.Result{}, err
	}
	if b.unread(v) {
		if r, ok, err := b.draft(ctx, op, in, base, emit); ok || err != nil {
			return r, err
		}
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return cache.Result{}, err
	}
	r := worker.ChangeRequest{Chain: base.Chain(), Actions: op.Actions, Clamp: unixTime(op.Clamp)}
	if r.Lower, err = b.trees(ctx, base.Layers, emit); err != nil {
		return cache.Result{}, err
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	for n := range copied(op.Actions) {
		input, err := b.input(ctx, n, in[n], &files, emit)
		if err != nil {
			return cache.Result{}, err
		}
		r.Inputs = append(r.Inputs, input)
	}
	reply, err := w.Change(ctx, r, files)
	if err != nil {
		return cache.Result{}, err
	}
	return b.withLayer(base, reply.ApplyReply, cache.Layer{Clamp: r.Clamp}), nil
}

func closeAll(files []*os.File) {
	for _, f := range files {
		_ = f.Close()
	}
}

// copied gives the inputs that actions copy from.
func copied(actions []action.Action) map[int]bool {
	out := map[int]bool{}
	for _, a := range actions {
		if a.Copy != nil {
			out[a.Copy.Input] = true
		}
	}
	return out
}

// layered gives a result as a root file system. Files from outside become its
// one layer.
func (b *Builder) layered(ctx context.Context, r cache.Result) (cache.Result, error) {
	if b.lists.get(r) == nil {
		return r, nil
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return r, err
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	input, err := b.input(ctx, 1, r, &files, nil)
	if err != nil {
		return r, err
	}
	reply, err := w.Change(ctx, worker.ChangeRequest{Actions: everything, Inputs: []worker.ChangeInput{input}}, files)
	if err != nil {
		return r, err
	}
	return b.withLayer(cache.Result{}, reply.ApplyReply, cache.Layer{}), nil
}

// everything copies all of input 1.
var everything = []action.Action{{Copy: &action.Copy{Input: 1, Src: "/", Dest: "/", ContentsOnly: true}}}

// filesTree keeps files from outside as a tree for a step to see.
func (b *Builder) filesTree(ctx context.Context, r cache.Result) (string, error) {
	key := cache.Ingredients{{Name: "files", Value: b.identity(r)}}
	tree := snapshot.FilesTree(string(key.Key()))
	if b.State.HasTree(tree) {
		return tree, nil
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return "", err
	}
	var files []*os.File
	defer func() { closeAll(files) }()
	input, err := b.input(ctx, 1, r, &files, nil)
	if err != nil {
		return "", err
	}
	_, err = w.Change(ctx, worker.ChangeRequest{Actions: everything, Inputs: []worker.ChangeInput{input}, Tree: tree}, files)
	return tree, err
}

// merge stacks the layers of all inputs.
func (b *Builder) merge(ctx context.Context, in []cache.Result) (*cache.Result, error) {
	out := cache.Result{}
	for _, r := range in {
		r, err := b.layered(ctx, r)
		if err != nil {
			return nil, err
		}
		for i, l := range r.Layers {
			if l.Blob == nil {
				l.Tree = cache.Tree(r.Layers, i)
			}
			out.Layers = append(out.Layers, l)
		}
		if out.Image == nil {
			out.Image = r.Image
		}
	}
	return &out, nil
}

// diff takes the layers of the lower input away from those of the upper one.
func (b *Builder) diff(in []cache.Result) (*cache.Result, error) {
	lower, upper := in[0].Layers, in[1].Layers
	for i, l := range lower {
		if i >= len(upper) || upper[i].DiffID != l.DiffID {
			return nil, fmt.Errorf("diff: the upper root file system is not built on top of the lower one: this is not supported")
		}
	}
	out := cache.Result{}
	for i := len(lower); i < len(upper); i++ {
		l := upper[i]
		if l.Blob == nil {
			l.Tree = cache.Tree(upper, i)
		}
		out.Layers = append(out.Layers, l)
	}
	return &out, nil
}

// readSmall reads a file of a root file system.
func (b *Builder) readSmall(ctx context.Context, r cache.Result, name string, limit int64) (out []byte, err error) {
	err = b.readPick(ctx, &cache.Pick{Layers: r.Layers, Path: name}, func(e entry) error {
		out, err = readLimited(e.body, name, limit)
		return err
	})
	return out, err
}

func readLimited(r io.Reader, name string, limit int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: it has more than %d bytes", name, limit)
	}
	return data, nil
}

// Layered gives a result as a root file system, whatever it is.
func (b *Builder) Layered(ctx context.Context, r cache.Result) (cache.Result, error) {
	return b.layered(ctx, r)
}
