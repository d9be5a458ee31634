// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/worker"
)

// Console gives the user's terminal to a step: the three streams to use, and
// what to do with the step's own terminal if it gets one.
type Console interface {
	// Streams returns stdin, stdout and stderr.
	Streams() [3]*os.File
	// Attach connects the user to a step's terminal until the step ends.
	Attach(terminal *os.File)
	// End gives the terminal back when the step has ended; also without Attach.
	End()
}

// ExitError is the end of a step that failed.
type ExitError struct {
	Stage   string
	Command bool   // it was a Dockerfile's step
	Name    string // of the step
	Status  worker.ExitStatus
	Full    bool // no room was left where it wrote
}

// Error keeps the words that scripts look for.
func (e *ExitError) Error() string {
	how := fmt.Sprintf("exit status %d", e.Status.Code)
	if e.Status.Signal != 0 {
		how = "killed by signal " + unix.SignalName(e.Status.Signal)
	}
	if e.Command {
		return fmt.Sprintf("%s: %s", e.Name, how)
	}
	return fmt.Sprintf("run commands failed for image %q: execute failed: %s", e.Stage, how)
}

// toolsVersion changes when the shell and core utilities that steps can get from
// this program do something else than before.
const toolsVersion = "1"

// scriptName is the script's file in the imports directory.
const scriptName = ".stacker-run.sh"

// execProbe says what a step depends on: the files below and beside it, what is
// run, and the settings that it can see.
func (b *Builder) execProbe(op graph.Exec, v *graph.Vertex, in []cache.Result) (solve.Probe, error) {
	key := cache.Ingredients{{Name: "step", Value: "run"}, {Name: "machine", Value: runtime.GOARCH}, {Name: "tools", Value: toolsVersion}}
	if b.SingleID != nil && b.SingleID() {
		key.Add("user ids", "one, the others played")
	}
	key.Add("base", b.identity(in[0]))
	if op.Script != "" {
		key.Add("script", op.Script)
	}
	if len(op.Args) > 0 {
		key.Add("command", strings.Join(op.Args, "\x00"))
	}
	addEnv(&key, op.Env)
	if op.Dir != "" && op.Dir != "/" {
		key.Add("directory", op.Dir)
	}
	if len(op.Imports) > 0 {
		addCopies(&key, op.Imports, in)
		key.Add("imports directory", op.ImportsAt)
	}
	if op.Network == graph.NetworkNone {
		key.Add("network", string(op.Network))
	}
	if op.Collect != "" {
		key.Add("collect", op.Collect)
	}
	if op.Privileged {
		key.Add("privileged", "yes")
	}
	addClamp(&key, op.Clamp)
	if op.Command != nil {
		if err := b.addCommand(&key, op.Command, in); err != nil {
			return solve.Probe{}, err
		}
	}
	p := solve.Probe{Ingredients: key, Volatile: v.Ignore}
	for _, b := range op.Binds {
		p.Ingredients.Add("bind "+b.Target, b.Source)
		p.Volatile = "rebuilding cached layer due to use of binds in stacker file"
	}
	return p, nil
}

// step collects what one run of a step needs and must give back.
type step struct {
	b     *Builder
	base  cache.Result // what the step runs on
	req   worker.ExecRequest
	files []*os.File
	close []io.Closer
	logs  sync.WaitGroup

	agents []func() (net.Conn, error) // of SSH mounts, by worker.Mount.ID
}

func (s *step) end() {
	for _, c := range s.close {
		_ = c.Close()
	}
	s.logs.Wait()
}

// file adds a file to the request and returns its number. The step closes it.
func (s *step) file(f *os.File) int {
	s.files = append(s.files, f)
	s.close = append(s.close, f)
	return len(s.files) - 1
}

