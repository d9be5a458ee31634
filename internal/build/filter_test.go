// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/moby/patternmatcher"
)

// What is known of directories must not change what is chosen: the filter is
// compared with one that looks at each path by itself.
func TestFilter(t *testing.T) {
	tree := []string{
		"Dockerfile", "a/", "a/a", "a/b/", "a/b/a", "a/b/c.go", "a/x/", "a/x/y/", "a/x/y/z", "a.go", "ab/", "ab/a", "b/", "b/a/", "b/a/c.go",
		"b/c.go", "node_modules/", "node_modules/b/", "node_modules/b/c.go", "x/", "x/node_modules/", "x/node_modules/z", "x/y", ".git/", ".git/a",
	}
	lists := [][]string{
		nil, {"a"}, {"a", "b/a"}, {"a/b"}, {"*"}, {"**"}, {"*/a"}, {"**/*.go"}, {"a", "!a/b"}, {"*", "!a"}, {"*", "!a/b/c.go"}, {"**/node_modules"},
		{"a/b", "x/"}, {".git", "**/node_modules", "a/x/*"}, {"a*"}, {"a/**"}, {" a ", " !a/b "}, {"b", "!b/a", "b/a/c.go"}, {"[ab]"}, {"a/?"},
	}
	for _, include := range lists {
		for _, exclude := range lists {
			got, want := walkFiltered(t, tree, include, exclude), walkPlain(t, tree, include, exclude)
			if !slices.Equal(got, want) {
				t.Errorf("include %q, exclude %q:\ngot  %q\nwant %q", include, exclude, got, want)
			}
		}
	}
}

// walkFiltered lists what filter keeps.
func walkFiltered(t *testing.T, tree, include, exclude []string) (kept []string) {
	t.Helper()
	in, err := filter(include, exclude)
	if err != nil {
		t.Fatal(err)
	}
	var walk func(dir string, all bool)
	walk = func(dir string, all bool) {
		var ask func(string, bool) (bool, bool)
		if in != nil && !all {
			ask = in(dir)
		}
		for _, p := range tree {
			name, isDir := strings.CutSuffix(p, "/")
			if path.Dir(name) != path.Clean("./"+dir) {
				continue
			}
			keep, descend := true, isDir
			if ask != nil {
				keep, descend = ask(name, isDir)
			}
			if keep {
				kept = append(kept, name)
			}
			if descend {
				walk(name, ask == nil)
			}
		}
	}
	walk("", false)
	slices.Sort(kept)
	return kept
}

// walkPlain is walkFiltered with the words of the documentation: a path is wanted
// that a pattern names, or whose directory is wanted, and that .dockerignore does
// not name.
func walkPlain(t *testing.T, tree, include, exclude []string) (kept []string) {
	t.Helper()
	match := func(patterns []string, p string) bool {
		m, err := patternmatcher.New(patterns)
		if err != nil {
			t.Fatal(err)
		}
		ok, err := m.MatchesOrParentMatches(p)
		if err != nil {
			t.Fatal(err)
		}
		return ok
	}
	for _, p := range tree {
		name := strings.TrimSuffix(p, "/")
		if (len(include) == 0 || match(include, name)) && !match(exclude, name) {
			kept = append(kept, name)
		}
	}
	slices.Sort(kept)
	return kept
}
