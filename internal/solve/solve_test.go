// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package solve

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
)

// fake runs Execs by noting their scripts. Local sources are what content says.
type fake struct {
	mu      sync.Mutex
	ran     []string
	content map[string]string
	run     func(ctx context.Context, script string) error
	gone    bool
	second  func() (cache.Ingredients, error) // of steps: Probe.Content
}

func (f *fake) Probe(_ context.Context, v *graph.Vertex, in []cache.Result, _ Sink) (Probe, error) {
	switch op := v.Op.(type) {
	case graph.Scratch:
		return Probe{Result: &cache.Result{}}, nil
	case graph.Local:
		c, ok := f.content[op.Path]
		if !ok {
			return Probe{}, errors.New("no such file")
		}
		return Probe{Result: &cache.Result{Content: c}}, nil
	case graph.Exec:
		key := cache.Ingredients{{Name: "base", Value: in[0].Chain()}, {Name: "script", Value: op.Script}}
		for _, r := range in[1:] {
			key.Add("import", r.Content)
		}
		p := Probe{Ingredients: key}
		if f.second != nil {
			p.Content = func(context.Context) (cache.Ingredients, error) { return f.second() }
		}
		if len(op.Binds) > 0 {
			p.Volatile = "it has binds"
		}
		return p, nil
	}
	return Probe{}, fmt.Errorf("unknown op %T", v.Op)
}

func (f *fake) Run(ctx context.Context, v *graph.Vertex, in []cache.Result, _ Sink) (cache.Result, error) {
	script := v.Op.(graph.Exec).Script
	f.mu.Lock()
	f.ran = append(f.ran, script)
	f.mu.Unlock()
	if f.run != nil {
		if err := f.run(ctx, script); err != nil {
			return cache.Result{}, err
		}
	}
	l := cache.Layer{DiffID: digest.FromString(script + in[0].Chain())}
	return cache.Result{Layers: append(slices.Clone(in[0].Layers), l)}, nil
}

func (f *fake) Complete(_ *graph.Vertex, _ []cache.Result, r cache.Result) cache.Result { return r }
func (f *fake) Present(cache.Result) bool                                               { return !f.gone }
func (f *fake) DescribeLists(_, _ []byte) []string                                      { return nil }

func vertex(name string, op graph.Op, in ...*graph.Vertex) *graph.Vertex {
	return &graph.Vertex{Op: op, Inputs: in, Name: name, Stage: "s"}
}

func targets(vs ...*graph.Vertex) *graph.Build {
	b := &graph.Build{}
	for _, v := range vs {
		b.Targets = append(b.Targets, &graph.Target{Name: v.Name, Vertex: v})
	}
	return b
}

func newSolver(t *testing.T, c *cache.Store, f *fake) *Solver {
	t.Helper()
	return New(Options{Cache: c, Runner: f, Now: time.Now})
}

