// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"build.stacker.dev/internal/frontend/stackerfile"
)

// kv is a name and its value, in the order of the Dockerfile.
type kv struct{ key, value string }

// set gives key a value, at the place where it first stood.
func set(list []kv, key, value string) []kv {
	if i := slices.IndexFunc(list, func(e kv) bool { return e.key == key }); i >= 0 {
		list = slices.Clone(list)
		list[i].value = value
		return list
	}
	return append(slices.Clip(list), kv{key, value})
}

func get(list []kv, key string) (string, bool) {
	for _, e := range list {
		if e.key == key {
			return e.value, true
		}
	}
	return "", false
}

// stage is a stage of the Dockerfile while its instructions are read.
type stage struct {
	name    string
	env     []kv // of the base and of ENV
	args    []kv // what ARG makes visible: a placeholder, or a value
	workdir string
	user    string
	shell   []string
	piece   *piece

	config config
}

// config is what the stage says about its image.
type config struct {
	env, labels, annotations []kv
	volumes                  []string
	workdir, user            string
	cmd, entrypoint          *[]string
}

// piece is one stage of the stacker.yaml.
type piece struct {
	name      string
	from      []kv
	insecure  bool
	arch      string // of --platform; empty: as the base
	imports   []importEntry
	dirs      []string // to be made before run
	env       []kv     // build_env
	run       []string
	config    *config // of the last piece of a stage
	buildOnly bool
	dir       string // where the script is
}

// importEntry is one entry of imports.
type importEntry struct {
	path, hash, dest, mode string
	uid, gid               *int
}

// stage converts one stage.
func (c *converter) stage(ctx context.Context, in *instructions.Stage, number int, last bool) error {
	c.line = in.Location[0].Start.Line
	s := &stage{name: in.Name, workdir: "/", shell: []string{"/bin/sh", "-c"}}
	switch {
	case s.name != "":
	case last:
		s.name = "${{" + imageKey + ":app}}"
		c.subs[imageKey] = "app"
	default:
		s.name = "stage" + strconv.Itoa(number)
	}
	p, err := c.from(ctx, s, in)
	if err != nil {
		return err
	}
	s.piece = p
	for _, command := range in.Commands {
		c.line = command.Location()[0].Start.Line
		// What cannot be converted is told all at once.
		var wrong *stackerfile.Error
		switch err := c.instruction(ctx, s, command); {
		case errors.As(err, &wrong):
			c.wrong = append(c.wrong, wrong)
		case err != nil:
			return err
		}
	}
	s.piece.config = &s.config
	if err := c.name(s.piece, s.name); err != nil {
		return err
	}
	c.pieces = append(c.pieces, s.piece)
	c.stages[strconv.Itoa(number)] = s
	if in.Name != "" {
		c.stages[strings.ToLower(in.Name)] = s
	}
	return nil
}

func (c *converter) name(p *piece, name string) error {
	if c.names[name] {
		return c.fail("name the stage in another way", "two stages would be called %s", name)
	}
	c.names[name] = true
	p.name = name
	return nil
}

