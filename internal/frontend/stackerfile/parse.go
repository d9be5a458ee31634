// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"
)

// Limits of a file after aliases were expanded: enough for any file written by
// people, and little enough for any machine.
const (
	maxNodes = 300_000
	maxBytes = 64 << 20
	maxDepth = 100
)

type kind int

const (
	textNode kind = iota
	listNode
	mapNode
)

func (k kind) String() string {
	return [...]string{"a text", "a list", "a map"}[k]
}

// node is a piece of a file, without aliases and merges.
type node struct {
	kind    kind
	text    string
	tag     string  // of a text: !!str, !!int, !!null, … as YAML 1.2 sees it
	items   []*node // of a list
	entries []entry // of a map, each key once

	at *yaml.Node
}

// entry is one entry of a map.
type entry struct{ key, value *node }

func (n *node) null() bool { return n.kind == textNode && n.tag == "!!null" }

// what says what n is, for messages.
func (n *node) what() string {
	switch {
	case n.null():
		return "nothing"
	case n.kind == textNode && n.tag == "!!int":
		return "int"
	case n.kind == textNode && n.tag == "!!float":
		return "float"
	}
	return n.kind.String()
}

// parse reads the substituted text of src. A nil node is an empty file.
func parse(src *document) (*node, Errors) {
	if at := firstInvalid(src.raw); at >= 0 {
		return nil, Errors{src.fail(src.rawPos(at), "save the file as UTF-8", "not valid UTF-8")}
	}
	root, err := parseYAML(src.text)
	if err != nil {
		return nil, Errors{yamlError(src, err)}
	}
	if root.Kind != yaml.DocumentNode || len(root.Content) == 0 {
		return nil, nil
	}
	x := &expander{src: src, active: map[*yaml.Node]bool{}}
	n := x.expand(root.Content[0], 0)
	if len(x.errs) > 0 {
		return nil, x.errs
	}
	if n.null() {
		return nil, nil
	}
	return n, nil
}

func firstInvalid(s string) int {
	if utf8.ValidString(s) {
		return -1
	}
	for i, r := range s {
		if r == utf8.RuneError {
			if _, n := utf8.DecodeRuneInString(s[i:]); n == 1 {
				return i
			}
		}
	}
	return -1
}

var (
	errDocuments = errors.New("a build file is one YAML document, not several")
	errPieces    = errors.New("the file has too many pieces")
)

// maxMarks is how many characters may be in a file that can begin a piece. The
// YAML parser takes some 300 bytes of memory for each piece.
const maxMarks = 600_000

// parseYAML reads one document.
func parseYAML(text string) (*yaml.Node, error) {
	marks := 0
	for _, mark := range []string{",", "[", "{", "\n", "\r", "- ", "? "} {
		marks += strings.Count(text, mark)
	}
	if marks > maxMarks {
		return nil, errPieces
	}
	d := yaml.NewDecoder(strings.NewReader(text))
	var root, more yaml.Node
	if err := d.Decode(&root); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch err := d.Decode(&more); {
	case errors.Is(err, io.EOF):
		return &root, nil
	case err != nil:
		return nil, err
	case len(more.Content) == 1 && more.Content[0].ShortTag() == "!!null":
		return &root, nil
	}
	return nil, errDocuments
}

var yamlLine = regexp.MustCompile(`^yaml: (?:line (\d+): )?`)

// yamlError gives an error of the YAML parser a position. The parser tells at
// most a line, and often that where the surrounding block began.
func yamlError(src *document, err error) *Error {
	msg := err.Error()
	line := 1
	if m := yamlLine.FindStringSubmatch(msg); m != nil {
		msg = msg[len(m[0]):]
		if n, err := strconv.Atoi(m[1]); err == nil {
			line = n
		}
	}
	if !errors.Is(err, errPieces) {
		line = brokenLine(src, line)
	}
	line = min(max(1, line), len(src.textLines))
	column, hint := 1, ""
	rest := src.text[src.textLines[line-1]:]
	indent := rest[:len(rest)-len(strings.TrimLeft(rest, " \t"))]
	if strings.Contains(indent, "\t") {
		column = 1 + strings.Index(indent, "\t")
		hint = "YAML is indented with spaces, not with tabs"
	} else if rest != indent {
		column = 1 + len(indent)
	}
	return src.fail(src.pos(line, column), hint, "couldn't parse stacker file: %s", short(msg))
}

// brokenLine finds the line that breaks the file: that after the longest start
// of the file that can be parsed.
func brokenLine(src *document, reported int) int {
	work := 4 << 20 // bytes to parse at most
	for n := len(src.textLines) - 1; n > 0; n-- {
		start := src.text[:src.textLines[n]]
		if work -= len(start); work < 0 {
			return reported
		}
		if _, err := parseYAML(start); err == nil {
			return n + 1
		}
	}
	return 1
}

// expander turns YAML nodes into nodes: it follows aliases, within limits, does
// merges and refuses double keys.
type expander struct {
	src    *document
	active map[*yaml.Node]bool // where we are
	nodes  int
	bytes  int
	errs   Errors
	full   bool // a limit was reached
}

