// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"context"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// instruction converts one instruction of a stage.
func (c *converter) instruction(ctx context.Context, s *stage, command instructions.Command) error {
	switch i := command.(type) {
	case *instructions.EnvCommand:
		return c.env(s, i)
	case *instructions.ArgCommand:
		return c.arg(s, i)
	case *instructions.RunCommand:
		return c.run(s, i)
	case *instructions.CopyCommand:
		return c.copy(ctx, s, i)
	case *instructions.AddCommand:
		return c.add(s, i)
	case *instructions.WorkdirCommand:
		return c.workdir(s, i)
	case *instructions.UserCommand:
		user, err := c.word(s, i.User)
		if err == nil && strings.Contains(user, "${{") {
			err = c.fail("write the user itself", "a USER that is made of an ARG cannot be converted")
		}
		s.user, s.config.user = user, user
		return err
	case *instructions.LabelCommand:
		return c.pairs(s, i.Labels, &s.config.labels)
	case *instructions.VolumeCommand:
		return c.volumes(s, i)
	case *instructions.CmdCommand:
		args, err := c.commandLine(s, i.ShellDependantCmdLine)
		s.config.cmd = &args
		return err
	case *instructions.EntrypointCommand:
		args, err := c.commandLine(s, i.ShellDependantCmdLine)
		s.config.entrypoint = &args
		return err
	case *instructions.MaintainerCommand:
		s.config.annotations = set(s.config.annotations, "org.opencontainers.image.authors", i.Maintainer)
		return nil
	case *instructions.ShellCommand:
		s.shell = slices.Clone(i.Shell)
	}
	// The rest is in the config of an image, and stacker.yaml has no word for it.
	name := strings.ToUpper(command.Name())
	if c.dropped(name) {
		return nil
	}
	return c.fail("leave it out, or convert with --drop "+name, "%s cannot be converted: stacker.yaml has no key for it", name)
}

// pairs adds expanded names and values to a list.
func (c *converter) pairs(s *stage, in instructions.KeyValuePairs, into *[]kv) error {
	for _, e := range in {
		key, err := c.word(s, e.Key)
		if err != nil {
			return err
		}
		value, err := c.word(s, e.Value)
		if err != nil {
			return err
		}
		*into = set(*into, key, value)
	}
	return nil
}

func (c *converter) env(s *stage, i *instructions.EnvCommand) error {
	if err := c.fresh(s); err != nil {
		return err
	}
	var made []kv // all words see the environment before the instruction
	if err := c.pairs(s, i.Env, &made); err != nil {
		return err
	}
	for _, e := range made {
		s.env = set(s.env, e.key, e.value)
		s.config.env = set(s.config.env, e.key, e.value)
	}
	return nil
}

func (c *converter) arg(s *stage, i *instructions.ArgCommand) error {
	if err := c.fresh(s); err != nil {
		return err
	}
	for _, a := range i.Args {
		value, err := c.argDefault(a, s.known)
		if err != nil {
			return err
		}
		meta, global := c.meta[a.Key]
		if a.Value == nil && global {
			value = meta
		}
		if v, ok := platformArgs()[a.Key]; ok && a.Value == nil {
			s.args = set(s.args, a.Key, v)
			continue
		}
		if known, ok := c.subs[argPrefix+a.Key]; ok && known != value {
			return c.fail("give the ARG one default, or another name", "ARG %s has two defaults, %q and %q", a.Key, known, value)
		}
		c.subs[argPrefix+a.Key] = value
		s.args = set(s.args, a.Key, placeholder(a.Key, value))
	}
	return nil
}

func (c *converter) workdir(s *stage, i *instructions.WorkdirCommand) error {
	dir, err := c.word(s, i.Path)
	if err != nil {
		return err
	}
	if !path.IsAbs(dir) {
		dir = path.Join(s.workdir, dir)
	}
	s.workdir = path.Clean(dir)
	s.config.workdir = s.workdir
	if strings.Contains(dir, "${{") {
		return c.fail("write the directory itself", "a WORKDIR that is made of an ARG cannot be converted")
	}
	switch p := s.piece; {
	case s.workdir == "/":
	case len(p.run) == 0:
		p.dirs = append(p.dirs, s.workdir)
	default:
		p.run = append(p.run, "mkdir -p "+quote(s.workdir))
	}
	return nil
}

