// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package dockerfile turns a Dockerfile into graphs, by BuildKit's own converter:
// what an instruction means, its checks and its positions are those of docker.
//
// The converter asks for the documents of base images and for a few small files
// (the Dockerfile, .dockerignore, of a remote context all of that); an Engine
// answers. Everything else is data: an LLB definition, which package llb turns
// into vertices, and an image's config. The package runs nothing. "# syntax="
// lines that name docker's own frontend are honoured by this one; others are
// refused, since a frontend is a program to download and run.
package dockerfile

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"time"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/patternmatcher"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/frontend/llb"
	"build.stacker.dev/internal/graph"
)

// Engine answers what the converter asks while it reads a Dockerfile.
type Engine interface {
	// Image finds an image: its manifest and its config document. A name that was
	// written without a registry has none.
	Image(ctx context.Context, op graph.Image) (manifest digest.Digest, config []byte, err error)
	// ReadFile brings a vertex about and reads a small file of its result. The
	// error wraps fs.ErrNotExist where there is none.
	ReadFile(ctx context.Context, v *graph.Vertex, name string, limit int64) ([]byte, error)
	// Modified gives the time of a commit, or of a download as its server tells it;
	// zero: it is not known.
	Modified(ctx context.Context, op graph.Op) (time.Time, error)
}

// Options say what to build.
type Options struct {
	// Attributes are those of BuildKit's Dockerfile frontend: "target",
	// "build-arg:NAME", "context:NAME", "platform" and so on.
	Attributes map[string]string
	// LLB says what local names and layouts mean. "context" and "dockerfile" are
	// the directories of the build context and of the Dockerfile.
	LLB    llb.Options
	Engine Engine
	// Given are the names of build arguments that somebody asked for by name.
	Given []string
	// File is the Dockerfile as people call it.
	File string
}

// Warning is what a check says about a Dockerfile.
type Warning struct {
	Rule, Text, URL string
	Pos             graph.Pos
}

// Image is one platform of a result.
type Image struct {
	Platform ocispec.Platform
	Vertex   *graph.Vertex
	Config   []byte     // the config document, but for the layers and the times
	Base     []byte     // of the image below; nil: scratch
	Epoch    *time.Time // SOURCE_DATE_EPOCH
}

// Result is what a Dockerfile asks for.
type Result struct {
	Images   []Image // one for each platform
	Warnings []Warning
	Unused   string // build arguments that were asked for and that nothing takes, for people; may be empty
	Multi    bool   // more than one platform was asked for
	Data     []byte // the Dockerfile
}

// source is a Dockerfile that was read.
type source struct {
	o      Options
	client *frontendClient
	ui     *dockerui.Client
	src    *dockerui.Source
}

func read(ctx context.Context, o Options) (*source, error) {
	o.Attributes = maps.Clone(o.Attributes)
	if o.Attributes == nil {
		o.Attributes = map[string]string{}
	}
	c := &frontendClient{options: o}
	ui, err := dockerui.NewClient(c)
	if err != nil {
		return nil, c.explain(err, nil)
	}
	src, err := ui.ReadEntrypoint(ctx, "Dockerfile")
	if err != nil {
		return nil, c.explain(err, nil)
	}
	if err := checkSyntax(o, src.Data); err != nil {
		return nil, c.explain(err, src.Data)
	}
	c.full = fullNames(src.Data, o.Attributes)
	return &source{o: o, client: c, ui: ui, src: src}, nil
}

// checkSyntax refuses a frontend that is not this one.
func checkSyntax(o Options, data []byte) error {
	const only = "only docker/dockerfile is built in; other frontends are programs, and are not run"
	if arg := strings.Fields(o.Attributes["build-arg:BUILDKIT_SYNTAX"]); len(arg) > 0 {
		if builtIn(arg[0]) {
			return nil
		}
		return fmt.Errorf("BUILDKIT_SYNTAX=%s: %s", arg[0], only)
	}
	ref, _, loc, ok := parser.DetectSyntax(data)
	if !ok || builtIn(ref) {
		return nil
	}
	pos := graph.Pos{File: o.File}
	if len(loc) > 0 {
		pos.Line, pos.Column = loc[0].Start.Line, 1
	}
	return &llb.PosError{Pos: pos, Err: fmt.Errorf("# syntax=%s: %s", ref, only)}
}

