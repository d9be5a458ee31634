// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	fstypes "github.com/tonistiigi/fsutil/types"

	stackerllb "build.stacker.dev/internal/frontend/llb"
	"build.stacker.dev/internal/graph"
)

// session names the one session of a build. It is always the same: without one,
// every local source would be named at random, and nothing would ever be reused.
const session = "stacker"

// frontendClient is what the converter takes for a BuildKit daemon.
type frontendClient struct {
	options Options

	mu       sync.Mutex
	warnings []Warning
	images   map[string]imageAnswer
	full     []string // names of docker.io that were written in full, as patterns
}

type imageAnswer struct {
	digest digest.Digest
	config []byte
}

var _ client.Client = (*frontendClient)(nil)

// BuildOpts implements client.Client. All capabilities of LLB must be there:
// without them --link would silently be no merge.
func (c *frontendClient) BuildOpts() client.BuildOpts {
	return client.BuildOpts{
		Opts: c.options.Attributes, SessionID: session,
		LLBCaps: pb.Caps.CapSet(pb.Caps.All()), Caps: gwpb.Caps.CapSet(gwpb.Caps.All()),
	}
}

// Inputs implements client.Client: there are none.
func (c *frontendClient) Inputs(context.Context) (map[string]llb.State, error) { return nil, nil }

// NewContainer implements client.Client.
func (c *frontendClient) NewContainer(context.Context, client.NewContainerRequest) (client.Container, error) {
	return nil, errors.New("the Dockerfile frontend starts no containers")
}

// Warn implements client.Client.
func (c *frontendClient) Warn(context.Context, digest.Digest, string, client.WarnOpts) error {
	return nil // warnings come through warn, with their rule
}

func (c *frontendClient) warn(rule, _, url, text string, at []parser.Range) {
	w := Warning{Rule: rule, Text: text, URL: url, Pos: graph.Pos{File: c.options.File}}
	if len(at) > 0 {
		w.Pos.Line, w.Pos.Column = at[0].Start.Line, at[0].Start.Character+1
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.warnings = append(c.warnings, w)
}

// Solve implements client.Client: for the few files that are read before there is
// a build.
func (c *frontendClient) Solve(ctx context.Context, r client.SolveRequest) (*client.Result, error) {
	if r.Frontend != "" || r.Definition == nil {
		return nil, fmt.Errorf("frontend %q: other frontends are programs, and are not run", r.Frontend)
	}
	v, err := stackerllb.Load(ctx, r.Definition, c.options.LLB)
	if err != nil {
		return nil, err
	}
	res := client.NewResult()
	res.SetRef(&reference{engine: c.options.Engine, vertex: v})
	return res, nil
}

// ResolveImageConfig implements client.Client.
func (c *frontendClient) ResolveImageConfig(ctx context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	return sourceresolver.NewImageMetaResolver(c).ResolveImageConfig(ctx, ref, opt)
}

// ResolveSourceMetadata implements client.Client.
func (c *frontendClient) ResolveSourceMetadata(ctx context.Context, op *pb.SourceOp, opt sourceresolver.Opt) (*sourceresolver.MetaResponse, error) {
	var p *pb.Platform
	if o := opt.ImageOpt; o != nil && o.Platform != nil {
		p = &pb.Platform{OS: o.Platform.OS, Architecture: o.Platform.Architecture, Variant: o.Platform.Variant}
	}
	if o := opt.OCILayoutOpt; o != nil && o.Platform != nil {
		p = &pb.Platform{OS: o.Platform.OS, Architecture: o.Platform.Architecture, Variant: o.Platform.Variant}
	}
	source := &pb.SourceOp{Identifier: c.asWritten(op.Identifier), Attrs: map[string]string{}}
	for k, v := range op.Attrs {
		source.Attrs[k] = v
	}
	from, err := stackerllb.Source(source, p, c.options.LLB)
	if err != nil {
		return nil, err
	}
	image, ok := from.(graph.Image)
	if !ok {
		return c.modified(ctx, op, from)
	}
	a, err := c.image(ctx, image)
	if err != nil {
		return nil, err
	}
	return &sourceresolver.MetaResponse{Op: op, Image: &sourceresolver.ResolveImageResponse{Digest: a.digest, Config: a.config}}, nil
}

// modified tells the time of a source. It is where the converter looks for that of
// every kind of source.
func (c *frontendClient) modified(ctx context.Context, op *pb.SourceOp, from graph.Op) (*sourceresolver.MetaResponse, error) {
	out := &sourceresolver.MetaResponse{Op: op}
	at, err := c.options.Engine.Modified(ctx, from)
	if err != nil {
		return nil, err
	}
	if !at.IsZero() {
		out.HTTP = &sourceresolver.ResolveHTTPResponse{LastModified: &at}
	}
	return out, nil
}

// image asks the engine once for each image.
func (c *frontendClient) image(ctx context.Context, op graph.Image) (imageAnswer, error) {
	key := fmt.Sprint(op)
	c.mu.Lock()
	a, ok := c.images[key]
	c.mu.Unlock()
	if ok {
		return a, nil
	}
	var err error
	if a.digest, a.config, err = c.options.Engine.Image(ctx, op); err != nil {
		return a, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.images == nil {
		c.images = map[string]imageAnswer{}
	}
	c.images[key] = a
	return a, nil
}

// reference is a result that files are read of.
type reference struct {
	engine Engine
	vertex *graph.Vertex
}

var _ client.Reference = (*reference)(nil)

// maxRead bounds what is read at once, in bytes: the largest Dockerfile.
const maxRead = 32 << 20

// ReadFile implements client.Reference.
func (r *reference) ReadFile(ctx context.Context, req client.ReadRequest) ([]byte, error) {
	data, err := r.engine.ReadFile(ctx, r.vertex, req.Filename, maxRead)
	if err != nil {
		return nil, err
	}
	if g := req.Range; g != nil {
		data = data[min(g.Offset, len(data)):]
		data = data[:min(g.Length, len(data))]
	}
	return data, nil
}

var errNotHere = errors.New("only files can be read here")

// StatFile implements client.Reference. Its callers read the file next, and leave
// what is wrong to that.
func (r *reference) StatFile(context.Context, client.StatRequest) (*fstypes.Stat, error) {
	return nil, errNotHere
}

// ReadDir implements client.Reference.
func (r *reference) ReadDir(context.Context, client.ReadDirRequest) ([]*fstypes.Stat, error) {
	return nil, errNotHere
}

// Evaluate implements client.Reference.
func (r *reference) Evaluate(context.Context) error { return nil }

// ToState implements client.Reference.
func (r *reference) ToState() (llb.State, error) { return llb.State{}, errNotHere }
