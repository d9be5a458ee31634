// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/frontend/dockerfile"
	"build.stacker.dev/internal/frontend/llb"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
)

// dockerBuild is a Dockerfile build under way.
type dockerBuild struct {
	app     *app
	shared  buildOptions
	options dockerOptions
	context string // what the user named: a directory, -, or a URL; empty: none

	mu    sync.Mutex
	local map[digest.Digest]string // names of images of the local store and of short names, by their manifests
	took  map[string]string        // what short names mean

	frontend dockerfile.Options
	temp     string // holds what came from the standard input
	display  *progress.Display
	builder  *build.Builder
	solver   *solve.Solver

	exporting bool // outputs may have been written to
}

// remote matches build contexts that are not of this machine.
var remote = regexp.MustCompile(`^(https?|git|ssh)://|^git@|^github\.com/`)

// dockerBuild builds a Dockerfile, or an LLB definition.
func (a *app) dockerBuild(ctx context.Context, shared buildOptions, o dockerOptions, args []string) (err error) {
	if err := o.refuse(); err != nil {
		return err
	}
	if len(args) > 1 {
		return fmt.Errorf("a build has one context, not %d: %s", len(args), strings.Join(args, " "))
	}
	d := &dockerBuild{app: a, shared: shared, options: o, context: "."}
	if len(args) == 1 {
		d.context = args[0]
	}
	defer func() {
		if d.temp != "" {
			err = errors.Join(err, removeTree(d.temp))
		}
	}()
	if err := d.prepare(ctx); err != nil {
		return err
	}
	q, err := o.question()
	if err != nil {
		return err
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	a.offline = shared.offline
	d.builder = a.builder(ctx, s)
	d.builder.Images.Took = d.shortName
	if d.builder.Images.Pull, err = pullPolicy(o.pull); err != nil {
		return err
	}
	if d.builder.Secrets, err = newSecrets(o.secrets, o.ssh); err != nil {
		return err
	}
	d.frontend.Engine = d
	if q.what != "build" {
		return d.call(ctx, q)
	}
	if _, err := shared.output.specs(); err != nil {
		return err
	}
	a.stdoutTaken = shared.output.toStdout()
	a.stepsQuiet = a.onlyID()
	if d.display, err = a.display(); err != nil {
		return err
	}
	a.noteLevel(d.display)
	err = d.build(ctx, s)
	if cerr := d.display.Close(err); err == nil {
		err = cerr
	}
	if shared.explain && d.solver != nil {
		for _, x := range d.solver.Decisions() {
			fmt.Fprintln(a.messages(), x)
		}
	}
	return err
}

// onlyID tells whether the user wants to hear the image's id and nothing else, as of
// docker build -q.
func (a *app) onlyID() bool { return a.settings.quiet || a.settings.progress == "quiet" }

// pullPolicy reads --pull: docker's switch, or buildah's word.
func pullPolicy(s string) (source.Policy, error) {
	switch s {
	case "", "false", "missing", "ifmissing":
		return source.Missing, nil
	case "true", "always", "newer", "ifnewer":
		return source.Always, nil
	case "never":
		return source.Never, nil
	}
	return source.Missing, fmt.Errorf("--pull %s: it is always, missing or never", s)
}

// prepare finds the build context and the Dockerfile.
func (d *dockerBuild) prepare(ctx context.Context) (err error) {
	insecure, err := d.options.allowed()
	if err != nil {
		return err
	}
	o := &d.frontend
	if o.Attributes, err = d.options.frontendAttributes(d.shared); err != nil {
		return err
	}
	o.LLB = llb.Options{Locals: map[string]string{}, Layouts: map[string]string{}, AllowInsecure: insecure || d.shared.privileged, Rename: d.localName, Read: d.ReadFile}
	if o.LLB.Clamp, err = d.clamp(); err != nil {
		return err
	}
	o.Given, err = d.options.given()
	if err != nil {
		return err
	}
	if err := d.namedContexts(); err != nil {
		return err
	}
	if d.options.llb != "" {
		o.LLB.Locals["context"] = d.context
		o.LLB.Locals["dockerfile"] = d.context
		return d.forDefinition()
	}
	switch {
	case d.context == "-":
		return d.fromStdin(ctx)
	case remote.MatchString(d.context):
		o.Attributes["context"] = d.context
		o.File = d.shared.file
		if d.shared.file == "" || d.shared.file == "-" {
			o.File = "Dockerfile"
		}
		if d.shared.file == "-" {
			return d.dockerfileFromStdin()
		}
		o.Attributes["filename"] = o.File
		return nil
	}
	return d.fromDirectory()
}

// clamp is not nil where an output wants times that are not after SOURCE_DATE_EPOCH.
// The frontend puts that into it.
func (d *dockerBuild) clamp() (*time.Time, error) {
	specs, err := d.shared.output.specs()
	if err != nil {
		return nil, err
	}
	for _, s := range specs {
		if s.Layers.Rewrite {
			return &time.Time{}, nil
		}
	}
	return nil, nil
}

// fromDirectory is for a build context on this machine.
func (d *dockerBuild) fromDirectory() error {
	o := &d.frontend
	info, err := os.Stat(d.context)
	if err != nil && strings.Contains(d.context, "://") {
		return fmt.Errorf("build context %s: URLs are https, http, ssh or git@HOST; what is on this machine is named by its path", d.context)
	}
	if err != nil {
		return fmt.Errorf("build context: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("build context %s is no directory", d.context)
	}
	o.LLB.Locals["context"] = d.context
	if d.shared.file == "-" {
		return d.dockerfileFromStdin()
	}
	file := d.shared.file
	if file == "" {
		file = filepath.Join(d.context, "Dockerfile")
		for _, name := range []string{"Dockerfile", "Containerfile", "dockerfile"} {
			if _, err := os.Stat(filepath.Join(d.context, name)); err == nil {
				file = filepath.Join(d.context, name)
				break
			}
		}
	}
	return d.dockerfileAt(file)
}

// dockerfileAt chooses the Dockerfile, which may lie anywhere.
func (d *dockerBuild) dockerfileAt(file string) error {
	o := &d.frontend
	o.File = file
	// Before anything is read: a file may say that it has terabytes.
	if info, err := os.Stat(file); err == nil && info.Mode().IsRegular() && info.Size() > dockerfileLimit {
		return fmt.Errorf("%s has %d bytes: a Dockerfile has at most %d", file, info.Size(), dockerfileLimit)
	}
	if d.options.ignoreFile == "" {
		o.LLB.Locals["dockerfile"] = filepath.Dir(file)
		o.Attributes["filename"] = filepath.Base(file)
		return nil
	}
	data, err := os.ReadFile(file)
	if err != nil {
		return fmt.Errorf("read Dockerfile: %w", err)
	}
	ignore, err := os.ReadFile(d.options.ignoreFile)
	if err != nil {
		return fmt.Errorf("--ignorefile: %w", err)
	}
	return d.writeDockerfile(data, ignore)
}

func (d *dockerBuild) dockerfileFromStdin() error {
	data, err := io.ReadAll(io.LimitReader(d.app.std.In, dockerfileLimit+1))
	if err != nil {
		return fmt.Errorf("read Dockerfile from the standard input: %w", err)
	}
	if len(data) > dockerfileLimit {
		return fmt.Errorf("the Dockerfile on the standard input has more than %d bytes", dockerfileLimit)
	}
	d.frontend.File = "Dockerfile"
	return d.writeDockerfile(data, nil)
}

// dockerfileLimit is the size of a Dockerfile that BuildKit accepts, in bytes.
const dockerfileLimit = 16 << 20

// writeDockerfile puts a Dockerfile that is no file of the user's where the
// frontend can read it.
func (d *dockerBuild) writeDockerfile(data, ignore []byte) error {
	dir, err := d.tempDir("dockerfile")
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), data, 0o600); err != nil {
		return err
	}
	if ignore != nil {
		if err := os.WriteFile(filepath.Join(dir, "Dockerfile.dockerignore"), ignore, 0o600); err != nil {
			return err
		}
	}
	d.frontend.LLB.Locals["dockerfile"] = dir
	d.frontend.Attributes["filename"] = "Dockerfile"
	if d.frontend.Attributes["context"] != "" {
		d.frontend.Attributes["dockerfilekey"] = "dockerfile"
	}
	return nil
}

