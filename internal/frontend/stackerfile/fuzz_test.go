// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// FuzzLoad checks that nothing panics, that every error has a place in the file,
// and that supplied values cannot add a stage or a key.
func FuzzLoad(f *testing.F) {
	for _, pattern := range []string{"testdata/bad/*.yaml", "testdata/good/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil {
			f.Fatal(err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				f.Fatal(err)
			}
			f.Add(string(data), "word")
		}
	}
	f.Add("a:\n"+scratch+"  labels: {x: ${{K}}}\n", "a, b: c")
	f.Add("a:\n"+scratch+"  labels: {x: '${{K}}'}\n", "a', b: 'c")
	f.Fuzz(func(t *testing.T, text, value string) {
		o := LoadOptions{
			ReadFile:      tree{"/p/f": text}.read,
			Substitutions: []Substitution{{"K", value}, {"WORD", "word"}},
			AllowMissing:  true,
		}
		p, err := Load("/p/f", o)
		if err == nil {
			_, err = p.Order()
		}
		if err == nil {
			checkLines(t, p)
			// What is refused here is told as an error, too.
			_, _ = p.Graph(GraphOptions{Cwd: "/p", ImportsDir: "/p/.stacker/imports", Namespace: "n"})
			return
		}
		var list Errors
		if !errors.As(err, &list) {
			var one *Error
			if !errors.As(err, &one) || !strings.Contains(one.Msg, "the value of K") {
				t.Fatalf("error without a position: %v", err)
			}
			return
		}
		lines := lineStarts(text)
		for _, e := range list {
			if e.Pos.File != "/p/f" || e.Pos.Line < 1 || e.Pos.Line > len(lines) || e.Pos.Column < 1 || e.Msg == "" {
				t.Errorf("bad position: %#v", e)
			}
			if strings.ContainsAny(e.Error(), "\n\x1b") {
				t.Errorf("message has control characters: %q", e.Error())
			}
			_ = e.Detail()
		}
	})
}
