// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cache

import "strings"

// Difference is one ingredient that a step's two runs do not share.
type Difference struct {
	Name     string
	Old, New string // values; empty where the ingredient did not exist
	Added    bool
	Removed  bool
	// OldList and NewList are kept listings behind the values, where both exist.
	OldList, NewList string
}

// Compare lists what differs between two runs' ingredients, in the order of
// the new run, removed ones last.
func Compare(old, new Ingredients) []Difference {
	was := make(map[string]Ingredient, len(old))
	for _, i := range old {
		was[i.Name] = i
	}
	var out []Difference
	for _, i := range new {
		o, ok := was[i.Name]
		delete(was, i.Name)
		switch {
		case !ok:
			out = append(out, Difference{Name: i.Name, New: i.Value, Added: true})
		case o.Value != i.Value:
			out = append(out, Difference{Name: i.Name, Old: o.Value, New: i.Value, OldList: o.List, NewList: i.List})
		}
	}
	for _, i := range old {
		if _, left := was[i.Name]; left {
			out = append(out, Difference{Name: i.Name, Old: i.Value, Removed: true})
		}
	}
	return out
}

// Lines tells a difference to people in one or more lines. Texts of many lines
// are told by the first line that differs.
func (d Difference) Lines() []string {
	switch {
	case d.Added:
		return []string{d.Name + " is new: " + short(d.New)}
	case d.Removed:
		return []string{d.Name + " is gone: " + short(d.Old)}
	}
	if strings.Contains(d.Old, "\n") || strings.Contains(d.New, "\n") {
		return textLines(d)
	}
	return []string{d.Name + " changed: " + short(d.Old) + " → " + short(d.New)}
}

func textLines(d Difference) []string {
	old, new := strings.Split(d.Old, "\n"), strings.Split(d.New, "\n")
	i := 0
	for i < len(old) && i < len(new) && old[i] == new[i] {
		i++
	}
	out := []string{d.Name + " changed:"}
	if i < len(old) {
		out = append(out, "  - "+short(old[i]))
	}
	if i < len(new) {
		out = append(out, "  + "+short(new[i]))
	}
	return out
}

// short cuts values to a length that fits a line; digests keep their beginning.
func short(s string) string {
	if s == "" {
		return `""`
	}
	// Also the names of files in other stages, which are of this form.
	if kind, sum, ok := strings.Cut(s, ":"); ok && len(sum) == 64 && strings.Trim(sum, "0123456789abcdef") == "" {
		return kind + ":" + sum[:12]
	}
	r := []rune(strings.ReplaceAll(s, "\x00", " ")) // between the words of a command
	if len(r) > 100 {
		return string(r[:97]) + "..."
	}
	return string(r)
}
