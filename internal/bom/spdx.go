// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"crypto/sha1" //nolint:gosec // SPDX 2.3 names files by it (clauses 7.9 and 8.4)
	"encoding/hex"
	"maps"
	"net/url"
	"path"
	"slices"
	"strings"
	"time"
)

// MediaTypeSPDX is the media type of an SPDX document in JSON.
const MediaTypeSPDX = "application/spdx+json"

// The parts of an SPDX 2.3 document (spdx.github.io/spdx-spec/v2.3) that are used.
type (
	spdxDocument struct {
		Version       string             `json:"spdxVersion"`
		DataLicense   string             `json:"dataLicense"`
		ID            string             `json:"SPDXID"`
		Name          string             `json:"name"`
		Namespace     string             `json:"documentNamespace"`
		Comment       string             `json:"comment,omitempty"`
		Creation      spdxCreation       `json:"creationInfo"`
		Packages      []spdxPackage      `json:"packages"`
		Files         []spdxFile         `json:"files,omitempty"`
		Licenses      []spdxLicense      `json:"hasExtractedLicensingInfos,omitempty"`
		Relationships []spdxRelationship `json:"relationships"`
	}
	spdxCreation struct {
		Created  string   `json:"created"`
		Creators []string `json:"creators"`
	}
	spdxPackage struct {
		Name          string         `json:"name"`
		ID            string         `json:"SPDXID"`
		Version       string         `json:"versionInfo,omitempty"`
		Supplier      string         `json:"supplier,omitempty"`
		Download      string         `json:"downloadLocation"`
		FilesAnalyzed bool           `json:"filesAnalyzed"`
		Verification  *spdxVerified  `json:"packageVerificationCode,omitempty"`
		HomePage      string         `json:"homepage,omitempty"`
		SourceInfo    string         `json:"sourceInfo,omitempty"`
		Concluded     string         `json:"licenseConcluded"`
		Declared      string         `json:"licenseDeclared"`
		Copyright     string         `json:"copyrightText"`
		Purpose       string         `json:"primaryPackagePurpose,omitempty"`
		Refs          []spdxExternal `json:"externalRefs,omitempty"`
	}
	spdxVerified struct {
		Value string `json:"packageVerificationCodeValue"`
	}
	spdxExternal struct {
		Category string `json:"referenceCategory"`
		Type     string `json:"referenceType"`
		Locator  string `json:"referenceLocator"`
	}
	spdxFile struct {
		Name      string         `json:"fileName"`
		ID        string         `json:"SPDXID"`
		Checksums []spdxChecksum `json:"checksums"`
		Concluded string         `json:"licenseConcluded"`
		Copyright string         `json:"copyrightText"`
	}
	spdxChecksum struct {
		Algorithm string `json:"algorithm"`
		Value     string `json:"checksumValue"`
	}
	spdxLicense struct {
		ID   string `json:"licenseId"`
		Text string `json:"extractedText"`
		Name string `json:"name"`
	}
	spdxRelationship struct {
		From string `json:"spdxElementId"`
		Type string `json:"relationshipType"`
		To   string `json:"relatedSpdxElement"`
	}
)

const (
	noAssertion  = "NOASSERTION"
	documentID   = "SPDXRef-DOCUMENT"
	imageID      = "SPDXRef-Image"
	systemID     = "SPDXRef-OperatingSystem"
	unownedID    = "SPDXRef-Unowned"
	unownedName  = "unowned"
	unownedAbout = "files that no package owns"
)

// SPDX gives the SPDX 2.3 document in JSON. The image contains what is installed,
// and depends on what only lock files name. Files that no package owns are those of
// the package "unowned".
func SPDX(inv Inventory, s Subject) ([]byte, error) {
	parts, rest, notes := divide(inv, s.Declared)
	d := spdxWriter{os: inv.OS, licenses: map[string]string{}}
	d.doc = spdxDocument{
		Version: "SPDX-2.3", DataLicense: "CC0-1.0", ID: documentID, Name: s.Name, Namespace: namespace(inv, s),
		Comment:  strings.Join(notes, "\n"),
		Creation: spdxCreation{Created: s.Created.UTC().Format(time.RFC3339), Creators: []string{"Tool: stacker-" + s.Tool}},
	}
	if s.Author != "" {
		d.doc.Creation.Creators = append(d.doc.Creation.Creators, "Person: "+s.Author)
	}
	d.relate(documentID, "DESCRIBES", imageID)
	d.image(s)
	if inv.OS.ID != "" {
		d.add(imageID, "CONTAINS", spdxPackage{ID: systemID, Name: inv.OS.ID, Version: inv.OS.Version, Declared: noAssertion, SourceInfo: inv.OS.Name})
	}
	for _, p := range inv.Packages {
		how := "CONTAINS"
		if p.Listed {
			how = "DEPENDS_ON"
		}
		d.add(imageID, how, d.describe(p, ""))
	}
	for _, p := range parts {
		d.addFiles(d.describe(p.Package, "declared by the build file"), p.files)
	}
	if len(rest) > 0 {
		d.addFiles(spdxPackage{ID: unownedID, Name: unownedName, Declared: noAssertion, SourceInfo: unownedAbout}, rest)
	}
	for _, id := range slices.Sorted(maps.Keys(d.licenses)) {
		d.doc.Licenses = append(d.doc.Licenses, spdxLicense{ID: id, Text: d.licenses[id], Name: d.licenses[id]})
	}
	return encode(d.doc)
}

