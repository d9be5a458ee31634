// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/solve"
)

func (a *app) chrootCommand() *cobra.Command {
	var o fileOptions
	cmd := &cobra.Command{
		Use:     "chroot [STAGE [COMMAND [ARG...]]]",
		Aliases: []string{"exec"},
		Short:   "run a command (a shell) in a built stage; what it changes is lost",
		RunE:    func(cmd *cobra.Command, args []string) error { return a.chroot(cmd.Context(), o, args) },
	}
	o.flags(cmd.Flags())
	cmd.Flags().SetInterspersed(false) // the command's own flags are the command's
	return cmd
}

// built is a stage whose files are there.
type built struct {
	target  *graph.Target
	result  cache.Result
	builder *build.Builder
	solver  *solve.Solver
}

// stage loads a stage that was built. Where something is out of date it is
// built again, which people see.
func (a *app) stage(ctx context.Context, o fileOptions, name string) (*built, error) {
	p, err := a.load(o)
	if err != nil {
		return nil, err
	}
	g, err := a.graph(ctx, p, buildOptions{namespace: "io.stackeroci", network: string(graph.NetworkHost)})
	if err != nil {
		return nil, err
	}
	if len(g.Targets) == 0 {
		return nil, fmt.Errorf("%s has no stage", o.file)
	}
	if name == "" {
		name = p.Files[len(p.Files)-1].Stages[0].Name
	}
	if g, err = g.Select([]string{name}); err != nil {
		return nil, fmt.Errorf("no layer %s in stackerfile: %w", name, err)
	}
	s, err := a.openState(ctx)
	if err != nil {
		return nil, err
	}
	a.stdoutTaken = true // by the command, or by nothing
	display, err := a.display()
	if err != nil {
		return nil, err
	}
	out := &built{builder: a.builder(ctx, s)}
	out.solver = solve.New(solve.Options{Cache: s.Cache, Runner: lastResult{out.builder}, Events: onlyWork(display), Parallel: max(4, 2*cores()), Now: a.now, Dir: workingDir()})
	err = out.solver.Solve(ctx, g, func(_ context.Context, t *graph.Target, r cache.Result) error {
		if t.Name == name {
			out.target, out.result = t, r
		}
		return nil
	})
	if cerr := display.Close(err); err == nil {
		err = cerr
	}
	if err == nil {
		err = s.Sync()
	}
	return out, err
}

// onlyWork hides what was reused: commands that only look at a stage say
// nothing unless something had to be built.
func onlyWork(d *progress.Display) solve.Sink {
	return func(e solve.Event) {
		if e.Kind != solve.Cached {
			d.Handle(e)
		}
	}
}

func (a *app) chroot(ctx context.Context, o fileOptions, args []string) error {
	name, command := "", []string{"/bin/sh"}
	if len(args) > 0 {
		name = args[0]
	}
	if len(args) > 1 {
		command = args[1:]
	}
	st, err := a.stage(ctx, o, name)
	if err != nil {
		return err
	}
	fmt.Fprintln(a.std.Err, "This chroot is temporary, any changes will be destroyed when it exits.")
	op := graph.Exec{Args: command, Network: graph.NetworkHost, ImportsAt: "/stacker/imports", ToolsAt: "/stacker/bin"}
	inputs := []cache.Result{st.result}
	v := st.target.Vertex
	switch run := v.Op.(type) {
	case graph.Exec: // as the stage's run saw it
		op.Env, op.Ambient, op.Imports, op.Binds = run.Env, run.Ambient, run.Imports, run.Binds
	case graph.Imports:
		op.Imports = run.Copies
	}
	if len(op.Imports) > 0 {
		for _, in := range v.Inputs[1:] {
			r, _ := st.solver.Result(in)
			inputs = append(inputs, r)
		}
	}
	op.Env = withDefault(op.Env, "PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	status, err := st.builder.Shell(ctx, op, inputs, newConsole(a.std))
	if err != nil {
		return fmt.Errorf("run %s: %w", strings.Join(command, " "), err)
	}
	switch {
	case status.Signal != 0:
		return exitStatus(128 + int(status.Signal))
	case status.Code != 0:
		return exitStatus(status.Code)
	}
	return nil
}

func withDefault(env []graph.KV, key, value string) []graph.KV {
	for _, kv := range env {
		if kv.Key == key {
			return env
		}
	}
	return append([]graph.KV{{Key: key, Value: value}}, env...)
}
