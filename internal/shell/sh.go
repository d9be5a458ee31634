// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"
	"syscall"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
	"mvdan.cc/sh/v3/syntax"
)

// script is a parsed command line of sh.
type script struct {
	options  []string // for the interpreter: "-e", "+x", "-o", "pipefail"
	command  bool     // -c
	stdin    bool     // -s
	operands []string
}

// sh runs the shell.
func (p *proc) sh(ctx context.Context, args []string) int {
	s, err := parseShArgs(args)
	if err != nil {
		return p.fail(2, "%v", err)
	}
	text, zero, params, status := p.source(s)
	if text == nil {
		return status
	}
	return p.interpret(ctx, text, zero, append(append(s.options, "--"), params...))
}

// parseShArgs takes the options as dash does: flags can be combined and can take a plus.
func parseShArgs(args []string) (script, error) {
	var s script
	for len(args) > 0 && len(args[0]) > 1 && (args[0][0] == '-' || args[0][0] == '+') {
		word := args[0]
		args = args[1:]
		if word == "--" {
			break
		}
		for _, c := range word[1:] {
			switch c {
			case 'c':
				s.command = true
			case 's':
				s.stdin = true
			case 'a', 'e', 'f', 'n', 'u', 'x':
				s.options = append(s.options, word[:1]+string(c))
			case 'o':
				if len(args) == 0 {
					return s, errors.New("-o requires an argument")
				}
				s.options = append(s.options, word[:1]+"o", args[0])
				args = args[1:]
			case 'b', 'h', 'i', 'l', 'm', 'v':
				// These matter only to people at a terminal.
			default:
				return s, fmt.Errorf("illegal option %s%c", word[:1], c)
			}
		}
	}
	s.operands = args
	if s.command && len(args) == 0 {
		return s, errors.New("-c requires an argument")
	}
	return s, nil
}

// source returns the text of the script, its $0 and its parameters. Without a text it has
// printed why, and the status says it.
func (p *proc) source(s script) (text io.Reader, zero string, params []string, status int) {
	ops := s.operands
	switch {
	case s.command:
		zero = "sh"
		if len(ops) > 1 {
			zero, params = ops[1], ops[2:]
		}
		return strings.NewReader(ops[0]), zero, params, 0
	case s.stdin || len(ops) == 0:
		return p.in, "sh", ops, 0
	}
	data, err := os.ReadFile(p.path(ops[0]))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, "", nil, p.fail(2, "cannot open %s: No such file", ops[0])
		}
		return nil, "", nil, p.fail(2, "cannot open %s: %s", ops[0], reason(err))
	}
	return strings.NewReader(string(data)), ops[0], ops[1:], 0
}

// interpret parses and runs a script.
func (p *proc) interpret(ctx context.Context, text io.Reader, zero string, params []string) int {
	// The grammar is bash's, a superset: a RUN command that was written for a larger shell
	// has more chances, and no POSIX script means something else.
	file, err := syntax.NewParser(syntax.Variant(syntax.LangBash)).Parse(text, zero)
	if err != nil {
		fmt.Fprintf(p.err, "sh: %v\n", err)
		return 2
	}
	r, err := interp.New(
		interp.Env(expand.ListEnviron(p.environ...)),
		interp.Dir(p.dir),
		interp.StdIO(p.in, p.out, p.err),
		interp.Params(params...),
		interp.OpenHandler(open),
		interp.CallHandler(unshadow),
		interp.ExecHandlers(p.execHandler),
	)
	if err != nil {
		return p.fail(2, "%v", err)
	}
	err = r.Run(ctx, file)
	if err == nil {
		return 0
	}
	if status, ok := interp.IsExitStatus(err); ok {
		return int(status)
	}
	if ctx.Err() != nil {
		return 128 + int(syscall.SIGTERM)
	}
	return p.fail(1, "%v", err)
}

// open opens the target of a redirection: a new file gets what the umask leaves of 0666.
func open(ctx context.Context, name string, flag int, perm os.FileMode) (io.ReadWriteCloser, error) {
	return interp.DefaultOpenHandler()(ctx, name, flag, perm|0o666)
}

// unshadow gives the commands that the interpreter knows only to refuse them a name that it
// does not know.
func unshadow(_ context.Context, args []string) ([]string, error) {
	if args[0] == "kill" || args[0] == "umask" {
		args = append([]string{path.Join(LinkDir, args[0])}, args[1:]...)
	}
	return args, nil
}

// execHandler stands between the shell and programs: PATH first, then the applets.
func (p *proc) execHandler(next interp.ExecHandlerFunc) interp.ExecHandlerFunc {
	run := interp.DefaultExecHandler(killAfter)
	return func(ctx context.Context, args []string) error {
		hc := interp.HandlerCtx(ctx)
		if args[0] == LinkDir+"/umask" {
			return exitStatus(umask(hc, args[1:]))
		}
		child := &proc{
			name: path.Base(args[0]), in: hc.Stdin, out: hc.Stdout, err: hc.Stderr,
			dir: hc.Dir, environ: exported(hc.Env),
		}
		if child.in == nil {
			child.in = strings.NewReader("")
		}
		file, err := child.look(args[0])
		if file != "" {
			return run(ctx, args)
		}
		if applet := own(args[0], err); applet != nil {
			return exitStatus(applet(ctx, child, args[1:]))
		}
		if err == nil {
			err = errNotFound
		}
		fmt.Fprintf(hc.Stderr, "sh: %s: %s\n", args[0], reason(err))
		return exitStatus(notRun(err))
	}
}

// exported returns the environment for a child.
func exported(env expand.Environ) []string {
	var list []string
	for name, v := range env.Each {
		if v.Exported && v.Kind == expand.String {
			list = append(list, name+"="+v.Str)
		}
	}
	return list
}

func exitStatus(n int) error {
	if n == 0 {
		return nil
	}
	return interp.NewExitStatus(uint8(n))
}

// umask is the one builtin of POSIX that the interpreter lacks and that scripts use: octal only.
func umask(hc interp.HandlerContext, args []string) int {
	if len(args) == 0 {
		old := syscall.Umask(0)
		syscall.Umask(old)
		fmt.Fprintf(hc.Stdout, "%04o\n", old)
		return 0
	}
	n, err := strconv.ParseUint(args[0], 8, 9)
	if err != nil {
		fmt.Fprintf(hc.Stderr, "umask: Illegal mode: %s\n", args[0])
		return 2
	}
	syscall.Umask(int(n))
	return 0
}

// builtin runs, as a program of its own, what the shell has built in.
func builtin(ctx context.Context, p *proc, args []string) int {
	return p.interpret(ctx, strings.NewReader(`builtin `+p.name+` "$@"`), p.name, append([]string{"--"}, args...))
}
