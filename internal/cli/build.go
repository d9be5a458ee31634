// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/cache/shared"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
)

// fileOptions choose the build file and what is put into it.
type fileOptions struct {
	file           string
	files          []string // found ones, in place of file
	substitute     []string
	substituteFile string
	requireHash    bool
	allowMissing   bool // placeholders need no value
}

func (o *fileOptions) flags(f *pflag.FlagSet) {
	f.StringVarP(&o.file, "stacker-file", "f", "stacker.yaml", "build file")
	o.substituteFlags(f)
}

func (o *fileOptions) substituteFlags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.substitute, "substitute", nil, "KEY=VALUE for ${{KEY}} in the build file (may be repeated)")
	f.StringVar(&o.substituteFile, "substitute-file", "", "YAML file of KEY: VALUE for the build file")
}

type buildOptions struct {
	fileOptions
	noCache      bool
	shellFail    bool
	onRunFailure string
	targets      []string
	explain      bool
	orderOnly    bool
	namespace    string
	noYAML       bool
	privileged   bool
	network      string
	layers       layerOptions
	output       outputOptions
	cache        cacheOptions
	offline      bool
}

func (a *app) buildCommand() *cobra.Command {
	var o buildOptions
	var d dockerOptions
	var dockerFlags []string
	cmd := &cobra.Command{
		Use:   "build [flags] [PATH|-|URL]",
		Short: "build the images of a stacker.yaml, or of a Dockerfile",
		Long: "build without PATH builds the images of stacker.yaml and puts them into an OCI layout.\n" +
			"build PATH builds the Dockerfile of a directory, of an archive on the standard input (-),\n" +
			"or of a URL; and so does build where there is a Dockerfile and no stacker.yaml.",
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			given := cmd.Flags().Changed("stacker-file")
			docker := dockerKind(o.file, given, args, d.llb)
			if err := refuseOthers(cmd.Flags(), docker, dockerFlags); err != nil {
				return err
			}
			if !docker {
				return a.build(cmd.Context(), o)
			}
			if !given {
				o.file = ""
			}
			return a.dockerBuild(cmd.Context(), o, d, args)
		},
	}
	o.fileOptions.flags(cmd.Flags())
	o.flags(cmd.Flags())
	o.output.flags(cmd.Flags())
	shared := map[string]bool{}
	cmd.Flags().VisitAll(func(f *pflag.Flag) { shared[f.Name] = true })
	d.flags(cmd.Flags())
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !shared[f.Name] {
			dockerFlags = append(dockerFlags, f.Name)
		}
	})
	cmd.Flags().SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "file" { // as docker calls it
			name = "stacker-file"
		}
		return pflag.NormalizedName(name)
	})
	return cmd
}

// flags are those of every command that builds.
func (o *buildOptions) flags(f *pflag.FlagSet) {
	f.BoolVar(&o.noCache, "no-cache", false, "run every step, even if its result is known")
	f.BoolVar(&o.shellFail, "shell-fail", false, "open /bin/sh where a run failed")
	f.StringVar(&o.onRunFailure, "on-run-failure", "", "run this command where a run failed")
	f.StringArrayVar(&o.targets, "target", nil, "build only this stage and what it needs (may be repeated)")
	f.BoolVar(&o.explain, "explain", false, "say for each step whether it was reused and, if not, what differed")
	f.BoolVar(&o.orderOnly, "order-only", false, "print the order of the stages and do nothing")
	o.cache.flags(f)
	f.BoolVar(&o.offline, "offline", false, "use what is on this machine, and say what is missing: base images, downloads, shared caches in directories")
	f.BoolVar(&o.requireHash, "require-hash", false, "refuse http imports without a hash")
	o.imageFlags(f)
}

