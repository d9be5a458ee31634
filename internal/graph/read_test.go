// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"slices"
	"strings"
	"testing"

	"build.stacker.dev/internal/fileop/action"
)

func TestRead(t *testing.T) {
	change := func(name string, in ...*Vertex) *Vertex {
		return &Vertex{Name: name, Op: Change{Actions: []action.Action{{Dir: &action.Dir{Path: name}}}}, Inputs: in}
	}
	base := &Vertex{Name: "base", Op: Image{Reference: "base"}}
	context := &Vertex{Name: "context", Op: Context{Path: "/c"}}
	copied := change("copied", base, context)
	top := change("top", copied, context)
	run := &Vertex{Name: "run", Op: Exec{Script: "x"}, Inputs: []*Vertex{copied}}
	linked := change("linked", &Vertex{Name: "scratch", Op: Scratch{}}, context)
	merged := &Vertex{Name: "merged", Op: Merge{}, Inputs: []*Vertex{base, linked}}
	from := change("from", base, top)
	all := []*Vertex{base, context, copied, top, run, linked, merged, from}
	tests := []struct {
		name    string
		targets []*Vertex
		whole   bool
		want    string // names of what is read
	}{
		{"copies alone", []*Vertex{top}, false, "context"},
		{"files wanted", []*Vertex{top}, true, "base context copied top"},
		{"a step on a copy", []*Vertex{run}, false, "base context copied"},
		{"a copy and a step on what is below", []*Vertex{top, run}, false, "base context copied"},
		{"a copy on a step", []*Vertex{change("last", run, context)}, false, "base context copied"},
		{"link", []*Vertex{merged}, false, "context"},
		{"files of a link wanted", []*Vertex{merged}, true, "base context linked merged"},
		{"copied from", []*Vertex{from}, false, "base context copied top"},
	}
	for _, tt := range tests {
		b := &Build{}
		for _, v := range tt.targets {
			b.Targets = append(b.Targets, &Target{Vertex: v})
		}
		read := b.Read(func(*Target) bool { return tt.whole })
		var got []string
		for _, v := range all {
			if read[v.ID()] {
				got = append(got, v.Name)
			}
		}
		slices.Sort(got)
		if s := strings.Join(got, " "); s != tt.want {
			t.Errorf("%s: got %q, want %q", tt.name, s, tt.want)
		}
	}
}
