// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"encoding/hex"
	"net/url"
	"path"
	"strconv"
	"strings"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/source"
)

var fromTypes = []string{"docker", "oci", "tar", "built", "scratch", "dockerfile"}

// from reads the base of a stage.
func (d *decoder) from(n *node) From {
	f := From{Pos: d.src.at(n), refPos: d.src.at(n)}
	if n.kind != mapNode {
		hint := "write from: and below it type:"
		if n.text == "scratch" {
			hint = "write from: {type: scratch}"
		}
		d.fail(n, hint, "from must be a map, not %s", n.what())
		return f
	}
	at := readFields(d, n, fromFields, &f, func(d *decoder, key *node) {
		d.fail(key, didYouMean(key.text, names(fromFields), "known keys are "+strings.Join(names(fromFields), ", ")),
			"stackerfile: unknown image source directive %s", short(key.text))
	})
	d.checkFrom(n, &f, at)
	return f
}

// checkFrom checks that the base has what its type needs. Keys of other types
// have always been accepted without effect.
func (d *decoder) checkFrom(n *node, f *From, at map[string]*node) {
	place := func(key string) *node {
		if v := at[key]; v != nil {
			f.refPos = d.src.at(v)
			return v
		}
		return n
	}
	switch f.Type {
	case "scratch":
	case "built":
		if v := place("tag"); f.Tag == "" {
			d.fail(v, "write the name of another layer in tag:", "from tag cannot be empty for image type 'built'")
		}
	case "docker":
		v := place("url")
		if strings.HasPrefix(f.URL, source.DockerPrefix) || strings.HasPrefix(f.URL, source.LayoutPrefix) {
			return
		}
		if _, err := reference.Parse(f.URL); err != nil {
			d.fail(v, "write url: docker://HOST/REPOSITORY:TAG, or the NAME:TAG of a local image", "from url is no image for image type 'docker': %v", err)
		}
	case "oci":
		v := place("url")
		if layout, tag, ok := strings.Cut(f.URL, ":"); !ok || layout == "" || tag == "" {
			d.fail(v, "write url: DIRECTORY:TAG", "bad OCI tag: %s", short(f.URL))
		}
	case "tar":
		v := place("url")
		if f.URL == "" {
			d.fail(v, "write the file in url:", "from url cannot be empty for image type 'tar'")
			return
		}
		d.kindOf(v, f.URL)
	case "dockerfile":
		if v := place("path"); f.Path == "" {
			d.fail(v, "write the Dockerfile in path:", "from path cannot be empty for image type 'dockerfile'")
		}
		f.Path = d.hostPath(f.Path)
	case "":
		d.fail(n, "add type: with one of "+strings.Join(fromTypes, ", "), "invalid layer: no base")
	default:
		d.fail(at["type"], didYouMean(f.Type, fromTypes, "types are "+strings.Join(fromTypes, ", ")),
			"unknown layer type: %s", short(f.Type))
	}
}

// kindOf tells what a path of an import or a tar base is, and checks its form.
func (d *decoder) kindOf(n *node, text string) ImportKind {
	scheme, rest, found := strings.Cut(text, "://")
	if !found || strings.Contains(scheme, "/") {
		return Local
	}
	switch scheme {
	case "stacker":
		if stage, inside, _ := strings.Cut(rest, "/"); stage == "" || !strings.Contains(rest, "/") || strings.Contains(inside, "\x00") {
			d.fail(n, "write stacker://LAYER/PATH", "%s names no layer or no path", short(text))
		}
		return FromStage
	case "http", "https":
		if u, err := url.Parse(text); err != nil || u.Host == "" {
			d.fail(n, "", "%s is not a url", short(text))
		}
		return HTTP
	}
	d.fail(n, "known schemes are http, https and stacker; a local path has none", "unsupported url scheme %s", short(text))
	return Local
}

// imports reads one entry or a list of entries.
func (d *decoder) imports(n *node, key string) []Import {
	items := n.items
	switch {
	case n.kind == mapNode:
		d.fail(n, "put a dash before the entry", "'%s' expected an array, found map", key)
		return nil
	case n.null():
		return nil
	case n.kind == textNode:
		items = []*node{n}
	}
	var list []Import
	for _, item := range items {
		if i, ok := d.importEntry(item); ok {
			list = append(list, i)
		}
	}
	return list
}

func (d *decoder) importEntry(n *node) (Import, bool) {
	i := Import{Pos: d.src.at(n)}
	before := len(d.errs)
	at := n
	switch {
	case n.kind == listNode || n.null():
		d.fail(n, "an entry is a path, or a map with path:", "No 'path' entry found in import")
		return i, false
	case n.kind == textNode:
		i.Path = n.text
	default:
		if v := readFields(d, n, importFields, &i, unknownIn("an import", importFields))["path"]; v != nil {
			at = v
		}
		if at == n && len(d.errs) == before {
			d.fail(n, "add path: with what to import", "No 'path' entry found in import")
		}
	}
	if i.Path == "" && len(d.errs) == before {
		d.fail(at, "", "a path in imports is empty")
	}
	if len(d.errs) > before {
		return i, false
	}
	i.Kind = d.kindOf(at, i.Path)
	switch {
	case i.Kind == Local:
		i.Abs = d.hostPath(i.Path)
	case i.Kind == HTTP:
		d.checkDownload(at, i)
	}
	return i, len(d.errs) == before
}

