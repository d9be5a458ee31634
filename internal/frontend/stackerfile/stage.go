// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"net/url"
	"path"
	"regexp"
	"slices"
	"strings"
)

// stage reads one top-level entry, or returns nil if nothing can be made of it.
func (d *decoder) stage(e entry) *Stage {
	if !d.stageName(e.key) {
		return nil
	}
	if e.value.kind != mapNode {
		d.fail(e.key, "a layer needs at least from:", "layer %s must be a map, not %s", short(e.key.text), e.value.what())
		return nil
	}
	s := &Stage{Name: e.key.text, Pos: d.src.at(e.key), File: d.file}
	seen := readFields(d, e.value, stageFields, s, func(d *decoder, key *node) {
		d.fail(key, unknownKeyHint(key.text), "stackerfile: unknown directive %s", short(key.text))
	})
	if seen["from"] == nil {
		d.fail(e.key, "add from: with a type, such as from: {type: scratch}", "invalid layer: no base (from directive)")
	}
	if seen["import"] != nil && seen["imports"] != nil {
		d.fail(e.key, "move all entries to 'imports'", "layer '%s' cannot have both 'import' and 'imports'", short(s.Name))
	}
	if !s.BuildOnly && !tagName.MatchString(s.Name) {
		d.fail(e.key, "a name has letters, digits and, between them, . _ - + @ or /", "layer name %s cannot be a tag", short(s.Name))
	}
	return s
}

// tagName is what a layout's tag may be (OCI image-spec, annotations,
// org.opencontainers.image.ref.name).
var tagName = regexp.MustCompile(`^[A-Za-z0-9]+(([-._:@+/]|--)[A-Za-z0-9]+)*$`)

// stageName checks what every name must be: it becomes a file name, too.
func (d *decoder) stageName(key *node) bool {
	name := key.text
	switch {
	case key.tag == "!!int" || key.tag == "!!float" || key.null():
		d.fail(key, "put the name in quotes", "stackerfile: cannot cast %s to string", short(key.at.Value))
	case strings.Contains(name, ":"):
		d.fail(key, "", "using ':' in the layer name (%s) is forbidden due to overlay constraints", short(name))
	case name == "" || printable(name) != name || strings.Contains(name, "\t"):
		d.fail(key, "", "layer name %q is empty or has a control character", short(name))
	case slices.ContainsFunc(strings.Split(name, "/"), func(part string) bool { return part == "" || part == "." || part == ".." }):
		d.fail(key, "", "layer name %s has an empty part, or . or .. as a part", short(name))
	case len(name) > 200:
		d.fail(key, "", "layer name %s is longer than 200 bytes", short(name))
	default:
		return true
	}
	return false
}

// unknownKeyHint says what to write in place of a key that is none.
func unknownKeyHint(key string) string {
	if key == "apply" { // merged other images until 0.6
		return "start from one image, and import what you need of the others: imports: [stacker://LAYER/PATH], " +
			"where LAYER has from: that image and build_only: true"
	}
	return didYouMean(key, names(stageFields), "")
}

func (d *decoder) platform(n *node, key string) string {
	text, ok := d.text(n, key)
	if ok && text == "" {
		d.fail(n, "leave the key out to build for the platform of the base", "stackerfile: %q value cannot be empty", key)
	}
	return text
}

