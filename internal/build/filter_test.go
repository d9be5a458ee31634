// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"path"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
)

// FuzzFilter compares what a walk with filter finds with what the matcher of
// .dockerignore files says of each path alone.
func FuzzFilter(f *testing.F) {
	for _, s := range [][2]string{
		{"", "*.md\n!a/r.md"}, {"a", ""}, {"a/b\nc", "**/x"}, {"**/r.md", "a\n!a/b/x"}, {"", "*\n!a/b"}, {"a/*/x\n!a/b", "["},
		{"", "a/../b"}, {"[a-b]/?", "\\*"}, {"", "**\n!**/r.md"}, {"a\n[", "b"},
	} {
		f.Add(s[0], s[1])
	}
	tree := map[string][]string{"": {"a", "b", "c", "r.md"}, "a": {"b", "r.md", "x"}, "a/b": {"x", "r.md"}, "b": {"x"}}
	f.Fuzz(func(t *testing.T, include, exclude string) {
		if len(include)+len(exclude) > 200 {
			return
		}
		in, ex := patterns(include), patterns(exclude)
		asks, err := filter(in, ex)
		if err != nil || asks == nil {
			return
		}
		if _, err := patternmatcher.New(in); err != nil {
			in = nil // the copy will say so
		}
		got := map[string]bool{}
		var walk func(dir string, whole bool)
		walk = func(dir string, whole bool) {
			var ask func(string, bool) (bool, bool)
			if !whole {
				ask = asks(dir)
			}
			for _, name := range tree[dir] {
				p := path.Join(dir, name)
				keep, descend := true, tree[p] != nil
				if ask != nil {
					keep, descend = ask(p, tree[p] != nil)
				}
				if keep {
					got[p] = true
				}
				if descend && tree[p] != nil {
					walk(p, ask == nil)
				}
			}
		}
		walk("", false)
		for dir, names := range tree {
			for _, name := range names {
				p := path.Join(dir, name)
				want := (len(in) == 0 || matches(t, in, p)) && !matches(t, ex, p)
				if got[p] != want && tree[p] == nil {
					t.Errorf("include %q, exclude %q: %s is taken: %v, want %v", in, ex, p, got[p], want)
				}
			}
		}
	})
}

func patterns(text string) []string {
	if text == "" {
		return nil
	}
	return strings.Split(text, "\n")
}

func matches(t *testing.T, patterns []string, p string) bool {
	t.Helper()
	m, err := patternmatcher.New(patterns)
	if err != nil {
		t.Skip("no patterns")
	}
	ok, err := m.MatchesOrParentMatches(p)
	return ok && err == nil
}
