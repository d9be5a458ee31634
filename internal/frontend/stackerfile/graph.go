// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"net/url"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"build.stacker.dev/internal/graph"
)

// Where a step sees its imports and this program.
const (
	importsAt       = "/stacker/imports"
	toolsAt         = "/stacker/bin"
	legacyImportsAt = "/stacker"
	legacyToolsAt   = "/.stacker/bin"
	labelsAt        = "/stacker/oci-labels"
	legacyLabelsAt  = "/.stacker/oci-labels"
)

// defaultPath is a step's PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// GraphOptions are what the graph needs beside the files.
type GraphOptions struct {
	Cwd         string     // base and tar URLs are relative to it
	Environ     []string   // the caller's environment, for build_env_passthrough
	SourceEpoch *time.Time // SOURCE_DATE_EPOCH
	ImportsDir  string     // where people find the imports: ImportsDir/STAGE/FILE
	Network     graph.Network
	Privileged  bool
	Namespace   string // prefix of the annotations set here
	NoYAML      bool   // leave the build file out of the annotations
	Version     string // of this program
	GitVersion  func(dir string) string
	// Dockerfile reads the Dockerfile that is the base of a stage. nil: there is
	// nobody who could.
	Dockerfile func(s *Stage) (graph.Vertex, []byte, error)
}

// Graph turns the project's stages into a graph, one target per stage.
func (p *Project) Graph(o GraphOptions) (*graph.Build, error) {
	stages, err := p.Order()
	if err != nil {
		return nil, err
	}
	g := &grapher{o: o, targets: map[string]*graph.Target{}, git: map[string]string{}}
	for _, s := range stages {
		t, err := g.stage(s)
		if err != nil {
			return nil, err
		}
		g.targets[s.Name] = t
		g.build.Targets = append(g.build.Targets, t)
	}
	return &g.build, nil
}

type grapher struct {
	o       GraphOptions
	build   graph.Build
	targets map[string]*graph.Target
	git     map[string]string // version of a directory's repository
}

func (p Pos) graph() graph.Pos { return graph.Pos{File: p.File, Line: p.Line, Column: p.Column} }

func (g *grapher) stage(s *Stage) (*graph.Target, error) {
	t := &graph.Target{Name: s.Name, Pos: s.Pos.graph(), BuildOnly: s.BuildOnly, Document: s.File.Raw}
	v, err := g.from(s, t)
	if err != nil {
		return nil, err
	}
	var step, image []Import // seen by the step only, and put into the image
	for _, i := range s.Imports {
		if i.Dest == "" {
			step = append(step, i)
		} else {
			image = append(image, i)
		}
	}
	for _, i := range image {
		v = g.file(s, v, i)
	}
	for _, d := range s.OverlayDirs {
		v = g.overlayDir(s, v, d)
	}
	switch {
	case s.Run != nil:
		v = g.run(s, v, step)
	case len(step) > 0:
		v = g.imports(s, v, step)
	}
	t.Vertex = v
	if s.GenerateLabels != nil {
		t.Labels = g.generateLabels(s, v, step)
	}
	t.Config = g.config(s)
	return t, nil
}

// from is the vertex that the stage starts with.
func (g *grapher) from(s *Stage, t *graph.Target) (*graph.Vertex, error) {
	vertex := func(op graph.Op, name string, in ...*graph.Vertex) *graph.Vertex {
		return &graph.Vertex{Op: op, Inputs: in, Stage: s.Name, Name: name, Pos: s.From.Pos.graph()}
	}
	switch s.From.Type {
	case "scratch":
		return vertex(graph.Scratch{}, "base scratch"), nil
	case "built":
		parent := g.targets[s.From.Tag]
		t.Parent = parent
		return parent.Vertex, nil
	case "dockerfile":
		parent, err := g.dockerfile(s)
		if err != nil {
			return nil, err
		}
		t.Parent = parent
		return parent.Vertex, nil
	case "docker", "oci":
		op := graph.Image{Reference: g.reference(s.From), Insecure: s.From.Insecure, OS: s.OS, Arch: s.Arch}
		t.Base = vertex(op, "base "+s.From.URL)
		return t.Base, nil
	case "tar":
		i := Import{Pos: s.From.Pos, Path: s.From.URL, Kind: kindOf(s.From.URL), Abs: s.From.URL}
		if i.Kind == Local && !filepath.IsAbs(i.Abs) {
			i.Abs = filepath.Join(g.o.Cwd, i.Abs)
		}
		return vertex(graph.Tar{}, "base "+s.From.URL, g.source(s, i)), nil
	}
	return nil, &Error{Pos: s.From.Pos, Msg: "unknown layer type: " + s.From.Type, Hint: "types are " + strings.Join(fromTypes, ", ")}
}

