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
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"mvdan.cc/sh/v3/expand"
	"mvdan.cc/sh/v3/interp"
)

// killAfter is how long a child may take to end after an interrupt.
const killAfter = 2 * time.Second

// proc is what a running utility sees of the world.
type proc struct {
	name     string
	in       io.Reader
	out, err io.Writer
	dir      string              // relative names are resolved here; "" is the directory of the process
	environ  []string            // NAME=value
	as       *syscall.Credential // who runs other programs; nil: as this process
}

// path resolves a name that the user gave.
func (p *proc) path(name string) string {
	if p.dir == "" || filepath.IsAbs(name) {
		return name
	}
	return filepath.Join(p.dir, name)
}

// getenv returns the value of an environment variable; the last one counts.
func (p *proc) getenv(name string) (string, bool) {
	for i := len(p.environ) - 1; i >= 0; i-- {
		if n, v, _ := strings.Cut(p.environ[i], "="); n == name {
			return v, true
		}
	}
	return "", false
}

// fail prints "NAME: message" and returns status.
func (p *proc) fail(status int, format string, a ...any) int {
	fmt.Fprintf(p.err, "%s: %s\n", p.name, fmt.Sprintf(format, a...))
	return status
}

// failPath prints what went wrong with a file, in the words that people know. A reader that
// went away, as head does in a pipeline, is nobody's fault: elsewhere SIGPIPE ends the writer.
func (p *proc) failPath(name string, err error) int {
	if errors.Is(err, syscall.EPIPE) {
		return 128 + int(syscall.SIGPIPE)
	}
	return p.fail(1, "%s: %s", name, reason(err))
}

// reason returns the innermost cause of err, as C libraries word it: with a capital.
func reason(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		s := errno.Error()
		return strings.ToUpper(s[:1]) + s[1:]
	}
	return err.Error()
}

// run runs another program for find, xargs, env: one from PATH, or else an applet.
func (p *proc) run(ctx context.Context, args []string) int {
	child := *p
	child.name = path.Base(args[0])
	file, err := p.look(args[0])
	if file == "" {
		if run := own(args[0], err); run != nil {
			return run(ctx, &child, args[1:])
		}
		if err == nil {
			err = errNotFound
		}
		return p.fail(notRun(err), "%s: %s", args[0], reason(err))
	}
	cmd := exec.CommandContext(ctx, file)
	cmd.Args, cmd.Dir, cmd.Env = args, p.dir, p.environ
	cmd.Stdin, cmd.Stdout, cmd.Stderr = p.in, p.out, p.err
	if p.as != nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: p.as}
	}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = killAfter
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return 0
	case errors.As(err, &exit):
		if w, ok := exit.Sys().(syscall.WaitStatus); ok && w.Signaled() {
			return 128 + int(w.Signal())
		}
		return exit.ExitCode()
	}
	return p.fail(notRun(err), "%s: %s", args[0], reason(err))
}

// look finds the program for a command name. It returns "" when an applet is to run: there is
// no program, or only the link to this binary, which would be started for nothing. The error
// then says why there is none.
func (p *proc) look(name string) (string, error) {
	if path.Dir(name) == LinkDir {
		return "", nil
	}
	file, err := interp.LookPathDir(p.workDir(), expand.ListEnviron(p.environ...), name)
	if err != nil {
		return "", lookError(p.path(name), name)
	}
	if path.Dir(file) == LinkDir {
		return "", nil
	}
	return file, nil
}

// own returns the applet for a command that look found no program for, with look's error.
func own(name string, err error) applet {
	if err != nil && strings.Contains(name, "/") {
		return nil
	}
	if path.Base(name) == "sh" {
		return func(ctx context.Context, p *proc, args []string) int { return p.sh(ctx, args) }
	}
	return applets()[path.Base(name)]
}

func (p *proc) workDir() string {
	if p.dir != "" {
		return p.dir
	}
	dir, err := os.Getwd()
	if err != nil {
		return "/"
	}
	return dir
}

// lookError says why a command was not found: the interpreter only knows that it was not.
func lookError(file, name string) error {
	if !strings.Contains(name, "/") {
		return errNotFound
	}
	info, err := os.Stat(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errNotFound
	case err != nil:
		return err
	case info.IsDir() || info.Mode()&0o111 == 0:
		return syscall.EACCES
	}
	return errNotFound
}

var errNotFound = errors.New("not found")

// notRun returns the status for a command that could not be started.
func notRun(err error) int {
	if errors.Is(err, errNotFound) || errors.Is(err, fs.ErrNotExist) {
		return 127
	}
	return 126
}
