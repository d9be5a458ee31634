// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package graph

// Read tells, by their IDs, of which vertices somebody reads the files: a step that
// runs on them, or a copy that takes some. The others are layers that go into an image
// as they are. whole says of which targets the files themselves are wanted.
//
// It is what the graph knows: a result that is not read here can be read by a later
// build, and one that is read need not be, where the step that reads it is known.
func (b *Build) Read(whole func(*Target) bool) map[string]bool {
	r := reading{ids: map[*Vertex]string{}, read: map[string]bool{}, seen: map[*Vertex]bool{}}
	for _, t := range b.Targets {
		r.visit(t.Vertex)
		if whole(t) {
			r.mark(t.Vertex)
		}
		for _, v := range t.Documents() {
			r.visit(v)
			r.mark(v)
		}
	}
	return r.read
}

type reading struct {
	ids  map[*Vertex]string
	read map[string]bool
	seen map[*Vertex]bool
}

// visit marks what v and all below it read.
func (r *reading) visit(v *Vertex) {
	if r.seen[v] {
		return
	}
	r.seen[v] = true
	for i, in := range v.Inputs {
		r.visit(in)
		switch v.Op.(type) {
		case Merge, Diff:
		case Change:
			if i > 0 {
				r.mark(in)
			}
		default:
			r.mark(in)
		}
	}
}

// mark notes that the files of v are read, and with them those that it shows.
func (r *reading) mark(v *Vertex) {
	id := v.id(r.ids)
	if r.read[id] {
		return
	}
	r.read[id] = true
	switch v.Op.(type) {
	case Change:
		r.mark(v.Inputs[0])
	case Merge, Diff:
		for _, in := range v.Inputs {
			r.mark(in)
		}
	}
}
