// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"fmt"
	"strings"
)

// need is a stage that another one needs, and where that is written.
type need struct {
	stage string
	what  string // for messages
	pos   Pos
}

func (s *Stage) needs() []need {
	var list []need
	switch {
	case s.From.Type == "built":
		list = append(list, need{s.From.Tag, "base layer " + s.From.Tag, s.From.refPos})
	case s.From.Type == "tar" && strings.HasPrefix(s.From.URL, stageScheme):
		list = append(list, need{stageOf(s.From.URL), s.From.URL, s.From.refPos})
	}
	for _, i := range s.Imports {
		if i.Kind == FromStage {
			list = append(list, need{stageOf(i.Path), i.Path, i.Pos})
		}
	}
	return list
}

const stageScheme = "stacker://"

// stageOf is the stage in `stacker://STAGE/PATH`.
func stageOf(path string) string {
	stage, _, _ := strings.Cut(strings.TrimPrefix(path, stageScheme), "/")
	return stage
}

// Needs returns the names of the stages that s needs, each once, in the order in
// which they are written.
func (s *Stage) Needs() []string {
	var names []string
	seen := map[string]bool{}
	for _, n := range s.needs() {
		if !seen[n.stage] {
			seen[n.stage] = true
			names = append(names, n.stage)
		}
	}
	return names
}

// Order returns the stages of all files such that each comes after those that it
// needs (as base, as source of an import or of an archive), and otherwise in the
// order of Files. A stage that does not exist, or that needs itself, is an error.
func (p *Project) Order() ([]*Stage, error) {
	o := &orderer{p: p, state: map[*Stage]int{}}
	for _, f := range p.Files {
		for _, s := range f.Stages {
			if o.state[s] == 0 {
				o.visit(s)
			}
		}
	}
	if len(o.errs) > 0 {
		return nil, o.errs.first()
	}
	return o.list, nil
}

const (
	visiting = 1
	visited  = 2
)

type orderer struct {
	p     *Project
	state map[*Stage]int
	way   []*Stage // from where the visit began to here
	list  []*Stage
	errs  Errors
}

func (o *orderer) visit(s *Stage) {
	o.state[s] = visiting
	o.way = append(o.way, s)
	for _, n := range s.needs() {
		other := o.p.stages[n.stage]
		switch {
		case len(o.errs) == maxErrors:
		case other == nil:
			o.fail(s, n.pos, o.hint(n.stage), "couldn't find dependencies for %s: %s", s.Name, short(n.what))
		case o.state[other] == visiting:
			o.fail(s, n.pos, "", "couldn't resolve some dependencies: %s", o.cycle(other))
		case o.state[other] == 0:
			o.visit(other)
		}
	}
	o.way = o.way[:len(o.way)-1]
	o.state[s] = visited
	o.list = append(o.list, s)
}

func (o *orderer) hint(name string) string {
	var names []string
	for _, f := range o.p.Files {
		for _, s := range f.Stages {
			names = append(names, s.Name)
		}
	}
	return didYouMean(name, names, "no layer of these files has that name; a layer of another file needs that file in config: prerequisites:")
}

// cycle tells the way from a stage to itself.
func (o *orderer) cycle(s *Stage) string {
	var b strings.Builder
	on := false
	for _, w := range o.way {
		if on = on || w == s; on {
			fmt.Fprintf(&b, "%s needs ", w.Name)
		}
	}
	return b.String() + s.Name
}

func (o *orderer) fail(s *Stage, at Pos, hint, format string, args ...any) {
	src := newDocument(s.File.Name, s.File.Raw)
	src.secret = isLink(s.File.Path)
	o.errs = append(o.errs, src.fail(at, hint, format, args...))
}
