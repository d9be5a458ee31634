// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"regexp"
	"slices"
	"strings"
)

// stageKeys are the keys of a stage.
var stageKeys = []string{
	"from", "imports", "import", "overlay_dirs", "run", "cmd", "entrypoint", "full_command",
	"environment", "labels", "generate_labels", "volumes", "working_dir", "runtime_user",
	"annotations", "os", "arch", "build_only", "build_env", "build_env_passthrough", "binds", "bom",
}

// ignoredKeys were never meant for users, but files may have them.
var ignoredKeys = []string{"was_legacy_import", "was_bom"}

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
	seen := map[string]bool{}
	for _, f := range e.value.entries {
		key := f.key.text
		seen[key] = true
		switch {
		case d.buildKey(s, key, f.value), d.imageKey(s, key, f.value):
		case slices.Contains(ignoredKeys, key):
			d.truth(f.value, key)
		case key == "apply":
			d.fail(f.key, "start from one image, and import what you need of others: imports: [stacker://LAYER/PATH], where LAYER is a layer with from: that image and build_only: true",
				"stackerfile: unknown directive apply: images are not merged any more")
		default:
			d.fail(f.key, didYouMean(key, stageKeys, ""), "stackerfile: unknown directive %s", short(key))
		}
	}
	if !seen["from"] {
		d.fail(e.key, "add from: with a type, such as from: {type: scratch}", "invalid layer: no base (from directive)")
	}
	if seen["import"] && seen["imports"] {
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

// buildKey reads the keys that say how the root file system is made.
func (d *decoder) buildKey(s *Stage, key string, v *node) bool {
	switch key {
	case "from":
		s.From = d.from(v)
	case "imports":
		s.Imports = d.imports(v, key)
	case "import":
		s.Imports = append(s.Imports, d.imports(v, key)...)
		s.LegacyImport = true
	case "overlay_dirs":
		s.OverlayDirs = d.overlayDirs(v)
	case "binds":
		s.Binds = d.binds(v)
	case "run":
		s.Run = d.run(v, key)
	case "generate_labels":
		s.GenerateLabels = d.run(v, key)
	case "build_env":
		for _, kv := range d.variables(v, key) {
			if kv.Value != "" {
				s.BuildEnv = append(s.BuildEnv, kv)
			}
		}
	case "build_env_passthrough":
		s.BuildEnvPassthrough = d.passthrough(v)
	case "build_only":
		s.BuildOnly = d.truth(v, key)
	case "bom":
		s.Bom = d.bom(v)
	default:
		return false
	}
	return true
}

// imageKey reads the keys that only change documents of the image.
func (d *decoder) imageKey(s *Stage, key string, v *node) bool {
	switch key {
	case "cmd":
		s.Cmd = d.command(v, key)
	case "entrypoint":
		s.Entrypoint = d.command(v, key)
	case "full_command":
		s.FullCommand = d.command(v, key)
	case "environment":
		s.Environment = d.variables(v, key)
	case "labels":
		s.Labels = d.kvs(v, key)
	case "annotations":
		s.Annotations = d.kvs(v, key)
	case "volumes":
		s.Volumes = d.texts(v, key)
	case "working_dir":
		s.WorkingDir, _ = d.text(v, key)
	case "runtime_user":
		s.RuntimeUser, _ = d.text(v, key)
	case "os":
		s.OS = d.platform(v, key)
	case "arch":
		s.Arch = d.platform(v, key)
	default:
		return false
	}
	return true
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
	r := &Run{Pos: d.src.at(n)}
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
	d.fields(n, "in 'bom'", []string{"generate", "namespace", "packages"}, func(key string, v *node) {
		switch key {
		case "generate":
			b.Generate = d.truth(v, key)
		case "namespace":
			b.Namespace, _ = d.text(v, key)
		case "packages":
			for _, item := range d.list(v, key) {
				b.Packages = append(b.Packages, d.bomPackage(item))
			}
		}
	})
	return b
}

func (d *decoder) bomPackage(n *node) BomPackage {
	p := BomPackage{Pos: d.src.at(n)}
	if !d.isMap(n, "a package of bom") {
		return p
	}
	d.fields(n, "in a package of bom", []string{"name", "version", "license", "paths"}, func(key string, v *node) {
		switch key {
		case "name":
			p.Name, _ = d.text(v, key)
		case "version":
			p.Version, _ = d.text(v, key)
		case "license":
			p.License, _ = d.text(v, key)
		case "paths":
			p.Paths = d.texts(v, key)
		}
	})
	if p.Name == "" {
		d.fail(n, "", "a package of bom has no name")
	}
	return p
}
