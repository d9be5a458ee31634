// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"bytes"
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/linter"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// The converter puts docker.io before names without a registry, and asks for images
// by these. What such a name means is for the Engine to say: so names are given to it
// as they were written. They are not known from the converter; but those that were
// written with docker.io can be found in the Dockerfile.

// hub is the registry that the converter knows names without a registry to be on.
const hub = "docker.io/"

// asWritten takes docker.io off an image's source if the user did not write it.
func (c *frontendClient) asWritten(identifier string) string {
	const scheme = "docker-image://"
	name, ok := strings.CutPrefix(identifier, scheme+hub)
	if !ok {
		return identifier
	}
	name = strings.TrimPrefix(name, "library/")
	repository := withoutSuffix(name)
	for _, pattern := range c.full {
		if ok, err := path.Match(pattern, repository); ok || err != nil {
			return identifier
		}
	}
	return scheme + name
}

// fullNames lists the names with docker.io in a Dockerfile and in the values of
// build contexts, without that, without library/ and tags. What a variable stands
// for that is not known before the build is "*".
func fullNames(data []byte, attributes map[string]string) []string {
	var out []string
	add := func(name string) {
		name = strings.TrimPrefix(name, "index.")
		if rest, ok := strings.CutPrefix(name, hub); ok {
			out = append(out, withoutSuffix(strings.TrimPrefix(rest, "library/")))
		}
	}
	for key, value := range attributes {
		if image, ok := strings.CutPrefix(value, "docker-image://"); ok && strings.HasPrefix(key, "context:") {
			add(image)
		}
	}
	file, err := parser.Parse(bytes.NewReader(data))
	if err != nil {
		return nil // the converter says what is wrong
	}
	stages, args, err := instructions.Parse(file.AST, linter.New(&linter.Config{SkipAll: true}))
	if err != nil {
		return nil
	}
	lex := shell.NewLex(file.EscapeToken)
	env := environment{}
	for _, a := range args {
		for _, kv := range a.Args {
			value, given := attributes["build-arg:"+kv.Key]
			if !given && kv.Value != nil {
				value, _, err = lex.ProcessWord(*kv.Value, env)
				given = err == nil
			}
			if given {
				env[kv.Key] = value
			}
		}
	}
	for _, s := range stages {
		if name, _, err := lex.ProcessWord(s.BaseName, env); err == nil {
			add(name)
		}
		for _, c := range s.Commands {
			switch c := c.(type) {
			case *instructions.CopyCommand:
				add(c.From)
			case *instructions.RunCommand:
				for _, m := range instructions.GetMounts(c) {
					add(m.From)
				}
			}
		}
	}
	return out
}

// environment is what variables stand for. It implements shell.EnvGetter: each has a
// value, so that those which are not known match anything.
type environment map[string]string

// Get implements shell.EnvGetter.
func (e environment) Get(name string) (string, bool) {
	if v, ok := e[name]; ok {
		return v, true
	}
	return "*", true
}

// Keys implements shell.EnvGetter.
func (e environment) Keys() []string { return nil }

// withoutSuffix takes tag and digest off a name.
func withoutSuffix(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}
