// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"build.stacker.dev/internal/bom"
)

// A lockReader reads one kind of lock file: all of the packages in it are Listed.
type lockReader func(data []byte) ([]bom.Package, error)

// lockFiles are the lock files by their names.
func lockFiles(name string) lockReader {
	switch name {
	case "package-lock.json", "npm-shrinkwrap.json":
		return npmLock
	case "yarn.lock":
		return yarnLock
	case "Cargo.lock":
		return func(data []byte) ([]bom.Package, error) { return tomlLock(bom.Cargo, data) }
	case "poetry.lock", "uv.lock":
		return func(data []byte) ([]bom.Package, error) { return tomlLock(bom.Python, data) }
	case "Pipfile.lock":
		return pipfileLock
	case "composer.lock":
		return composerLock
	case "Gemfile.lock":
		return gemLock
	case "go.mod":
		return goMod
	case "go.sum":
		return goSum
	}
	return nil
}

// foreign are directories whose lock files are those of dependencies, or no part of
// anything: what they name is not what is used.
var foreign = []string{"node_modules", "vendor", "testdata", "site-packages", "dist-packages"}

// languages looks at every file for packages of programming languages. What the
// operating system's package manager installed is in the list already; only
// programs are looked into wherever they come from.
func (s *scanner) languages() error {
	for _, f := range s.order {
		if s.ctx.Err() != nil {
			return s.ctx.Err()
		}
		if err := s.goProgram(f); err != nil {
			return err
		}
		if f.owned {
			continue
		}
		if err := s.language(f); err != nil {
			s.note(f, err)
		}
	}
	// Afterwards: a package's own files are looked at like all others.
	for _, name := range s.claims {
		s.own(name)
	}
	for _, dir := range s.trees {
		s.ownBelow(dir)
	}
	return nil
}

// language reads a file whose name says that it names packages.
func (s *scanner) language(f *file) error {
	dir, name := path.Split(f.path)
	switch {
	case name == "package.json" && npmInstalled(dir):
		return s.npmPackage(f)
	case name == "METADATA" && strings.HasSuffix(dir, ".dist-info/"), name == "PKG-INFO" && strings.HasSuffix(dir, ".egg-info/"),
		strings.HasSuffix(name, ".egg-info"):
		return s.pythonPackage(f)
	case strings.HasSuffix(name, ".jar"), strings.HasSuffix(name, ".war"):
		return s.jar(f)
	}
	read := lockFiles(name)
	if read == nil || isForeign(dir) || name == "go.sum" && s.files[dir+"go.mod"] != nil {
		return nil
	}
	data, err := s.read(f.path, maxDocument)
	if err != nil {
		return err
	}
	list, err := read(data)
	if err != nil {
		return err
	}
	if len(list) > maxListed {
		return fmt.Errorf("it names %d packages, more than %d", len(list), maxListed)
	}
	for _, p := range list {
		p.Listed = true
		s.add(p, f.path)
	}
	return nil
}

// maxListed bounds what one lock file can name.
const maxListed = 100_000

func isForeign(dir string) bool {
	return strings.Contains("/"+dir, "/pkg/mod/") ||
		slices.ContainsFunc(strings.Split(dir, "/"), func(elem string) bool { return slices.Contains(foreign, elem) })
}
