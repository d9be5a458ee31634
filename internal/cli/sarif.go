// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"net/url"
	"path/filepath"
	"slices"

	"build.stacker.dev/internal/frontend/stackerfile"
)

// The parts of a SARIF log that lint writes (OASIS SARIF 2.1.0, section 3).
type (
	sarifLog struct {
		Schema  string     `json:"$schema"`
		Version string     `json:"version"`
		Runs    []sarifRun `json:"runs"`
	}
	sarifRun struct {
		Tool       sarifTool     `json:"tool"`
		ColumnKind string        `json:"columnKind"`
		Results    []sarifResult `json:"results"`
	}
	sarifTool struct {
		Driver sarifDriver `json:"driver"`
	}
	sarifDriver struct {
		Name    string      `json:"name"`
		Version string      `json:"version"`
		Rules   []sarifRule `json:"rules"`
	}
	sarifRule struct {
		ID      string      `json:"id"`
		Short   sarifText   `json:"shortDescription"`
		Default sarifConfig `json:"defaultConfiguration"`
	}
	sarifConfig struct {
		Level stackerfile.Severity `json:"level"`
	}
	sarifText struct {
		Text string `json:"text"`
	}
	sarifResult struct {
		RuleID    string               `json:"ruleId"`
		RuleIndex int                  `json:"ruleIndex"`
		Level     stackerfile.Severity `json:"level"`
		Message   sarifText            `json:"message"`
		Locations []sarifLocation      `json:"locations,omitempty"`
	}
	sarifLocation struct {
		Physical sarifPhysical `json:"physicalLocation"`
	}
	sarifPhysical struct {
		Artifact sarifArtifact `json:"artifactLocation"`
		Region   *sarifRegion  `json:"region,omitempty"`
	}
	sarifArtifact struct {
		URI string `json:"uri"`
	}
	sarifRegion struct {
		StartLine   int `json:"startLine"`
		StartColumn int `json:"startColumn"`
	}
)

// sarif makes a log of findings. Severities are called as SARIF's levels.
func sarif(found []stackerfile.Finding) sarifLog {
	run := sarifRun{ColumnKind: "unicodeCodePoints", Results: []sarifResult{}}
	run.Tool.Driver = sarifDriver{Name: "stacker", Version: Version()}
	rules := stackerfile.Rules()
	for _, r := range rules {
		run.Tool.Driver.Rules = append(run.Tool.Driver.Rules, sarifRule{r.ID, sarifText{r.About}, sarifConfig{r.Severity}})
	}
	for _, f := range found {
		r := sarifResult{RuleID: f.Rule.ID, RuleIndex: slices.Index(rules, f.Rule), Level: f.Rule.Severity}
		r.Message.Text = f.Error.Msg
		if f.Error.Hint != "" {
			r.Message.Text += ": " + f.Error.Hint
		}
		if p := f.Error.Pos; p.File != "" {
			at := sarifPhysical{Artifact: sarifArtifact{fileURI(p.File)}}
			if p.Line > 0 {
				at.Region = &sarifRegion{p.Line, p.Column}
			}
			r.Locations = []sarifLocation{{at}}
		}
		run.Results = append(run.Results, r)
	}
	return sarifLog{"https://json.schemastore.org/sarif-2.1.0.json", "2.1.0", []sarifRun{run}}
}

// fileURI is a path as a URI; a relative one stays relative.
func fileURI(path string) string {
	u := url.URL{Path: filepath.ToSlash(path)}
	if filepath.IsAbs(path) {
		u.Scheme = "file"
	}
	return u.String()
}