// imageFlags are those that make a difference in an image.
func (o *buildOptions) imageFlags(f *pflag.FlagSet) {
	f.StringVar(&o.namespace, "annotations-namespace", "io.stackeroci", "prefix of the annotations that stacker sets")
	f.BoolVar(&o.noYAML, "no-yaml-annotation", false, "keep the build file out of the image's annotations")
	f.BoolVar(&o.privileged, "privileged-run", false, "run steps with all capabilities of their user namespace and without seccomp")
	f.StringVar(&o.network, "network", "host", "what steps can reach: host or none")
	o.layers.flags(f)
}

// check refuses what does not go together or is not in yet.
func (o *buildOptions) check() error {
	if o.shellFail {
		if o.onRunFailure != "" && o.onRunFailure != "/bin/sh" {
			return fmt.Errorf("--shell-fail is incompatible with --on-run-failure=%s", o.onRunFailure)
		}
		o.onRunFailure = "/bin/sh"
	}
	if err := o.layers.check(); err != nil {
		return err
	}
	if o.network != string(graph.NetworkHost) && o.network != string(graph.NetworkNone) {
		return fmt.Errorf("--network %s: it is host or none", o.network)
	}
	return nil
}

// loadOptions says how build files are read.
func (a *app) loadOptions(o fileOptions) (stackerfile.LoadOptions, error) {
	l := stackerfile.LoadOptions{
		SubstituteFile: o.substituteFile, RequireHash: o.requireHash, AllowMissing: o.allowMissing, Builtins: a.builtins(),
	}
	for _, s := range o.substitute {
		k, v, ok := strings.Cut(s, "=")
		if !ok || k == "" {
			return l, fmt.Errorf("invalid substitution %s: write --substitute KEY=VALUE", s)
		}
		l.Substitutions = append(l.Substitutions, stackerfile.Substitution{Key: k, Value: v})
	}
	return l, nil
}

// load reads the build file and those that it needs.
func (a *app) load(o fileOptions) (*stackerfile.Project, error) {
	l, err := a.loadOptions(o)
	if err != nil {
		return nil, err
	}
	if o.files != nil {
		return stackerfile.LoadAll(o.files, l)
	}
	return stackerfile.Load(o.file, l)
}

func (a *app) builtins() map[string]string {
	s := a.settings
	work := s.workDir
	if work != "" {
		work, _ = filepath.Abs(work)
	}
	return map[string]string{
		"STACKER_ROOTFS_DIR": s.rootsDir, "STACKER_STACKER_DIR": s.stackerDir,
		"STACKER_OCI_DIR": s.ociDir, "STACKER_WORK_DIR": work,
	}
}

// graph turns the loaded files into a graph.
func (a *app) graph(ctx context.Context, p *stackerfile.Project, o buildOptions) (*graph.Build, error) {
	cwd, err := os.Getwd()
	if err != nil {
		return nil, fmt.Errorf("find working directory: %w", err)
	}
	g := stackerfile.GraphOptions{
		Cwd: cwd, Environ: os.Environ(), SourceEpoch: a.settings.sourceEpoch,
		ImportsDir: filepath.Join(a.settings.stackerDir, "imports"),
		Network:    graph.Network(o.network), Privileged: o.privileged,
		Namespace: o.namespace, NoYAML: o.noYAML, Version: Version(),
		GitVersion: func(dir string) string { return gitVersion(ctx, dir) },
		Dockerfile: func(s *stackerfile.Stage) (graph.Vertex, []byte, error) { return a.dockerfileBase(ctx, s) },
	}
	return p.Graph(g)
}

