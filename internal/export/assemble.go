// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
)

// defaultPath is the PATH of an image that says nothing about it.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// author stands in configs and histories. It is the same everywhere: the name of
// a user or a machine would make two builds differ.
const author = "stacker"

// assembled is an image before its layers have blobs.
type assembled struct {
	config      image.Config
	annotations map[string]string
	layers      []cache.Layer
	below       int // entries of the history that the base image has
}

// Assemble makes the product of a target of a stacker.yaml. results gives what
// vertices produced.
func Assemble(t *graph.Target, results func(*graph.Vertex) (cache.Result, bool)) (Product, error) {
	a, err := assemble(t, results)
	a.config.Created = nil // that of the base
	return Product{
		Name: t.Name, Config: a.config, OwnHistory: a.below, Annotations: a.annotations, Layers: a.layers, Epoch: t.Config.SourceEpoch,
	}, err
}

// assemble applies what the target says to the image below it. results gives
// what vertices produced.
func assemble(t *graph.Target, results func(*graph.Vertex) (cache.Result, bool)) (assembled, error) {
	r, ok := results(t.Vertex)
	if !ok {
		return assembled{}, fmt.Errorf("assemble image %s: its files are missing", t.Name)
	}
	a := assembled{annotations: map[string]string{}}
	switch {
	case t.Image != nil:
		p, err := NewProduct(t.Name, t.Image, r.Layers, t.Config.SourceEpoch)
		if err != nil {
			return assembled{}, err
		}
		return assembled{config: p.Config, annotations: p.Annotations, layers: r.Layers, below: p.OwnHistory}, nil
	case t.Parent != nil:
		below, err := assemble(t.Parent, results)
		if err != nil {
			return assembled{}, err
		}
		a = below
	case t.Base != nil:
		b, ok := results(t.Base)
		if ok && b.Image != nil {
			c, err := image.ParseConfig(b.Image.Config)
			if err != nil {
				return assembled{}, fmt.Errorf("assemble image %s: %w", t.Name, err)
			}
			a.config, a.layers = c, b.Layers
			maps.Copy(a.annotations, b.Image.Annotations)
		}
	}
	if len(a.layers) > len(r.Layers) {
		return assembled{}, fmt.Errorf("assemble image %s: it has fewer layers than its base", t.Name)
	}
	a.addHistory(t, r.Layers)
	a.layers = r.Layers
	a.apply(t.Config)
	if err := a.generated(t, results); err != nil {
		return assembled{}, err
	}
	for _, kv := range t.Config.Annotations {
		a.annotations[kv.Key] = kv.Value
	}
	return a, nil
}

// addHistory tells how the layers above the base came to be. Entries that are
// not empty must be as many as there are layers (image-spec, config.md), so the
// history of a base that does not keep to that is made anew.
func (a *assembled) addHistory(t *graph.Target, layers []cache.Layer) {
	n := 0
	for _, h := range a.config.History {
		if !h.EmptyLayer {
			n++
		}
	}
	h := slices.Clone(a.config.History)
	if n != len(a.layers) {
		h = nil
		for range a.layers {
			h = append(h, ocispec.History{Comment: "layer of the base image"})
		}
	}
	if t.Parent == nil {
		a.below = len(h)
	}
	for _, l := range layers[len(a.layers):] {
		created := clamped(l.Created, t.Config.SourceEpoch)
		by := l.CreatedBy
		if by == "" {
			by = t.Config.LayerHistory
		}
		h = append(h, ocispec.History{Created: &created, CreatedBy: by})
	}
	if t.Config.CreatedBy != "" && !t.BuildOnly {
		h = append(h, ocispec.History{CreatedBy: t.Config.CreatedBy, Author: author, EmptyLayer: true})
	}
	a.config.History = h
}

func clamped(t time.Time, epoch *time.Time) time.Time {
	if epoch != nil {
		return epoch.UTC()
	}
	return t.UTC()
}

// apply sets what the target says; the rest stays as in the image below.
func (a *assembled) apply(c graph.Config) {
	run := &a.config.Config
	run.Env = mergeEnv(run.Env, c.Env)
	if c.Entrypoint != nil {
		// A Cmd that was made for another entrypoint makes no sense with this one.
		run.Entrypoint, run.Cmd = *c.Entrypoint, nil
	}
	if c.Cmd != nil {
		run.Cmd = *c.Cmd
	}
	if c.WorkingDir != "" {
		run.WorkingDir = c.WorkingDir
	}
	if c.User != "" {
		run.User = c.User
	}
	run.Labels = maps.Clone(run.Labels)
	for _, kv := range c.Labels {
		if run.Labels == nil {
			run.Labels = map[string]string{}
		}
		run.Labels[kv.Key] = kv.Value
	}
	run.Volumes = maps.Clone(run.Volumes)
	for _, v := range c.Volumes {
		if run.Volumes == nil {
			run.Volumes = map[string]struct{}{}
		}
		run.Volumes[v] = struct{}{}
	}
	a.platform(c)
	a.config.Author = author
}

// generated adds the labels that a script made. They win over written ones.
func (a *assembled) generated(t *graph.Target, results func(*graph.Vertex) (cache.Result, bool)) error {
	if t.Labels == nil {
		return nil
	}
	r, ok := results(t.Labels)
	if !ok {
		return fmt.Errorf("assemble image %s: its generated labels are missing", t.Name)
	}
	run := &a.config.Config
	if run.Labels == nil && len(r.Files) > 0 {
		run.Labels = map[string]string{}
	}
	maps.Copy(run.Labels, r.Files)
	return nil
}

// platform keeps the base's unless the target names another.
func (a *assembled) platform(c graph.Config) {
	host := image.HostPlatform().OCI()
	p := &a.config.Platform
	if p.OS == "" {
		p.OS = host.OS
	}
	if p.Architecture == "" {
		p.Architecture, p.Variant = host.Architecture, host.Variant
	}
	if c.OS != "" {
		p.OS = c.OS
	}
	if c.Arch != "" && c.Arch != p.Architecture {
		p.Architecture, p.Variant = c.Arch, ""
	}
}

// mergeEnv sets variables in place or appends them, so that none appears twice.
// An entry of the base without "=" has no meaning, and some runtimes fill it
// from the host: it is dropped.
func mergeEnv(base []string, set []graph.KV) []string {
	var out []string
	at := map[string]int{}
	put := func(k, v string) {
		if i, ok := at[k]; ok {
			out[i] = k + "=" + v
			return
		}
		at[k] = len(out)
		out = append(out, k+"="+v)
	}
	for _, e := range base {
		if k, v, ok := strings.Cut(e, "="); ok && k != "" {
			put(k, v)
		}
	}
	for _, kv := range set {
		put(kv.Key, kv.Value)
	}
	if _, ok := at["PATH"]; !ok {
		put("PATH", defaultPath)
	}
	return out
}
