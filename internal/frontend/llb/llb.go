// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package llb turns an LLB definition, BuildKit's language for builds, into a
// graph, one vertex for each op.
//
// A definition comes from the Dockerfile frontend or from a file. The second is
// not trusted: ops are counted, every reference is checked, and what the engine
// cannot do is an error that names it. Nothing is executed or looked up here.
package llb

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/graph"
)

// Limits of a definition: ops in it, and bytes of it as a file.
const (
	maxOps        = 100_000
	MaxDefinition = 64 << 20
)

// Options are what a definition does not say.
type Options struct {
	Locals  map[string]string // directories by the name of a local source
	Layouts map[string]string // "oci:DIRECTORY:TAG" by the store of an oci-layout source
	// Rename gives the name under which an image is looked for; nil: its own.
	Rename func(string) string
	// AllowInsecure lets steps have all capabilities of their user namespace.
	AllowInsecure bool
	Clamp         *time.Time    // the latest time of files in layers; nil: any
	File          string        // build file, for messages
	Proxies       []graph.KV    // environment that cannot change results
	Limits        []graph.Limit // more limits for all steps
	// Read brings a vertex about and reads a file of it: the definition that a build op
	// names. Nil: build ops are refused.
	Read func(ctx context.Context, v *graph.Vertex, name string, limit int64) ([]byte, error)
}

// Parse reads a definition as a file has it.
func Parse(data []byte) (*pb.Definition, error) {
	if len(data) > MaxDefinition {
		return nil, fmt.Errorf("read LLB definition: it has more than %d bytes", MaxDefinition)
	}
	var d pb.Definition
	if err := d.UnmarshalVT(data); err != nil {
		return nil, fmt.Errorf("read LLB definition: %w", err)
	}
	return &d, nil
}

// Load gives the vertex that the definition's last op asks for. A definition
// without ops is the empty root file system.
func Load(ctx context.Context, def *pb.Definition, o Options) (*graph.Vertex, error) {
	return load(ctx, def, o, 0)
}

// maxNested bounds how deep build ops lie in each other.
const maxNested = 16

func load(ctx context.Context, def *pb.Definition, o Options, nested int) (*graph.Vertex, error) {
	if len(def.Def) == 0 {
		return scratch(), nil
	}
	if nested > maxNested {
		return nil, fmt.Errorf("LLB definition: build ops are nested deeper than %d", maxNested)
	}
	if len(def.Def) > maxOps {
		return nil, fmt.Errorf("LLB definition has %d ops, more than %d", len(def.Def), maxOps)
	}
	l := &loader{Options: o, ctx: ctx, nested: nested, def: def, ops: map[string]*pb.Op{}, done: map[string]*graph.Vertex{}}
	var last *pb.Op
	for _, raw := range def.Def {
		op := new(pb.Op)
		if err := op.UnmarshalVT(raw); err != nil {
			return nil, fmt.Errorf("read LLB op: %w", err)
		}
		l.ops[string(digest.FromBytes(raw))] = op
		last = op
	}
	if last.Op != nil || len(last.Inputs) != 1 {
		return nil, errors.New("LLB definition: its last op must only name its result")
	}
	return l.input(last.Inputs[0])
}

// nest gives the result of a build op: of the definition that lies in a file of one of
// its inputs (solver/llbsolver/ops/build.go).
func (l *loader) nest(op *pb.Op, b *pb.BuildOp) (*graph.Vertex, error) {
	if b.Builder != int64(pb.LLBBuilder) {
		return nil, errors.New("LLB build op: only LLB itself is built, no frontend")
	}
	from := b.Inputs[pb.LLBDefinitionInput]
	if from == nil || l.Read == nil {
		return nil, errors.New("LLB build op: there is no definition to build")
	}
	in, err := l.at(op, from.Input)
	if err != nil {
		return nil, err
	}
	name := pb.LLBDefaultDefinitionFile
	if n := b.Attrs[pb.AttrLLBDefinitionFilename]; n != "" {
		name = n
	}
	data, err := l.Read(l.ctx, in, name, MaxDefinition)
	if err != nil {
		return nil, fmt.Errorf("LLB build op: read its definition: %w", err)
	}
	def, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("LLB build op: %w", err)
	}
	return load(l.ctx, def, l.Options, l.nested+1)
}

func scratch() *graph.Vertex { return &graph.Vertex{Op: graph.Scratch{}, Name: "scratch"} }

type loader struct {
	Options
	ctx    context.Context //nolint:containedctx // of one call of Load
	nested int             // build ops around
	def    *pb.Definition
	ops    map[string]*pb.Op
	done   map[string]*graph.Vertex
	depth  int
}

// maxDepth bounds chains of ops.
const maxDepth = 20_000

// input gives the vertex of an edge.
func (l *loader) input(in *pb.Input) (*graph.Vertex, error) {
	if in.Index != 0 {
		return nil, fmt.Errorf("LLB op %s: only the first output of an op can be used here", in.Digest)
	}
	return l.vertex(in.Digest)
}