// from converts a FROM: s gets what it inherits.
func (c *converter) from(ctx context.Context, s *stage, in *instructions.Stage) (*piece, error) {
	platform := platformArgs()
	global := func(values bool) func(string) (string, bool) {
		return func(name string) (string, bool) {
			if v, ok := c.meta[name]; ok {
				if values {
					return v, true
				}
				return placeholder(name, v), true
			}
			v, ok := platform[name]
			return v, ok
		}
	}
	written, err := c.expand(in.BaseName, global(false))
	if err != nil {
		return nil, err
	}
	today, _, err := c.lex.ProcessWord(in.BaseName, variables(global(true)))
	if err != nil {
		return nil, c.fail("", "%v", err)
	}
	p := &piece{dir: "/"}
	if in.Platform != "" {
		if p.arch, err = c.arch(in.Platform, global(true)); err != nil {
			return nil, err
		}
	}
	if parent := c.stages[strings.ToLower(written)]; parent != nil {
		s.env, s.args, s.workdir, s.user, s.shell = parent.env, parent.args, parent.workdir, parent.user, parent.shell
		p.from = []kv{{"type", "built"}, {"tag", parent.name}}
		return p, nil
	}
	if written == "scratch" {
		p.from = []kv{{"type", "scratch"}}
		s.env = []kv{{"PATH", defaultPath}}
		return p, nil
	}
	base, err := c.in.Base(ctx, today, c.in.Insecure)
	if err != nil {
		return nil, c.fail("the environment, user and directory of the base are needed to convert what follows", "read the base image %s: %v", today, err)
	}
	if len(base.OnBuild) > 0 {
		return nil, c.fail("use a base without triggers", "the base image %s has ONBUILD triggers, which a build of a stacker.yaml does not run", today)
	}
	for _, e := range base.Env {
		if k, v, ok := strings.Cut(e, "="); ok {
			s.env = set(s.env, k, v)
		}
	}
	if _, ok := get(s.env, "PATH"); !ok {
		s.env = set(s.env, "PATH", defaultPath)
	}
	s.user = base.User
	if base.WorkingDir != "" {
		s.workdir = path.Clean("/" + base.WorkingDir)
	}
	if len(base.Shell) > 0 {
		s.shell = base.Shell
	}
	p.from, p.insecure = dockerBase(written, base), c.in.Insecure
	return p, nil
}

// dockerBase is the from of an image in a registry, or in the local store, where names
// have no scheme and must have a tag.
func dockerBase(name string, base Base) []kv {
	if !base.Local {
		name = "docker://" + name
	} else if !strings.ContainsAny(name[strings.LastIndex(name, "/")+1:], ":@") {
		name += ":latest"
	}
	return []kv{{"type", "docker"}, {"url", name}}
}

// defaultPath is the PATH of an image that says none.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// arch is the architecture of a --platform.
func (c *converter) arch(text string, known func(string) (string, bool)) (string, error) {
	text, _, err := c.lex.ProcessWord(text, variables(known))
	if err != nil {
		return "", c.fail("", "%v", err)
	}
	system, arch, ok := strings.Cut(text, "/")
	if !ok || system != "linux" || strings.Contains(arch, "/") {
		return "", c.fail("write linux/ARCHITECTURE", "the platform %q cannot be converted", text)
	}
	if arch == platformArgs()["BUILDARCH"] {
		return "", nil
	}
	return arch, nil
}

// known is what words of the stage's instructions see.
func (s *stage) known(name string) (string, bool) {
	if v, ok := get(s.env, name); ok {
		return v, true
	}
	return get(s.args, name)
}

// expand replaces variables in a word of an instruction.
func (c *converter) word(s *stage, word string) (string, error) { return c.expand(word, s.known) }

// split starts a new piece that is built on the present one.
func (c *converter) split(s *stage) error {
	old := s.piece
	old.buildOnly = true
	base := s.name
	if strings.HasPrefix(base, "${{") {
		base = "app"
	}
	n := 1
	for c.names[fmt.Sprintf("%s.%d", base, n)] {
		n++
	}
	if err := c.name(old, fmt.Sprintf("%s.%d", base, n)); err != nil {
		return err
	}
	c.pieces = append(c.pieces, old)
	s.piece = &piece{from: []kv{{"type", "built"}, {"tag", old.name}}, arch: old.arch, dir: "/"}
	return nil
}

// fresh makes the present piece one whose script is empty, so that what comes next is
// not seen by a script above it.
func (c *converter) fresh(s *stage) error {
	if len(s.piece.run) == 0 {
		return nil
	}
	return c.split(s)
}

// buildEnv is the environment of the stage's RUN as of now.
func (s *stage) buildEnv() []kv {
	env := slices.Clone(s.env)
	for _, a := range s.args {
		if _, ok := get(env, a.key); !ok && a.value != "" {
			env = append(env, a)
		}
	}
	if _, ok := get(env, "HOME"); !ok {
		env = append(env, kv{"HOME", "/root"})
	}
	return env
}

// sortedKeys is for what has no order of its own.
func sortedKeys(m map[string]string) []string { return slices.Sorted(maps.Keys(m)) }