// run reads a script: one text, or a list of texts that follow each other.
func (d *decoder) run(n *node, key string) *Run {
	items := []*node{n}
	if n.kind == listNode {
		items = n.items
	}
	r := &Run{Pos: d.src.at(n), list: n.kind == listNode}
	var parts []string
	for _, item := range items {
		switch {
		case n.null():
			return nil
		case item.kind != textNode || item.null() || item.tag == "!!int" || item.tag == "!!float":
			what := "directive type"
			if n.kind == listNode {
				what = "run array type"
			}
			d.fail(item, "'"+key+"' is a text or a list of texts", "unknown %s: %s", what, item.what())
		default:
			parts = append(parts, item.text)
			r.Lines = append(r.Lines, d.src.lines(item)...)
		}
	}
	r.Script = strings.Join(parts, "\n")
	if strings.TrimSpace(r.Script) == "" {
		return nil
	}
	if !strings.HasPrefix(r.Script, "#!") {
		r.Script = "#!/bin/sh -xe\n" + r.Script
		r.Lines = append([]Pos{r.Pos}, r.Lines...)
	}
	if strings.HasSuffix(r.Script, "\n") {
		r.Lines = r.Lines[:len(r.Lines)-1]
	}
	return r
}

// command reads a list of arguments, or a text that is split as a shell does.
func (d *decoder) command(n *node, key string) *Command {
	if n.null() {
		return nil
	}
	c := &Command{Pos: d.src.at(n), Args: []string{}}
	if n.kind == listNode {
		c.Args = append(c.Args, d.texts(n, key)...)
		return c
	}
	text, ok := d.text(n, key)
	if !ok {
		return nil
	}
	words, err := splitWords(text)
	if err != nil {
		d.fail(n, "", "split %s into words: %v", key, err)
	}
	c.Args = append(c.Args, words...)
	return c
}

func (d *decoder) passthrough(n *node) *Passthrough {
	if n.null() {
		return nil
	}
	p := &Passthrough{Pos: d.src.at(n)}
	for _, item := range d.list(n, "build_env_passthrough") {
		text, ok := d.text(item, "an entry of build_env_passthrough")
		if !ok {
			continue
		}
		re, err := regexp.Compile("^(?:" + text + ")$")
		if err != nil {
			d.fail(item, "it must be a regular expression, such as MY_.*", "bad pattern in build_env_passthrough: %s", short(text))
			continue
		}
		p.Patterns = append(p.Patterns, re)
	}
	return p
}

func (d *decoder) bom(n *node) *Bom {
	if n.null() || !d.isMap(n, "bom") {
		return nil
	}
	b := &Bom{Pos: d.src.at(n)}
	readFields(d, n, bomFields, b, unknownIn("'bom'", bomFields))
	return b
}

// namespace is what SPDX takes as the beginning of a document's namespace: an
// absolute URI without a fragment (SPDX 2.3, clause 6.5).
func (d *decoder) namespace(n *node) string {
	text, ok := d.text(n, "namespace")
	if !ok || text == "" {
		return ""
	}
	if u, err := url.Parse(text); err != nil || !u.IsAbs() || strings.Contains(text, "#") {
		d.fail(n, "write a URI such as https://example.com/bom", "namespace of bom is no absolute URI: %s", short(text))
	}
	return text
}

// bomPackages is a list of packages, none of them twice.
func (d *decoder) bomPackages(n *node) []BomPackage {
	var list []BomPackage
	seen := map[string]bool{}
	for _, item := range d.list(n, "packages") {
		p := d.bomPackage(item)
		name := p.Name + " " + p.Version
		if p.Name != "" && seen[name] {
			d.fail(item, "list all of its paths in one entry", "package %s is there twice", short(name))
		}
		seen[name] = true
		list = append(list, p)
	}
	return list
}

// bomPaths are clean absolute paths.
func (d *decoder) bomPaths(n *node) []string {
	var list []string
	for _, item := range d.list(n, "paths") {
		if at, ok := d.imagePath(item, "an entry of paths"); ok {
			list = append(list, path.Clean(at))
		}
	}
	return list
}

func (d *decoder) bomPackage(n *node) BomPackage {
	p := BomPackage{Pos: d.src.at(n)}
	if !d.isMap(n, "a package of bom") {
		return p
	}
	readFields(d, n, bomPackageFields, &p, unknownIn("a package of bom", bomPackageFields))
	if p.Name == "" {
		d.fail(n, "", "a package of bom has no name")
	}
	return p
}
