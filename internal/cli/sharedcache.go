// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/csv"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/spf13/pflag"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/cache/shared"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
)

// cacheOptions say with whom results are shared.
type cacheOptions struct{ from, to []string }

func (o *cacheOptions) flags(f *pflag.FlagSet) {
	f.StringArrayVar(&o.from, "cache-from", nil, "use what others built: type=registry,ref=HOST/NAME[,mounts=ID] or type=local,src=DIRECTORY[,mounts=ID] (may be repeated)")
	f.StringArrayVar(&o.to, "cache-to", nil, "let others use what is built: type=registry,ref=HOST/NAME[,mode=max][,mounts=ID] or type=local,dest=DIRECTORY[,…] (may be repeated)")
}

// cacheSpec is one --cache-from or --cache-to.
type cacheSpec struct {
	dir      string              // of type=local, absolute
	ref      reference.Reference // of type=registry
	insecure bool
	all      bool     // mode=max
	mounts   []string // ids of cache mounts
}

// cachePlace is where a cacheSpec leads.
type cachePlace struct {
	dir      string
	ref      reference.Reference
	insecure bool
}

func (s cacheSpec) place() cachePlace { return cachePlace{s.dir, s.ref, s.insecure} }

// parseCacheSpec reads the text of a flag. local is the key of the directory: src or dest.
func parseCacheSpec(flag, text, local string) (s cacheSpec, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("--%s %s: %w", flag, text, err)
		}
	}()
	if !strings.Contains(text, "=") { // docker's short form
		s.ref, err = reference.Parse(text)
		return s, err
	}
	fields, err := csv.NewReader(strings.NewReader(text)).Read()
	if err != nil {
		return s, fmt.Errorf("write KEY=VALUE,KEY=VALUE: %w", err)
	}
	kind, dir, ref := "", "", ""
	for _, f := range fields {
		key, value, _ := strings.Cut(f, "=")
		switch key {
		case "type":
			kind = value
		case local:
			dir = value
		case "ref":
			ref = value
		case "mode":
			if value != "min" && value != "max" || flag != "cache-to" {
				return s, fmt.Errorf("mode is min or max, of --cache-to")
			}
			s.all = value == "max"
		case "mounts":
			if value == "" {
				return s, errors.New("mounts=ID names a cache mount by its id, which is its target where it has none")
			}
			s.mounts = append(s.mounts, value)
		case "insecure", "registry.insecure":
			if s.insecure, err = strconv.ParseBool(value); err != nil {
				return s, fmt.Errorf("%s is true or false", key)
			}
		default:
			return s, fmt.Errorf("unknown key %q: there are type, ref, %s, mode, mounts and insecure", key, local)
		}
	}
	switch kind {
	case "registry":
		if ref == "" {
			return s, errors.New("say where: ref=HOST/NAME")
		}
		s.ref, err = reference.Parse(ref)
	case "local":
		if dir == "" {
			return s, fmt.Errorf("say where: %s=DIRECTORY", local)
		}
		if strings.Contains(dir, ":") {
			return s, errors.New("the name of the directory must have no colon")
		}
		s.dir, err = filepath.Abs(dir)
	case "gha", "inline", "s3", "azblob":
		err = fmt.Errorf("type=%s is not supported: use registry or local", kind)
	default:
		err = errors.New("type is registry or local")
	}
	return s, err
}

// sharing is what the flags say.
type sharing struct{ from, to []cacheSpec }

// local leaves out what needs the network.
func (s sharing) local() sharing {
	remote := func(spec cacheSpec) bool { return spec.dir == "" }
	return sharing{from: slices.DeleteFunc(slices.Clone(s.from), remote), to: slices.DeleteFunc(slices.Clone(s.to), remote)}
}