func (l *loader) vertex(id string) (*graph.Vertex, error) {
	if v, ok := l.done[id]; ok {
		if v == nil {
			return nil, fmt.Errorf("LLB op %s needs itself", id)
		}
		return v, nil
	}
	op := l.ops[id]
	if op == nil {
		return nil, fmt.Errorf("LLB definition: op %s is not in it", id)
	}
	if l.depth++; l.depth > maxDepth {
		return nil, fmt.Errorf("LLB definition: chains of ops are longer than %d", maxDepth)
	}
	defer func() { l.depth-- }()
	l.done[id] = nil
	if x, ok := op.Op.(*pb.Op_Build); ok {
		v, err := l.nest(op, x.Build)
		l.done[id] = v
		return v, err
	}
	v := &graph.Vertex{}
	l.describe(v, id)
	var err error
	switch x := op.Op.(type) {
	case *pb.Op_Source:
		err = l.source(v, x.Source, op.Platform)
	case *pb.Op_Exec:
		err = l.exec(v, op, x.Exec)
	case *pb.Op_File:
		err = l.file(v, op, x.File)
	case *pb.Op_Merge:
		err = l.merge(v, op, x.Merge)
	case *pb.Op_Diff:
		err = l.diff(v, op, x.Diff)
	default:
		err = fmt.Errorf("LLB op %T is not supported", op.Op)
	}
	if err != nil {
		if v.Pos.Line > 0 {
			return nil, &PosError{Pos: v.Pos, Err: err}
		}
		return nil, err
	}
	for _, in := range v.Inputs {
		adopt(in, v.Pos)
	}
	l.done[id] = v
	return v, nil
}

// adopt gives a download the place of the instruction that asks for it: frontends
// give it none.
func adopt(v *graph.Vertex, pos graph.Pos) {
	switch v.Op.(type) {
	case graph.Download, graph.Git, graph.Image:
		if v.Pos.Line == 0 {
			v.Pos = pos
		}
	}
}

// PosError is an error with its place in the build file.
type PosError struct {
	Pos graph.Pos
	Err error
}

// Error names the place.
func (e *PosError) Error() string { return e.Pos.String() + ": " + e.Err.Error() }

// Unwrap gives the cause.
func (e *PosError) Unwrap() error { return e.Err }

// at gives the input of that number; -1 is the empty root file system.
func (l *loader) at(op *pb.Op, n int64) (*graph.Vertex, error) {
	if n == -1 {
		return scratch(), nil
	}
	if n < 0 || n >= int64(len(op.Inputs)) {
		return nil, fmt.Errorf("LLB op: input %d of %d", n, len(op.Inputs))
	}
	return l.input(op.Inputs[n])
}

// describe fills in what people see: frontends name vertices
// "[stage 2/5] RUN make" or "[internal] load build context".
func (l *loader) describe(v *graph.Vertex, id string) {
	md := l.def.Metadata[id]
	if md != nil && md.IgnoreCache {
		v.Ignore = "the cache is not to be used"
	}
	v.Pos.File = l.File
	v.Name = "llb " + strings.TrimPrefix(id, "sha256:")[:min(12, len(strings.TrimPrefix(id, "sha256:")))]
	if md != nil && md.Description["llb.customname"] != "" {
		v.Stage, v.Step, v.Name = splitName(md.Description["llb.customname"])
	}
	if l.def.Source == nil {
		return
	}
	if loc := l.def.Source.Locations[id]; loc != nil && len(loc.Locations) > 0 && len(loc.Locations[0].Ranges) > 0 {
		at := loc.Locations[0]
		v.Pos.Line = int(at.Ranges[0].GetStart().GetLine())
		v.Pos.Column = int(at.Ranges[0].GetStart().GetCharacter()) + 1
		if n := int(at.SourceIndex); l.File == "" && n >= 0 && n < len(l.def.Source.Infos) {
			v.Pos.File = l.def.Source.Infos[n].Filename
		}
	}
}

// splitName parts "[stage 2/5] RUN make". The step keeps its place in the stage
// when its text changes.
func splitName(s string) (stage, step, name string) {
	head, rest, ok := strings.Cut(strings.TrimPrefix(s, "["), "] ")
	if !ok || !strings.HasPrefix(s, "[") || head == "internal" {
		return "", "", s
	}
	stage, number, ok := cutLast(head, " ")
	if !ok {
		return "", "", s
	}
	word, _, _ := strings.Cut(rest, " ")
	place, _, _ := strings.Cut(number, "/")
	return stage, place + " " + word, rest
}

func cutLast(s, sep string) (before, after string, ok bool) {
	i := strings.LastIndex(s, sep)
	if i < 0 {
		return "", s, strings.Contains(s, "/")
	}
	return s[:i], s[i+len(sep):], true
}

func (l *loader) merge(v *graph.Vertex, op *pb.Op, m *pb.MergeOp) error {
	v.Op = graph.Merge{}
	for _, in := range m.Inputs {
		i, err := l.at(op, in.Input)
		if err != nil {
			return err
		}
		v.Inputs = append(v.Inputs, i)
	}
	if len(v.Inputs) == 0 {
		return errors.New("LLB merge op without inputs")
	}
	return nil
}

func (l *loader) diff(v *graph.Vertex, op *pb.Op, d *pb.DiffOp) error {
	v.Op = graph.Diff{}
	for _, n := range []int64{d.GetLower().GetInput(), d.GetUpper().GetInput()} {
		i, err := l.at(op, n)
		if err != nil {
			return err
		}
		v.Inputs = append(v.Inputs, i)
	}
	return nil
}

// local gives the directory of a local source.
func (l *loader) local(name string) (string, error) {
	dir, ok := l.Locals[name]
	if !ok {
		return "", fmt.Errorf("there is no local directory %q: give it with --build-context %s=DIRECTORY", name, name)
	}
	return filepath.Abs(dir)
}