func (b *Builder) runExec(ctx context.Context, op graph.Exec, v *graph.Vertex, in []cache.Result, emit solve.Sink) (cache.Result, error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return cache.Result{}, err
	}
	s := &step{b: b}
	defer s.end()
	if err := s.streams(emit, len(b.OnFailure) > 0); err != nil {
		return cache.Result{}, err
	}
	if err := s.prepare(ctx, op, v, in, emit); err != nil {
		return cache.Result{}, err
	}
	s.req.Commit = op.Collect == ""
	reply, err := w.ExecWith(ctx, s.req, s.files, b.attach, s.listener)
	if b.Console != nil {
		b.Console.End()
	}
	if err != nil && op.Command != nil && strings.HasSuffix(err.Error(), "exec "+op.Args[0]+": "+unix.ENOENT.Error()) {
		err = fmt.Errorf("%w: the image has no such program: start from one that has it", err)
	}
	if err != nil {
		return cache.Result{}, err
	}
	if reply.Exit != (worker.ExitStatus{}) {
		return cache.Result{}, &ExitError{Stage: v.Stage, Command: op.Command != nil, Name: v.Name, Status: reply.Exit, Full: reply.Full}
	}
	if op.Collect != "" {
		return cache.Result{Files: reply.Files}, nil
	}
	start := reply.Start
	return b.withLayer(s.base, reply.Layer, cache.Layer{CreatedBy: op.History, Clamp: s.req.Clamp, Start: start}), nil
}

// Shell runs a command over a result with the user's terminal; what it changes is lost.
func (b *Builder) Shell(ctx context.Context, op graph.Exec, in []cache.Result, console Console) (worker.ExitStatus, error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return worker.ExitStatus{}, err
	}
	s := &step{b: b}
	defer s.end()
	for _, f := range console.Streams() {
		s.files = append(s.files, f) // the caller's: not closed here
	}
	v := &graph.Vertex{Op: op}
	if err := s.prepare(ctx, op, v, in, nil); err != nil {
		return worker.ExitStatus{}, err
	}
	s.req.Terminal = isTerminal(s.files[0]) && isTerminal(s.files[1])
	reply, err := w.Exec(ctx, s.req, s.files, console.Attach)
	console.End()
	return reply.Exit, err
}

func (b *Builder) attach(f *os.File) {
	if b.Console == nil {
		_ = f.Close()
		return
	}
	b.Console.Attach(f)
}

// streams gives the step an empty stdin, and pipes whose output becomes events.
// Where a failure is to open a command on the user's terminal, that needs it.
func (s *step) streams(emit solve.Sink, interactive bool) error {
	stdin, err := os.Open(os.DevNull)
	if err != nil {
		return err
	}
	s.file(stdin)
	r, w, err := os.Pipe()
	if err != nil {
		return fmt.Errorf("make pipe: %w", err)
	}
	s.file(w)
	s.files = append(s.files, w) // stderr is the same pipe: the order of lines is kept
	s.logs.Go(func() {
		defer r.Close()
		forward(r, emit)
	})
	if interactive && s.b.Console != nil {
		for _, f := range s.b.Console.Streams() {
			s.files = append(s.files, f)
		}
		s.req.Console = 3
	}
	return nil
}

// forward turns output into events: whole lines, so that those of steps that run
// at the same time do not mix; the buffer bounds how much is under way. The
// beginning of a line waits for its end, but not for long.
func forward(r *os.File, emit solve.Sink) {
	const patience = 200 * time.Millisecond
	buf := make([]byte, 32<<10)
	held := 0
	tell := func(n int) {
		if n > 0 {
			emit(solve.Event{Kind: solve.Log, Data: buf[:n], Stream: 1})
			held = copy(buf, buf[n:held])
		}
	}
	for {
		deadline := time.Time{}
		if held > 0 {
			deadline = time.Now().Add(patience)
		}
		_ = r.SetReadDeadline(deadline) // a pipe has them
		n, err := r.Read(buf[held:])
		held += n
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded), held == len(buf) && bytes.IndexByte(buf, '\n') < 0:
			tell(held)
		case err != nil:
			tell(held)
			return
		default:
			tell(bytes.LastIndexByte(buf[:held], '\n') + 1)
		}
	}
}

