// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package hosts

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"build.stacker.dev/internal/reference"
)

// Modes of short names, as containers-registries.conf(5) has them. Nobody is asked
// here, so that permissive, which is the default there, does what disabled does.
const (
	modeEnforcing  = "enforcing"
	modePermissive = "permissive"
	modeDisabled   = "disabled"
)

// alias is what a short name means, and which file says so.
type alias struct{ name, file string }

// shortNames is what the files say about names without a registry.
type shortNames struct {
	search     []string
	searchFile string
	mode       string
	modeFile   string
	aliases    map[string]alias
}

// Meanings are the images that a name without a registry may mean.
type Meanings struct {
	// Candidates are tried in this order. There are none where nothing is said
	// about the name.
	Candidates []reference.Reference
	// From says which part of which file decided.
	From string
}

// add takes over what a file says: what it has counts more than what was before.
func (s *shortNames) add(f registriesFile, searchGiven bool, path string) error {
	if searchGiven {
		s.search, s.searchFile = nil, path
		for _, r := range f.Search {
			r = strings.TrimRight(r, "/")
			if host, _, _ := strings.Cut(r, "/"); !reference.ValidRegistry(host) {
				return fmt.Errorf("unqualified-search-registries: %q begins with no host", r)
			}
			s.search = append(s.search, r)
		}
	}
	switch f.ShortNameMode {
	case "":
	case modeEnforcing, modePermissive, modeDisabled:
		s.mode, s.modeFile = f.ShortNameMode, path
	default:
		return fmt.Errorf("short-name-mode %q: it is %s, %s or %s", f.ShortNameMode, modeEnforcing, modePermissive, modeDisabled)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Aliases)) {
		if err := s.addAlias(name, f.Aliases[name], path); err != nil {
			return fmt.Errorf("alias %q: %w", name, err)
		}
	}
	return nil
}

// addAlias checks an alias and takes it over; an empty value takes one away.
func (s *shortNames) addAlias(name, value, path string) error {
	if ref, err := reference.Parse(name); err != nil {
		return err
	} else if !reference.IsShort(name) || ref.Digest != "" || strings.Contains(name, ":") {
		return fmt.Errorf("it is no short name: a registry, a tag or a digest belongs to what it means")
	}
	if value == "" {
		delete(s.aliases, name)
		return nil
	}
	ref, err := reference.Parse(value)
	if err != nil {
		return err
	}
	if i := strings.LastIndexByte(value, ':'); reference.IsShort(value) || ref.Digest != "" || i > strings.LastIndexByte(value, '/') {
		return fmt.Errorf("%q is not HOST/NAME, without tag and digest", value)
	}
	if s.aliases == nil {
		s.aliases = map[string]alias{}
	}
	s.aliases[name] = alias{value, path}
	return nil
}

// ShortName returns what a name without a registry means: what an alias says, else
// the name in each of the registries to search. It is an error that lists the
// candidates where there are several and the files want no guess. For a name with a
// registry, and where the files say nothing, there are no candidates.
func (c *Config) ShortName(name string) (Meanings, error) {
	if !reference.IsShort(name) {
		return Meanings{}, nil
	}
	repository, suffix := splitSuffix(name)
	s := &c.short
	if a, ok := s.aliases[repository]; ok {
		ref, err := reference.Parse(a.name + suffix)
		return Meanings{Candidates: []reference.Reference{ref}, From: "alias in " + a.file}, err
	}
	out := Meanings{From: "unqualified-search-registries in " + s.searchFile}
	var names []string
	for _, r := range s.search {
		ref, err := reference.Parse(r + "/" + name)
		if err != nil {
			return Meanings{}, err
		}
		out.Candidates = append(out.Candidates, ref)
		names = append(names, ref.String())
	}
	if len(names) > 1 && s.mode == modeEnforcing {
		return Meanings{}, fmt.Errorf("short name %q may mean %s (%s), and short-name-mode in %s is enforcing: write one of them, or make an alias",
			repository, strings.Join(names, " or "), out.From, s.modeFile)
	}
	return out, nil
}

// splitSuffix takes :TAG and @DIGEST off a name.
func splitSuffix(name string) (repository, suffix string) {
	end := len(name)
	if i := strings.IndexByte(name, '@'); i >= 0 {
		end = i
	}
	if i := strings.LastIndexByte(name[:end], ':'); i > strings.LastIndexByte(name[:end], '/') {
		end = i
	}
	return name[:end], name[end:]
}
