// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"regexp"
	"sort"
	"strings"
	"unicode"

	"build.stacker.dev/internal/nearest"
)

// maxText is how large a file may become by substitution.
const maxText = 2 * MaxFileSize

// substitutions are the values that were supplied, in order, without doubles.
type substitutions struct {
	list  []Substitution
	index map[string]int
	dummy bool
}

// newSubstitutions puts together what was supplied: the user's values, those of
// the substitute file, the program's. A value may name later keys.
func newSubstitutions(o LoadOptions, fromFile []KV) (*substitutions, error) {
	s := &substitutions{index: map[string]int{}, dummy: o.AllowMissing}
	for _, v := range o.Substitutions {
		s.add(v.Key, v.Value)
	}
	for _, v := range fromFile {
		s.add(v.Key, v.Value)
	}
	var own []string
	for k := range o.Builtins {
		own = append(own, k)
	}
	sort.Strings(own)
	for _, k := range own {
		s.add(k, o.Builtins[k])
	}
	for i := len(s.list) - 1; i >= 0; i-- {
		if err := s.resolve(i); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func (s *substitutions) add(key, value string) {
	if _, ok := s.index[key]; !ok {
		s.index[key] = len(s.list)
		s.list = append(s.list, Substitution{key, value})
	}
}

// resolve replaces the placeholders in value i, all later values being done.
func (s *substitutions) resolve(i int) error {
	v := &s.list[i]
	if !strings.Contains(v.Value, "${{") {
		return nil
	}
	var missing string
	size := 0
	out := placeholder.ReplaceAllStringFunc(v.Value, func(m string) string {
		key, text, ok := strings.Cut(m[len("${{"):len(m)-len("}}")], ":")
		if at, known := s.index[key]; known && at > i {
			text, ok = s.list[at].Value, true
		}
		if !ok && s.dummy {
			text, ok = "dummy", true
		}
		if !ok {
			missing = key
		}
		if size += len(text); size > maxText {
			return ""
		}
		return text
	})
	switch {
	case missing != "":
		return &Error{
			Msg:  "no value for substitution " + missing + ", which the value of " + v.Key + " needs",
			Hint: "supply it after " + v.Key,
		}
	case size > maxText:
		return &Error{Msg: "the value of " + v.Key + " is too large"}
	}
	v.Value = out
	return nil
}

// placeholder is `${{K}}` or `${{K:default}}`, in one line.
var placeholder = regexp.MustCompile(`\$\{\{([^}\n\r\x{85}\x{2028}\x{2029}]*)\}\}`)

// oldPlaceholder is a form that was a placeholder once: `$K`, `${K}`, `${K:…`.
var oldPlaceholder = regexp.MustCompile(`\$(?:\{([^}:{$\s]+)[}:]|([A-Za-z_][A-Za-z0-9_]*))`)

// substitute replaces the placeholders of src and returns what was used.
func (s *substitutions) substitute(src *document) (map[string]string, Errors) {
	used := map[string]string{}
	errs := s.refuseOld(src)
	var b strings.Builder
	done := 0
	for _, m := range placeholder.FindAllStringSubmatchIndex(src.raw, -1) {
		h, err := s.fill(src, m)
		if err != nil {
			if errs = append(errs, err); len(errs) == manyErrors {
				break
			}
			continue
		}
		b.WriteString(src.raw[done:h.from])
		done = h.to
		h.textFrom = b.Len()
		b.WriteString(h.value)
		h.textTo = b.Len()
		src.holes = append(src.holes, h)
		used[h.key] = h.value
		if b.Len() > maxText {
			errs = append(errs, src.fail(src.rawPos(h.from), "", "the file becomes too large by substitution"))
			break
		}
	}
	b.WriteString(src.raw[done:])
	src.text = b.String()
	src.textLines = lineStarts(src.text)
	sort.SliceStable(errs, func(i, j int) bool { return before(errs[i].Pos, errs[j].Pos) })
	return used, errs
}

func before(a, b Pos) bool {
	return a.Line < b.Line || a.Line == b.Line && a.Column < b.Column
}

// fill finds the value of the placeholder raw[m[0]:m[1]].
func (s *substitutions) fill(src *document, m []int) (hole, *Error) {
	pos := src.rawPos(m[0])
	key, value, hasDefault := strings.Cut(src.raw[m[2]:m[3]], ":")
	h := hole{from: m[0], to: m[1], key: key, value: value}
	if at, ok := s.index[key]; ok {
		h.value, h.supplied = s.list[at].Value, true
		if strings.ContainsFunc(h.value, func(r rune) bool { return r != '\t' && unicode.IsControl(r) || isBreak(r) }) {
			return h, src.fail(pos, "a value is one line of text", "the value of %s contains a line break or a control character", short(key))
		}
		return h, nil
	}
	if hasDefault {
		return h, nil
	}
	if s.dummy {
		h.value, h.dummy = "dummy", true
		return h, nil
	}
	hint := "supply it with --substitute " + short(key) + "=VALUE, or write a default: ${{" + short(key) + ":DEFAULT}}"
	if trimmed := strings.TrimSpace(key); trimmed != key {
		hint = "write ${{" + short(trimmed) + "}}, without spaces"
	} else if near := nearest.Word(key, s.keys()); near != "" {
		hint = "there is a value for " + near
	}
	return h, src.fail(pos, hint, "no value for substitution %s", short(key))
}

func (s *substitutions) keys() []string {
	keys := make([]string, len(s.list))
	for i, v := range s.list {
		keys[i] = v.Key
	}
	return keys
}

// refuseOld refuses the old forms for keys that were supplied: a file that still
// has them would build something else than its author meant.
func (s *substitutions) refuseOld(src *document) Errors {
	var errs Errors
	for _, m := range oldPlaceholder.FindAllStringSubmatchIndex(src.raw, -1) {
		from, to := m[2], m[3]
		if from < 0 {
			from, to = m[4], m[5]
		}
		key := src.raw[from:to]
		if _, ok := s.index[key]; !ok {
			continue
		}
		errs = append(errs, src.fail(src.rawPos(m[0]), "write ${{"+short(key)+"}}",
			"unsupported placeholder %s", short(src.raw[m[0]:m[1]])))
		if len(errs) == maxErrors {
			break
		}
	}
	return errs
}