func (c *converter) volumes(s *stage, i *instructions.VolumeCommand) error {
	for _, v := range i.Volumes {
		v, err := c.word(s, v)
		if err != nil {
			return err
		}
		if !slices.Contains(s.config.volumes, v) {
			s.config.volumes = append(s.config.volumes, v)
		}
	}
	return nil
}

// commandLine is what CMD and ENTRYPOINT put into the config.
func (c *converter) commandLine(s *stage, line instructions.ShellDependantCmdLine) ([]string, error) {
	if len(line.Files) > 0 {
		return nil, c.fail("", "a heredoc cannot be converted here")
	}
	if line.PrependShell {
		return append(slices.Clone(s.shell), strings.Join(line.CmdLine, " ")), nil
	}
	return append([]string{}, line.CmdLine...), nil
}

func (c *converter) run(s *stage, i *instructions.RunCommand) error {
	// The parser reads the values of --mount and others when it expands them.
	if err := i.Expand(func(word string) (string, error) { return c.word(s, word) }); err != nil {
		return c.fail("", "%v", err)
	}
	switch {
	case len(instructions.GetMounts(i)) > 0:
		return c.fail("use imports: for files, binds: for directories of the host", "RUN --mount cannot be converted: a step of a stacker.yaml has no such mounts")
	case instructions.GetNetwork(i) == instructions.NetworkNone:
		return c.fail("", "RUN --network=none cannot be converted: a stacker.yaml sets the network for the whole build")
	case instructions.GetSecurity(i) == instructions.SecurityInsecure:
		return c.fail("", "RUN --security=insecure cannot be converted")
	case len(instructions.GetDevices(i)) > 0:
		return c.fail("", "RUN --device cannot be converted")
	}
	args := i.CmdLine
	if len(i.Files) > 0 {
		text, err := c.heredoc(i)
		if err != nil {
			return err
		}
		args = []string{text}
	}
	if i.PrependShell {
		args = append(slices.Clone(s.shell), strings.Join(args, " "))
	}
	p := s.piece
	p.env = s.buildEnv()
	if p.dir != s.workdir {
		p.run = append(p.run, "cd "+quote(s.workdir))
		p.dir = s.workdir
	}
	words := make([]string, len(args))
	for n, a := range args {
		words[n] = quote(a)
	}
	line := strings.Join(words, " ")
	if s.user != "" && s.user != "root" && s.user != "0" {
		line = asUser + quote(s.user) + " " + line
		if _, ok := get(s.env, "HOME"); !ok {
			line = "(unset HOME; " + line + ")" // su-exec sets the user's own
		}
	}
	p.run = append(p.run, line)
	return nil
}

// asUser runs a command as a user. The image may have no program for that.
const asUser = "/stacker/bin/stacker internal-go su-exec "

// heredoc is the text that the shell gets for a RUN with heredocs.
func (c *converter) heredoc(i *instructions.RunCommand) (string, error) {
	if len(i.CmdLine) != 1 || !i.PrependShell {
		return "", c.fail("", "a heredoc needs the shell form of RUN")
	}
	if parser.MustParseHeredoc(i.CmdLine[0]) == nil {
		text := i.CmdLine[0]
		for _, f := range i.Files {
			text += "\n" + f.Data + f.Name
		}
		return text, nil
	}
	f := i.Files[0]
	data := f.Data
	if f.Chomp {
		data = parser.ChompHeredocContent(data)
	}
	if strings.HasPrefix(data, "#!") {
		return "", c.fail("import a file with the script, and run that", "a heredoc with an interpreter cannot be converted")
	}
	return data, nil
}

// quote makes one word of a shell's command line.
func quote(word string) string {
	safe := func(r rune) bool {
		return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("/._-+=:,@%", r)
	}
	if word != "" && strings.IndexFunc(word, func(r rune) bool { return !safe(r) }) < 0 {
		return word
	}
	return fmt.Sprintf("'%s'", strings.ReplaceAll(word, "'", `'\''`))
}
