// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package convert turns a Dockerfile into a stacker.yaml that builds an image with
// equal files and an equal config.
//
// It is a translator of text: it builds nothing. What it must know of a base image
// (environment, user, working directory, triggers) it asks of Input.Base. What the
// language of stacker.yaml cannot say is an error at the line that says it, never a
// guess; Input.Drop names instructions that the user wants left out instead.
//
// # How instructions map
//
// A stage of the Dockerfile is one stage of stacker.yaml, or several in a row: files
// of `imports` with dest are there before `run`, and `build_env` is the same for a
// whole `run`, so a COPY, an ENV or an ARG behind a RUN starts a new piece
// that is built on the one before and is build_only. The config goes to the last piece.
// Each RUN is a process of its own in `run`, as in a Dockerfile.
//
// An ARG is the substitution `${{ARG_name:default}}`. The prefix keeps the key apart
// from `$name` in scripts, which stacker.yaml refuses for keys that are supplied.
package convert

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"

	"build.stacker.dev/internal/frontend/stackerfile"
)

// Input is a Dockerfile and what must be known to convert it.
type Input struct {
	Name       string // of the Dockerfile, for messages
	Dockerfile []byte
	Context    string // the build context's directory
	// ContextPath is how the build file that comes out names Context: a path relative
	// to its own directory, "." where they are the same.
	ContextPath string
	// Base returns what a base image says of itself. The name is that of FROM with all
	// variables replaced by their defaults.
	Base func(ctx context.Context, name string, insecure bool) (Base, error)
	// Insecure allows plain http and unverified TLS for base images.
	Insecure bool
	// Drop are names of instructions, in capitals, that are left out where
	// stacker.yaml has no word for them.
	Drop []string
}

// Base is the part of a base image's config that later instructions read.
type Base struct {
	Env        []string
	User       string
	WorkingDir string
	Shell      []string
	OnBuild    []string
	Local      bool // it is in the local store, not in a registry
}

// Output is what becomes of it.
type Output struct {
	File        []byte // the stacker.yaml
	Substitutes []byte // a file for --substitute-file: the default of each ARG
	Notes       []string
}

// imageKey is the substitution that names the last stage where it has no name.
const imageKey = "IMAGE"

// argPrefix begins the key of an ARG's substitution.
const argPrefix = "ARG_"

// Dockerfile converts in. Errors about the file are *stackerfile.Error or Errors, with its
// positions.
func Dockerfile(ctx context.Context, in Input) (*Output, error) {
	c := &converter{in: in, subs: map[string]string{}, meta: map[string]string{}, stages: map[string]*stage{}, names: map[string]bool{}}
	root, err := os.OpenRoot(in.Context)
	if err != nil {
		return nil, fmt.Errorf("open build context: %w", err)
	}
	defer root.Close()
	c.root = root
	parsed, err := parser.Parse(bytes.NewReader(in.Dockerfile))
	if err != nil {
		return nil, c.foreign(err)
	}
	if bytes.Contains(in.Dockerfile, []byte("${{")) {
		return nil, c.at(lineOf(in.Dockerfile, "${{"), "stacker.yaml reads ${{ as a substitution; write it in another way", "the text ${{ cannot be converted")
	}
	c.lex = shell.NewLex(parsed.EscapeToken)
	stages, meta, err := instructions.Parse(parsed.AST, nil)
	if err != nil {
		return nil, c.foreign(err)
	}
	for i := range meta {
		if err := c.metaArg(&meta[i]); err != nil {
			return nil, err
		}
	}
	for i := range stages {
		if err := c.stage(ctx, &stages[i], i, i == len(stages)-1); err != nil {
			return nil, err
		}
	}
	if len(c.wrong) > 0 {
		return nil, c.wrong
	}
	return c.output()
}

// converter is one conversion.
type converter struct {
	in     Input
	root   *os.Root // the build context
	lex    *shell.Lex
	meta   map[string]string // ARG before the first FROM: name → default
	subs   map[string]string // what the substitute file says
	stages map[string]*stage // by name and by number
	pieces []*piece          // stages of the stacker.yaml, in order
	names  map[string]bool   // of pieces
	notes  []string
	wrong  stackerfile.Errors // what cannot be converted
	line   int                // of the instruction that is being converted
}

