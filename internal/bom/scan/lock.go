// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"build.stacker.dev/internal/bom"
)

// composerLock reads a composer.lock.
func composerLock(data []byte) ([]bom.Package, error) {
	type entry struct {
		Name    string   `json:"name"`
		Version string   `json:"version"`
		License []string `json:"license"`
	}
	var doc struct {
		Packages []entry `json:"packages"`
		Dev      []entry `json:"packages-dev"`
	}
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	var out []bom.Package
	for _, e := range append(doc.Packages, doc.Dev...) {
		if e.Name == "" {
			return nil, errors.New("a package has no name")
		}
		p := bom.Package{Kind: bom.Composer, Name: e.Name, Version: strings.TrimPrefix(e.Version, "v")}
		if len(e.License) > 0 { // of several, one can be chosen
			p.Licenses = []string{strings.Join(e.License, " OR ")}
		}
		out = append(out, p)
	}
	return out, nil
}

// gemLock reads a Gemfile.lock: in the section GEM, below "  specs:", lines of four
// spaces, "NAME (VERSION)"; deeper ones are what that one needs.
func gemLock(data []byte) ([]bom.Package, error) {
	var out []bom.Package
	gems := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimRight(line, "\r\n")
		if line != "" && line[0] != ' ' {
			gems = line == "GEM"
		}
		rest, ok := strings.CutPrefix(line, "    ")
		if !gems || !ok || strings.HasPrefix(rest, " ") {
			continue
		}
		name, version, ok := strings.Cut(rest, " (")
		if !ok || name == "" || !strings.HasSuffix(version, ")") {
			return nil, fmt.Errorf("no NAME (VERSION): %.60q", line)
		}
		out = append(out, bom.Package{Kind: bom.Gem, Name: name, Version: strings.TrimSuffix(version, ")")})
	}
	return out, nil
}

// goMod reads the requirements of a go.mod (go.dev/ref/mod), with what replaces them.
func goMod(data []byte) ([]bom.Package, error) {
	var out []bom.Package
	replaced := map[string][]string{}
	block := ""
	for line := range strings.Lines(string(data)) {
		line, _, _ = strings.Cut(line, "//")
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) == 2 && words[1] == "(" {
			block = words[0]
			continue
		}
		if words[0] == ")" {
			block = ""
			continue
		}
		verb := block
		if verb == "" {
			verb, words = words[0], words[1:]
		}
		switch verb {
		case "require":
			if len(words) != 2 {
				return nil, fmt.Errorf("no PATH VERSION: %.60q", line)
			}
			out = append(out, goModule(words[0], words[1]))
		case "replace":
			if i := slices.Index(words, "=>"); i > 0 {
				replaced[words[0]] = words[i+1:]
			}
		}
	}
	for i, p := range out {
		if to := replaced[p.Name]; len(to) == 2 { // one word is a directory
			out[i] = goModule(to[0], to[1])
		}
	}
	return out, nil
}

// goSum reads a go.sum, where there is no go.mod: lines PATH VERSION HASH. Versions
// with "/go.mod" were looked at only.
func goSum(data []byte) ([]bom.Package, error) {
	var out []bom.Package
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		if len(words) != 3 {
			return nil, fmt.Errorf("no PATH VERSION HASH: %.60q", line)
		}
		if !strings.HasSuffix(words[1], "/go.mod") {
			out = append(out, goModule(words[0], words[1]))
		}
	}
	return out, nil
}

func goModule(path, version string) bom.Package {
	return bom.Package{Kind: bom.Go, Name: path, Version: version}
}
