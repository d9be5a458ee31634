// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"maps"
	"slices"
	"time"
)

// MediaTypeCycloneDX is the media type of a CycloneDX document in JSON.
const MediaTypeCycloneDX = "application/vnd.cyclonedx+json"

const (
	cdxNote     = "stacker:note" // property: what could not be read
	cdxExcluded = "excluded"     // scope: only a lock file names it
)

// The parts of a CycloneDX 1.6 document (cyclonedx.org/docs/1.6/json) that are used.
type (
	cdxDocument struct {
		Schema     string         `json:"$schema"`
		Format     string         `json:"bomFormat"`
		Spec       string         `json:"specVersion"`
		Serial     string         `json:"serialNumber"`
		Version    int            `json:"version"`
		Metadata   cdxMetadata    `json:"metadata"`
		Components []cdxComponent `json:"components"`
		Depends    []cdxDepends   `json:"dependencies"`
	}
	cdxMetadata struct {
		Timestamp  string        `json:"timestamp"`
		Tools      cdxTools      `json:"tools"`
		Authors    []cdxEntity   `json:"authors,omitempty"`
		Component  cdxComponent  `json:"component"`
		Supplier   *cdxEntity    `json:"supplier,omitempty"`
		Properties []cdxProperty `json:"properties,omitempty"`
	}
	cdxTools struct {
		Components []cdxComponent `json:"components"`
	}
	cdxEntity struct {
		Name string `json:"name"`
	}
	cdxComponent struct {
		Type        string         `json:"type"`
		Ref         string         `json:"bom-ref,omitempty"`
		Supplier    *cdxEntity     `json:"supplier,omitempty"`
		Name        string         `json:"name"`
		Version     string         `json:"version,omitempty"`
		Description string         `json:"description,omitempty"`
		Scope       string         `json:"scope,omitempty"`
		Hashes      []cdxHash      `json:"hashes,omitempty"`
		Licenses    []cdxLicense   `json:"licenses,omitempty"`
		PURL        string         `json:"purl,omitempty"`
		External    []cdxReference `json:"externalReferences,omitempty"`
		Components  []cdxComponent `json:"components,omitempty"`
		Evidence    *cdxEvidence   `json:"evidence,omitempty"`
	}
	cdxHash struct {
		Algorithm string `json:"alg"`
		Content   string `json:"content"`
	}
	cdxLicense struct {
		License    *cdxNamed `json:"license,omitempty"`
		Expression string    `json:"expression,omitempty"`
	}
	cdxNamed struct {
		ID   string `json:"id,omitempty"`
		Name string `json:"name,omitempty"`
	}
	cdxReference struct {
		URL  string `json:"url"`
		Type string `json:"type"`
	}
	cdxEvidence struct {
		Occurrences []cdxOccurrence `json:"occurrences"`
	}
	cdxOccurrence struct {
		Location string `json:"location"`
	}
	cdxProperty struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}
	cdxDepends struct {
		Ref string   `json:"ref"`
		On  []string `json:"dependsOn,omitempty"`
	}
)

// CycloneDX gives the CycloneDX 1.6 document in JSON. What only lock files name has
// the scope "excluded". Files that no package owns are in the component "unowned".
func CycloneDX(inv Inventory, s Subject) ([]byte, error) {
	parts, rest, notes := divide(inv, s.Declared)
	d := cdxDocument{
		Schema: "http://cyclonedx.org/schema/bom-1.6.schema.json", Format: "CycloneDX", Spec: "1.6",
		Serial: "urn:uuid:" + unique(inv, s), Version: 1, Components: []cdxComponent{},
	}
	d.Metadata = cdxMetadata{
		Timestamp: s.Created.UTC().Format(time.RFC3339),
		Tools:     cdxTools{Components: []cdxComponent{{Type: "application", Name: "stacker", Version: s.Tool}}},
		Component: cdxComponent{
			Type: "container", Ref: imageID, Name: s.Name, Version: string(s.Digest), PURL: imagePURL(s), Licenses: cdxLicenses(texts(s.Licenses)),
		},
	}
	if s.Author != "" {
		d.Metadata.Authors = []cdxEntity{{s.Author}}
	}
	if s.Vendor != "" {
		d.Metadata.Supplier = &cdxEntity{s.Vendor}
		d.Metadata.Component.Supplier = &cdxEntity{s.Vendor}
	}
	for _, n := range notes {
		d.Metadata.Properties = append(d.Metadata.Properties, cdxProperty{cdxNote, n})
	}
	if inv.OS.ID != "" {
		d.Components = append(d.Components, cdxComponent{
			Type: "operating-system", Ref: systemID, Name: inv.OS.ID, Version: inv.OS.Version, Description: inv.OS.Name,
		})
	}
	for _, p := range inv.Packages {
		d.Components = append(d.Components, cdxPackage(p, inv.OS))
	}
	for _, p := range parts {
		c := cdxPackage(p.Package, inv.OS)
		c.Components = cdxFiles(p.files)
		d.Components = append(d.Components, c)
	}
	if len(rest) > 0 {
		d.Components = append(d.Components, cdxComponent{
			Type: "application", Ref: unownedID, Name: unownedName, Description: unownedAbout, Components: cdxFiles(rest),
		})
	}
	on := make([]string, 0, len(d.Components))
	for _, c := range d.Components {
		on = append(on, c.Ref)
	}
	d.Depends = []cdxDepends{{Ref: imageID, On: on}}
	return encode(d)
}

func cdxPackage(p Package, os OS) cdxComponent {
	c := cdxComponent{
		Type: "library", Ref: packageID(p, os), Name: p.Name, Version: p.Version, PURL: purl(p, os), Licenses: cdxLicenses(p.Licenses),
	}
	if p.Kind == Generic {
		c.Type = "application"
	}
	if p.Listed {
		c.Scope = cdxExcluded
	}
	if p.Supplier != "" {
		c.Supplier = &cdxEntity{p.Supplier}
	}
	if u := homePage(p.URL); u != "" {
		c.External = []cdxReference{{URL: u, Type: "website"}}
	}
	if len(p.Found) > 0 {
		c.Evidence = &cdxEvidence{}
		for _, f := range p.Found {
			c.Evidence.Occurrences = append(c.Evidence.Occurrences, cdxOccurrence{f})
		}
	}
	return c
}

// cdxLicenses gives one identifier of the list, or an expression with names for
// what is not in the list, or the text.
func cdxLicenses(texts []string) []cdxLicense {
	l := licenseOf(texts)
	switch {
	case l.expression == "":
		return nil
	case l.id:
		return []cdxLicense{{License: &cdxNamed{ID: l.expression}}}
	case len(l.refs) == 1 && slices.Contains(slices.Collect(maps.Keys(l.refs)), l.expression):
		return []cdxLicense{{License: &cdxNamed{Name: l.refs[l.expression]}}}
	}
	return []cdxLicense{{Expression: l.expression}}
}

func cdxFiles(files []File) []cdxComponent {
	var out []cdxComponent
	for _, f := range files {
		out = append(out, cdxComponent{
			Type: "file", Ref: "SPDXRef-File-" + shortSum(f.Path), Name: f.Path,
			Hashes: []cdxHash{{"SHA-1", f.SHA1}, {"SHA-256", f.Digest.Encoded()}},
		})
	}
	return out
}