// metaArg takes an ARG before the first FROM.
func (c *converter) metaArg(a *instructions.ArgCommand) error {
	c.line = a.Location()[0].Start.Line
	for _, kv := range a.Args {
		value, err := c.argDefault(kv, func(string) (string, bool) { return "", false })
		if err != nil {
			return err
		}
		c.meta[kv.Key] = value
		c.subs[argPrefix+kv.Key] = value
	}
	return nil
}

// argDefault is the default of an ARG. A default that names another ARG has no
// equal: a substitution's default is plain text.
func (c *converter) argDefault(kv instructions.KeyValuePairOptional, known func(string) (string, bool)) (string, error) {
	if kv.Value == nil {
		return "", nil
	}
	value, err := c.expand(*kv.Value, known)
	if err != nil {
		return "", err
	}
	if strings.Contains(value, "${{") {
		return "", c.fail("write the value itself as the default", "the default of ARG %s is made of another ARG, which a substitution cannot say", kv.Key)
	}
	if strings.ContainsAny(value, "}\n") {
		return "", c.fail("write another default", "the default of ARG %s has a character that a substitution cannot have: %q", kv.Key, value)
	}
	return value, nil
}

// placeholder is the text that stands for an ARG's value.
func placeholder(name, value string) string {
	return "${{" + argPrefix + name + ":" + value + "}}"
}

// platformArgs are the ARGs that a builder supplies, for a build on this machine.
func platformArgs() map[string]string {
	arch := runtime.GOARCH
	return map[string]string{
		"BUILDPLATFORM": "linux/" + arch, "BUILDOS": "linux", "BUILDARCH": arch, "BUILDVARIANT": "",
		"TARGETPLATFORM": "linux/" + arch, "TARGETOS": "linux", "TARGETARCH": arch, "TARGETVARIANT": "",
	}
}

// variables is an environment for the lexer of buildkit.
type variables func(name string) (string, bool)

func (v variables) Get(name string) (string, bool) { return v(name) }
func (v variables) Keys() []string                 { return nil }

// expand replaces the variables of a word. Operators on an ARG are refused: its value
// is not known before the build.
func (c *converter) expand(word string, known func(string) (string, bool)) (string, error) {
	var open string
	out, _, err := c.lex.ProcessWord(word, variables(func(name string) (string, bool) {
		value, ok := known(name)
		if strings.Contains(value, "${{") && modified(word, name) {
			open = name
		}
		return value, ok
	}))
	if err != nil {
		return "", c.fail("", "%v", err)
	}
	if open != "" {
		return "", c.fail("write ${"+open+"} without an operator", "the value of %s is not known before the build, so %q cannot be computed", open, word)
	}
	return out, nil
}

// modified tells whether word applies an operator to a variable.
func modified(word, name string) bool {
	for _, part := range strings.Split(word, "${"+name)[1:] {
		if !strings.HasPrefix(part, "}") && part != "" && strings.ContainsRune(":-+?#%/", rune(part[0])) {
			return true
		}
	}
	return false
}

// dropped tells whether the user wants an instruction to be left out.
func (c *converter) dropped(name string) bool {
	if !slices.Contains(c.in.Drop, name) {
		return false
	}
	c.note("%s:%d: %s left out", c.in.Name, c.line, name)
	return true
}

func (c *converter) note(format string, args ...any) {
	if text := fmt.Sprintf(format, args...); !slices.Contains(c.notes, text) {
		c.notes = append(c.notes, text)
	}
}

// fail is an error at the instruction that is being converted.
func (c *converter) fail(hint, format string, args ...any) error {
	return c.at(c.line, hint, format, args...)
}

func (c *converter) at(line int, hint, format string, args ...any) error {
	e := &stackerfile.Error{Pos: stackerfile.Pos{File: c.in.Name, Line: line, Column: 1}, Msg: fmt.Sprintf(format, args...), Hint: hint}
	if lines := strings.Split(string(c.in.Dockerfile), "\n"); line > 0 && line <= len(lines) {
		e.Quote = lines[line-1]
	}
	return e
}

// foreign gives an error of the parser our form.
func (c *converter) foreign(err error) error {
	line := 0
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		line = located.Locations[0][0].Start.Line
	}
	return c.at(line, "", "%v", err)
}

func lineOf(text []byte, what string) int {
	return 1 + bytes.Count(text[:bytes.Index(text, []byte(what))], []byte("\n"))
}
