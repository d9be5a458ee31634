// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/moby/patternmatcher"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
)

// item is one file that a copy takes, in the order in which it is made: a
// directory before what is in it.
type item struct {
	path string // in the source, without links
	rel  string // below the source's top; "" is the top itself
	info info
	// asked is false for a directory that no pattern takes and that is needed for
	// what is in it.
	asked bool
}

// source is one thing that Src of a copy stands for.
type source struct {
	name  string // as the copy or the wildcard names it
	top   string // its path without links
	items []*item
}

// Choose tells, in order, which files a copy takes: their path in the tree and
// the path below the source. The two name the same file for every equal tree.
func Choose(t *Tree, c *action.Copy, f func(path, rel string) error) error {
	sources, err := choose(t, c)
	if err != nil {
		return err
	}
	for _, s := range sources {
		for _, i := range s.items {
			if err := f(i.path, path.Join(path.Base(s.name), i.rel)); err != nil {
				return err
			}
		}
	}
	return nil
}

// choose finds the sources of a copy with all that is below them.
func choose(t *Tree, c *action.Copy) ([]source, error) {
	names, err := wildcards(t, c)
	if err != nil {
		return nil, err
	}
	m, err := newMatcher(c)
	if err != nil {
		return nil, err
	}
	if err := required(t, c); err != nil {
		return nil, err
	}
	var out []source
	for _, name := range names {
		top, err := t.resolve(name, c.FollowLinks)
		if err != nil {
			return nil, err
		}
		s := source{name: name, top: top}
		w := walk{tree: t, match: m, items: &s.items}
		if err := w.visit(top, "", patternmatcher.MatchInfo{}, patternmatcher.MatchInfo{}); err != nil {
			return nil, err
		}
		out = append(out, s)
	}
	return out, nil
}

// required refuses a copy with patterns whose literal paths are missing.
func required(t *Tree, c *action.Copy) error {
	if len(c.Include) == 0 {
		return nil
	}
	for _, r := range c.Required {
		p, err := t.resolve(r, c.FollowLinks)
		if err == nil {
			_, err = t.stat(p)
		}
		if err != nil {
			return fmt.Errorf("%q: %w", r, err)
		}
	}
	return nil
}

// wildcards gives the paths that Src stands for.
func wildcards(t *Tree, c *action.Copy) ([]string, error) {
	src := rootfs.Clean(c.Src)
	if !c.Wildcard {
		return []string{src}, nil
	}
	base, pattern := splitWildcard(src)
	if pattern == "" {
		return []string{base}, nil
	}
	if _, err := path.Match(pattern, ""); err != nil {
		return nil, fmt.Errorf("pattern %q: %w", src, err)
	}
	top, err := t.resolve(base, c.FollowLinks)
	if err != nil {
		return nil, err
	}
	var out []string
	if err := glob(t, top, "", pattern, &out); err != nil {
		return nil, err
	}
	if len(out) == 0 && !c.AllowNone {
		return nil, fmt.Errorf("%s: no file matches: %w", src, fs.ErrNotExist)
	}
	return out, nil
}

// splitWildcard parts a path before its first element with a wildcard.
func splitWildcard(p string) (base, pattern string) {
	elems := strings.Split(p, "/")
	for i, e := range elems {
		if hasWildcard(e) {
			return path.Join(elems[:i]...), path.Join(elems[i:]...)
		}
	}
	return p, ""
}

func hasWildcard(e string) bool {
	for i := 0; i < len(e); i++ {
		switch e[i] {
		case '\\':
			i++
		case '*', '?', '[':
			return true
		}
	}
	return false
}

// glob appends what matches the pattern below dir; a wildcard matches no slash,
// so that each element of the pattern is one level of the tree.
func glob(t *Tree, dir, rel, pattern string, out *[]string) error {
	first, rest, more := strings.Cut(pattern, "/")
	names, err := t.names(dirOr(dir))
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return err
	}
	for _, n := range names {
		if ok, _ := path.Match(first, n); !ok {
			continue
		}
		p := path.Join(dir, n)
		i, err := t.stat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a whiteout, as in visit
		}
		if err != nil {
			return err
		}
		if !more {
			*out = append(*out, p)
			continue
		}
		if i.isDir() {
			if err := glob(t, p, path.Join(rel, n), rest, out); err != nil {
				return err
			}
		}
	}
	return nil
}

func dirOr(p string) string {
	if p == "" {
		return "."
	}
	return p
}

// matcher holds the patterns of a copy.
type matcher struct {
	include, exclude *patternmatcher.PatternMatcher
}

func newMatcher(c *action.Copy) (m matcher, err error) {
	if len(c.Include) > 0 {
		if m.include, err = patternmatcher.New(c.Include); err != nil {
			return m, fmt.Errorf("read patterns %q: %w", c.Include, err)
		}
	}
	if len(c.Exclude) > 0 {
		if m.exclude, err = patternmatcher.New(c.Exclude); err != nil {
			return m, fmt.Errorf("read patterns %q: %w", c.Exclude, err)
		}
	}
	return m, nil
}

// maxDepth bounds the nesting of directories that a copy goes into.
const maxDepth = 4096

// walk lists what is below one source.
type walk struct {
	tree    *Tree
	match   matcher
	items   *[]*item
	parents []*item // directories on the way that were not listed yet
	depth   int
}

func (w *walk) visit(p, rel string, in, ex patternmatcher.MatchInfo) error {
	asked, excluded := true, false
	if rel != "" {
		var err error
		if w.match.include != nil {
			if asked, in, err = w.match.include.MatchesUsingParentResults(rel, in); err != nil {
				return fmt.Errorf("match patterns: %w", err)
			}
		}
		if w.match.exclude != nil {
			if excluded, ex, err = w.match.exclude.MatchesUsingParentResults(rel, ex); err != nil {
				return fmt.Errorf("match patterns: %w", err)
			}
		}
		if excluded {
			asked = false
		}
		if !asked && w.match.include == nil && !w.match.exclude.Exclusions() {
			return nil // nothing below can be taken
		}
	}
	i, err := w.tree.stat(p)
	if rel != "" && errors.Is(err, fs.ErrNotExist) {
		return nil // a whiteout: an overlay lists it where it merges nothing
	}
	if err != nil {
		return err
	}
	it := &item{path: p, rel: rel, info: i, asked: asked}
	if asked {
		w.flush()
		*w.items = append(*w.items, it)
	}
	if !i.isDir() || excluded && !w.match.exclude.Exclusions() {
		return nil
	}
	if w.depth++; w.depth > maxDepth {
		return fmt.Errorf("/%s: directories are nested deeper than %d", p, maxDepth)
	}
	if !asked {
		w.parents = append(w.parents, it)
	}
	names, err := w.tree.names(p)
	if err != nil {
		return err
	}
	for _, n := range names {
		if err := w.visit(below(p, n), below(rel, n), in, ex); err != nil {
			return err
		}
	}
	if !asked && len(w.parents) > 0 {
		w.parents = w.parents[:len(w.parents)-1]
	}
	w.depth--
	return nil
}

// below is the path of a name in a directory, both clean: of the directory itself if
// there is no name.
func below(dir, name string) string {
	switch {
	case name == "":
		return dir
	case dir == "" || dir == ".":
		return name
	}
	return dir + "/" + name
}

// flush lists the directories that lead to what is listed next.
func (w *walk) flush() {
	*w.items = append(*w.items, w.parents...)
	w.parents = w.parents[:0]
}