func (d *dockerBuild) tempDir(name string) (string, error) {
	if d.temp == "" {
		var err error
		if d.temp, err = os.MkdirTemp("", "stacker-"); err != nil {
			return "", fmt.Errorf("make temporary directory: %w", err)
		}
	}
	dir := filepath.Join(d.temp, name)
	return dir, os.Mkdir(dir, 0o700)
}

// namedContexts reads --build-context.
func (d *dockerBuild) namedContexts() error {
	o := &d.frontend
	for i, c := range d.options.contexts {
		name, value, ok := strings.Cut(c, "=")
		if !ok || name == "" || value == "" {
			return fmt.Errorf("--build-context %s: write NAME=DIRECTORY, NAME=URL, NAME=docker-image://IMAGE or NAME=oci-layout://DIRECTORY:TAG", c)
		}
		name = strings.ToLower(name)
		key := fmt.Sprintf("context-%d", i)
		switch {
		case strings.HasPrefix(value, "oci-layout://"):
			dir, tag := layoutPlace(strings.TrimPrefix(value, "oci-layout://"))
			abs, err := filepath.Abs(dir)
			if err != nil {
				return err
			}
			o.LLB.Layouts[key] = "oci:" + abs + ":" + tag
			// The digest is asked for by the frontend, and plays no part: the layout does.
			o.Attributes["context:"+name] = "oci-layout://" + key + "@" + string(digest.FromString(key))
		case strings.HasPrefix(value, "docker-image://"), remote.MatchString(value):
			o.Attributes["context:"+name] = value
		default:
			if info, err := os.Stat(value); err != nil || !info.IsDir() {
				return fmt.Errorf("--build-context %s: %s is no directory", c, value)
			}
			o.LLB.Locals[key] = value
			o.Attributes["context:"+name] = "local:" + key
		}
	}
	return nil
}