// prepare fills the request from the op.
func (s *step) prepare(ctx context.Context, op graph.Exec, v *graph.Vertex, in []cache.Result, emit solve.Sink) (err error) {
	b := s.b
	if s.base, err = b.layered(ctx, in[0]); err != nil {
		return err
	}
	if s.req.Lower, err = b.trees(ctx, s.base.Layers, emit); err != nil {
		return err
	}
	s.req.Chain = s.base.Chain()
	s.req.Args, s.req.Dir, s.req.Network, s.req.Privileged = op.Args, op.Dir, string(op.Network), op.Privileged
	s.req.Clamp, s.req.OnFailure, s.req.Path = unixTime(op.Clamp), b.OnFailure, b.Path
	for _, e := range append(append([]graph.KV(nil), op.Env...), op.Ambient...) {
		s.req.Env = append(s.req.Env, e.Key+"="+e.Value)
	}
	if op.ImportsAt != "" {
		if s.req.Imports, err = b.importsTree(ctx, op.Imports, in); err != nil {
			return err
		}
		s.req.ImportPath = op.ImportsAt
		s.req.ScriptPath = path.Join(op.ImportsAt, scriptName)
	}
	s.req.Script, s.req.Collect = op.Script, op.Collect
	s.req.Tools = op.ToolsAt
	for _, p := range []string{op.ImportsAt, op.ToolsAt} {
		if first, _, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/"); first != "" {
			s.req.Hidden = append(s.req.Hidden, first)
		}
	}
	if op.Command != nil {
		if err := s.command(ctx, op.Command, in, emit); err != nil {
			return err
		}
	}
	for _, bind := range op.Binds {
		f, detached, err := b.bind(ctx, bind.Source)
		if errors.Is(err, os.ErrNotExist) {
			return &placedError{bind.Pos, fmt.Errorf("failed to bind mount %q at %q: bind mount source %q does not exist, refusing bind mount",
				bind.Source, bind.Target, bind.Source)}
		}
		if err != nil {
			return &placedError{bind.Pos, fmt.Errorf("bind %s: %w", bind.Source, err)}
		}
		s.req.Binds = append(s.req.Binds, worker.Bind{File: s.file(f), Detached: detached, Target: bind.Target})
	}
	return nil
}

// placedError is about a part of a step that has a place of its own in the build file.
type placedError struct {
	pos graph.Pos
	error
}

// Position is that place.
func (e *placedError) Position() graph.Pos { return e.pos }

// Unwrap gives the cause.
func (e *placedError) Unwrap() error { return e.error }

func (b *Builder) bind(ctx context.Context, path string) (*os.File, bool, error) {
	w, err := b.State.Worker(ctx)
	if err != nil {
		return nil, false, err
	}
	return w.Bind(path)
}

// importsTree keeps the files that a step sees as a tree of their own, named by
// what they are: what the step reads is what its key was made of.
func (b *Builder) importsTree(ctx context.Context, copies []graph.Copy, in []cache.Result) (string, error) {
	key := cache.Ingredients{{Name: "imports", Value: "1"}}
	addCopies(&key, copies, in)
	tree := snapshot.FilesTree(string(key.Key()))
	if b.State.HasTree(tree) {
		return tree, nil
	}
	w, err := b.State.Worker(ctx)
	if err != nil {
		return "", err
	}
	_, err = b.apply(ctx, w, worker.ApplyRequest{Tree: tree}, func(out io.Writer) error {
		// The script is mounted over this empty file.
		return b.writeCopies(ctx, out, append([]graph.Copy{{Input: scriptInput}}, copies...), in, nil, nil)
	})
	return tree, err
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