// namespace is the URI that names this very document.
func namespace(inv Inventory, s Subject) string {
	base := s.Namespace
	if base == "" {
		base = DefaultNamespace
	}
	return strings.TrimRight(base, "/") + "/" + url.PathEscape(s.Name) + "-" + unique(inv, s)
}

// spdxWriter is a document under way.
type spdxWriter struct {
	doc      spdxDocument
	os       OS
	licenses map[string]string // LicenseRef-… → what it stands for
}

func (d *spdxWriter) relate(from, how, to string) {
	d.doc.Relationships = append(d.doc.Relationships, spdxRelationship{From: from, Type: how, To: to})
}

// add appends a package and says how it belongs to another.
func (d *spdxWriter) add(to, how string, p spdxPackage) {
	p.Download, p.Concluded, p.Copyright = noAssertion, noAssertion, noAssertion
	d.doc.Packages = append(d.doc.Packages, p)
	if to != "" {
		d.relate(to, how, p.ID)
	}
}

// image appends the image itself.
func (d *spdxWriter) image(s Subject) {
	p := spdxPackage{
		ID: imageID, Name: s.Name, Version: string(s.Digest), Declared: d.license(texts(s.Licenses)), Purpose: "CONTAINER",
		Refs: []spdxExternal{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: imagePURL(s)}},
	}
	if s.Vendor != "" {
		p.Supplier = "Organization: " + s.Vendor
	}
	d.add("", "", p)
}

// imagePURL names an image by its digest.
func imagePURL(s Subject) string {
	return "pkg:oci/" + escape(strings.ToLower(path.Base(s.Name))) + "@" + escape(string(s.Digest))
}

func texts(s string) []string {
	if s == "" {
		return nil
	}
	return []string{s}
}

// describe gives a package's entry; where says where it is known from.
func (d *spdxWriter) describe(p Package, where string) spdxPackage {
	if where == "" {
		where = "found in " + strings.Join(p.Found, ", ")
	}
	out := spdxPackage{
		ID: packageID(p, d.os), Name: p.Name, Version: p.Version, HomePage: homePage(p.URL), SourceInfo: where, Declared: d.license(p.Licenses),
		Refs: []spdxExternal{{Category: "PACKAGE-MANAGER", Type: "purl", Locator: purl(p, d.os)}},
	}
	if p.Supplier != "" {
		out.Supplier = "Organization: " + strings.Join(strings.Fields(p.Supplier), " ")
	}
	return out
}

// packageID is an identifier that no other package of the document has.
func packageID(p Package, os OS) string {
	return "SPDXRef-" + string(p.Kind) + "-" + shorten(idString(p.Name)) + "-" + shortSum(purl(p, os))
}

// homePage passes on what is a URL.
func homePage(s string) string {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" {
		return ""
	}
	return u.String()
}

// license gives an expression, and keeps what its references stand for.
func (d *spdxWriter) license(texts []string) string {
	l := licenseOf(texts)
	if l.expression == "" {
		return noAssertion
	}
	maps.Copy(d.licenses, l.refs)
	return l.expression
}

// addFiles appends a package with the files that it has.
func (d *spdxWriter) addFiles(p spdxPackage, files []File) {
	if len(files) > 0 {
		p.FilesAnalyzed = true
		p.Verification = &spdxVerified{Value: verification(files)}
	}
	d.add(imageID, "CONTAINS", p)
	for _, f := range files {
		id := "SPDXRef-File-" + shortSum(f.Path)
		d.doc.Files = append(d.doc.Files, spdxFile{
			Name: "." + f.Path, ID: id, Concluded: noAssertion, Copyright: noAssertion, // relative to the root: clause 8.1
			Checksums: []spdxChecksum{{"SHA1", f.SHA1}, {"SHA256", f.Digest.Encoded()}},
		})
		d.relate(p.ID, "CONTAINS", id)
	}
}

// verification is the package verification code of clause 7.9: the SHA-1 of the
// sorted SHA-1 of all files, in hex.
func verification(files []File) string {
	var sums []string
	for _, f := range files {
		sums = append(sums, f.SHA1)
	}
	slices.Sort(sums)
	sum := sha1.Sum([]byte(strings.Join(sums, ""))) //nolint:gosec // see the import
	return hex.EncodeToString(sum[:])
}