func (o *cacheOptions) parse() (s sharing, err error) {
	for _, text := range o.from {
		spec, err := parseCacheSpec("cache-from", text, "src")
		if err != nil {
			return s, err
		}
		s.from = append(s.from, spec)
	}
	for _, text := range o.to {
		spec, err := parseCacheSpec("cache-to", text, "dest")
		if err != nil {
			return s, err
		}
		s.to = append(s.to, spec)
	}
	return s, nil
}

// sharedCache puts the shared cache together; nil where none is wanted. end waits
// for what is still being kept.
func (a *app) sharedCache(ctx context.Context, s sharing, b *build.Builder, sink solve.Sink) (c *shared.Cache, end func()) {
	b.Mounts = nil
	if len(s.from)+len(s.to) == 0 {
		return nil, func() {}
	}
	clients := map[bool]*registry.Client{}
	places := map[cachePlace]shared.Place{} // one for both directions: what fails in one is not tried in the other
	open := func(p cachePlace) shared.Place {
		if p.dir != "" {
			return &shared.Layout{Dir: p.dir}
		}
		if clients[p.insecure] == nil {
			o := registryOptions(p.insecure)
			o.Wait, o.Attempts, o.StallTimeout = impatient(), cacheAttempts, cacheStall
			clients[p.insecure] = registry.New(o)
		}
		return &shared.Registry{Client: clients[p.insecure], Repository: p.ref, Insecure: p.insecure}
	}
	place := func(spec cacheSpec) shared.Place {
		p := spec.place()
		if places[p] == nil {
			places[p] = open(p)
		}
		return places[p]
	}
	note := func(level solve.Level, text string) {
		sink(solve.Event{Kind: solve.Note, Level: level, Text: text, Time: a.now()})
	}
	o := shared.Options{Pack: b.Pack, Open: b.OpenLayer, Warn: func(text string) { note(solve.Warning, text) }}
	for _, spec := range s.from {
		o.From = append(o.From, place(spec))
		o.MountsFrom = append(o.MountsFrom, shared.Mounts{Place: place(spec), IDs: spec.mounts})
	}
	for _, spec := range s.to {
		o.To = append(o.To, shared.Target{Place: place(spec), Final: !spec.all})
		o.MountsTo = append(o.MountsTo, shared.Mounts{Place: place(spec), IDs: spec.mounts})
	}
	c = shared.New(ctx, o)
	b.Mounts = c
	return c, sync.OnceFunc(func() {
		if n := c.Wait(); n > 0 {
			note(solve.Info, fmt.Sprintf("shared the results of %d steps", n))
		}
		for _, client := range clients {
			_ = client.Close()
		}
	})
}

// shareMounts shares the cache mounts of a build that is done. An id that no step
// has is a mistake of the user's.
func (s sharing) shareMounts(ctx context.Context, c *shared.Cache, b *build.Builder, warn func(text string)) {
	if c == nil {
		return
	}
	c.Wait()
	known := b.CacheMountIDs()
	var asked []string
	for _, spec := range slices.Concat(s.from, s.to) {
		asked = append(asked, spec.mounts...)
	}
	slices.Sort(asked)
	for _, id := range slices.Compact(asked) {
		switch {
		case slices.Contains(known, id):
		case len(known) == 0:
			warn(fmt.Sprintf("mounts=%s: no step of this build has a cache mount", id))
		default:
			warn(fmt.Sprintf("mounts=%s: no step of this build has a cache mount of this id: there are %s", id, strings.Join(known, ", ")))
		}
	}
	b.SaveMounts(ctx)
}

// A build goes on without the shared cache, so one that does not answer is not waited for as
// long as the registry of a base.
const (
	cacheAttempts = 3
	cacheStall    = 10 * time.Second
)

// impatient waits between attempts, but not long: a build goes on without the
// shared cache.
func impatient() func(ctx context.Context, d time.Duration) error {
	return func(ctx context.Context, d time.Duration) error {
		timer := time.NewTimer(min(d, time.Second))
		defer timer.Stop()
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C:
			return nil
		}
	}
}
