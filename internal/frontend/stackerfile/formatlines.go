// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// formatter moves the lines of a text. Lines count from 1, as those of nodes.
type formatter struct {
	lines     []string // a dash becomes a space once its item is worked on
	keepOrder bool
	strange   bool // there is a form that it does not know
}

func (f *formatter) line(n int) string { return f.lines[n-1] }

// part is an entry of a block mapping or an item of a block sequence.
type part struct {
	key, value *yaml.Node // key: nil in a sequence
	comments   []string   // before it, without indentation
	blank      bool       // there is an empty line before it
	keep       bool       // empty lines at its end are part of a text
	from, to   int        // its first and its last line
}

func indentOf(s string) int { return len(s) - len(strings.TrimLeft(s, " ")) }

func isBlank(s string) bool { return strings.TrimSpace(s) == "" }

func isComment(s string) bool { return strings.HasPrefix(strings.TrimLeft(s, " "), "#") }

// isBlock tells whether a node is a block collection. Those of flow style stay.
func isBlock(n *yaml.Node) bool {
	return n.Style&yaml.FlowStyle == 0 && len(n.Content) > 0 && (n.Kind == yaml.MappingNode || n.Kind == yaml.SequenceNode)
}

// collection formats the block collection n, of which the lines from to to are,
// at an indentation.
func (f *formatter) collection(n *yaml.Node, k mapKind, from, to, indent int) []string {
	if !isBlock(n) {
		return slices.Clone(f.lines[from-1 : to])
	}
	parts, head, tail := f.split(n, from, to)
	if order := k.order(); order != nil && n.Kind == yaml.MappingNode && !f.keepOrder {
		rank := func(p part) int {
			if i := slices.Index(order, p.key.Value); i >= 0 {
				return i
			}
			return len(order)
		}
		slices.SortStableFunc(parts, func(a, b part) int { return rank(a) - rank(b) })
	}
	out := f.comments(head, indent)
	for i, p := range parts {
		blank := p.blank || k == kindFile
		if blank && i > 0 && !parts[i-1].keep {
			out = append(out, "")
		}
		out = append(out, f.comments(p.comments, indent)...)
		if p.key != nil {
			out = append(out, f.entry(p, k.below(p.key.Value), indent)...)
		} else {
			out = append(out, f.item(p, k, indent)...)
		}
	}
	if len(tail) > 0 && k == kindFile && !parts[len(parts)-1].keep {
		out = append(out, "")
	}
	return append(out, f.comments(tail, indent)...)
}

// comments indents comments; of several empty lines between them one stays.
func (f *formatter) comments(lines []string, indent int) []string {
	var out []string
	for _, line := range lines {
		text := strings.TrimSpace(line)
		switch {
		case text == "" && (len(out) == 0 || out[len(out)-1] == ""):
		case text == "":
			out = append(out, "")
		default:
			out = append(out, strings.Repeat(" ", indent)+text)
		}
	}
	return out
}

// split finds the parts of a block collection. head is before the first one, tail
// are comments behind the last one.
func (f *formatter) split(n *yaml.Node, from, to int) (parts []part, head, tail []string) {
	var column int
	if n.Kind == yaml.MappingNode {
		parts, column = f.keys(n)
	} else {
		parts, column = f.dashes(n, from, to)
	}
	if len(parts) == 0 || f.strange {
		f.strange = true
		return nil, nil, nil
	}
	end := f.commentsBefore(to+1, parts[len(parts)-1].from+1, column)
	tail = f.lines[end-1 : to]
	for i := len(parts) - 1; i >= 0; i-- {
		p := &parts[i]
		lowest := from
		if i > 0 {
			lowest = parts[i-1].from + 1
		}
		start := f.commentsBefore(p.from, lowest, column)
		p.comments = f.lines[start-1 : p.from-1]
		p.to = end - 1
		p.keep = f.keeps(p.from, p.to)
		for !p.keep && p.to > p.from && isBlank(f.line(p.to)) {
			p.to--
		}
		p.blank = start > lowest && isBlank(f.line(start-1))
		end = start
	}
	return parts, f.lines[from-1 : end-1], tail
}

// keys finds the entries of a mapping: each key has a line that begins with it.
func (f *formatter) keys(n *yaml.Node) (parts []part, column int) {
	column = n.Content[0].Column - 1
	for i := 0; i+1 < len(n.Content); i += 2 {
		key := n.Content[i]
		if key.Column-1 != column || indentOf(f.line(key.Line)) != column || len(parts) > 0 && parts[len(parts)-1].from >= key.Line {
			f.strange = true // such as "? key"
			return nil, 0
		}
		parts = append(parts, part{key: key, value: n.Content[i+1], from: key.Line})
	}
	return parts, column
}

