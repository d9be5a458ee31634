// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"sort"
	"strings"
	"sync"

	"github.com/moby/patternmatcher"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
)

// filter says which part of a build context is wanted, in the form in which
// package localtree asks. No patterns: everything.
func filter(include, exclude []string) (func(dir string) func(p string, dir bool) (keep, descend bool), error) {
	if len(include) == 0 && len(exclude) == 0 {
		return nil, nil
	}
	if _, err := patternmatcher.New(exclude); err != nil {
		return nil, fmt.Errorf("read .dockerignore: %w", err)
	}
	if _, err := patternmatcher.New(include); err != nil {
		include = nil // who copies says so, with its place in the Dockerfile
	}
	if len(include) == 0 && len(exclude) == 0 {
		return nil, nil
	}
	// A matcher compiles patterns while it matches, so that each goroutine needs
	// its own.
	in, ex := newMatchers(include), newMatchers(exclude)
	return func(dir string) func(string, bool) (bool, bool) {
		// What lies in a directory that matches, matches, unless a pattern takes it away again.
		all := len(include) == 0 || dir != "" && !negated(include) && in.match(dir)
		if all && len(exclude) == 0 {
			return nil
		}
		excluded := ex.below(dir)
		return func(p string, dir bool) (bool, bool) {
			keep, descend := true, true
			if !all {
				keep = in.match(p)
				descend = keep || dir && mayContain(include, p)
			}
			if len(exclude) > 0 && excluded(p) {
				keep = false
				descend = descend && negated(exclude)
			}
			return keep, descend && dir
		}
	}, nil
}

// negated tells whether patterns take back what others match.
func negated(patterns []string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return strings.HasPrefix(strings.TrimSpace(p), "!") })
}

// matchers match the same patterns, one for each goroutine.
type matchers struct {
	patterns []string
	pool     sync.Pool
}

func newMatchers(patterns []string) *matchers {
	m := &matchers{patterns: patterns}
	m.pool.New = func() any {
		x, _ := patternmatcher.New(patterns) // was checked
		return x
	}
	return m
}

// match tells whether the patterns match a path or a directory above it.
func (m *matchers) match(p string) bool {
	x, _ := m.pool.Get().(*patternmatcher.PatternMatcher)
	defer m.pool.Put(x)
	ok, err := x.MatchesOrParentMatches(p)
	return ok && err == nil
}

// below is match for what lies in a directory that is not matched itself: where no
// pattern takes back what others match, the directories above need no second look.
func (m *matchers) below(dir string) func(p string) bool {
	if dir == "" || len(m.patterns) == 0 || negated(m.patterns) {
		return m.match
	}
	x, _ := m.pool.Get().(*patternmatcher.PatternMatcher)
	defer m.pool.Put(x)
	_, info, err := x.MatchesUsingParentResults(dir, patternmatcher.MatchInfo{})
	if err != nil {
		return m.match
	}
	return func(p string) bool {
		x, _ := m.pool.Get().(*patternmatcher.PatternMatcher)
		defer m.pool.Put(x)
		ok, _, err := x.MatchesUsingParentResults(p, info)
		return ok && err == nil
	}
}

// mayContain tells whether something below dir could match a pattern.
func mayContain(patterns []string, dir string) bool {
	elems := strings.Split(dir, "/")
	for _, p := range patterns {
		if fits(strings.Split(p, "/"), elems) {
			return true
		}
	}
	return false
}

func fits(pattern, elems []string) bool {
	if len(pattern) <= len(elems) && !slices.Contains(pattern, "**") {
		return false
	}
	for i, e := range elems {
		if i == len(pattern) || pattern[i] == "**" {
			return true
		}
		if ok, err := path.Match(pattern[i], e); !ok && err == nil {
			return false
		}
	}
	return true
}

// maxFollow bounds how many links are followed for one build context.
const maxFollow = 10000

// follow gives the patterns of what the paths name, and of what the links on
// their way lead to: all that a copy of them can read. None: everything.
func follow(root *rootfs.Root, paths []string) ([]string, error) {
	f := follower{root: root, found: map[string]bool{}}
	for _, p := range paths {
		if err := f.add(p); err != nil {
			return nil, err
		}
	}
	var out []string
	for p := range f.found {
		if p == "." {
			return nil, nil
		}
		out = append(out, p)
	}
	sort.Strings(out)
	return out, nil
}

type follower struct {
	root  *rootfs.Root
	found map[string]bool
	links int
}

// add follows one path. What lies outside of the context after a link does not
// exist for a build.
func (f *follower) add(p string) error {
	rest := strings.Split(rootfs.Clean(p), "/")
	here := "."
	for i, elem := range rest {
		here = path.Join(here, elem)
		targets, err := f.targets(here)
		if err != nil {
			return err
		}
		last := i == len(rest)-1
		if !last && len(targets) == 0 {
			continue
		}
		if f.found[here] && (last || len(targets) > 0) {
			return nil
		}
		f.found[here] = true
		for _, t := range targets {
			if f.links++; f.links > maxFollow {
				return fmt.Errorf("build context: more than %d links", maxFollow)
			}
			if err := f.add(path.Join(t, path.Join(rest[i+1:]...))); err != nil {
				return err
			}
		}
		if len(targets) > 0 && !strings.ContainsAny(elem, `*?[\`) {
			return nil
		}
	}
	return nil
}

// targets gives what the links at a path, which may end in a wildcard, lead to.
func (f *follower) targets(p string) ([]string, error) {
	dir, base := path.Split(p)
	if !strings.ContainsAny(base, `*?[\`) {
		t, ok, err := f.target(p)
		if !ok || err != nil {
			return nil, err
		}
		return []string{t}, nil
	}
	names, err := f.root.ReadDir(dir)
	if err != nil {
		return nil, ignoreMissing(err)
	}
	var out []string
	for _, n := range names {
		if ok, _ := path.Match(base, n.Name); !ok {
			continue
		}
		t, ok, err := f.target(path.Join(dir, n.Name))
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, t)
		}
	}
	return out, nil
}

func (f *follower) target(p string) (string, bool, error) {
	st, err := f.root.Lstat(p)
	if err != nil || st.Mode&unix.S_IFMT != unix.S_IFLNK {
		return "", false, ignoreMissing(err)
	}
	to, err := f.root.Readlink(p)
	if err != nil {
		return "", false, err
	}
	if !path.IsAbs(to) {
		to = path.Join("/", path.Dir(p), to)
	}
	return rootfs.Clean(to), true, nil
}

func ignoreMissing(err error) error {
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	return err
}
