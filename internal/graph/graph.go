// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package graph is a build as data: vertices that say what is to be done, edges
// that say what each needs, and targets that say which results leave as images.
//
// A frontend makes a [Build]; package solve decides what of it must run. The
// package does no I/O, knows no build file's words and no state directory.
// Ops mirror BuildKit's LLB (Source, Exec, File) with what stacker.yaml needs
// beside it. A graph is not changed after the frontend returned it.
package graph

import (
	"fmt"
	"path/filepath"
	"time"
)

// Pos is a place in a build file, for messages. The zero Pos is "nowhere".
type Pos struct {
	File   string // as messages name it: often relative
	Line   int    // from 1
	Column int    // from 1
}

// String gives file:line:column, or file alone where no line is known.
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Vertex is one node of the graph: an op and the results that it reads.
type Vertex struct {
	Op     Op
	Inputs []*Vertex // what Op's input numbers mean
	Stage  string    // the stage that the step belongs to, for people
	Name   string    // the step as people call it: "run", "import foo.txt to /etc"
	// Ignore says why the step must run even if its result is known; empty: it need not.
	Ignore string
	Step   string // what of the name stays when its arguments change; empty: Name
	Pos    Pos    // where the step stands in its build file
}

// StepID names the step across runs: it says which step's last ingredients are
// to be compared when somebody asks why a step was not reused. dir is the
// directory from which build files are named: projects have files of one name.
func (v *Vertex) StepID(dir string) string {
	step := v.Step
	if step == "" {
		step = v.Name
	}
	file := v.Pos.File
	if !filepath.IsAbs(file) {
		file = filepath.Join(dir, file)
	}
	return file + "\x00" + v.Stage + "\x00" + step
}

// KV is a name and its value, where order matters.
type KV struct{ Key, Value string }

// Build is everything that one invocation asks for.
type Build struct {
	Targets []*Target
}

// Target is a stage with the image that becomes of it.
type Target struct {
	Name      string
	Pos       Pos
	Vertex    *Vertex // the stage's root file system
	BuildOnly bool    // the result is not exported
	Config    Config

	// Image is the whole config document of the stage's image, where the frontend knows
	// it; nil: it is made of that of the image below and of Config.
	Image []byte

	// Parent is the stage whose image this one starts from; Base is the source
	// vertex that it starts from. At most one is set.
	Parent *Target
	Base   *Vertex

	// Labels collects files that become labels of the image, by their names; nil:
	// none.
	Labels *Vertex
	// Document is the build file as written, for the image's annotations.
	Document []byte
	// Volatile stages are run every time, with the reason for people.
	Volatile string
}

// Documents lists the vertices, beside those of its files, whose results the
// target's image is made of: its own and those of the images below it.
func (t *Target) Documents() []*Vertex {
	var list []*Vertex
	for ; t != nil; t = t.Parent {
		if t.Labels != nil {
			list = append(list, t.Labels)
		}
	}
	return list
}

// Config is what a stage says about its image beside the files. It is applied
// to the configuration of the image below. Nil and zero mean "as below".
type Config struct {
	Env          []KV
	Labels       []KV
	Annotations  []KV
	Volumes      []string
	WorkingDir   string
	User         string
	Cmd          *[]string
	Entrypoint   *[]string
	OS, Arch     string
	SourceEpoch  *time.Time // SOURCE_DATE_EPOCH
	CreatedBy    string     // history of the empty last entry
	LayerHistory string     // history of the layers that the stage's run made
	Bom          *Bom       // bill of materials to make; nil: none
}

// Bom asks for a bill of materials of the image.
type Bom struct {
	Namespace string // absolute URI that the documents' own begin with; empty: the program's
	Packages  []BomPackage
}

// BomPackage says what files of the image belong to: those at or below its paths
// that nothing else owns.
type BomPackage struct {
	Name, Version, License string
	Paths                  []string // absolute
}

// Select keeps the targets named and everything that they need, in order.
// An unknown name is an error that lists what there is.
func (b *Build) Select(names []string) (*Build, error) {
	if len(names) == 0 {
		return b, nil
	}
	byVertex := map[*Vertex]*Target{}
	byName := map[string]*Target{}
	var known []string
	for _, t := range b.Targets {
		byName[t.Name] = t
		byVertex[t.Vertex] = t
		known = append(known, t.Name)
	}
	want := map[*Target]bool{}
	seen := map[*Vertex]bool{}
	var visit func(v *Vertex)
	var take func(t *Target)
	visit = func(v *Vertex) {
		if v == nil || seen[v] {
			return
		}
		seen[v] = true
		if t := byVertex[v]; t != nil {
			take(t)
		}
		for _, in := range v.Inputs {
			visit(in)
		}
	}
	take = func(t *Target) {
		if t == nil || want[t] {
			return
		}
		want[t] = true
		visit(t.Vertex)
		visit(t.Labels)
		take(t.Parent)
	}
	for _, n := range names {
		t := byName[n]
		if t == nil {
			return nil, fmt.Errorf("no stage %q: the build file has %v", n, known)
		}
		take(t)
	}
	out := &Build{}
	for _, t := range b.Targets {
		if want[t] {
			out.Targets = append(out.Targets, t)
		}
	}
	return out, nil
}
