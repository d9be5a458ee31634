// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"build.stacker.dev/internal/bom"
)

// npmInstalled tells whether dir, with a slash at its end, is where a package is
// installed: …/node_modules/NAME/ or …/node_modules/@SCOPE/NAME/.
func npmInstalled(dir string) bool {
	elems := strings.Split(strings.TrimSuffix(dir, "/"), "/")
	n := len(elems)
	if n >= 2 && elems[n-2] == "node_modules" {
		return !strings.HasPrefix(elems[n-1], "@") && !strings.HasPrefix(elems[n-1], ".")
	}
	return n >= 3 && elems[n-3] == "node_modules" && strings.HasPrefix(elems[n-2], "@")
}

// npmPackage reads the package.json of an installed package, whose directory is the
// package's.
func (s *scanner) npmPackage(f *file) error {
	data, err := s.read(f.path, maxDocument)
	if err != nil {
		return err
	}
	var doc struct {
		Name     string          `json:"name"`
		Version  string          `json:"version"`
		License  json.RawMessage `json:"license"`
		Licenses json.RawMessage `json:"licenses"`
		Homepage any             `json:"homepage"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return err
	}
	if doc.Name == "" || doc.Version == "" {
		return errors.New("it has no name or no version")
	}
	url, _ := doc.Homepage.(string)
	p := bom.Package{Kind: bom.NPM, Name: doc.Name, Version: doc.Version, URL: url, Licenses: npmLicenses(doc.License)}
	if len(p.Licenses) == 0 {
		p.Licenses = npmLicenses(doc.Licenses)
	}
	s.add(p, f.path)
	s.trees = append(s.trees, path.Dir(f.path))
	return nil
}

// npmLicenses reads a text, {"type": TEXT}, or a list of these, of which one can
// be chosen.
func npmLicenses(raw json.RawMessage) []string {
	var text string
	var object struct{ Type string }
	var list []json.RawMessage
	switch {
	case len(raw) == 0:
	case json.Unmarshal(raw, &text) == nil && text != "":
		return []string{text}
	case json.Unmarshal(raw, &list) == nil:
		var all []string
		for _, item := range list {
			if item[0] != '[' { // a list in a list means nothing
				all = append(all, npmLicenses(item)...)
			}
		}
		if len(all) > 0 {
			return []string{strings.Join(all, " OR ")}
		}
	case json.Unmarshal(raw, &object) == nil && object.Type != "":
		return []string{object.Type}
	}
	return nil
}

// npmDependency is an entry of a package-lock.json, of version 1 in a tree.
type npmDependency struct {
	Name         string                   `json:"name"`
	Version      string                   `json:"version"`
	License      json.RawMessage          `json:"license"`
	Link         bool                     `json:"link"`
	Dependencies map[string]npmDependency `json:"dependencies"`
}

// npmLock reads a package-lock.json of version 1, 2 or 3.
func npmLock(data []byte) ([]bom.Package, error) {
	var doc struct {
		LockfileVersion int                        `json:"lockfileVersion"`
		Packages        map[string]json.RawMessage `json:"packages"`
		Dependencies    map[string]json.RawMessage `json:"dependencies"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	var out []bom.Package
	if doc.Packages == nil {
		for _, name := range slices.Sorted(maps.Keys(doc.Dependencies)) {
			var d npmDependency
			if err := json.Unmarshal(doc.Dependencies[name], &d); err != nil {
				return nil, err
			}
			out = npmTree(out, name, d)
		}
		return out, nil
	}
	for _, place := range slices.Sorted(maps.Keys(doc.Packages)) {
		_, name := cutLast(place, "node_modules/")
		if place == name {
			continue // the project itself, or a part of it
		}
		var d struct {
			Name    string          `json:"name"`
			Version string          `json:"version"`
			License json.RawMessage `json:"license"`
			Link    bool            `json:"link"`
		}
		if err := json.Unmarshal(doc.Packages[place], &d); err != nil {
			return nil, fmt.Errorf("%.100q: %w", place, err)
		}
		if d.Name != "" { // installed under another name
			name = d.Name
		}
		if !d.Link {
			out = append(out, bom.Package{Kind: bom.NPM, Name: name, Version: d.Version, Licenses: npmLicenses(d.License)})
		}
	}
	return out, nil
}

// npmTree appends a dependency and those below it. encoding/json bounds the depth.
func npmTree(out []bom.Package, name string, d npmDependency) []bom.Package {
	out = append(out, bom.Package{Kind: bom.NPM, Name: name, Version: d.Version})
	for _, n := range slices.Sorted(maps.Keys(d.Dependencies)) {
		out = npmTree(out, n, d.Dependencies[n])
	}
	return out
}

// cutLast splits at the last sep; without one after is all.
func cutLast(s, sep string) (before, after string) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):]
	}
	return "", s
}

// yarnLock reads a yarn.lock of version 1: an entry's first line is a list of
// NAME@RANGE with a colon at the end, and "  version" is one of the next lines.
func yarnLock(data []byte) ([]bom.Package, error) {
	text := string(data)
	if !strings.Contains(text[:min(len(text), 1000)], "yarn lockfile v1") {
		return nil, errors.New("only version 1 of yarn.lock is known")
	}
	var out []bom.Package
	name := ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		version, isVersion := strings.CutPrefix(line, "  version ")
		switch {
		case isVersion && name != "":
			out = append(out, bom.Package{Kind: bom.NPM, Name: name, Version: strings.Trim(version, `"`)})
			name = ""
		case line != "" && line[0] != ' ' && line[0] != '#':
			first, _, _ := strings.Cut(strings.TrimSuffix(line, ":"), ",")
			first = strings.Trim(first, `"`)
			at := strings.LastIndexByte(first, '@')
			if at <= 0 {
				return nil, fmt.Errorf("no NAME@RANGE: %.60q", line)
			}
			// RANGE may have an @ of its own: npm:other@1.
			if i := strings.IndexByte(first[1:], '@'); i >= 0 {
				at = i + 1
			}
			name = first[:at]
		}
	}
	return out, nil
}
