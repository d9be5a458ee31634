// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package convert

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// output writes the pieces as YAML, in the order in which they are built.
func (c *converter) output() (*Output, error) {
	file := &yaml.Node{Kind: yaml.MappingNode}
	for _, p := range c.pieces {
		add(file, p.name, p.node())
	}
	text, err := encode(file)
	if err != nil {
		return nil, err
	}
	subs := &yaml.Node{Kind: yaml.MappingNode}
	for _, k := range sortedKeys(c.subs) {
		add(subs, k, quoted(c.subs[k]))
	}
	substitutes, err := encode(subs)
	if err != nil {
		return nil, err
	}
	return &Output{File: text, Substitutes: substitutes, Notes: c.notes}, nil
}

func encode(n *yaml.Node) ([]byte, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(n); err != nil {
		return nil, fmt.Errorf("write yaml: %w", err)
	}
	return b.Bytes(), e.Close()
}

// node is a stage of the stacker.yaml, its keys in the order of the documentation.
func (p *piece) node() *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	add(n, "from", p.base())
	if p.arch != "" {
		add(n, "os", plain("linux"))
		add(n, "arch", plain(p.arch))
	}
	if len(p.imports) > 0 {
		list := &yaml.Node{Kind: yaml.SequenceNode}
		for _, i := range p.imports {
			list.Content = append(list.Content, i.node())
		}
		add(n, "imports", list)
	}
	p.script(n)
	if p.config != nil {
		p.config.add(n)
	}
	if p.buildOnly {
		add(n, "build_only", plain("true"))
	}
	return n
}

// base is the value of from.
func (p *piece) base() *yaml.Node {
	n := pairs(p.from)
	if p.insecure {
		add(n, "insecure", plain("true"))
	}
	return n
}

// script adds build_env and run.
func (p *piece) script(n *yaml.Node) {
	run := &yaml.Node{Kind: yaml.SequenceNode}
	line := func(text string) {
		e := quoted(text)
		if strings.Contains(text, "\n") {
			e.Style = yaml.LiteralStyle
		}
		run.Content = append(run.Content, e)
	}
	for _, d := range p.dirs {
		line("mkdir -p " + quote(d))
	}
	var set []kv
	for _, e := range p.env {
		if e.value == "" && len(p.run) > 0 {
			line("export " + e.key + "=") // build_env leaves empty ones out
			continue
		}
		set = append(set, e)
	}
	for _, text := range p.run {
		line(text)
	}
	if len(p.run) > 0 && len(set) > 0 {
		add(n, "build_env", pairs(set))
	}
	if len(run.Content) > 0 {
		add(n, "run", run)
	}
}

func (i importEntry) node() *yaml.Node {
	n := pairs([]kv{{"path", i.path}})
	if i.hash != "" {
		add(n, "hash", quoted(i.hash))
	}
	add(n, "dest", quoted(i.dest))
	if i.mode != "" {
		add(n, "mode", plain(i.mode))
	}
	if i.uid != nil {
		add(n, "uid", plain(strconv.Itoa(*i.uid)))
		add(n, "gid", plain(strconv.Itoa(*i.gid)))
	}
	return n
}

// add adds what the image's config says.
func (f *config) add(n *yaml.Node) {
	maps := []struct {
		key  string
		list []kv
	}{{"environment", f.env}, {"labels", f.labels}, {"annotations", f.annotations}}
	for _, m := range maps {
		if len(m.list) > 0 {
			add(n, m.key, pairs(m.list))
		}
	}
	if len(f.volumes) > 0 {
		add(n, "volumes", sequence(f.volumes))
	}
	if f.workdir != "" {
		add(n, "working_dir", quoted(f.workdir))
	}
	if f.user != "" {
		add(n, "runtime_user", quoted(f.user))
	}
	if f.entrypoint != nil {
		add(n, "entrypoint", sequence(*f.entrypoint))
	}
	if f.cmd != nil {
		add(n, "cmd", sequence(*f.cmd))
	}
}

// add adds a key to a map.
func add(n *yaml.Node, key string, value *yaml.Node) {
	n.Content = append(n.Content, quoted(key), value)
}

// quoted is a text: the encoder quotes it where it would be read as something else.
func quoted(text string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.ScalarNode, Tag: "!!str", Value: text}
	if strings.Contains(text, "${{") {
		n.Style = yaml.DoubleQuotedStyle
	}
	return n
}

// plain is a number or a truth value.
func plain(text string) *yaml.Node { return &yaml.Node{Kind: yaml.ScalarNode, Value: text} }

func pairs(list []kv) *yaml.Node {
	n := &yaml.Node{Kind: yaml.MappingNode}
	for _, e := range list {
		add(n, e.key, quoted(e.value))
	}
	return n
}

func sequence(list []string) *yaml.Node {
	n := &yaml.Node{Kind: yaml.SequenceNode}
	for _, e := range list {
		n.Content = append(n.Content, quoted(e))
	}
	return n
}
