// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// ErrFormat says that a file has a form that Format would change the meaning of.
// It is left to people.
var ErrFormat = errors.New("cannot be formatted without changing what it means")

// Format puts the text of a build file into its usual form: keys in the order of
// the documentation, two spaces for each level, lists indented below their key,
// one empty line between stages. Comments, quotes, block texts, flow collections
// and placeholders stay as they are written. name is for errors.
//
// It moves whole lines and changes only the white space at their ends, and then
// reads both texts: if they do not mean the same it returns an error that wraps
// ErrFormat. Formatting twice is the same as once.
func Format(name string, data []byte) ([]byte, error) {
	text, hadMark := strings.CutPrefix(string(data), "\ufeff")
	crlf := strings.Contains(text, "\r\n")
	if crlf {
		text = strings.ReplaceAll(text, "\r\n", "\n")
	}
	before, err := parseWorded(name, text)
	if err != nil {
		return nil, err
	}
	if before == nil || strings.ContainsAny(text, "\r\u0085\u2028\u2029") {
		return data, nil // nothing but comments, or lines that are not ours
	}
	f := &formatter{lines: strings.Split(strings.TrimSuffix(text, "\n"), "\n"), keepOrder: hasAlias(before.at)}
	last := len(f.lines)
	for last > 1 && endMark.MatchString(f.lines[last-1]) {
		last--
	}
	lines := append(f.collection(before.at, kindFile, 1, last, 0), f.lines[last:]...)
	out := strings.Join(lines, "\n") + "\n"
	after, err := parseWorded(name, out)
	if f.strange || err != nil || after == nil || before.shape(kindFile) != after.shape(kindFile) {
		return nil, fmt.Errorf("%s: %w", name, ErrFormat)
	}
	if crlf {
		out = strings.ReplaceAll(out, "\n", "\r\n")
	}
	if hadMark {
		out = "\ufeff" + out
	}
	return []byte(out), nil
}

// endMark is a line at the end of a file that ends its document.
var endMark = regexp.MustCompile(`^(---|\.\.\.)\s*$`)

// parseWorded reads a text with harmless words of the same length in place of its
// placeholders, so that places are those of the text.
func parseWorded(name, text string) (*node, error) {
	worded := placeholder.ReplaceAllStringFunc(text, func(m string) string {
		word := []rune(m)
		for i, r := range word {
			// What is left of it tells placeholders apart when texts are compared.
			if (r < '0' || r > '9') && (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') || i == 0 {
				word[i] = 'q'
			}
		}
		return string(word)
	})
	root, errs := parse(newDocument(name, []byte(worded)))
	if len(errs) > 0 {
		return nil, errs.first()
	}
	return root, nil
}

// hasAlias tells whether something refers to something else in the file, so that
// one must stay before the other.
func hasAlias(n *yaml.Node) bool {
	return n.Kind == yaml.AliasNode || n.Anchor != "" || slices.ContainsFunc(n.Content, hasAlias)
}

// mapKind says what a map of a build file is, for the order of its keys.
type mapKind int

const (
	kindOther mapKind = iota
	kindFile
	kindConfig
	kindStage
	kindFrom
	kindImport
	kindOverlayDir
	kindBind
	kindBom
	kindBomPackage
)

// below is the kind of a map, or of the maps in a list, that is the value of a key.
func (k mapKind) below(key string) mapKind {
	switch {
	case k == kindFile && key == configKey:
		return kindConfig
	case k == kindFile:
		return kindStage
	case k == kindBom && key == "packages":
		return kindBomPackage
	case k != kindStage:
		return kindOther
	}
	switch key {
	case "from":
		return kindFrom
	case "imports", "import":
		return kindImport
	case "overlay_dirs":
		return kindOverlayDir
	case "binds":
		return kindBind
	case "bom":
		return kindBom
	}
	return kindOther
}

// order lists the keys of a map in the order in which they are written; nil: it
// stays.
func (k mapKind) order() []string {
	switch k {
	case kindConfig:
		return names(configFields)
	case kindStage:
		return names(stageFields)
	case kindFrom:
		return names(fromFields)
	case kindImport:
		return names(importFields)
	case kindOverlayDir:
		return names(overlayDirFields)
	case kindBind:
		return names(bindFields)
	case kindBom:
		return names(bomFields)
	case kindBomPackage:
		return names(bomPackageFields)
	case kindOther, kindFile:
	}
	return nil
}

// shape writes down what a node means: without places, and keys sorted where
// their order says nothing.
func (n *node) shape(k mapKind) string {
	switch n.kind {
	case textNode:
		return fmt.Sprintf("%s %q", n.tag, n.text)
	case listNode:
		items := make([]string, len(n.items))
		for i, item := range n.items {
			items[i] = item.shape(k)
		}
		return "[" + strings.Join(items, ",") + "]"
	case mapNode:
	}
	entries := make([]string, len(n.entries))
	for i, e := range n.entries {
		entries[i] = fmt.Sprintf("%q: %s", e.key.text, e.value.shape(k.below(e.key.text)))
	}
	if k.order() != nil {
		slices.Sort(entries)
	}
	return "{" + strings.Join(entries, ",") + "}"
}