func (a *app) build(ctx context.Context, o buildOptions) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	a.offline = o.offline
	p, err := a.load(o.fileOptions)
	if err != nil {
		return err
	}
	if o.orderOnly {
		return a.printOrder(p)
	}
	g, err := a.graph(ctx, p, o)
	if err != nil {
		return err
	}
	if g, err = g.Select(o.targets); err != nil {
		return err
	}
	if err := o.layers.checkNames(g); err != nil {
		return err
	}
	unlock, err := a.lockProject(true)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.checkOCIDir(); err != nil {
		return err
	}
	if o.onRunFailure != "" && a.settings.progress == "auto" {
		a.settings.progress = "plain" // the command needs the terminal for itself
	}
	if _, err := o.output.specs(); err != nil {
		return err
	}
	a.stdoutTaken = o.output.toStdout()
	display, err := a.display()
	if err != nil {
		return err
	}
	run := &buildRun{app: a, options: o, graph: g, display: display}
	run.story = newStory(display.Handle, a.lines, g)
	if a.settings.debug {
		a.trace = func(text string) { run.note("%s", text) }
		run.order(p)
	}
	run.warn(p)
	a.noteLevel(display)
	err = run.do(ctx)
	if cerr := display.Close(err); err == nil {
		err = cerr
	}
	if o.explain && run.solver != nil {
		for _, d := range run.solver.Decisions() {
			fmt.Fprintln(a.messages(), d)
		}
	}
	return err
}

func (a *app) printOrder(p *stackerfile.Project) error {
	_, err := progress.NewSafeWriter(a.std.Out, false).Write([]byte(strings.Join(buildOrder(p), "\n") + "\n"))
	return err
}

// buildOrder tells in which order files are built.
func buildOrder(p *stackerfile.Project) []string {
	lines := []string{"stacker build order:"}
	for i, f := range p.Files {
		var requires []string
		for _, r := range f.Prerequisites {
			requires = append(requires, r.Path)
		}
		lines = append(lines, fmt.Sprintf("%d build %s: requires: %v", i, f.Path, requires))
	}
	return lines
}

// order is for --debug.
func (r *buildRun) order(p *stackerfile.Project) {
	for _, line := range buildOrder(p) {
		r.note("%s", line)
	}
}

// checkOCIDir refuses early what would fail late.
func (a *app) checkOCIDir() error {
	info, err := os.Stat(a.settings.ociDir)
	if err != nil {
		return nil // to be made
	}
	if !info.IsDir() {
		return fmt.Errorf("parameter oci-dir=%q exists but is not a directory", a.settings.ociDir)
	}
	if err := unix.Access(a.settings.ociDir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Errorf("cannot write to oci-dir %s: %w: if an earlier build ran as another user (sudo?), "+
			"give the directory back with chown, remove it, or choose another with --oci-dir", a.settings.ociDir, err)
	}
	return nil
}

// buildRun is one build under way.
type buildRun struct {
	app     *app
	options buildOptions
	graph   *graph.Build
	display *progress.Display
	story   *story
	solver  *solve.Solver
}

// warn tells about what is about to go away.
func (r *buildRun) warn(p *stackerfile.Project) {
	for _, f := range p.Files {
		for _, s := range f.Stages {
			if s.LegacyImport {
				r.display.Handle(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: time.Now(), Text: fmt.Sprintf(
					"%s:%d: import is deprecated: write imports, and find the files in /stacker/imports", f.Name, s.Pos.Line)})
			}
		}
	}
}

func (r *buildRun) note(format string, args ...any) {
	r.display.Handle(solve.Event{Kind: solve.Note, Text: fmt.Sprintf(format, args...), Time: time.Now()})
}

// parallel is how many steps run at a time: more than there are cores, since
// many steps wait for the network. One alone may have the terminal.
func (r *buildRun) parallel() int {
	if r.options.onRunFailure != "" {
		return 1
	}
	return max(4, 2*cores())
}

// do builds. Where a shared cache does not give what it said it had, its results are
// forgotten, and the steps run.
func (r *buildRun) do(ctx context.Context) error {
	s, err := r.app.openState(ctx)
	if err != nil {
		return err
	}
	sharing, err := r.options.cache.parse()
	if err != nil {
		return err
	}
	if r.app.offline {
		sharing = sharing.local()
	}
	err = r.attempt(ctx, s, sharing)
	if !errors.Is(err, source.ErrLost) || ctx.Err() != nil {
		return err
	}
	r.display.Handle(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: time.Now(), Text: fmt.Sprintf("%v: building again without shared results", err)})
	if err := shared.Forget(s.Cache); err != nil {
		return err
	}
	sharing.from = nil
	return r.attempt(ctx, s, sharing)
}