// layoutPlace parts DIRECTORY, DIRECTORY:TAG, DIRECTORY@DIGEST or both. The digest
// says more than the tag.
func layoutPlace(s string) (dir, name string) {
	name = "latest"
	dir, sum, hasDigest := strings.Cut(s, "@")
	if i := strings.LastIndexByte(dir, ':'); i > strings.LastIndexByte(dir, '/') {
		dir, name = dir[:i], dir[i+1:]
	}
	if hasDigest {
		name = sum
	}
	return dir, name
}

// Image implements dockerfile.Engine.
func (d *dockerBuild) Image(ctx context.Context, op graph.Image) (digest.Digest, []byte, error) {
	p, err := d.builder.Probe(ctx, &graph.Vertex{Op: op}, nil, d.events)
	if err != nil {
		return "", nil, err
	}
	found := p.Result.Image.Manifest.Digest
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.local == nil {
		d.local = map[digest.Digest]string{}
	}
	if l := p.Result.Layers; len(l) > 0 && strings.HasPrefix(l[0].Origin, source.StorePrefix) {
		d.local[found] = op.Reference
	} else if name, ok := d.took[op.Reference]; ok {
		d.local[found] = name + "@" + string(found)
	}
	return found, p.Result.Image.Config, nil
}

// shortName notes what a short name turned out to mean.
func (d *dockerBuild) shortName(short, name, why string) {
	d.mu.Lock()
	if d.took == nil {
		d.took = map[string]string{}
	}
	_, again := d.took[short]
	d.took[short], _, _ = strings.Cut(name, "@")
	d.mu.Unlock()
	switch {
	case again:
	case d.display == nil:
		fmt.Fprintln(d.app.std.Err, tookName(short, name, why))
	default:
		d.note(tookName(short, name, why))
	}
}

// localName gives the name by which an image was found in place of its digest: no
// registry may have one of the local store, and docker.io one that a short name means.
func (d *dockerBuild) localName(ref string) string {
	_, sum, _ := strings.Cut(ref, "@")
	d.mu.Lock()
	defer d.mu.Unlock()
	if name, ok := d.local[digest.Digest(sum)]; ok {
		return name
	}
	return ref
}

// Modified implements dockerfile.Engine.
func (d *dockerBuild) Modified(ctx context.Context, op graph.Op) (time.Time, error) {
	return d.builder.Modified(ctx, op)
}

// ReadFile implements dockerfile.Engine.
func (d *dockerBuild) ReadFile(ctx context.Context, v *graph.Vertex, name string, limit int64) ([]byte, error) {
	if op, ok := v.Op.(graph.Context); ok {
		return build.ReadLocal(op.Path, name, limit)
	}
	var r cache.Result
	err := d.newSolver().Solve(ctx, &graph.Build{Targets: []*graph.Target{{Vertex: v}}},
		func(_ context.Context, _ *graph.Target, got cache.Result) error {
			r = got
			return nil
		})
	if err != nil {
		return nil, err
	}
	return d.builder.ReadFile(ctx, r, name, limit)
}