// dockerfile is the stage of a Dockerfile that s starts from. It becomes no image.
func (g *grapher) dockerfile(s *Stage) (*graph.Target, error) {
	if g.o.Dockerfile == nil {
		return nil, &Error{Pos: s.From.Pos, Msg: "a Dockerfile cannot be the base here"}
	}
	v, config, err := g.o.Dockerfile(s)
	if err != nil {
		return nil, &Error{
			Pos: s.From.refPos, Msg: "read the Dockerfile of stage " + s.Name + ": " + err.Error(), Err: err,
			Quote: newDocument(s.File.Name, s.File.Raw).line(s.From.refPos.Line),
		}
	}
	return &graph.Target{
		Name: s.Name + " (Dockerfile)", Pos: s.From.Pos.graph(), Vertex: &v, BuildOnly: true, Image: config,
		Config: graph.Config{SourceEpoch: g.o.SourceEpoch},
	}, nil
}

// reference is a base image's reference as package source knows it: docker://…
// or oci:DIRECTORY:TAG with an absolute directory. The type oci has DIRECTORY:TAG
// alone, the type docker takes either whole form.
func (g *grapher) reference(f From) string {
	const layout = "oci:"
	rest := f.URL
	if f.Type != "oci" {
		var ok bool
		if rest, ok = strings.CutPrefix(f.URL, layout); !ok {
			return f.URL
		}
	}
	if !filepath.IsAbs(rest) {
		rest = filepath.Join(g.o.Cwd, rest)
	}
	return layout + rest
}

// kindOf tells what a path of an import or a tar base is.
func kindOf(p string) ImportKind {
	switch {
	case strings.HasPrefix(p, "http://"), strings.HasPrefix(p, "https://"):
		return HTTP
	case strings.HasPrefix(p, "stacker://"):
		return FromStage
	}
	return Local
}

// source is the vertex of a file from outside the stage.
func (g *grapher) source(s *Stage, i Import) *graph.Vertex {
	v := &graph.Vertex{Stage: s.Name, Name: "import " + i.Path, Pos: i.Pos.graph()}
	hash := strings.ToLower(i.Hash)
	switch i.Kind {
	case HTTP:
		v.Op = graph.HTTP{URL: i.Path, Hash: hash}
	case FromStage:
		stage, inside := splitStage(i.Path)
		v.Op = graph.Pick{Path: inside, Hash: hash}
		v.Inputs = []*graph.Vertex{g.targets[stage].Vertex}
	case Local:
		v.Op = graph.Local{Path: filepath.Clean(i.Abs), Hash: hash}
	}
	return v
}

// splitStage takes stacker://STAGE/PATH apart.
func splitStage(p string) (stage, inside string) {
	stage, inside, _ = strings.Cut(strings.TrimPrefix(p, "stacker://"), "/")
	return stage, "/" + inside
}

// copyOf says where an import goes: under its own name where the destination
// ends in a slash, as the destination itself else; a source that ends in a
// slash brings its contents only.
func copyOf(i Import, input int) graph.Copy {
	c := graph.Copy{Input: input, Name: baseName(i), Contents: strings.HasSuffix(i.Path, "/"), Mode: i.Mode, UID: i.UID, GID: i.GID}
	dest := i.Dest
	if dest == "" {
		dest = "/"
	}
	c.Dest = path.Clean(dest)
	c.IntoDir = strings.HasSuffix(dest, "/") && !c.Contents
	return c
}

