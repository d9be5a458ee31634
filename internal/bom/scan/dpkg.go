// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strings"

	"build.stacker.dev/internal/bom"
)

// The files of dpkg: dpkg(1), deb822(5). Distroless images have one file for each
// package in status.d, and its files in NAME.md5sums beside it.
const (
	dpkgDir    = "var/lib/dpkg/"
	dpkgStatus = dpkgDir + "status"
	dpkgParts  = dpkgDir + "status.d"
	dpkgInfo   = dpkgDir + "info/"
	dpkgDivert = dpkgDir + "diversions"
)

// debName is what names of packages and architectures are made of: they become
// file names.
var debName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9+.~_-]*$`)

func (s *scanner) dpkg() error {
	diverted, err := s.diversions()
	if err != nil {
		return err
	}
	data, ok, err := s.optional(dpkgStatus)
	if err != nil {
		return err
	}
	if ok {
		stanzas, err := parseControl(string(data))
		if err != nil {
			return fmt.Errorf("read /%s: %w", dpkgStatus, err)
		}
		for i, c := range stanzas {
			if err := s.deb(c, dpkgStatus, diverted); err != nil {
				return fmt.Errorf("read /%s: package %d: %w", dpkgStatus, i+1, err)
			}
		}
	}
	return s.dpkgParts()
}

// dpkgParts reads status.d.
func (s *scanner) dpkgParts() error {
	dir := s.realDir(dpkgParts)
	for _, f := range s.order {
		if path.Dir(f.path) != dir || strings.HasSuffix(f.path, ".md5sums") {
			continue
		}
		data, err := s.read(f.path, maxDatabase)
		if err != nil {
			return err
		}
		stanzas, err := parseControl(string(data))
		if err == nil && len(stanzas) != 1 {
			err = fmt.Errorf("it has %d packages, want 1", len(stanzas))
		}
		if err == nil {
			err = s.deb(stanzas[0], f.path, nil)
		}
		if err != nil {
			return fmt.Errorf("read /%s: %w", f.path, err)
		}
		f.owned = true
		if err := s.md5sums(f.path + ".md5sums"); err != nil {
			return err
		}
	}
	return nil
}

// deb takes one package up, if it is installed, with its files.
func (s *scanner) deb(c map[string]string, from string, diverted map[string]diversion) error {
	if !debInstalled(c["status"]) {
		return nil
	}
	p := bom.Package{Kind: bom.Deb, Name: c["package"], Version: c["version"], Arch: c["architecture"], Supplier: c["maintainer"], URL: c["homepage"]}
	if !debName.MatchString(p.Name) || p.Version == "" || p.Arch != "" && !debName.MatchString(p.Arch) {
		return fmt.Errorf("bad name, version or architecture: %.100q %.100q %.100q", p.Name, p.Version, p.Arch)
	}
	p.Source = debSource(c["source"], p)
	if text, err := s.read("usr/share/doc/"+p.Name+"/copyright", maxDocument); err == nil {
		p.Licenses = copyrightLicenses(string(text))
	}
	s.add(p, from)
	names := []string{p.Name + ":" + p.Arch, p.Name} // the first where it can be had for several architectures
	for _, n := range names {
		data, ok, err := s.optional(dpkgInfo + n + ".list")
		if err != nil {
			return err
		}
		if ok {
			s.ownListed(p.Name, string(data), diverted)
			s.ownInfo(n)
			break
		}
	}
	return nil
}

// debInstalled reads a Status field; a package in status.d has none.
func debInstalled(status string) bool {
	f := strings.Fields(status)
	return len(f) != 3 || !slices.Contains([]string{"not-installed", "config-files", "half-installed"}, f[2])
}

// debSource gives the source package as NAME@VERSION, with what differs only.
func debSource(field string, p bom.Package) string {
	name, version, _ := strings.Cut(field, " ")
	version = strings.Trim(version, "() ")
	switch {
	case version != "" && version != p.Version:
		return name + "@" + version
	case name != p.Name:
		return name
	}
	return ""
}

// ownListed marks the files of a list, those that another package diverted under
// their other name.
func (s *scanner) ownListed(pkg, list string, diverted map[string]diversion) {
	for name := range strings.Lines(list) {
		name = strings.TrimSuffix(name, "\n")
		if d, ok := diverted[name]; ok && d.by != pkg {
			name = d.to
		}
		s.own(name)
	}
}

// ownInfo marks the files that dpkg keeps about a package.
func (s *scanner) ownInfo(name string) {
	for _, kind := range []string{
		"list", "md5sums", "conffiles", "preinst", "postinst", "prerm", "postrm", "triggers", "shlibs", "symbols", "config", "templates",
	} {
		s.own(dpkgInfo + name + "." + kind)
	}
}

func (s *scanner) md5sums(name string) error {
	data, ok, err := s.optional(name)
	if err != nil || !ok {
		return err
	}
	s.own(name)
	for line := range strings.Lines(string(data)) {
		if _, file, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  "); ok {
			s.own(file)
		}
	}
	return nil
}

// diversion says where the file of all packages but one is.
type diversion struct{ to, by string }

// diversions reads triples of lines: name, where it is, which package put it there.
func (s *scanner) diversions() (map[string]diversion, error) {
	data, ok, err := s.optional(dpkgDivert)
	if err != nil || !ok {
		return nil, err
	}
	lines := strings.Split(strings.TrimSuffix(string(data), "\n"), "\n")
	if len(data) > 0 && len(lines)%3 != 0 {
		return nil, fmt.Errorf("read /%s: it has %d lines, want three for each diversion", dpkgDivert, len(lines))
	}
	out := map[string]diversion{}
	for i := 0; i+2 < len(lines); i += 3 {
		out[lines[i]] = diversion{lines[i+1], lines[i+2]}
	}
	return out, nil
}

// parseControl reads the paragraphs of deb822(5): fields with their names in lower
// case. The lines of a long value are joined by line breaks.
func parseControl(text string) ([]map[string]string, error) {
	var out []map[string]string
	var cur map[string]string
	// The value of field so far: adding to the map's would copy it for each line.
	var long strings.Builder
	field, n := "", 0
	end := func() {
		if field != "" {
			cur[field] = long.String()
		}
		field = ""
		long.Reset()
	}
	for line := range strings.Lines(text) {
		n++
		line = strings.TrimRight(line, "\r\n")
		switch {
		case strings.TrimSpace(line) == "":
			end()
			cur = nil
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			if field == "" {
				return nil, fmt.Errorf("line %d continues no field", n)
			}
			long.WriteString("\n" + strings.TrimSpace(line))
		default:
			name, value, ok := strings.Cut(line, ":")
			if !ok || name == "" {
				return nil, fmt.Errorf("line %d is no field: %.60q", n, line)
			}
			end()
			if cur == nil {
				cur = map[string]string{}
				out = append(out, cur)
			}
			field = strings.ToLower(name)
			long.WriteString(strings.TrimSpace(value))
		}
	}
	end()
	return out, nil
}

var errNotMachineReadable = errors.New("not in the machine-readable format")

// copyrightLicenses gives the licences of a copyright file in the machine-readable
// format (DEP 5), sorted; none of any other file.
func copyrightLicenses(text string) []string {
	stanzas, err := parseCopyright(text)
	if err != nil {
		return nil
	}
	var out []string
	for _, c := range stanzas {
		name, _, _ := strings.Cut(c["license"], "\n")
		if name = strings.TrimSpace(name); name != "" {
			out = append(out, name)
		}
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func parseCopyright(text string) ([]map[string]string, error) {
	if !strings.HasPrefix(strings.ToLower(text), "format:") {
		return nil, errNotMachineReadable
	}
	return parseControl(text)
}