// builtIn tells whether a frontend's image is docker's Dockerfile frontend.
func builtIn(ref string) bool {
	ref, _, _ = strings.Cut(ref, "@")
	if i := strings.LastIndexByte(ref, ':'); i > strings.LastIndexByte(ref, '/') {
		ref = ref[:i]
	}
	ref = strings.TrimPrefix(ref, "docker.io/")
	ref = strings.TrimPrefix(ref, "index.docker.io/")
	return ref == "docker/dockerfile" || ref == "docker/dockerfile-upstream"
}

func (s *source) convertOptions() dockerfile2llb.ConvertOpt {
	return dockerfile2llb.ConvertOpt{
		Config: s.ui.Config, Client: s.ui, SourceMap: s.src.SourceMap, MetaResolver: s.client, Warn: s.client.warn,
	}
}

// Load reads a Dockerfile and gives what it builds. After an error the result, which
// may be nil, has the warnings.
func Load(ctx context.Context, o Options) (*Result, error) {
	s, err := read(ctx, o)
	if err != nil {
		return nil, err
	}
	if err := s.ignored(ctx); err != nil {
		return nil, err
	}
	out := &Result{Multi: s.ui.MultiPlatformRequested, Data: s.src.Data}
	targets := []*ocispec.Platform{nil}
	if len(s.ui.TargetPlatforms) > 0 {
		targets = nil
		for i := range s.ui.TargetPlatforms {
			targets = append(targets, &s.ui.TargetPlatforms[i])
		}
	}
	for i, p := range targets {
		img, err := s.image(ctx, p, i == 0)
		if err != nil {
			return &Result{Warnings: s.client.warnings}, s.explain(err)
		}
		out.Images = append(out.Images, img)
	}
	out.Warnings = s.client.warnings
	out.Unused = s.unused()
	return out, nil
}

func (s *source) image(ctx context.Context, p *ocispec.Platform, warn bool) (Image, error) {
	opt := s.convertOptions()
	opt.BuildArgs = maps.Clone(opt.BuildArgs)
	opt.TargetPlatform = p
	if !warn {
		opt.Warn = nil
	}
	r, err := dockerfile2llb.Dockerfile2LLB(ctx, s.src.Data, opt)
	if err != nil {
		return Image{}, err
	}
	def, err := r.State.Marshal(ctx)
	if err != nil {
		return Image{}, fmt.Errorf("encode build: %w", err)
	}
	out := Image{Platform: r.Image.Platform, Epoch: r.Epoch}
	if p != nil {
		out.Platform = *p
	} else if out.Platform.OS == "" {
		out.Platform = platforms.DefaultSpec()
	}
	o := s.o.LLB
	o.File = s.o.File
	if r.Epoch == nil {
		o.Clamp = nil
	} else if o.Clamp != nil {
		o.Clamp = r.Epoch
	}
	if out.Vertex, err = llb.Load(ctx, def.ToPB(), o); err != nil {
		return out, err
	}
	if out.Config, err = json.Marshal(r.Image); err != nil {
		return out, fmt.Errorf("encode image config: %w", err)
	}
	if r.BaseImage != nil {
		if out.Base, err = json.Marshal(r.BaseImage); err != nil {
			return out, fmt.Errorf("encode image config: %w", err)
		}
	}
	return out, nil
}

// Call answers a question about a Dockerfile in place of building it: "check",
// "outline" or "targets". The answer is text, or JSON; failed tells that a check
// found something.
func Call(ctx context.Context, o Options, question string, asJSON bool) (answer []byte, failed bool, err error) {
	s, err := read(ctx, o)
	if err != nil {
		return nil, false, err
	}
	if err := s.ignored(ctx); err != nil {
		return nil, false, err
	}
	answer, failed, err = s.call(ctx, question, asJSON)
	return answer, failed, s.explain(err)
}

func (s *source) explain(err error) error { return s.client.explain(err, s.src.Data) }

// ignored checks the patterns of .dockerignore, of which the converter says only that
// one of them is wrong.
func (s *source) ignored(ctx context.Context) error {
	patterns, err := s.ui.DockerIgnorePatterns(ctx)
	if err != nil {
		return s.explain(err)
	}
	for _, p := range patterns {
		if _, err := patternmatcher.New([]string{p}); err != nil {
			return &Mistake{
				Text: fmt.Sprintf("%q in .dockerignore is no pattern", p), Err: err,
				Hint: `a [ begins a set of characters, which ] ends; \[ is the character`,
			}
		}
	}
	return nil
}
