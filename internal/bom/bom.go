// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package bom writes bills of materials: what is in an image, as an SPDX 2.3 and
// as a CycloneDX 1.6 document, and as a table for people.
//
// An Inventory says what a root file system holds; package scan finds it, and this
// package only describes it. A Subject says which image it is, and what its build
// file declared. The two documents hold the same, and the same Inventory and
// Subject give the same bytes: times come from the Subject, and everything that
// must be unique is made of digests.
//
// The texts in an Inventory come from the image. They are valid UTF-8 in documents,
// and whoever prints the table must neutralise control sequences.
package bom

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
)

// Inventory is what a root file system holds. It is kept as JSON between builds:
// a change of its meaning must change Version.
type Inventory struct {
	OS       OS        `json:"os"`
	Packages []Package `json:"packages,omitempty"` // sorted by kind, name, version; none twice
	Unowned  []File    `json:"unowned,omitempty"`  // regular files of no package, by path
	Notes    []string  `json:"notes,omitempty"`    // what could not be read, one line each
}

// Version is that of what an Inventory means, of how it is found, and of how it is
// written: what was made with another one is made again.
const Version = "1"

// OS is what os-release(5) says; empty where there is none.
type OS struct {
	ID      string `json:"id,omitempty"`      // debian
	Version string `json:"version,omitempty"` // VERSION_ID: 13
	Name    string `json:"name,omitempty"`    // PRETTY_NAME
}

// Kind is the kind of a package: the type of its package URL.
type Kind string

// The kinds of packages.
const (
	Deb      Kind = "deb"
	Apk      Kind = "apk"
	RPM      Kind = "rpm"
	Go       Kind = "golang"
	NPM      Kind = "npm"
	Python   Kind = "pypi"
	Cargo    Kind = "cargo"
	Composer Kind = "composer"
	Gem      Kind = "gem"
	Maven    Kind = "maven"   // Name is GROUP:ARTIFACT, or ARTIFACT where no group is known
	Generic  Kind = "generic" // declared in the build file
)

// Package is one package. Of its members only Kind and Name are always there.
type Package struct {
	Kind    Kind   `json:"kind"`
	Name    string `json:"name"`
	Version string `json:"version,omitempty"` // of rpm: [EPOCH:]VERSION-RELEASE
	Arch    string `json:"arch,omitempty"`
	// Source is what it was built from: NAME or NAME@VERSION of deb and apk, the
	// file name of the source package of rpm.
	Source   string   `json:"source,omitempty"`
	Licenses []string `json:"licenses,omitempty"` // as written; all of them apply
	Supplier string   `json:"supplier,omitempty"` // maintainer or vendor
	URL      string   `json:"url,omitempty"`      // home page
	Found    []string `json:"found,omitempty"`    // files that name it, absolute, sorted
	// Listed: only lock files name it. It may have been used to build something,
	// and need not be in the image.
	Listed bool `json:"listed,omitempty"`
}

// File is a regular file.
type File struct {
	Path   string        `json:"path"` // absolute
	Size   int64         `json:"size"` // bytes
	SHA1   string        `json:"sha1"` // hex; SPDX 2.3 wants it (clause 8.4)
	Digest digest.Digest `json:"digest"`
}

// Subject is the image that a bill of materials is about.
type Subject struct {
	Name     string        // its tag
	Digest   digest.Digest // of its manifest
	Created  time.Time     // of the documents, too
	Author   string        // org.opencontainers.image.authors
	Vendor   string        // org.opencontainers.image.vendor
	Licenses string        // org.opencontainers.image.licenses, an SPDX expression
	// Namespace is an absolute URI, below which documents get theirs; empty: DefaultNamespace.
	Namespace string
	Tool      string     // version of this program
	Declared  []Declared // by the build file
}

// DefaultNamespace is that of documents of which the build file says nothing.
const DefaultNamespace = "https://build.stacker.dev/spdx"

// Declared is a package that the build file names: what nothing owns at or below
// one of its paths belongs to it.
type Declared struct {
	Name, Version, License string
	Paths                  []string // absolute
}

// part is a declared package with its files, or the files that nothing owns.
type part struct {
	Package
	files []File
}

// divide gives the declared packages with their files, in the order of the build
// file, and the files that are left. Of two paths the longer one counts. A package
// without files is noted.
func divide(inv Inventory, declared []Declared) (parts []part, rest []File, notes []string) {
	parts = make([]part, len(declared))
	for i, d := range declared {
		parts[i].Package = Package{Kind: Generic, Name: d.Name, Version: d.Version, Found: d.Paths}
		if d.License != "" {
			parts[i].Licenses = []string{d.License}
		}
	}
	for _, f := range inv.Unowned {
		best, length := -1, -1
		for i, d := range declared {
			for _, p := range d.Paths {
				if below(f.Path, p) && len(p) > length {
					best, length = i, len(p)
				}
			}
		}
		if best < 0 {
			rest = append(rest, f)
			continue
		}
		parts[best].files = append(parts[best].files, f)
	}
	notes = slices.Clone(inv.Notes)
	for _, p := range parts {
		if len(p.files) == 0 && len(p.Found) > 0 {
			notes = append(notes, "declared package "+p.Name+": no file without an owner is at "+strings.Join(p.Found, ", "))
		}
	}
	return parts, rest, notes
}

// Notes tells what is wrong or incomplete in a bill of materials, one line each.
func Notes(inv Inventory, s Subject) []string {
	_, _, notes := divide(inv, s.Declared)
	return notes
}

// below tells whether the file is dir or lies below it.
func below(file, dir string) bool {
	dir = strings.TrimRight(dir, "/")
	return file == dir || strings.HasPrefix(file, dir+"/")
}