func baseName(i Import) string {
	if i.Kind == HTTP {
		if u, err := url.Parse(i.Path); err == nil {
			return path.Base(u.Path)
		}
	}
	return path.Base(path.Clean(i.Path))
}

// file is a layer of one import with a dest.
func (g *grapher) file(s *Stage, below *graph.Vertex, i Import) *graph.Vertex {
	return &graph.Vertex{
		Op:     graph.File{Copies: []graph.Copy{copyOf(i, 1)}, Clamp: g.o.SourceEpoch, History: "stacker overlay dir for " + s.Name},
		Inputs: []*graph.Vertex{below, g.source(s, i)},
		Stage:  s.Name, Name: "import " + i.Path + " to " + i.Dest, Step: "import " + i.Path, Pos: i.Pos.graph(),
	}
}

// imports checks those of a stage without a run.
func (g *grapher) imports(s *Stage, below *graph.Vertex, imports []Import) *graph.Vertex {
	op := graph.Imports{CopiesAt: g.importsDir(s)}
	inputs := []*graph.Vertex{below}
	for _, i := range imports {
		op.Copies = append(op.Copies, copyOf(i, len(inputs)))
		inputs = append(inputs, g.source(s, i))
	}
	return &graph.Vertex{Op: op, Inputs: inputs, Stage: s.Name, Name: "imports", Pos: s.Pos.graph()}
}

func (g *grapher) importsDir(s *Stage) string {
	if g.o.ImportsDir == "" {
		return ""
	}
	return filepath.Join(g.o.ImportsDir, s.Name)
}

// overlayDir is a layer of the contents of a local directory.
func (g *grapher) overlayDir(s *Stage, below *graph.Vertex, d OverlayDir) *graph.Vertex {
	i := Import{Pos: d.Pos, Path: d.Source + "/", Abs: d.Abs, Kind: Local, Dest: d.Dest}
	v := g.file(s, below, i)
	v.Name = "overlay_dir " + d.Source
	v.Inputs[1].Op = graph.Local{Path: filepath.Clean(d.Abs), Dir: true}
	return v
}

// run is the layer that the stage's script makes.
func (g *grapher) run(s *Stage, below *graph.Vertex, imports []Import) *graph.Vertex {
	v := g.script(s, s.Run, "run", below, imports)
	op := v.Op.(graph.Exec)
	op.History = "stacker build of " + s.Name
	if len(imports) > 0 {
		op.ImportsCopy = g.importsDir(s)
	}
	v.Op = op
	return v
}

// generateLabels runs a script in a copy of the finished stage. The files that it
// puts into labelsAt become labels; nothing else of it is kept.
func (g *grapher) generateLabels(s *Stage, below *graph.Vertex, imports []Import) *graph.Vertex {
	v := g.script(s, s.GenerateLabels, "generate_labels", below, imports)
	op := v.Op.(graph.Exec)
	op.Collect = labelsAt
	if s.LegacyImport {
		op.Collect = legacyLabelsAt
	}
	v.Op = op
	return v
}

// script is a step that runs one of the stage's scripts.
func (g *grapher) script(s *Stage, script *Run, name string, below *graph.Vertex, imports []Import) *graph.Vertex {
	op := graph.Exec{
		Script: script.Script, Dir: "/", ImportsAt: importsAt, ToolsAt: toolsAt,
		Network: g.o.Network, Privileged: g.o.Privileged, Clamp: g.o.SourceEpoch,
	}
	if s.LegacyImport {
		op.ImportsAt, op.ToolsAt = legacyImportsAt, legacyToolsAt
	}
	op.Env, op.Ambient = g.environment(s)
	inputs := []*graph.Vertex{below}
	for _, i := range imports {
		op.Imports = append(op.Imports, copyOf(i, len(inputs)))
		inputs = append(inputs, g.source(s, i))
	}
	for _, b := range s.Binds {
		op.Binds = append(op.Binds, graph.Bind{Source: b.Source, Target: b.Dest, Pos: b.Pos.graph()})
	}
	return &graph.Vertex{Op: op, Inputs: inputs, Stage: s.Name, Name: name, Pos: script.Pos.graph()}
}