// dashes finds the items of a sequence: what is in an item is indented deeper than
// its dash.
func (f *formatter) dashes(n *yaml.Node, from, to int) (parts []part, column int) {
	first := min(n.Content[0].Line, to)
	for first > from && !isDash(f.line(first), indentOf(f.line(first))) {
		first--
	}
	column = indentOf(f.line(first))
	for i := from; i <= to && len(parts) <= len(n.Content); i++ {
		if isDash(f.line(i), column) && len(parts) < len(n.Content) {
			parts = append(parts, part{value: n.Content[len(parts)], from: i})
		} else if isDash(f.line(i), column) {
			f.strange = true
		}
	}
	f.strange = f.strange || len(parts) != len(n.Content)
	return parts, column
}

func isDash(line string, column int) bool {
	return indentOf(line) == column && (line[column:] == "-" || strings.HasPrefix(line[column:], "- "))
}

// commentsBefore finds where the comments begin that belong to what is in a line:
// those that are not indented deeper, with empty lines between them.
func (f *formatter) commentsBefore(line, lowest, column int) int {
	start := line
	for i := line - 1; i >= lowest; i-- {
		switch s := f.line(i); {
		case isBlank(s):
		case isComment(s) && indentOf(s) <= column:
			start = i
		default:
			return start
		}
	}
	return start
}

// keeping is the head of a block text of which empty lines at the end are kept.
var keeping = regexp.MustCompile(`[|>][1-9]?\+[1-9]?\s*(#.*)?$`)

func (f *formatter) keeps(from, to int) bool {
	return slices.ContainsFunc(f.lines[from-1:to], keeping.MatchString)
}

// entry formats `key: value`.
func (f *formatter) entry(p part, k mapKind, indent int) []string {
	text := strings.Repeat(" ", indent) + strings.TrimSpace(f.line(p.from))
	if isBlock(p.value) {
		if p.value.Content[0].Line <= p.from && p.value.Kind == yaml.MappingNode {
			f.strange = true
			return nil
		}
		return append([]string{text}, f.collection(p.value, k, p.from+1, p.to, indent+2)...)
	}
	return append([]string{text}, f.rest(p, indentOf(f.line(p.from)), indent)...)
}

// item formats `- value`.
func (f *formatter) item(p part, k mapKind, indent int) []string {
	column := indentOf(f.line(p.from))
	rest := strings.TrimSpace(f.line(p.from)[column+1:])
	pad := strings.Repeat(" ", indent)
	switch {
	case isBlock(p.value) && (rest == "" || isComment(rest) || strings.HasPrefix(rest, "&") || strings.HasPrefix(rest, "!")):
		return append([]string{strings.TrimRight(pad+"- "+rest, " ")}, f.collection(p.value, k, p.from+1, p.to, indent+2)...)
	case isBlock(p.value):
		f.lines[p.from-1] = strings.Repeat(" ", column+1) + f.line(p.from)[column+1:]
		lines := f.collection(p.value, k, p.from, p.to, indent+2)
		if len(lines) == 0 || indentOf(lines[0]) != indent+2 {
			f.strange = true
			return nil
		}
		lines[0] = pad + "-" + lines[0][indent+1:]
		return lines
	}
	return append([]string{strings.TrimRight(pad+"- "+rest, " ")}, f.rest(p, column, indent)...)
}

// indicated is the head of a block text that says how deep it is indented.
var indicated = regexp.MustCompile(`[|>][-+]?[1-9][-+]?\s*(#.*)?$`)

// rest formats the lines of a text or of a flow collection behind its first one.
// was and indent are the indentations of the first line, then and now.
func (f *formatter) rest(p part, was, indent int) []string {
	lines := f.lines[p.from:p.to]
	delta := indent - was
	if p.value.Style&(yaml.LiteralStyle|yaml.FoldedStyle) == 0 {
		var out []string
		for _, line := range lines {
			if text := strings.TrimSpace(line); text == "" {
				out = append(out, "")
			} else {
				out = append(out, strings.Repeat(" ", max(indent+2, indentOf(line)+delta))+text)
			}
		}
		return out
	}
	head := f.line(p.from)
	if p.value.Line > p.from {
		f.strange = true // the head is on a line of its own
		return nil
	}
	deepest := 0 // where the text begins; 0: not known
	if !indicated.MatchString(head) {
		if i := slices.IndexFunc(lines, func(s string) bool { return !isBlank(s) }); i >= 0 {
			deepest = indentOf(lines[i])
			delta = indent + 2 - deepest
		}
	}
	out := make([]string, len(lines))
	for i, line := range lines {
		switch deep := indentOf(line); {
		case line == "" || deep == len(line) && deep <= deepest:
		case deep < deepest: // a comment after the text
			out[i] = strings.Repeat(" ", indent+1) + line[deep:]
		default:
			out[i] = strings.Repeat(" ", max(0, deep+delta)) + line[deep:]
		}
	}
	return out
}
