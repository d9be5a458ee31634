// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import "strings"

// configKey is the top-level key that is not a stage.
const configKey = "config"

// decoder turns the nodes of one file into stages. It goes on after an error, to
// tell as many as it can.
type decoder struct {
	src  *document
	file *File
	opts LoadOptions
	errs Errors
}

func (d *decoder) fail(n *node, hint, format string, args ...any) {
	if len(d.errs) < manyErrors {
		d.errs = append(d.errs, d.src.fail(d.src.at(n), hint, format, args...))
	}
}

// decode fills in the prerequisites and the stages.
func (d *decoder) decode(root *node) {
	if root == nil {
		return
	}
	if root.kind != mapNode {
		d.fail(root, "write NAME: and below it, indented, from: and run:", "couldn't parse stacker file: it must be a map of layers, not %s", root.what())
		return
	}
	for _, e := range root.entries {
		if e.key.text == configKey {
			d.config(e.value)
			continue
		}
		if s := d.stage(e); s != nil {
			d.file.Stages = append(d.file.Stages, s)
		}
	}
}

func (d *decoder) config(n *node) {
	if n.kind != mapNode {
		d.fail(n, "write config: and below it prerequisites: with a list of files",
			"stackerfile: cannot interpret 'config' value, note the 'config' section in the stackerfile cannot contain a layer definition")
		return
	}
	readFields(d, n, configFields, d.file, unknownIn("'config'", configFields))
}

// isMap refuses what is not a map.
func (d *decoder) isMap(n *node, what string) bool {
	if n.kind != mapNode {
		d.fail(n, "", "%s must be a map, not %s", what, n.what())
	}
	return n.kind == mapNode
}

// text is the text of a scalar as the user wrote it.
func (d *decoder) text(n *node, what string) (string, bool) {
	if n.kind != textNode {
		d.fail(n, "", "%s must be a text, not %s", what, n.what())
		return "", false
	}
	return n.text, true
}

// path is a text that names a file.
func (d *decoder) path(n *node, what string) (string, bool) {
	path, ok := d.text(n, what)
	if ok && path == "" {
		d.fail(n, "", "a path in %s is empty", what)
		return "", false
	}
	return path, ok
}

// imagePath is a path in the image, which must be absolute.
func (d *decoder) imagePath(n *node, what string) (string, bool) {
	path, ok := d.path(n, what)
	if ok && !strings.HasPrefix(path, "/") {
		d.fail(n, "write /"+short(path), "%s must be an absolute path: %s", what, short(path))
		return "", false
	}
	return path, ok
}

// list is a list; nothing is an empty list.
func (d *decoder) list(n *node, what string) []*node {
	if n.kind != listNode && !n.null() {
		d.fail(n, "write each entry on a line of its own after a dash", "'%s' must be a list, not %s", what, n.what())
	}
	return n.items
}

// texts is a list of texts.
func (d *decoder) texts(n *node, what string) []string {
	var list []string
	for _, item := range d.list(n, what) {
		if s, ok := d.text(item, "an entry of "+what); ok {
			list = append(list, s)
		}
	}
	return list
}

// kvs is a map of texts. A null value is the empty text.
func (d *decoder) kvs(n *node, what string) []KV {
	if n.null() || !d.isMap(n, what) {
		return nil
	}
	var list []KV
	for _, e := range n.entries {
		value, ok := d.text(e.value, "the value of "+short(e.key.text))
		if e.key.text == "" {
			d.fail(e.key, "", "%s has an empty key", what)
			continue
		}
		if ok {
			list = append(list, KV{Key: e.key.text, Value: value, Pos: d.src.at(e.key)})
		}
	}
	return list
}

// variables is a map of environment variables.
func (d *decoder) variables(n *node, what string) []KV {
	list := d.kvs(n, what)
	if n.kind == mapNode {
		for _, e := range n.entries {
			if strings.Contains(e.key.text, "=") {
				d.fail(e.key, "", "the name of a variable in %s contains =: %s", what, short(e.key.text))
			}
		}
	}
	return list
}

// truth is a truth value as YAML 1.1 spells them.
func (d *decoder) truth(n *node, what string) bool {
	if n.kind == textNode {
		switch strings.ToLower(n.text) {
		case "true", "yes", "on", "y":
			return true
		case "false", "no", "off", "n", "":
			return false
		}
	}
	d.fail(n, "", "%s must be true or false", what)
	return false
}

// hostPath is a path outside of the image, relative to the build file.
func (d *decoder) hostPath(path string) string { return absolute(d.file.Dir, path) }
