// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"encoding/csv"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"path"
	"slices"
	"strings"

	"build.stacker.dev/internal/bom"
)

// pythonPackage reads the metadata of an installed package (packaging.python.org,
// core metadata) and marks its files, which RECORD lists.
func (s *scanner) pythonPackage(f *file) error {
	data, err := s.read(f.path, maxDocument)
	if err != nil {
		return err
	}
	p, err := pythonMetadata(string(data))
	if err != nil {
		return err
	}
	s.add(p, f.path)
	dir := path.Dir(f.path)
	if path.Base(f.path) != "METADATA" {
		s.claims = append(s.claims, f.path)
		if strings.HasSuffix(dir, ".egg-info") {
			s.trees = append(s.trees, dir)
		}
		return nil
	}
	s.trees = append(s.trees, dir)
	record, ok, err := s.optional(dir + "/RECORD")
	if err != nil || !ok {
		return err
	}
	return s.pythonRecord(path.Dir(dir), string(record))
}

// pythonRecord marks the files of a RECORD: the first column, relative to the
// directory of the packages.
func (s *scanner) pythonRecord(base, record string) error {
	r := csv.NewReader(strings.NewReader(record))
	r.FieldsPerRecord = -1
	for {
		row, err := r.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		name := row[0]
		if !strings.HasPrefix(name, "/") {
			name = path.Join(base, name)
		}
		s.claims = append(s.claims, name)
	}
}

// pythonMetadata reads the head of a metadata file: fields, up to an empty line.
func pythonMetadata(text string) (bom.Package, error) {
	p := bom.Package{Kind: bom.Python}
	license, expression := "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\r\n")
		if line == "" {
			break
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok || line[0] == ' ' || line[0] == '\t' {
			continue // goes on with a long value
		}
		value = strings.TrimSpace(value)
		switch strings.ToLower(name) {
		case "name":
			p.Name = value
		case "version":
			p.Version = value
		case "home-page":
			p.URL = value
		case "author":
			p.Supplier = value
		case "license":
			license = value
		case "license-expression":
			expression = value
		}
	}
	if p.Name == "" || p.Version == "" {
		return p, errors.New("it has no name or no version")
	}
	if expression == "" {
		expression = license
	}
	if expression != "" && expression != "UNKNOWN" {
		p.Licenses = []string{expression}
	}
	return p, nil
}

// tomlLock reads the tables [[package]] of a lock file in TOML, as cargo, poetry and
// uv write them: "name" and "version" on lines of their own.
func tomlLock(kind bom.Kind, data []byte) ([]bom.Package, error) {
	var out []bom.Package
	inside := false
	for line := range strings.Lines(string(data)) {
		line = strings.TrimSpace(line)
		if strings.HasPrefix(line, "[") {
			if inside = line == "[[package]]"; inside {
				out = append(out, bom.Package{Kind: kind})
			}
			continue
		}
		key, value, ok := strings.Cut(line, " = ")
		if !inside || !ok || len(value) < 2 || value[0] != '"' || value[len(value)-1] != '"' {
			continue
		}
		switch value = value[1 : len(value)-1]; key {
		case "name":
			out[len(out)-1].Name = value
		case "version":
			out[len(out)-1].Version = value
		}
	}
	if slices.ContainsFunc(out, func(p bom.Package) bool { return p.Name == "" }) {
		return nil, errors.New("a package has no name")
	}
	return out, nil
}

// pipfileLock reads a Pipfile.lock: {SECTION: {NAME: {"version": "==VERSION"}}}.
func pipfileLock(data []byte) ([]bom.Package, error) {
	var doc map[string]json.RawMessage
	if err := json.Unmarshal(data, &doc); err != nil {
		return nil, err
	}
	var out []bom.Package
	for _, section := range slices.Sorted(maps.Keys(doc)) {
		if section == "_meta" {
			continue
		}
		var list map[string]struct {
			Version string `json:"version"`
		}
		if err := json.Unmarshal(doc[section], &list); err != nil {
			return nil, err
		}
		for _, name := range slices.Sorted(maps.Keys(list)) {
			out = append(out, bom.Package{Kind: bom.Python, Name: name, Version: strings.TrimPrefix(list[name].Version, "==")})
		}
	}
	return out, nil
}