func openCache(t *testing.T) *cache.Store {
	t.Helper()
	c, err := cache.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func chain() *graph.Vertex {
	src := vertex("import f", graph.Local{Path: "/f"})
	one := vertex("one", graph.Exec{Script: "one"}, vertex("base", graph.Scratch{}), src)
	return vertex("two", graph.Exec{Script: "two"}, one)
}

func TestReuse(t *testing.T) {
	c := openCache(t)
	steps := []struct {
		name    string
		content string
		change  func(f *fake, o *Options)
		want    []string // scripts that run
		cause   string   // of the first that ran
	}{
		{"first", "1", nil, []string{"one", "two"}, "this step was not built before"},
		{"unchanged", "1", nil, nil, ""},
		{"import changed", "2", nil, []string{"one"}, "import changed: 1 → 2"}, // one's layer is the same: two is reused
		{"import as at first", "1", nil, nil, ""},
		{"no cache", "1", func(_ *fake, o *Options) { o.NoCache = true }, []string{"one", "two"}, "--no-cache was given"},
		{"result gone", "1", func(f *fake, _ *Options) { f.gone = true }, []string{"one", "two"}, "its result is no longer in the store"},
	}
	for _, st := range steps {
		t.Run(st.name, func(t *testing.T) {
			f := &fake{content: map[string]string{"/f": st.content}}
			o := Options{Cache: c, Runner: f, Now: time.Now}
			if st.change != nil {
				st.change(f, &o)
			}
			s := New(o)
			if err := s.Solve(context.Background(), targets(chain()), nil); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(f.ran, st.want) {
				t.Errorf("ran %v, want %v", f.ran, st.want)
			}
			for _, d := range s.Decisions() {
				if !d.Reused {
					if d.Causes[0] != st.cause {
						t.Errorf("cause %q, want %q", d.Causes[0], st.cause)
					}
					break
				}
			}
		})
	}
}

// TestContent: a step whose first key is unknown is known by its second one.
func TestContent(t *testing.T) {
	c := openCache(t)
	content, asked := "same", 0
	f := &fake{content: map[string]string{"a": "1"}, second: func() (cache.Ingredients, error) {
		asked++
		if content == "" {
			return nil, nil
		}
		return cache.Ingredients{{Name: "content", Value: content}}, nil
	}}
	build := func(o Options) error {
		o.Cache, o.Runner, o.Now = c, f, time.Now
		step := vertex("step", graph.Exec{Script: "x"}, vertex("base", graph.Scratch{}), vertex("file", graph.Local{Path: "a"}))
		return New(o).Solve(t.Context(), targets(step), nil)
	}
	for _, tt := range []struct {
		name, file, content string
		ran, asked          int
	}{
		{"first", "1", "same", 1, 1},
		{"known by the first key", "1", "other", 1, 1},
		{"known by the second key", "2", "same", 1, 2},
		{"then by the first", "2", "other", 1, 2},
		{"by neither", "3", "new", 2, 3},
		{"by the second of that run", "4", "new", 2, 4},
		{"it cannot be told", "5", "", 3, 5},
		{"and was not kept", "6", "", 4, 6},
	} {
		f.content["a"], content = tt.file, tt.content
		if err := build(Options{}); err != nil {
			t.Fatalf("%s: %v", tt.name, err)
		}
		if len(f.ran) != tt.ran || asked != tt.asked {
			t.Errorf("%s: %d runs, asked %d times, want %d and %d", tt.name, len(f.ran), asked, tt.ran, tt.asked)
		}
	}
	f.content["a"], content = "7", "same"
	if err := build(Options{NoCache: true}); err != nil || len(f.ran) != 5 {
		t.Errorf("without cache: %d runs, %v, want 5", len(f.ran), err)
	}
	f.content["a"] = "8"
	f.second = func() (cache.Ingredients, error) { return nil, errors.New("broken") }
	if err := build(Options{}); err == nil || len(f.ran) != 5 {
		t.Errorf("an error: %d runs, %v, want it told", len(f.ran), err)
	}
	f.second = func() (cache.Ingredients, error) { return cache.Ingredients{{Name: "content", Value: "same"}}, nil }
	f.gone = true
	if err := build(Options{}); err != nil || len(f.ran) != 6 {
		t.Errorf("what was kept is gone: %d runs, %v, want 6", len(f.ran), err)
	}
}

func TestVolatileRunsAlways(t *testing.T) {
	c := openCache(t)
	for range 2 {
		f := &fake{}
		v := vertex("one", graph.Exec{Script: "one", Binds: []graph.Bind{{Source: "/x", Target: "/x"}}}, vertex("base", graph.Scratch{}))
		if err := newSolver(t, c, f).Solve(context.Background(), targets(v), nil); err != nil {
			t.Fatal(err)
		}
		if len(f.ran) != 1 {
			t.Errorf("ran %d times, want 1", len(f.ran))
		}
	}
}

// sharing notes what is offered to others. It implements Shared.
type sharing struct {
	mu    sync.Mutex
	final map[string]bool // by the step's name
}

func (s *sharing) Lookup(context.Context, cache.Key) *cache.Record { return nil }

func (s *sharing) Keep(r *cache.Record, final bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.final[r.Step] = final
}

// What lies in a target is final; what it only copies from is not.
func TestFinal(t *testing.T) {
	base := vertex("base", graph.Scratch{})
	below := vertex("below", graph.Exec{Script: "below"}, base)
	tools := vertex("tools", graph.Exec{Script: "tools"}, base)
	top := vertex("top", graph.Exec{Script: "top"}, below, tools)
	shared := &sharing{final: map[string]bool{}}
	s := New(Options{Cache: openCache(t), Runner: &fake{}, Now: time.Now, Shared: shared})
	if err := s.Solve(context.Background(), targets(top), nil); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{"s: below": true, "s: tools": false, "s: top": true}
	if !maps.Equal(shared.final, want) {
		t.Errorf("final are %v, want %v", shared.final, want)
	}
}

// Equal work is done once: within a build and by solvers that run at once.
func TestEqualWorkOnce(t *testing.T) {
	c := openCache(t)
	f := &fake{}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			a := vertex("a", graph.Exec{Script: "same"}, vertex("base", graph.Scratch{}))
			b := vertex("b", graph.Exec{Script: "same"}, vertex("base", graph.Scratch{}))
			if err := newSolver(t, c, f).Solve(context.Background(), targets(a, b), nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if len(f.ran) != 1 {
		t.Errorf("ran %d times, want 1", len(f.ran))
	}
}

// Independent steps run at the same time: each of two waits for the other.
func TestParallel(t *testing.T) {
	meet := make(chan struct{})
	f := &fake{run: func(ctx context.Context, _ string) error {
		select {
		case meet <- struct{}{}:
		case <-meet:
		case <-ctx.Done():
		}
		return ctx.Err()
	}}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	a := vertex("a", graph.Exec{Script: "a"}, vertex("base", graph.Scratch{}))
	b := vertex("b", graph.Exec{Script: "b"}, vertex("base", graph.Scratch{}))
	if err := newSolver(t, openCache(t), f).Solve(ctx, targets(a, b), nil); err != nil {
		t.Error(err)
	}
}

// A result that cannot be kept fails the build, also where all of it was done before.
func TestUnkept(t *testing.T) {
	dir := t.TempDir()
	c, err := cache.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	keys := filepath.Join(dir, "keys")
	if err := errors.Join(os.Remove(keys), os.WriteFile(keys, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	a := vertex("a", graph.Exec{Script: "a"}, vertex("base", graph.Scratch{}))
	err = newSolver(t, c, &fake{}).Solve(context.Background(), targets(vertex("b", graph.Exec{Script: "b"}, a)), nil)
	if err == nil || !strings.HasPrefix(err.Error(), "keep result: ") {
		t.Errorf("got error %v, want that a result could not be kept", err)
	}
}

// A failure stops the others, is the error that is returned, and is not kept.
func TestFailure(t *testing.T) {
	c := openCache(t)
	boom := errors.New("boom")
	f := &fake{run: func(ctx context.Context, script string) error {
		if script == "bad" {
			return boom
		}
		<-ctx.Done()
		return context.Cause(ctx)
	}}
	var mu sync.Mutex
	kinds := map[string]Event{}
	s := New(Options{Cache: c, Runner: f, Now: time.Now, Events: func(e Event) {
		mu.Lock()
		defer mu.Unlock()
		kinds[e.Vertex.Name] = e
	}})
	base := vertex("base", graph.Scratch{})
	good, bad := vertex("good", graph.Exec{Script: "good"}, base), vertex("bad", graph.Exec{Script: "bad"}, base)
	err := s.Solve(context.Background(), targets(good, bad), nil)
	var step *StepError
	if !errors.Is(err, boom) || !errors.As(err, &step) || step.Step != "bad" {
		t.Errorf("got error %v, want boom of step bad", err)
	}
	if e := kinds["good"]; e.Kind != 0 && (e.Kind != Failed || !errors.Is(e.Err, context.Canceled)) {
		t.Errorf("the other step ended with %v (%v), want failed because canceled", e.Kind, e.Err)
	}
	f.run = nil
	if err := newSolver(t, c, f).Solve(context.Background(), targets(bad), nil); err != nil {
		t.Errorf("after the fault was mended: %v", err)
	}
}

func TestMissingSource(t *testing.T) {
	err := newSolver(t, openCache(t), &fake{}).Solve(context.Background(), targets(chain()), nil)
	if err == nil || !strings.Contains(err.Error(), "no such file") {
		t.Errorf("got %v", err)
	}
}

// TestPart hears of what a target begins with before its last step ends, and of nothing
// where nothing runs.
func TestPart(t *testing.T) {
	c := openCache(t)
	var mu sync.Mutex
	var heard []int // layers
	o := Options{Cache: c, Now: time.Now, Part: func(target *graph.Target, r cache.Result) {
		mu.Lock()
		defer mu.Unlock()
		if target.Name != "two" {
			t.Errorf("heard of %s", target.Name)
		}
		heard = append(heard, len(r.Layers))
	}}
	f := &fake{content: map[string]string{"/f": "1"}}
	f.run = func(_ context.Context, script string) error {
		mu.Lock()
		defer mu.Unlock()
		if want := []int{0, 1}; script == "two" && !slices.Equal(heard, want) {
			t.Errorf("before the last step: heard of %v layers, want %v", heard, want)
		}
		return nil
	}
	for _, want := range [][]int{{0, 1, 2}, nil} {
		heard, o.Runner = nil, f
		if err := New(o).Solve(context.Background(), targets(chain()), nil); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(heard, want) {
			t.Errorf("heard of %v layers, want %v", heard, want)
		}
	}
}