func (d *dockerBuild) events(e solve.Event) {
	if d.display != nil {
		d.display.Handle(e)
	}
}

func (d *dockerBuild) solverOptions() solve.Options {
	parallel := max(4, 2*cores())
	if d.options.jobs > 0 {
		parallel = d.options.jobs
	}
	return solve.Options{Cache: d.builder.State.Cache, Runner: d.builder, Events: d.events, Parallel: parallel, Now: time.Now, Dir: workingDir()}
}

func (d *dockerBuild) newSolver() *solve.Solver { return solve.New(d.solverOptions()) }

// call answers a question about the Dockerfile.
func (d *dockerBuild) call(ctx context.Context, q question) error {
	answer, failed, err := dockerfile.Call(ctx, d.frontend, q.what, q.json)
	if len(answer) > 0 {
		_, werr := io.Copy(d.app.std.Out, bytes.NewReader(answer))
		err = errors.Join(err, werr)
	}
	if err == nil && failed {
		if q.ignoreStatus {
			return nil
		}
		return exitStatus(1)
	}
	if err == nil && q.what == "check" && !q.json {
		_, err = fmt.Fprintln(d.app.std.Out, "Check complete, no warnings found.")
	}
	return err
}

// load gives the images to build.
func (d *dockerBuild) load(ctx context.Context) (*dockerfile.Result, error) {
	if d.options.llb == "" {
		return dockerfile.Load(ctx, d.frontend)
	}
	in := d.app.std.In
	if d.options.llb != "-" {
		f, err := os.Open(d.options.llb)
		if err != nil {
			return nil, fmt.Errorf("--llb: %w", err)
		}
		defer f.Close()
		in = f
	}
	data, err := io.ReadAll(io.LimitReader(in, llb.MaxDefinition+1))
	if err != nil {
		return nil, fmt.Errorf("--llb: %w", err)
	}
	def, err := llb.Parse(data)
	if err != nil {
		return nil, err
	}
	v, err := llb.Load(ctx, def, d.frontend.LLB)
	if err != nil {
		return nil, err
	}
	img := dockerfile.Image{Vertex: v, Config: []byte(plainConfig), Epoch: d.frontend.LLB.Clamp}
	return &dockerfile.Result{Images: []dockerfile.Image{img}}, nil
}

// plainConfig is the config of an image that a definition makes, as BuildKit has
// it (exporter/containerimage, defaultImageConfig): a definition has none.
const plainConfig = `{"config":{"Env":["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],"WorkingDir":"/"},"rootfs":{"type":"layers"}}`

// forDefinition checks the options of a build of an LLB definition.
func (d *dockerBuild) forDefinition() error {
	o, s := &d.options, &d.shared
	for _, f := range []struct {
		name string
		set  bool
	}{
		{"build-arg", len(o.buildArgs) > 0}, {"build-arg-file", len(o.buildArgFiles) > 0}, {"label", len(o.labels) > 0}, {"platform", len(o.platforms) > 0},
		{"target", len(s.targets) > 0}, {"no-cache-filter", len(o.noCacheFilter) > 0}, {"no-cache", s.noCache}, {"network", s.network == "none"},
		{"add-host", len(o.addHosts) > 0}, {"shm-size", o.shmSize != ""}, {"ulimit", len(o.ulimits) > 0}, {"opt", len(o.attributes) > 0},
		{"ignorefile", o.ignoreFile != ""}, {"check", o.check}, {"call", o.call != "build"},
	} {
		if f.set {
			return fmt.Errorf("--%s belongs to Dockerfile builds: what --llb builds says everything itself", f.name)
		}
	}
	d.frontend.LLB.Clamp = nil
	if v := d.frontend.Attributes["build-arg:SOURCE_DATE_EPOCH"]; v != "" {
		n, err := strconv.ParseInt(v, 10, 64)
		if err != nil {
			return fmt.Errorf("SOURCE_DATE_EPOCH %q is no number of seconds", v)
		}
		at := time.Unix(n, 0).UTC()
		d.frontend.LLB.Clamp = &at
	}
	return nil
}
