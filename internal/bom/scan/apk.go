// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"fmt"
	"strings"

	"build.stacker.dev/internal/bom"
)

// apkDatabases are the places of apk-tools 2 and 3: see apk-db(5).
var apkDatabases = []string{"lib/apk/db/installed", "usr/lib/apk/db/installed"}

func (s *scanner) apk() error {
	for _, name := range apkDatabases {
		f := s.find(name)
		if f == nil || s.done[f] {
			continue
		}
		s.done[f] = true
		data, err := s.read(name, maxDatabase)
		if err != nil {
			return err
		}
		if err := s.apkInstalled(name, string(data)); err != nil {
			return fmt.Errorf("read /%s: %w", name, err)
		}
	}
	return nil
}

// apkInstalled reads lines "K:value"; an empty line ends a package. F is a directory
// and R a file in it.
func (s *scanner) apkInstalled(from, text string) error {
	var p bom.Package
	dir, n := "", 0
	flush := func() error {
		if p.Kind == "" {
			return nil
		}
		if p.Name == "" || p.Version == "" {
			return fmt.Errorf("line %d: a package has no name or no version", n)
		}
		if p.Source == p.Name {
			p.Source = ""
		}
		s.add(p, from)
		p, dir = bom.Package{}, ""
		return nil
	}
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimSuffix(line, "\n")
		if line == "" {
			if err := flush(); err != nil {
				return err
			}
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok || len(key) != 1 {
			return fmt.Errorf("line %d is no field: %.60q", n, line)
		}
		p.Kind = bom.Apk
		switch key {
		case "P":
			p.Name = value
		case "V":
			p.Version = value
		case "A":
			p.Arch = value
		case "L":
			p.Licenses = []string{value}
		case "o":
			p.Source = value
		case "m":
			p.Supplier = value
		case "U":
			p.URL = value
		case "F":
			dir = value
		case "R":
			s.own(dir + "/" + value)
		}
	}
	return flush()
}
