// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Text writes a document of CycloneDX as a table: name, version, licence and type of
// each package; then how many files belong to none, and what could not be read.
func Text(w io.Writer, cyclonedx []byte) error {
	var d cdxDocument
	if err := json.Unmarshal(cyclonedx, &d); err != nil {
		return fmt.Errorf("read bill of materials: %w", err)
	}
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "NAME\tVERSION\tLICENSE\tTYPE")
	unowned := 0
	for _, c := range d.Components {
		if c.Ref == unownedID {
			unowned = len(c.Components)
			continue
		}
		kind, _, _ := strings.Cut(strings.TrimPrefix(c.PURL, "pkg:"), "/")
		if kind == "" {
			kind = c.Type // the operating system
		}
		if c.Scope == cdxExcluded {
			kind += " (lock file)"
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\n", c.Name, c.Version, clip(licenseText(c.Licenses)), kind)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	if _, err := fmt.Fprintf(w, "files that no package owns: %d\n", unowned); err != nil {
		return err
	}
	for _, p := range d.Metadata.Properties {
		if p.Name != cdxNote {
			continue
		}
		if _, err := fmt.Fprintln(w, "note: "+p.Value); err != nil {
			return err
		}
	}
	return nil
}

func licenseText(list []cdxLicense) string {
	var out []string
	for _, l := range list {
		if l.License != nil {
			l.Expression = l.License.ID + l.License.Name // one of them is set
		}
		out = append(out, l.Expression)
	}
	return strings.Join(out, ", ")
}

// clip keeps a column narrow: the documents have all of it.
func clip(s string) string {
	const most = 60
	if r := []rune(s); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return s
}
