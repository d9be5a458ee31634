// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import "strings"

// field is one key of a map of the language. The decoder, the JSON Schema, the
// formatter and the linter work from the same tables (tables.go), so that none of
// them knows a key that the others do not.
type field[T any] struct {
	name  string
	about string // a sentence for people
	shape schema // what the value may be
	read  func(d *decoder, to *T, v *node)
}

// names lists the keys of a table in its order, which is that of the formatter.
// Keys without a description are accepted and told to nobody.
func names[T any](table []field[T]) []string {
	var list []string
	for _, f := range table {
		if f.about != "" {
			list = append(list, f.name)
		}
	}
	return list
}

// readFields reads the entries of the map n by a table and returns the values by
// key. unknown is called with each key that the table does not have.
func readFields[T any](d *decoder, n *node, table []field[T], to *T, unknown func(d *decoder, key *node)) map[string]*node {
	seen := map[string]*node{}
	for _, e := range n.entries {
		seen[e.key.text] = e.value
		known := false
		for i := range table {
			if table[i].name == e.key.text {
				known = true
				table[i].read(d, to, e.value)
				break
			}
		}
		if !known {
			before := len(d.errs)
			unknown(d, e.key)
			for _, err := range d.errs[before:] {
				err.unknownKey = true
			}
		}
	}
	return seen
}

// unknownIn refuses a key of a map below a stage.
func unknownIn[T any](where string, table []field[T]) func(*decoder, *node) {
	return func(d *decoder, key *node) {
		known := names(table)
		d.fail(key, didYouMean(key.text, known, "known keys are "+strings.Join(known, ", ")), "unknown key %s in %s", short(key.text), where)
	}
}