// proxies and TERM reach a step, but say nothing about its result.
var ambient = regexp.MustCompile(`^((http|https|ftp|no|HTTP|HTTPS|FTP|NO)_(proxy|PROXY)|TERM)$`)

// environment is what a step's processes get: never the caller's own but what
// is let through by name.
func (g *grapher) environment(s *Stage) (env, without []graph.KV) {
	env = []graph.KV{{Key: "PATH", Value: defaultPath}, {Key: "container", Value: "lxc"}, {Key: "STACKER_LAYER_NAME", Value: s.Name}}
	for _, e := range g.o.Environ {
		k, v, ok := strings.Cut(e, "=")
		switch {
		case !ok || !passes(s, k):
		case ambient.MatchString(k):
			without = append(without, graph.KV{Key: k, Value: v})
		default:
			env = setKV(env, k, v)
		}
	}
	for _, kv := range s.BuildEnv {
		if kv.Value != "" {
			env = setKV(env, kv.Key, kv.Value)
			without = dropKV(without, kv.Key)
		}
	}
	return env, without
}

func passes(s *Stage, name string) bool {
	if s.BuildEnvPassthrough == nil {
		return name == "SOURCE_DATE_EPOCH" || ambient.MatchString(name)
	}
	for _, re := range s.BuildEnvPassthrough.Patterns {
		if re.MatchString(name) {
			return true
		}
	}
	return false
}

func setKV(list []graph.KV, k, v string) []graph.KV {
	for i := range list {
		if list[i].Key == k {
			list[i].Value = v
			return list
		}
	}
	return append(list, graph.KV{Key: k, Value: v})
}

func dropKV(list []graph.KV, k string) []graph.KV {
	var out []graph.KV
	for _, kv := range list {
		if kv.Key != k {
			out = append(out, kv)
		}
	}
	return out
}

// config is what the stage says about its image.
func (g *grapher) config(s *Stage) graph.Config {
	c := graph.Config{
		Env: kvs(s.Environment), Labels: kvs(s.Labels), Volumes: s.Volumes,
		WorkingDir: s.WorkingDir, User: s.RuntimeUser, OS: s.OS, Arch: s.Arch,
		SourceEpoch: g.o.SourceEpoch, CreatedBy: "stacker build", LayerHistory: "stacker build of " + s.Name,
	}
	if s.Cmd != nil {
		c.Cmd = &s.Cmd.Args
	}
	if s.Entrypoint != nil {
		c.Entrypoint = &s.Entrypoint.Args
	}
	if s.FullCommand != nil {
		c.Entrypoint, c.Cmd = &s.FullCommand.Args, &[]string{}
	}
	if s.Bom != nil && s.Bom.Generate && !s.BuildOnly {
		c.Bom = &graph.Bom{Namespace: s.Bom.Namespace}
		for _, p := range s.Bom.Packages {
			c.Bom.Packages = append(c.Bom.Packages, graph.BomPackage{Name: p.Name, Version: p.Version, License: p.License, Paths: p.Paths})
		}
	}
	c.Annotations = append(g.annotations(s), kvs(s.Annotations)...)
	return c
}

// annotations tell which program made the image of which file.
func (g *grapher) annotations(s *Stage) []graph.KV {
	out := []graph.KV{{Key: g.o.Namespace + ".stacker.stacker_version", Value: g.o.Version}}
	if !g.o.NoYAML {
		// As written: substituted values may be secrets.
		out = append(out, graph.KV{Key: g.o.Namespace + ".stacker.stacker_yaml", Value: string(s.File.Raw)})
	}
	if _, known := g.git[s.File.Dir]; !known && g.o.GitVersion != nil {
		g.git[s.File.Dir] = g.o.GitVersion(s.File.Dir)
	}
	if v := g.git[s.File.Dir]; v != "" {
		out = append(out, graph.KV{Key: g.o.Namespace + ".stacker.git_version", Value: v})
	}
	return out
}

func kvs(in []KV) []graph.KV {
	var out []graph.KV
	for _, kv := range in {
		out = append(out, graph.KV{Key: kv.Key, Value: kv.Value})
	}
	return out
}
