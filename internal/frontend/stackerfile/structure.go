// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// checkStructure refuses supplied values that do more than fill in data. Values
// are inserted as text, so that a value such as `x # y` or `a, b: c` could cut
// off or add something. The file is read a second time with a harmless word in
// place of each value: both must have the same structure, and each text must
// hold the whole value.
func checkStructure(src *document) *Error {
	keys, suspect := suppliedKeys(src)
	if !suspect {
		return nil
	}
	if intact(src, func(hole) bool { return true }) {
		return nil
	}
	blame := keys[0]
	for _, h := range keys {
		if !intact(src, func(other hole) bool { return other.key == h.key }) {
			blame = h
			break
		}
	}
	return src.fail(src.rawPos(blame.from), "put the placeholder in quotes that the value does not contain, or in a block text (|)",
		"the value of %s changes the structure of the file", short(blame.key))
}

// suppliedKeys lists the first placeholder of each key with a supplied value, and
// whether there is any value that is more than a plain word.
func suppliedKeys(src *document) (list []hole, suspect bool) {
	seen := map[string]bool{}
	for _, h := range src.holes {
		if h.supplied && !seen[h.key] {
			seen[h.key] = true
			list = append(list, h)
			suspect = suspect || !harmless(h.value)
		}
	}
	return list, suspect
}

// harmless tells whether value consists of characters that never have a meaning
// in YAML, wherever they stand.
func harmless(value string) bool {
	for i, r := range value {
		letter := 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '_'
		inner := i > 0 && i < len(value)-1 && (r == '.' || r == '/' || r == '-')
		if !letter && !inner {
			return false
		}
	}
	return value != ""
}

// intact compares the file as substituted with the file in which the values of
// the chosen placeholders are words, all others being as substituted.
func intact(src *document, chosen func(hole) bool) bool {
	c := &comparison{word: freeWord(src.text), values: map[string]string{}}
	var actual, worded strings.Builder
	done := 0
	for i, h := range src.holes {
		between := src.raw[done:h.from]
		done = h.to
		actual.WriteString(between)
		worded.WriteString(between)
		switch {
		case !h.supplied:
			actual.WriteString(h.value)
			worded.WriteString(h.value)
		case chosen(h):
			actual.WriteString(h.value)
			word := c.word + strconv.Itoa(i) + "z"
			c.values[word] = h.value
			worded.WriteString(word)
		default: // a word on both sides: not the one to blame
			actual.WriteString("word")
			worded.WriteString("word")
		}
	}
	actual.WriteString(src.raw[done:])
	worded.WriteString(src.raw[done:])
	a, errA := parseYAML(actual.String())
	w, errW := parseYAML(worded.String())
	if errA != nil && errW != nil {
		return true // broken by itself: the parser's message is better
	}
	return errA == nil && errW == nil && c.same(a, w)
}

// freeWord is a word that is not in text.
func freeWord(text string) string {
	for i := 0; ; i++ {
		if word := "q" + strconv.Itoa(i) + "x"; !strings.Contains(text, word) {
			return word
		}
	}
}

// comparison knows the words and the values that they stand for.
type comparison struct {
	word   string
	values map[string]string
}

// fill puts the values in place of the words. whole is the value if the text is
// one word and nothing else; quotes tells whether a value has a double quote.
func (c *comparison) fill(text string) (filled, whole string, quotes bool) {
	var b strings.Builder
	for {
		before, rest, found := strings.Cut(text, c.word)
		b.WriteString(before)
		if !found {
			return b.String(), whole, quotes
		}
		number, after, _ := strings.Cut(rest, "z")
		value := c.values[c.word+number+"z"]
		if b.Len() == 0 && after == "" {
			whole = value
		}
		quotes = quotes || strings.Contains(value, `"`)
		b.WriteString(value)
		text = after
	}
}

func (c *comparison) same(actual, worded *yaml.Node) bool {
	if actual.Kind != worded.Kind || len(actual.Content) != len(worded.Content) ||
		(actual.Style^worded.Style)&yaml.TaggedStyle != 0 || isMerge(actual) != isMerge(worded) {
		return false
	}
	if anchor, _, _ := c.fill(worded.Anchor); anchor != actual.Anchor {
		return false
	}
	if worded.Style&yaml.TaggedStyle != 0 && actual.Tag != worded.Tag {
		return false
	}
	if actual.Kind == yaml.ScalarNode || actual.Kind == yaml.AliasNode {
		return c.sameText(actual, worded)
	}
	for i := range actual.Content {
		if !c.same(actual.Content[i], worded.Content[i]) {
			return false
		}
	}
	return true
}

// sameText tells whether the actual text holds the whole values. White space may
// be folded, a value may be one quoted text, and between double quotes it may
// have escapes.
func (c *comparison) sameText(actual, worded *yaml.Node) bool {
	expected, whole, quotes := c.fill(worded.Value)
	if fold(actual.Value) == fold(expected) {
		return true
	}
	const quoted = yaml.DoubleQuotedStyle | yaml.SingleQuotedStyle
	if worded.Style&yaml.DoubleQuotedStyle != 0 {
		return actual.Style&yaml.DoubleQuotedStyle != 0 && !quotes
	}
	return worded.Style&quoted == 0 && actual.Style&quoted != 0 && isQuoted(whole)
}

func fold(s string) string { return strings.Join(strings.Fields(s), " ") }

// isQuoted tells whether value is one quoted text without a quote in it.
func isQuoted(value string) bool {
	if len(value) < 2 || value[0] != value[len(value)-1] || value[0] != '"' && value[0] != '\'' {
		return false
	}
	return !strings.Contains(value[1:len(value)-1], value[:1])
}
