// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"archive/zip"
	"debug/buildinfo"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/bom"
)

// goProgram takes up the modules of a program that Go's toolchain linked
// (debug/buildinfo), if the file is one.
func (s *scanner) goProgram(f *file) error {
	const least = 1 << 16 // no Go program is as small
	if f.mode&0o111 == 0 || f.size < least {
		return nil
	}
	r, err := s.root.OpenFile(f.path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("open /%s: %w", f.path, err)
	}
	defer r.Close()
	var magic [4]byte
	if _, err := r.ReadAt(magic[:], 0); err != nil {
		return fmt.Errorf("read /%s: %w", f.path, err)
	}
	if string(magic[:]) != "\x7fELF" {
		return nil
	}
	info := buildInfo(r)
	if info == nil {
		return nil
	}
	if v, ok := strings.CutPrefix(info.GoVersion, "go"); ok {
		v, _, _ = strings.Cut(v, " ") // experiments follow
		s.add(goModule("stdlib", v), f.path)
	}
	if info.Main.Path != "" {
		s.add(goModule(info.Main.Path, strings.TrimSuffix(info.Main.Version, "(devel)")), f.path)
	}
	for _, d := range info.Deps {
		if d.Replace != nil {
			d = d.Replace
		}
		if strings.HasPrefix(d.Path, ".") || strings.HasPrefix(d.Path, "/") {
			continue // replaced by a directory: it has no name that means anything
		}
		s.add(goModule(d.Path, d.Version), f.path)
	}
	s.claims = append(s.claims, f.path)
	return nil
}

// buildInfo returns nil for a program in another language, and for a damaged one:
// both count as files. The standard library's reader of ELF files may panic on
// hostile ones (debug/elf, "Security").
func buildInfo(r io.ReaderAt) (info *buildinfo.BuildInfo) {
	defer func() {
		if recover() != nil {
			info = nil
		}
	}()
	info, _ = buildinfo.Read(r)
	return info
}

// Bounds of a jar.
const (
	maxJarEntries = 100_000
	maxManifest   = 1 << 20
)

// jar reads what a jar says that it is: pom.properties of Maven where there are
// some, else its manifest. Jars inside of jars are not looked into.
func (s *scanner) jar(f *file) error {
	r, err := s.root.OpenFile(f.path, unix.O_RDONLY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer r.Close()
	z, err := zip.NewReader(r, f.size)
	if err != nil {
		return err
	}
	if len(z.File) > maxJarEntries {
		return fmt.Errorf("it has %d entries, more than %d", len(z.File), maxJarEntries)
	}
	list, err := jarPackages(z)
	if err != nil {
		return err
	}
	for _, p := range list {
		s.add(p, f.path)
	}
	if len(list) > 0 {
		s.claims = append(s.claims, f.path)
	}
	return nil
}

func jarPackages(z *zip.Reader) ([]bom.Package, error) {
	var out []bom.Package
	for _, e := range z.File {
		if ok, _ := path.Match("META-INF/maven/*/*/pom.properties", e.Name); !ok {
			continue
		}
		fields, err := jarFields(e, "=")
		if err != nil {
			return nil, err
		}
		if fields["artifactId"] != "" {
			out = append(out, bom.Package{Kind: bom.Maven, Name: mavenName(fields["groupId"], fields["artifactId"]), Version: fields["version"]})
		}
	}
	if len(out) > 0 {
		return out, nil
	}
	for _, e := range z.File {
		if e.Name != "META-INF/MANIFEST.MF" {
			continue
		}
		fields, err := jarFields(e, ":")
		if err != nil {
			return nil, err
		}
		for _, names := range [][2]string{{"Implementation-Title", "Implementation-Version"}, {"Bundle-SymbolicName", "Bundle-Version"}} {
			name, _, _ := strings.Cut(fields[names[0]], ";")
			if name != "" && fields[names[1]] != "" {
				return []bom.Package{{Kind: bom.Maven, Name: name, Version: fields[names[1]]}}, nil
			}
		}
	}
	return nil, nil
}

func mavenName(group, artifact string) string {
	if group == "" {
		return artifact
	}
	return group + ":" + artifact
}

// jarFields reads lines KEY, separator, VALUE. Long values that go on in the next
// line are cut off: the ones wanted are short.
func jarFields(e *zip.File, sep string) (map[string]string, error) {
	r, err := e.Open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	data, err := io.ReadAll(io.LimitReader(r, maxManifest+1))
	if err == nil && len(data) > maxManifest {
		err = errors.New("it is too large")
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", e.Name, err)
	}
	fields := map[string]string{}
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(strings.TrimRight(line, "\r\n"), sep); ok && line[0] != ' ' && line[0] != '#' {
			fields[strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	return fields, nil
}
