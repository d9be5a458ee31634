// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"errors"
	"fmt"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/bom/rpmdb"
)

// rpmDatabases are the files in which rpm keeps packages, in the directories that
// distributions use.
var rpmDatabases = []string{
	"usr/lib/sysimage/rpm/rpmdb.sqlite", "var/lib/rpm/rpmdb.sqlite",
	"usr/lib/sysimage/rpm/Packages.db", "var/lib/rpm/Packages.db",
	"usr/lib/sysimage/rpm/Packages", "var/lib/rpm/Packages",
}

func (s *scanner) rpm() error {
	for _, name := range rpmDatabases {
		f := s.find(name)
		if f == nil || s.done[f] || f.size == 0 {
			continue
		}
		s.done[f] = true
		list, err := s.rpmPackages(name, f.size)
		if errors.Is(err, rpmdb.ErrBerkeley) {
			// Nothing else can be said about it: the document says so.
			s.note(f, err)
			continue
		}
		if err != nil {
			return fmt.Errorf("read /%s: %w", name, err)
		}
		if log := s.find(name + "-wal"); log != nil && log.size > 0 {
			s.note(log, errors.New("changes of the rpm database that were not written to it: end rpm before the step ends"))
		}
		for _, p := range list {
			s.addRPM(p, name)
		}
	}
	return nil
}

func (s *scanner) rpmPackages(name string, size int64) ([]rpmdb.Package, error) {
	r, err := s.root.Open(name)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return rpmdb.Read(r, size)
}

func (s *scanner) addRPM(p rpmdb.Package, from string) {
	if p.Name == "gpg-pubkey" {
		return // a key that rpm trusts, kept as if it was a package
	}
	out := bom.Package{
		Kind: bom.RPM, Name: p.Name, Version: p.Version + "-" + p.Release, Arch: p.Arch,
		Source: p.SourceRPM, Supplier: p.Vendor, URL: p.URL,
	}
	if p.Epoch != "" && p.Epoch != "0" {
		out.Version = p.Epoch + ":" + out.Version
	}
	if p.License != "" {
		out.Licenses = []string{p.License}
	}
	s.add(out, from)
	for _, f := range p.Files {
		s.own(f)
	}
}