func (d *decoder) hash(n *node) string {
	text, ok := d.text(n, "hash")
	text = strings.ToLower(text)
	if !ok || text == "" {
		return ""
	}
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != 32 {
		d.fail(n, "a hash is the sha256 of the file: 64 hex digits", "Given hash %s is not valid", short(n.text))
	}
	return text
}

func (d *decoder) mode(n *node) *uint32 {
	number, ok := d.integer(n, "mode", octal)
	if !ok {
		return nil
	}
	if number > 0o7777 {
		d.fail(n, "a mode is octal, such as 0644", "'mode' of an import is larger than 07777: %s", short(n.text))
	}
	mode := uint32(number)
	return &mode
}

// id is a user or group id; nil: not given.
func (d *decoder) id(n *node, key string) *int {
	number, ok := d.integer(n, key, decimal)
	if !ok {
		return nil
	}
	return &number
}

// checkDownload checks that a download has a name and, if wanted, a hash.
func (d *decoder) checkDownload(at *node, i Import) {
	if d.opts.RequireHash && i.Hash == "" {
		d.fail(at, "add hash: with the sha256 of the file", "Remote import needs a hash in yaml for path: %s", short(i.Path))
	}
	u, err := url.Parse(i.Path)
	if err != nil {
		return
	}
	if name := path.Base(u.Path); (name == "." || name == "/" || name == "..") && (i.Dest == "" || strings.HasSuffix(i.Dest, "/")) {
		d.fail(at, "add dest: with the name that the file shall have", "%s names no file", short(i.Path))
	}
}

// octal reads integers as YAML 1.1 does: 0755, 0o755, 0x1ed, 0b1, 493.
func octal(s string) (int64, error) { return strconv.ParseInt(s, 0, 32) }

func decimal(s string) (int64, error) { return strconv.ParseInt(s, 10, 32) }

// integer reads a number of an import that is not negative. Nothing is not set.
func (d *decoder) integer(n *node, key string, parse func(string) (int64, error)) (int, bool) {
	if n.null() {
		return 0, false
	}
	number, err := parse(n.text)
	if n.kind != textNode || n.tag == "!!str" || err != nil {
		hint := "write a number, such as 1000"
		switch {
		case n.kind == textNode && err == nil:
			hint = "write the number without quotes"
		case key == "mode":
			hint = "a mode is octal, such as 0644"
		}
		d.fail(n, hint, "value for '%s' in import is not an integer", key)
		return 0, false
	}
	if number < 0 {
		d.fail(n, "", "'%s' of an import is negative", key)
		return 0, false
	}
	return int(number), true
}

func (d *decoder) overlayDirs(n *node) []OverlayDir {
	var list []OverlayDir
	for _, item := range d.list(n, "overlay_dirs") {
		o := OverlayDir{Pos: d.src.at(item), Dest: "/"}
		if !d.isMap(item, "an entry of overlay_dirs") {
			continue
		}
		before := len(d.errs)
		readFields(d, item, overlayDirFields, &o, unknownIn("overlay_dirs", overlayDirFields))
		if o.Source == "" && len(d.errs) == before {
			d.fail(item, "add source: with a directory", "an entry of overlay_dirs has no source")
		}
		o.Abs = d.hostPath(o.Source)
		list = append(list, o)
	}
	return list
}

func (d *decoder) binds(n *node) []Bind {
	var list []Bind
	for _, item := range d.list(n, "binds") {
		b := Bind{Pos: d.src.at(item)}
		before := len(d.errs)
		if item.kind == textNode {
			b.Source, b.Dest = d.splitBind(item)
		} else if d.isMap(item, "an entry of binds") {
			readFields(d, item, bindFields, &b, unknownIn("binds", bindFields))
			if b.Source == "" && len(d.errs) == before {
				d.fail(item, "add source: with a path of the host", "invalid Bind: it has no source")
			}
		}
		if b.Dest == "" {
			b.Dest = b.Source
		}
		b.Source, b.Dest = d.hostPath(b.Source), d.hostPath(b.Dest)
		list = append(list, b)
	}
	return list
}

// splitBind reads `SOURCE` or `SOURCE -> DEST`.
func (d *decoder) splitBind(n *node) (from, to string) {
	words := strings.Fields(n.text)
	if len(words) == 1 && words[0] != "->" {
		return words[0], ""
	}
	from, to, arrow := strings.Cut(n.text, " -> ")
	from, to = strings.TrimSpace(from), strings.TrimSpace(to)
	if !arrow || from == "" || to == "" || strings.Contains(to, " -> ") {
		d.fail(n, "write SOURCE, SOURCE -> DEST, or a map with source: and dest:", "invalid Bind: %s", short(n.text))
	}
	return from, to
}
