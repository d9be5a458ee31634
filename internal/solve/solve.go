// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package solve decides what of a build must run, and in which order.
//
// Every vertex is visited once, as soon as its inputs are there, at the same
// time as all others that are ready. A source is resolved each time. A step is
// looked up under the key that its Runner computes from the content of its
// inputs; only if nothing is kept there, nor under a second key that some steps have, it runs, holding
// the key's lock, so that equal work is done once, also across processes. The package knows no
// file system, no container and no registry: these are behind Runner.
package solve

import (
	"context"
	"errors"
	"sync"
	"time"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
)

// Runner does what vertices say.
type Runner interface {
	// Probe says what the vertex' result depends on. It must be cheap when
	// nothing changed, and must not write outside the state directory.
	Probe(ctx context.Context, v *graph.Vertex, inputs []cache.Result, emit Sink) (Probe, error)
	// Run does the step. It is called at most once per key at a time.
	Run(ctx context.Context, v *graph.Vertex, inputs []cache.Result, emit Sink) (cache.Result, error)
	// Complete gives a kept result the form that it has in this build: a key
	// knows what inputs hold, and not where they came from.
	Complete(v *graph.Vertex, inputs []cache.Result, kept cache.Result) cache.Result
	// Present tells whether all that a kept result needs still exists.
	Present(r cache.Result) bool
	// DescribeLists tells what differs between two kept listings.
	DescribeLists(old, new []byte) []string
}

// Shared is a cache that other machines use too. Its faults are its own: what it
// cannot find it does not have.
type Shared interface {
	// Lookup returns what others produced under a key, or nil. The record has no
	// ingredients, and of layers below the step's own only the diffIDs: Runner's
	// Complete has the rest.
	Lookup(ctx context.Context, key cache.Key) *cache.Record
	// Keep offers a result to others, while the build goes on. final tells that its
	// layers are in a target.
	Keep(r *cache.Record, final bool)
}

// Probe is what a vertex depends on.
type Probe struct {
	Result      *cache.Result     // of a source: its result; nothing is looked up
	Ingredients cache.Ingredients // of a step: what its key is made of
	Volatile    string            // why the step must run even if it is known; empty: it need not
	// Content, which may be nil, says again what a step depends on, in a form that is dearer and sees more
	// as equal: by what its inputs hold, and not by how they came about. It is asked for before
	// a step runs. No ingredients: that cannot be told.
	Content func(ctx context.Context) (cache.Ingredients, error)
}

// Options are the settings of a Solver.
type Options struct {
	Cache    *cache.Store
	Shared   Shared // may be nil
	Runner   Runner
	Events   Sink
	NoCache  bool // run every step
	Parallel int  // steps that run at the same time; ≤ 0: 4
	Now      func() time.Time
	Dir      string // from which positions name build files
	// Part, which may be nil, is told what a target's layers begin with, as soon as a
	// vertex of the target is done, while the build goes on. A build in which nothing
	// runs is over before that is of use, and tells nothing. It is called from any
	// goroutine and must be quick.
	Part func(t *graph.Target, r cache.Result)
}

// Solver solves builds. It may be used once at a time.
type Solver struct {
	o     Options
	slots chan struct{}

	mu     sync.Mutex
	nodes  map[string]*node
	order  []*Decision
	final  map[string]bool            // IDs of the vertices whose layers are in targets; not changed while solving
	parts  map[string][]*graph.Target // by the ID of a vertex of theirs; not changed while solving
	ran    bool                       // a step was run
	untold []func()                   // what Part is told when one is

	stop    context.CancelCauseFunc // ends the work; set while solving
	keeping sync.WaitGroup          // results that are being written to the cache
	unkept  error                   // why one could not be
}

// node is one piece of work; vertices with the same ID share it.
type node struct {
	done   chan struct{}
	result cache.Result
	err    error
}

// New returns a Solver.
func New(o Options) *Solver {
	if o.Parallel <= 0 {
		o.Parallel = 4
	}
	return &Solver{o: o, slots: make(chan struct{}, o.Parallel), nodes: map[string]*node{}}
}

// Solve brings about the results of all targets and calls done for each as soon
// as its result is there, from several goroutines. The first error stops
// everything that still runs and is returned when all has stopped.
func (s *Solver) Solve(ctx context.Context, b *graph.Build, done func(context.Context, *graph.Target, cache.Result) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	s.stop, s.unkept = cancel, nil
	ids := map[*graph.Vertex]string{}
	s.final, s.parts = map[string]bool{}, map[string][]*graph.Target{}
	for _, t := range b.Targets {
		t.Vertex.IDs(ids)
		s.markFinal(t.Vertex, ids)
		for v := t.Vertex; v != nil && s.o.Part != nil; v = v.Below() {
			s.parts[ids[v]] = append(s.parts[ids[v]], t)
		}
		for _, v := range t.Documents() {
			v.IDs(ids)
		}
	}
	var wg sync.WaitGroup
	errs := make([]error, len(b.Targets))
	for i, t := range b.Targets {
		wg.Go(func() {
			r, err := s.vertex(ctx, t.Vertex, ids)
			for _, v := range t.Documents() {
				if err == nil {
					_, err = s.vertex(ctx, v, ids)
				}
			}
			if err == nil && done != nil {
				err = done(ctx, t, r)
			}
			if err != nil {
				errs[i] = err
				cancel(err)
			}
		})
	}
	wg.Wait()
	s.keeping.Wait()
	if err := firstCause(ctx, errs); err != nil {
		return err
	}
	return s.unkept
}