func (x *expander) fail(at *yaml.Node, hint, format string, args ...any) *node {
	if len(x.errs) < maxErrors {
		x.errs = append(x.errs, x.src.fail(x.src.pos(at.Line, at.Column), hint, format, args...))
	}
	return &node{at: at, tag: "!!null"}
}

func (x *expander) expand(at *yaml.Node, depth int) *node {
	if at.Kind == yaml.AliasNode {
		if x.active[at.Alias] {
			return x.fail(at, "", "anchor %s contains itself", short(at.Value))
		}
		return x.expand(at.Alias, depth)
	}
	x.nodes++
	x.bytes += len(at.Value)
	if x.full || x.nodes > maxNodes || x.bytes > maxBytes || depth > maxDepth {
		if x.full {
			return &node{at: at, tag: "!!null"}
		}
		x.full = true
		return x.fail(at, "", "the file is too large or nested too deep, or its aliases expand to too much")
	}
	x.active[at] = true
	defer delete(x.active, at)
	n := &node{at: at}
	switch at.Kind {
	case yaml.SequenceNode:
		n.kind = listNode
		x.tagged(at, "!!seq")
		for _, item := range at.Content {
			n.items = append(n.items, x.expand(item, depth+1))
		}
	case yaml.MappingNode:
		n.kind = mapNode
		x.tagged(at, "!!map")
		n.entries = x.entries(at, depth)
	default:
		n.text, n.tag = at.Value, at.ShortTag()
		x.tagged(at, "!!str", "!!int", "!!float", "!!bool", "!!null", "!!timestamp")
		if strings.ContainsRune(n.text, 0) {
			return x.fail(at, "", "a text cannot contain a NUL character")
		}
		if n.tag == "!!null" {
			n.text = ""
		}
	}
	return n
}

// tagged refuses tags that were written down and mean nothing here.
func (x *expander) tagged(at *yaml.Node, known ...string) {
	if at.Style&yaml.TaggedStyle == 0 || at.Tag == "!" {
		return
	}
	for _, tag := range known {
		if at.ShortTag() == tag {
			return
		}
	}
	x.fail(at, "", "unknown tag %s", short(at.Tag))
}

// entries reads a map. An entry that is written wins over merged ones, and those
// of an earlier merge win over later ones.
func (x *expander) entries(at *yaml.Node, depth int) []entry {
	written := map[string]*yaml.Node{}
	for i := 0; i+1 < len(at.Content); i += 2 {
		if key := at.Content[i]; key.Kind == yaml.ScalarNode && !isMerge(key) {
			if first, twice := written[key.Value]; twice {
				x.twice(key, first, depth)
			}
			written[key.Value] = key
		}
	}
	var list []entry
	merged := map[string]bool{}
	for i := 0; i+1 < len(at.Content) && !x.full; i += 2 {
		key, value := at.Content[i], at.Content[i+1]
		if !isMerge(key) {
			if key.Kind == yaml.AliasNode {
				key = key.Alias
			}
			if key.Kind != yaml.ScalarNode {
				x.fail(at.Content[i], "", "a key must be a text")
				continue
			}
			if at.Content[i] != key { // an alias: not looked at above
				if first, twice := written[key.Value]; twice {
					x.twice(at.Content[i], first, depth)
				}
				written[key.Value] = key
			}
			list = append(list, entry{x.expand(key, depth+1), x.expand(value, depth+1)})
			continue
		}
		for _, e := range x.merge(value, depth) {
			if written[e.key.text] == nil && !merged[e.key.text] {
				merged[e.key.text] = true
				list = append(list, e)
			}
		}
	}
	return list
}

func isMerge(key *yaml.Node) bool { return key.Kind == yaml.ScalarNode && key.ShortTag() == "!!merge" }

// merge reads the value of a key `<<`: a map or a list of maps.
func (x *expander) merge(value *yaml.Node, depth int) []entry {
	n := x.expand(value, depth)
	switch {
	case n.kind == mapNode:
		return n.entries
	case n.kind == listNode:
		var all []entry
		for _, item := range n.items {
			if item.kind != mapNode {
				x.fail(value, "", "<< merges maps, not %s", item.what())
				return nil
			}
			all = append(all, item.entries...)
		}
		return all
	}
	x.fail(value, "", "<< merges maps, not %s", n.what())
	return nil
}

func (x *expander) twice(key, first *yaml.Node, depth int) {
	p := x.src.pos(first.Line, first.Column)
	hint := "it is already in line " + strconv.Itoa(p.Line)
	if depth == 0 && key.Value != configKey {
		x.fail(key, hint, "duplicate layer name: both %s and %s have %s", x.src.name, x.src.name, short(key.Value))
		return
	}
	x.fail(key, hint, "key %s is written twice", short(first.Value))
}

// lines has the place of each line of n's text.
func (src *document) lines(n *node) []Pos {
	list := make([]Pos, strings.Count(n.text, "\n")+1)
	for i := range list {
		list[i] = src.at(n)
		if n.at.Style&yaml.LiteralStyle != 0 {
			line := min(n.at.Line+1+i, len(src.textLines))
			rest := src.text[src.textLines[line-1]:]
			list[i] = src.pos(line, 1+len(rest)-len(strings.TrimLeft(rest, " ")))
		}
	}
	return list
}

// at is the place of n.
func (src *document) at(n *node) Pos { return src.pos(n.at.Line, n.at.Column) }
