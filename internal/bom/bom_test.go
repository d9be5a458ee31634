// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/santhosh-tekuri/jsonschema/v6"
)

var update = flag.Bool("update", false, "write the golden files")

// example has one of everything.
func example() (Inventory, Subject) {
	inv := Inventory{
		OS: OS{ID: "debian", Version: "13", Name: "Debian GNU/Linux 13 (trixie)"},
		Packages: []Package{
			{Kind: Apk, Name: "musl", Version: "1.2.5-r0", Arch: "x86_64", Licenses: []string{"MIT"}, Found: []string{"/lib/apk/db/installed"}},
			{Kind: Deb, Name: "libfoo", Version: "1:2.0+dfsg-1", Arch: "amd64", Source: "foo@2", Licenses: []string{"GPL-2+", "Expat or GPL-3", "My own words"},
				Supplier: "Foo  Maintainers <foo@example.com>", URL: "https://example.com/foo", Found: []string{"/var/lib/dpkg/status"}},
			{Kind: Go, Name: "github.com/Example/Mod/v2", Version: "v2.0.0", Found: []string{"/bin/a", "/bin/b"}},
			{Kind: Maven, Name: "org.g:a", Version: "1", Found: []string{"/a.jar"}},
			{Kind: NPM, Name: "@scope/name", Version: "1.0.0", Licenses: []string{"(MIT OR Apache-2.0)"}, Listed: true, Found: []string{"/p/package-lock.json"}},
			{Kind: RPM, Name: "hello", Version: "1:2.10-1", Arch: "noarch", URL: "not a URL"},
		},
		Unowned: []File{sample("/etc/x"), sample("/srv/a"), sample("/srv/app/b"), sample("/srv/apple")},
		Notes:   []string{"/x was not read: it is too large"},
	}
	s := Subject{
		Name: "team/app", Digest: digest.FromString("manifest"), Created: time.Unix(1700000000, 0), Tool: "2.0",
		Author: "A. U. Thor", Vendor: "Example", Licenses: "Apache-2.0", Namespace: "https://example.com/bom/",
		Declared: []Declared{
			{Name: "app", Version: "1", License: "MIT", Paths: []string{"/srv/app/"}}, {Name: "srv", Version: "2", Paths: []string{"/srv"}},
			{Name: "nothing", Version: "3", Paths: []string{"/nothing"}},
		},
	}
	return inv, s
}

func sample(path string) File {
	return File{Path: path, Size: 1, SHA1: digest.FromString(path).Encoded()[:40], Digest: digest.FromString(path)}
}

// golden compares with testdata/NAME.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	file := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(file, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s: got:\n%s\nwant:\n%s", name, got, want)
	}
}

// validate checks a document against a schema of testdata/schema.
func validate(t *testing.T, name string, data []byte) {
	t.Helper()
	c := jsonschema.NewCompiler()
	for _, f := range []string{"bom-1.6.schema.json", "jsf-0.82.schema.json", "spdx.schema.json", "spdx-2.3.json"} {
		raw, err := os.ReadFile(filepath.Join("testdata", "schema", f))
		if err != nil {
			t.Fatal(err)
		}
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(raw))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource("http://cyclonedx.org/schema/"+f, doc); err != nil {
			t.Fatal(err)
		}
	}
	s, err := c.Compile("http://cyclonedx.org/schema/" + name)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Validate(doc); err != nil {
		t.Errorf("%s: %v", name, err)
	}
}

func TestDocuments(t *testing.T) {
	inv, s := example()
	spdx, err := SPDX(inv, s)
	if err != nil {
		t.Fatal(err)
	}
	validate(t, "spdx-2.3.json", spdx)
	golden(t, "example.spdx.json", spdx)
	cdx, err := CycloneDX(inv, s)
	if err != nil {
		t.Fatal(err)
	}
	validate(t, "bom-1.6.schema.json", cdx)
	golden(t, "example.cdx.json", cdx)
	var text bytes.Buffer
	if err := Text(&text, cdx); err != nil {
		t.Fatal(err)
	}
	golden(t, "example.txt", text.Bytes())
	empty := Subject{Name: "x", Digest: s.Digest, Created: s.Created, Tool: "2.0"}
	if spdx, err = SPDX(Inventory{}, empty); err != nil {
		t.Fatal(err)
	}
	validate(t, "spdx-2.3.json", spdx)
	if cdx, err = CycloneDX(Inventory{}, empty); err != nil {
		t.Fatal(err)
	}
	validate(t, "bom-1.6.schema.json", cdx)
}

// TestIdentifiers: every identifier of a document is there once, and every
// reference leads somewhere.
func TestIdentifiers(t *testing.T) {
	inv, s := example()
	data, err := SPDX(inv, s)
	if err != nil {
		t.Fatal(err)
	}
	var d spdxDocument
	if err := json.Unmarshal(data, &d); err != nil {
		t.Fatal(err)
	}
	ids := []string{d.ID}
	for _, p := range d.Packages {
		ids = append(ids, p.ID)
	}
	for _, f := range d.Files {
		ids = append(ids, f.ID)
	}
	slices.Sort(ids)
	if unique := slices.Compact(slices.Clone(ids)); len(unique) != len(ids) {
		t.Errorf("identifiers are there twice: %v", ids)
	}
	for _, r := range d.Relationships {
		if !slices.Contains(ids, r.From) || !slices.Contains(ids, r.To) {
			t.Errorf("no such element: %v", r)
		}
	}
	if len(d.Relationships) != len(ids)-1 { // a tree
		t.Errorf("%d relationships between %d elements", len(d.Relationships), len(ids))
	}
}

