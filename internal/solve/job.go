// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package solve

import (
	"context"
	"fmt"
	"time"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
)

// job is one vertex being worked on.
type job struct {
	s      *Solver
	v      *graph.Vertex
	vertex Vertex
	start  time.Time
}

func (j *job) emit(e Event) {
	if j.s.o.Events == nil {
		return
	}
	if e.Kind != Note { // notes are about the build
		e.Vertex = j.vertex
	}
	if e.Time.IsZero() {
		e.Time = j.s.o.Now()
	}
	j.s.o.Events(e)
}

// do returns the kept result of the vertex, or runs it and keeps what it produced.
func (j *job) do(ctx context.Context, inputs []cache.Result) (cache.Result, error) {
	j.start = j.s.o.Now()
	p, err := j.s.o.Runner.Probe(ctx, j.v, inputs, j.emit)
	if err != nil {
		j.emit(Event{Kind: Failed, Err: err})
		return cache.Result{}, err
	}
	if p.Result != nil {
		return *p.Result, nil
	}
	key := p.Ingredients.Key()
	if !j.s.o.NoCache && p.Volatile == "" {
		if r, ok := j.reuse(key, inputs); ok {
			return r, nil
		}
	}
	return j.run(ctx, inputs, key, p)
}

// reuse serves the kept result of the key where there is a whole one.
func (j *job) reuse(key cache.Key, inputs []cache.Result) (cache.Result, bool) {
	c := j.s.o.Cache
	rec := c.Lookup(key)
	if rec == nil {
		return cache.Result{}, false
	}
	if !j.s.o.Runner.Present(rec.Result) {
		_ = c.Remove(key)
		return cache.Result{}, false
	}
	c.Touch(key, j.start)
	_ = c.SetLast(j.v.StepID(j.s.o.Dir), rec)
	if j.s.o.Shared != nil {
		j.s.o.Shared.Keep(rec, j.s.final[j.vertex.ID])
	}
	j.s.decide(&Decision{Pos: j.v.Pos, Stage: j.v.Stage, Step: j.v.Name, Reused: true, Key: string(key), Took: rec.Duration, When: rec.Created})
	j.emit(Event{Kind: Cached, Dur: rec.Duration})
	return j.s.o.Runner.Complete(j.v, inputs, rec.Result), true
}

func (j *job) run(ctx context.Context, inputs []cache.Result, key cache.Key, p Probe) (cache.Result, error) {
	unlock, err := j.s.o.Cache.Lock(ctx, key, func() {
		j.emit(Event{Kind: Waiting, Cause: "another build does the same step"})
	})
	if err != nil {
		return cache.Result{}, err
	}
	defer func() { unlock() }()
	if !j.s.o.NoCache && p.Volatile == "" {
		if r, ok := j.reuse(key, inputs); ok { // somebody did it while we waited
			return r, nil
		}
		if r, ok, err := j.fromShared(ctx, inputs, key, p); ok || err != nil {
			return r, err
		}
	}
	release, err := j.s.slot(ctx)
	if err != nil {
		return cache.Result{}, err
	}
	defer release()
	content, err := j.content(ctx, p)
	if err != nil {
		j.emit(Event{Kind: Failed, Err: err})
		return cache.Result{}, err
	}
	if r, ok, err := j.again(inputs, key, content, p); ok || err != nil {
		return r, err
	}
	causes, changes := j.why(key, p)
	d := &Decision{Pos: j.v.Pos, Stage: j.v.Stage, Step: j.v.Name, Key: string(key), Causes: causes}
	j.s.decide(d)
	j.s.runs()
	j.start = j.s.o.Now()
	j.emit(Event{Kind: Started, Time: j.start, Cause: brief(causes), Changes: changes})
	r, err := j.s.o.Runner.Run(ctx, j.v, inputs, j.emit)
	d.Took = j.s.o.Now().Sub(j.start)
	if err != nil && ctx.Err() != nil {
		// Another step's failure, or the user, stopped this one.
		j.emit(Event{Kind: Failed, Err: fmt.Errorf("stopped: %w", context.Canceled), Dur: d.Took})
		return cache.Result{}, context.Cause(ctx)
	}
	if err != nil {
		j.emit(Event{Kind: Failed, Err: err, Dur: d.Took})
		return cache.Result{}, err
	}
	rec := &cache.Record{Step: stepName(j.v.Stage, j.v.Name), Key: key, Created: j.start, Duration: d.Took, Ingredients: p.Ingredients, Result: r}
	j.s.keep(func() error { return j.keep(rec, content) }, unlock)
	unlock = func() {} // that is done when the result is kept
	if j.s.o.Shared != nil && p.Volatile == "" {
		j.s.o.Shared.Keep(rec, j.s.final[j.vertex.ID])
	}
	j.emit(Event{Kind: Done, Dur: d.Took})
	return r, nil
}

// keep keeps what the step produced.
func (j *job) keep(rec *cache.Record, content cache.Ingredients) error {
	c := j.s.o.Cache
	if err := c.Put(rec); err != nil {
		return fmt.Errorf("keep result: %w", err)
	}
	if err := c.SetLast(j.v.StepID(j.s.o.Dir), rec); err != nil {
		return fmt.Errorf("keep ingredients: %w", err)
	}
	if len(content) == 0 {
		return nil
	}
	second := *rec
	second.Key, second.Ingredients = content.Key(), content
	if err := c.Put(&second); err != nil {
		return fmt.Errorf("keep result: %w", err)
	}
	return nil
}

// content gives the ingredients of the second key; none: the step has no such key.
func (j *job) content(ctx context.Context, p Probe) (cache.Ingredients, error) {
	if p.Content == nil || j.s.o.NoCache || p.Volatile != "" {
		return nil, nil
	}
	return p.Content(ctx)
}

// again serves what the step produced out of inputs with the same content, and keeps it under
// its first key, too.
func (j *job) again(inputs []cache.Result, key cache.Key, content cache.Ingredients, p Probe) (cache.Result, bool, error) {
	if len(content) == 0 {
		return cache.Result{}, false, nil
	}
	rec := j.s.o.Cache.Lookup(content.Key())
	if rec == nil || !j.s.o.Runner.Present(rec.Result) {
		return cache.Result{}, false, nil
	}
	j.s.o.Cache.Touch(rec.Key, j.start)
	rec.Key, rec.Ingredients = key, p.Ingredients
	if err := j.s.o.Cache.Put(rec); err != nil {
		return cache.Result{}, false, fmt.Errorf("keep result: %w", err)
	}
	r, ok := j.reuse(key, inputs)
	return r, ok, nil
}

// fromShared serves what another machine produced under the key.
func (j *job) fromShared(ctx context.Context, inputs []cache.Result, key cache.Key, p Probe) (cache.Result, bool, error) {
	if j.s.o.Shared == nil {
		return cache.Result{}, false, nil
	}
	rec := j.s.o.Shared.Lookup(ctx, key)
	if rec == nil {
		return cache.Result{}, false, nil
	}
	rec.Ingredients, rec.Result = p.Ingredients, j.s.o.Runner.Complete(j.v, inputs, rec.Result)
	if !j.s.o.Runner.Present(rec.Result) {
		return cache.Result{}, false, nil // it is not what this step can have produced
	}
	if err := j.s.o.Cache.Put(rec); err != nil {
		return cache.Result{}, false, fmt.Errorf("keep result: %w", err)
	}
	r, ok := j.reuse(key, inputs)
	return r, ok, nil
}
