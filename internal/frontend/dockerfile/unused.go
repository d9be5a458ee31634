// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"build.stacker.dev/internal/nearest"
)

// free are arguments that need no ARG.
var free = []string{"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "NO_PROXY", "ALL_PROXY", "SOURCE_DATE_EPOCH"}

// unused lists, sorted, the arguments that were asked for and that no ARG takes, with
// the name that was probably meant.
func (s *source) unused() string {
	known := s.declared()
	given := slices.Clone(s.o.Given)
	slices.Sort(given)
	var out []string
	for _, name := range slices.Compact(given) {
		if slices.Contains(known, name) || slices.Contains(free, strings.ToUpper(name)) || strings.HasPrefix(name, "BUILDKIT_") {
			continue
		}
		if near := nearest.Word(name, known); near != "" {
			name += " (did you mean " + near + "?)"
		}
		out = append(out, name)
	}
	return strings.Join(out, ", ")
}

// declared gives the names of all ARG, of the file and of what base images do on build.
func (s *source) declared() []string {
	texts := [][]byte{s.src.Data}
	for _, a := range s.client.images {
		var c struct {
			Config struct{ OnBuild []string } `json:"config"`
		}
		if json.Unmarshal(a.config, &c) == nil {
			texts = append(texts, []byte(strings.Join(c.Config.OnBuild, "\n")))
		}
	}
	var out []string
	for _, t := range texts {
		r, err := parser.Parse(bytes.NewReader(t))
		if err != nil {
			continue // of a trigger: the converter says what is wrong
		}
		for _, n := range r.AST.Children {
			if strings.EqualFold(n.Value, "onbuild") && n.Next != nil && len(n.Next.Children) > 0 {
				n = n.Next.Children[0]
			}
			if !strings.EqualFold(n.Value, "arg") {
				continue
			}
			for n = n.Next; n != nil; n = n.Next {
				name, _, _ := strings.Cut(n.Value, "=")
				out = append(out, name)
			}
		}
	}
	return out
}
