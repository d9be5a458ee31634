// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package graph

// Below returns the vertex whose layers the result of v begins with; nil: there is
// none, or it cannot be known before v is done.
func (v *Vertex) Below() *Vertex {
	switch op := v.Op.(type) {
	case File, Change, Imports, Merge:
		return v.first()
	case Exec:
		if op.Collect == "" {
			return v.first()
		}
	case Scratch, Image, Tar, Local, HTTP, Pick, Context, Git, Download, Diff:
	}
	return nil
}

func (v *Vertex) first() *Vertex {
	if len(v.Inputs) == 0 {
		return nil
	}
	return v.Inputs[0]
}