func (r *buildRun) attempt(ctx context.Context, s *state.State, with sharing) error {
	b := r.app.builder(ctx, s)
	if r.options.onRunFailure != "" {
		b.OnFailure = []string{r.options.onRunFailure}
		b.Console = newConsole(r.app.std)
	}
	o := solve.Options{
		Cache: s.Cache, Runner: b, Events: r.story.handle, NoCache: r.options.noCache,
		Parallel: r.parallel(), Now: time.Now, Dir: workingDir(),
	}
	kept, end := r.app.sharedCache(ctx, with, b, r.display.Handle)
	defer end()
	if kept != nil {
		o.Shared = kept
	}
	var outputs *outputSet
	var e *export.Layout
	o.Part = func(t *graph.Target, res cache.Result) { r.early(outputs, e, t, res.Layers) }
	r.solver = solve.New(o)
	out, err := r.layout(ctx)
	if err != nil {
		return err
	}
	defer out.Close()
	release, err := out.Hold(ctx)
	if err != nil {
		return err
	}
	release = sync.OnceFunc(release)
	defer release()
	exporter := r.app.exporter(s, b, r.display.Handle)
	exporter.Near = out.Blobs()
	e = &export.Layout{
		Exporter: exporter, Layout: out, Dir: r.app.settings.ociDir, Results: r.solver.Result,
		Layers: r.options.layers.options(), Archives: r.options.layers.archives,
	}
	if outputs, err = r.outputs(ctx, exporter); err != nil {
		return err
	}
	err = r.solver.Solve(ctx, r.graph, func(ctx context.Context, t *graph.Target, res cache.Result) error {
		if err := b.ImportsCopy(ctx, t.Vertex, r.solver.Result, r.story.tell); err != nil || t.BuildOnly {
			return err
		}
		if err := e.Image(ctx, t); err != nil {
			return err
		}
		return r.attachBom(ctx, b, e, t, res)
	})
	for _, t := range r.images() { // in order, so that archives come out the same
		if err == nil {
			err = r.addOutput(ctx, outputs, t, e.Outcome(t))
		}
	}
	if cerr := outputs.Close(ctx, err); err == nil {
		err = cerr
	}
	if err != nil {
		return err
	}
	before := tags(out)
	changed, err := e.Tag(ctx, r.graph.Targets, func(t *graph.Target) string { return t.Name })
	if err != nil {
		return err
	}
	release()
	if changed {
		// Blobs that no tag needs any more. Another build may be writing here: then
		// it is for that one, or the next.
		if _, err := out.GC(ctx); err != nil && !errors.Is(err, layout.ErrBusy) {
			return err
		}
	}
	with.shareMounts(ctx, kept, b, func(text string) {
		r.display.Handle(solve.Event{Kind: solve.Note, Level: solve.Warning, Text: text, Time: time.Now()})
	})
	end()
	r.story.end(r.graph, r.options.layers.archives, before, tags(out))
	return s.Sync()
}

// layout opens the layout that receives the images, or makes it.
func (r *buildRun) layout(ctx context.Context) (*layout.Layout, error) {
	dir := r.app.settings.ociDir
	if _, err := os.Lstat(dir); errors.Is(err, fs.ErrNotExist) {
		r.note("Creating new OCI Layout at %q", dir)
	}
	return layout.Create(ctx, dir)
}

// tags gives the digest of each tag of a layout.
func tags(l *layout.Layout) map[string]digest.Digest {
	list := map[string]digest.Digest{}
	idx, err := l.Index()
	if err != nil {
		return list
	}
	for _, d := range idx.Manifests {
		list[d.Annotations[ocispec.AnnotationRefName]] = d.Digest
	}
	return list
}

var _ build.Console = (*console)(nil)