// TestNamespace: another content is another document.
func TestNamespace(t *testing.T) {
	inv, s := example()
	seen := map[string]bool{namespace(inv, s): true}
	if again := namespace(example()); !seen[again] {
		t.Errorf("the same content has two namespaces: %s, %v", again, seen)
	}
	inv.Unowned[0].Digest = digest.FromString("changed")
	seen[namespace(inv, s)] = true
	s.Digest = digest.FromString("other")
	seen[namespace(inv, s)] = true
	if len(seen) != 3 {
		t.Errorf("different contents share a namespace: %v", seen)
	}
}

func TestPURL(t *testing.T) {
	debian := OS{ID: "debian", Version: "13"}
	tests := []struct {
		p    Package
		os   OS
		want string
	}{
		{Package{Kind: Deb, Name: "libstdc++6", Version: "14.2.0-19", Arch: "amd64", Source: "gcc-14"}, debian, "pkg:deb/debian/libstdc%2B%2B6@14.2.0-19?arch=amd64&distro=debian-13&upstream=gcc-14"},
		{Package{Kind: Deb, Name: "x", Version: "1:2~rc1"}, OS{}, "pkg:deb/debian/x@1:2~rc1"},
		{Package{Kind: Apk, Name: "musl", Version: "1"}, OS{ID: "alpine", Version: "3.20.1"}, "pkg:apk/alpine/musl@1?distro=alpine-3.20.1"},
		{Package{Kind: RPM, Name: "Foo", Version: "2:1-3", Arch: "x86_64"}, OS{ID: "fedora", Version: "41"}, "pkg:rpm/fedora/Foo@1-3?arch=x86_64&distro=fedora-41&epoch=2"},
		{Package{Kind: RPM, Name: "foo", Version: "1-3"}, OS{}, "pkg:rpm/foo@1-3"},
		{Package{Kind: Go, Name: "github.com/Azure/x/v2", Version: "v2.0.0+incompatible"}, debian, "pkg:golang/github.com/azure/x/v2@v2.0.0%2Bincompatible"},
		{Package{Kind: NPM, Name: "@angular/core", Version: "1"}, debian, "pkg:npm/%40angular/core@1"},
		{Package{Kind: Python, Name: "My_Package", Version: "1"}, debian, "pkg:pypi/my-package@1"},
		{Package{Kind: Composer, Name: "Vendor/Name", Version: "1"}, debian, "pkg:composer/vendor/name@1"},
		{Package{Kind: Maven, Name: "org.g:Art", Version: "1"}, debian, "pkg:maven/org.g/Art@1"},
		{Package{Kind: Generic, Name: "my app/1"}, debian, "pkg:generic/my%20app%2F1"},
	}
	for _, tt := range tests {
		if got := purl(tt.p, tt.os); got != tt.want {
			t.Errorf("purl of %s %s:\n got %s\nwant %s", tt.p.Kind, tt.p.Name, got, tt.want)
		}
	}
}

func TestLicenseOf(t *testing.T) {
	tests := []struct {
		in   []string
		want string
		id   bool
	}{
		{nil, "", false},
		{[]string{"", " "}, "", false},
		{[]string{"mit"}, "MIT", true},
		{[]string{"GPL-2+"}, "GPL-2.0-or-later", true},
		{[]string{"GPLv2+"}, "GPL-2.0-or-later", true},
		{[]string{"LGPL-2.1"}, "LGPL-2.1-only", true},
		{[]string{"Expat", "GPL-3"}, "GPL-3.0-only AND MIT", false},
		{[]string{"MIT or GPL-2 with Classpath-exception-2.0"}, "MIT OR GPL-2.0-only WITH Classpath-exception-2.0", false},
		{[]string{"MIT OR ISC", "Zlib"}, "(MIT OR ISC) AND Zlib", false},
		{[]string{"MIT AND ISC", "ISC"}, "ISC AND MIT", false},
		{[]string{"(MIT OR ISC) AND Zlib"}, "(MIT OR ISC) AND Zlib", false},
		{[]string{"Apache-2.0+"}, "Apache-2.0+", false},
		{[]string{"Artistic"}, "LicenseRef-Artistic", false},
		{[]string{"LicenseRef-scancode-x"}, "LicenseRef-scancode-x", false},
		{[]string{"Public Domain"}, "LicenseRef-Public-Domain-f6960be1", false},
		{[]string{"GPL-2 with a strange exception"}, "LicenseRef-GPL-2-with-a-strange-exception-43a8c40f", false},
		{[]string{"(((MIT"}, "LicenseRef-MIT-f267e40b", false},
		{[]string{"MIT AND"}, "LicenseRef-MIT-AND-f743c54c", false},
		{[]string{"Лицензия"}, "LicenseRef-133595a7", false},
	}
	for _, tt := range tests {
		got := licenseOf(tt.in)
		if got.expression != tt.want || got.id != tt.id {
			t.Errorf("licenseOf(%q) = %q, %v, want %q, %v", tt.in, got.expression, got.id, tt.want, tt.id)
		}
	}
}

func FuzzLicense(f *testing.F) {
	f.Add("MIT OR (GPL-2+ AND Foo) WITH x")
	f.Fuzz(func(t *testing.T, text string) {
		l := licenseOf([]string{text, "MIT"})
		for ref := range l.refs {
			if idString(ref) != ref {
				t.Errorf("%q gives the bad reference %q", text, ref)
			}
		}
	})
}