// keep writes a result to the cache while the work goes on: what needs the result does not
// need it from there. release is called afterwards. An error stops everything.
func (s *Solver) keep(write func() error, release func()) {
	s.keeping.Go(func() {
		defer release()
		if err := write(); err != nil {
			s.stop(err)
			s.mu.Lock()
			s.unkept = err
			s.mu.Unlock()
		}
	})
}

// markFinal notes a vertex of a target and those that its layers lie on: whoever has
// only the last of them has not the keys of those before.
func (s *Solver) markFinal(v *graph.Vertex, ids map[*graph.Vertex]string) {
	for ; v != nil && !s.final[ids[v]]; v = v.Below() {
		s.final[ids[v]] = true
		switch v.Op.(type) {
		case graph.Merge, graph.Diff:
			for _, in := range v.Inputs[min(1, len(v.Inputs)):] {
				s.markFinal(in, ids)
			}
		}
	}
}

// firstCause prefers the error that stopped the others to their "canceled".
func firstCause(ctx context.Context, errs []error) error {
	var first error
	for _, err := range errs {
		if err == nil {
			continue
		}
		if !errors.Is(err, context.Canceled) {
			return err
		}
		first = err
	}
	if first == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return first
}

// Result gives what a vertex produced. It is there when a target that needs the
// vertex was reported done.
func (s *Solver) Result(v *graph.Vertex) (cache.Result, bool) {
	s.mu.Lock()
	n := s.nodes[v.ID()]
	s.mu.Unlock()
	if n == nil {
		return cache.Result{}, false
	}
	select {
	case <-n.done:
		return n.result, n.err == nil
	default:
		return cache.Result{}, false
	}
}

// vertex returns the vertex' result, doing the work if nobody does it yet.
func (s *Solver) vertex(ctx context.Context, v *graph.Vertex, ids map[*graph.Vertex]string) (cache.Result, error) {
	s.mu.Lock()
	n := s.nodes[ids[v]]
	mine := n == nil
	if mine {
		n = &node{done: make(chan struct{})}
		s.nodes[ids[v]] = n
	}
	s.mu.Unlock()
	if mine {
		n.result, n.err = s.work(ctx, v, ids)
		if n.err == nil {
			s.tell(s.parts[ids[v]], n.result)
		}
		close(n.done)
	}
	select {
	case <-n.done:
		return n.result, n.err
	case <-ctx.Done():
		return cache.Result{}, context.Cause(ctx)
	}
}

// tell passes on what targets begin with, or keeps it until something runs.
func (s *Solver) tell(targets []*graph.Target, r cache.Result) {
	s.mu.Lock()
	ran := s.ran
	if !ran && len(targets) > 0 {
		s.untold = append(s.untold, func() { s.tell(targets, r) })
	}
	s.mu.Unlock()
	for _, t := range targets {
		if ran {
			s.o.Part(t, r)
		}
	}
}

// runs notes that a step is about to run.
func (s *Solver) runs() {
	s.mu.Lock()
	s.ran = true
	untold := s.untold
	s.untold = nil
	s.mu.Unlock()
	for _, tell := range untold {
		tell()
	}
}

func (s *Solver) work(ctx context.Context, v *graph.Vertex, ids map[*graph.Vertex]string) (cache.Result, error) {
	inputs, err := s.inputs(ctx, v, ids)
	if err != nil {
		return cache.Result{}, err
	}
	job := &job{s: s, v: v, vertex: Vertex{ID: ids[v], Stage: v.Stage, Name: v.Name, Pos: v.Pos.String()}}
	r, err := job.do(ctx, inputs)
	if err != nil && ctx.Err() == nil {
		pos := v.Pos
		var at interface{ Position() graph.Pos } // a part of the step that stands elsewhere
		if errors.As(err, &at) && at.Position().Line > 0 {
			pos = at.Position()
		}
		return r, &StepError{Pos: pos, Stage: v.Stage, Step: v.Name, Err: err}
	}
	return r, err
}

func (s *Solver) inputs(ctx context.Context, v *graph.Vertex, ids map[*graph.Vertex]string) ([]cache.Result, error) {
	inputs := make([]cache.Result, len(v.Inputs))
	errs := make([]error, len(v.Inputs))
	var wg sync.WaitGroup
	for i, in := range v.Inputs {
		if i == len(v.Inputs)-1 { // the last one is done here: chains need no goroutines
			inputs[i], errs[i] = s.vertex(ctx, in, ids)
			break
		}
		wg.Go(func() { inputs[i], errs[i] = s.vertex(ctx, in, ids) })
	}
	wg.Wait()
	return inputs, errors.Join(dedup(errs)...)
}

// dedup keeps one of equal errors: two inputs may need the same failed vertex.
func dedup(errs []error) []error {
	var out []error
	for _, err := range errs {
		known := err == nil
		for _, o := range out {
			known = known || errors.Is(err, o)
		}
		if !known {
			out = append(out, err)
		}
	}
	if len(out) > 1 {
		return out[:1]
	}
	return out
}

// StepError says which step failed.
type StepError struct {
	Pos   graph.Pos
	Stage string
	Step  string
	Err   error
}

// Error leaves the place to whoever shows the error: see Pos.
func (e *StepError) Error() string { return e.Err.Error() }

// Unwrap gives the cause.
func (e *StepError) Unwrap() error { return e.Err }

// slot waits for a place to work in.
func (s *Solver) slot(ctx context.Context) (release func(), err error) {
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx) // another step's error, which says it all
	}
}
