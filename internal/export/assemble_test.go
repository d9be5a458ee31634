// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"reflect"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
)

const baseConfig = `{"architecture":"arm64","os":"linux","variant":"v8","config":{` +
	`"Env":["PATH=/bin","A=1","NAMEONLY"],"Cmd":["sh"],"Entrypoint":["/init"],"Labels":{"l":"base"},"WorkingDir":"/w","User":"u"},` +
	`"rootfs":{"type":"layers","diff_ids":["` + d1 + `"]},"history":[{"created_by":"base"},{"created_by":"env","empty_layer":true}]}`

const (
	d1 = "sha256:1111111111111111111111111111111111111111111111111111111111111111"
	d2 = "sha256:2222222222222222222222222222222222222222222222222222222222222222"
)

// assembleOn puts a target with a config on the base image, with one layer more.
func assembleOn(t *testing.T, c graph.Config, base string) assembled {
	t.Helper()
	src := &graph.Vertex{Op: graph.Image{}}
	run := &graph.Vertex{Op: graph.Exec{}, Inputs: []*graph.Vertex{src}}
	below := []cache.Layer{{DiffID: d1}}
	results := map[*graph.Vertex]cache.Result{
		src: {Layers: below, Image: &cache.SourceImage{Config: []byte(base), Annotations: map[string]string{"a": "base", "b": "base"}}},
		run: {Layers: append(slices.Clone(below), cache.Layer{DiffID: d2, CreatedBy: "run", Created: time.Unix(5, 0)})},
	}
	target := &graph.Target{Name: "t", Vertex: run, Base: src, Config: c}
	a, err := assemble(target, func(v *graph.Vertex) (cache.Result, bool) { r, ok := results[v]; return r, ok })
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestInherit(t *testing.T) {
	a := assembleOn(t, graph.Config{CreatedBy: "end"}, baseConfig)
	run := a.config.Config
	if !slices.Equal(run.Cmd, []string{"sh"}) || !slices.Equal(run.Entrypoint, []string{"/init"}) || run.WorkingDir != "/w" || run.User != "u" {
		t.Errorf("config %+v does not keep the base's", run)
	}
	if want := []string{"PATH=/bin", "A=1"}; !slices.Equal(run.Env, want) {
		t.Errorf("Env %v, want %v: a name without a value is dropped", run.Env, want)
	}
	if a.config.Architecture != "arm64" || a.config.Variant != "v8" {
		t.Errorf("platform %+v, want the base's", a.config.Platform)
	}
	if a.below != 2 {
		t.Errorf("%d entries of the history are the base's, want 2", a.below)
	}
	p := Product{Config: a.config, Layers: a.layers}.complete()
	if want := []digest.Digest{d1, d2}; !slices.Equal(p.Config.RootFS.DiffIDs, want) {
		t.Errorf("diffIDs %v, want %v", p.Config.RootFS.DiffIDs, want)
	}
	var by []string
	for _, h := range a.config.History {
		by = append(by, h.CreatedBy)
	}
	if want := []string{"base", "env", "run", "end"}; !slices.Equal(by, want) {
		t.Errorf("history %v, want %v", by, want)
	}
}

func TestApply(t *testing.T) {
	list := func(s ...string) *[]string { return &s }
	tests := []struct {
		name       string
		c          graph.Config
		cmd, entry []string
		env        []string
	}{
		{"cmd alone", graph.Config{Cmd: list("x")}, []string{"x"}, []string{"/init"}, []string{"PATH=/bin", "A=1"}},
		{"entrypoint clears cmd", graph.Config{Entrypoint: list("e")}, nil, []string{"e"}, []string{"PATH=/bin", "A=1"}},
		{"both", graph.Config{Cmd: list("x"), Entrypoint: list("e")}, []string{"x"}, []string{"e"}, []string{"PATH=/bin", "A=1"}},
		{"full command", graph.Config{Cmd: list(), Entrypoint: list("f", "g")}, []string{}, []string{"f", "g"}, []string{"PATH=/bin", "A=1"}},
		{"environment replaces in place", graph.Config{Env: []graph.KV{{Key: "Z", Value: "z"}, {Key: "PATH", Value: "/x"}, {Key: "Z", Value: "zz"}}},
			[]string{"sh"}, []string{"/init"}, []string{"PATH=/x", "A=1", "Z=zz"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			run := assembleOn(t, tt.c, baseConfig).config.Config
			if !slices.Equal(run.Cmd, tt.cmd) || !slices.Equal(run.Entrypoint, tt.entry) || !slices.Equal(run.Env, tt.env) {
				t.Errorf("got Cmd %v, Entrypoint %v, Env %v; want %v, %v, %v", run.Cmd, run.Entrypoint, run.Env, tt.cmd, tt.entry, tt.env)
			}
		})
	}
}

func TestMerge(t *testing.T) {
	a := assembleOn(t, graph.Config{
		Labels: []graph.KV{{Key: "m", Value: "y"}, {Key: "l", Value: "mine"}}, Annotations: []graph.KV{{Key: "b", Value: "mine"}},
		Volumes: []string{"/v"}, OS: "linux", Arch: "amd64", WorkingDir: "/x", User: "0",
	}, baseConfig)
	if want := map[string]string{"l": "mine", "m": "y"}; !reflect.DeepEqual(a.config.Config.Labels, want) {
		t.Errorf("labels %v, want %v", a.config.Config.Labels, want)
	}
	if want := map[string]string{"a": "base", "b": "mine"}; !reflect.DeepEqual(a.annotations, want) {
		t.Errorf("annotations %v, want %v", a.annotations, want)
	}
	if a.config.Architecture != "amd64" || a.config.Variant != "" {
		t.Errorf("platform %+v, want amd64 without the base's variant", a.config.Platform)
	}
}

// A history that does not fit the layers is made anew: readers count on it.
func TestBrokenHistory(t *testing.T) {
	broken := `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":["` + d1 + `"]},"history":[{"created_by":"x"},{"created_by":"y"}]}`
	a := assembleOn(t, graph.Config{}, broken)
	layers := 0
	for _, h := range a.config.History {
		if !h.EmptyLayer {
			layers++
		}
	}
	if layers != 2 {
		t.Errorf("history has %d entries with layers, want 2: %+v", layers, a.config.History)
	}
}

func TestSourceDateEpoch(t *testing.T) {
	epoch := time.Unix(1700000000, 0)
	a := assembleOn(t, graph.Config{SourceEpoch: &epoch}, baseConfig)
	for _, h := range a.config.History[2:] {
		if h.Created != nil && !h.Created.Equal(epoch) {
			t.Errorf("history entry %q of %v, want %v", h.CreatedBy, h.Created, epoch)
		}
	}
}
