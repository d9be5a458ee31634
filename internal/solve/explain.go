// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package solve

import (
	"fmt"
	"strings"
	"time"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
)

// Decision is what happened to one step, and why.
type Decision struct {
	Pos    graph.Pos
	Stage  string
	Step   string
	Key    string
	Reused bool
	When   time.Time     // of a reused step: when it ran
	Took   time.Duration // how long it ran, then or now
	Causes []string      // of a step that ran: why, never empty
}

// Change is one ingredient in which a step differs from its last run.
type Change struct {
	Name           string   // of the ingredient
	Added, Removed bool     // neither: its value is another
	Lines          []string // of a listing of files: see Runner.DescribeLists
}

// Decisions returns what happened, in the order in which it was decided.
func (s *Solver) Decisions() []Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]Decision, 0, len(s.order))
	for _, d := range s.order {
		out = append(out, *d)
	}
	return out
}

func (s *Solver) decide(d *Decision) {
	s.mu.Lock()
	s.order = append(s.order, d)
	s.mu.Unlock()
}

// brief is one line of causes: the first, with its first detail.
func brief(causes []string) string {
	first, more := causes[0], len(causes)-1
	if strings.HasSuffix(first, ":") && more > 0 {
		first += " " + strings.TrimSpace(causes[1])
		more--
	}
	if more > 0 {
		first += fmt.Sprintf(" (and %d more: see --explain)", more)
	}
	return first
}

// why compares the step's ingredients with those of its last run. There are
// changes only where there was one.
func (j *job) why(key cache.Key, p Probe) (causes []string, changes []Change) {
	switch {
	case p.Volatile != "":
		return []string{p.Volatile}, nil
	case j.s.o.NoCache:
		return []string{"--no-cache was given"}, nil
	}
	last := j.s.o.Cache.Last(j.v.StepID(j.s.o.Dir))
	if last == nil {
		return []string{"this step was not built before"}, nil
	}
	if last.Key == key {
		return []string{"its result is no longer in the store"}, nil
	}
	for _, d := range cache.Compare(last.Ingredients, p.Ingredients) {
		c := Change{Name: d.Name, Added: d.Added, Removed: d.Removed}
		if d.OldList != "" && d.NewList != "" {
			old, new := j.s.o.Cache.List(d.OldList), j.s.o.Cache.List(d.NewList)
			if lines := j.s.o.Runner.DescribeLists(old, new); old != nil && new != nil && len(lines) > 0 {
				causes = append(causes, d.Name+" content changed:")
				causes = append(causes, lines...)
				c.Lines = lines
			}
		}
		if c.Lines == nil {
			causes = append(causes, d.Lines()...)
		}
		changes = append(changes, c)
	}
	if len(causes) == 0 { // the key's version changed
		return []string{"the program's way of making keys changed"}, nil
	}
	return causes, changes
}

// stepName is how lines without a progress call a step, in one line. A Dockerfile's
// only stage may have no name.
func stepName(stage, step string) string {
	step = strings.Join(strings.Fields(step), " ")
	if stage == "" {
		return step
	}
	return stage + ": " + step
}

// String tells the decision in the lines of --explain.
func (d Decision) String() string {
	head := stepName(d.Stage, d.Step)
	if d.Reused {
		return head + ": reused (made " + d.When.Local().Format(time.DateTime) + " in " + d.Took.Round(time.Millisecond).String() + ")"
	}
	return head + ": ran, because\n    " + strings.Join(d.Causes, "\n    ")
}
