// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestLint(t *testing.T) {
	files, err := filepath.Glob("testdata/lint/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	seen := map[string]bool{ruleUnusedValue.ID: true} // below
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			found, err := Lint([]string{file}, LoadOptions{}, func(path string) bool { return !strings.Contains(path, "missing") })
			if err != nil {
				t.Fatal(err)
			}
			var b strings.Builder
			for _, f := range found {
				seen[f.Rule.ID] = true
				fmt.Fprintf(&b, "%s %s: %s\n", f.Rule.Severity, f.Rule.ID, f.Error.Detail())
			}
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(b.String()), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if b.String() != string(want) {
				t.Errorf("got:\n%swant:\n%s", b.String(), want)
			}
		})
	}
	for _, r := range Rules() {
		if !seen[r.ID] {
			t.Errorf("no test file breaks rule %s", r.ID)
		}
	}
}

func TestLintValues(t *testing.T) {
	o := LoadOptions{
		ReadFile:      tree{"/f": "a:\n  from: {type: ${{TYPE:scratch}}}\n"}.read,
		Substitutions: []Substitution{{"TYPE", "${{KIND}}"}, {"KIND", "scratch"}, {"OTHER", "x"}},
	}
	found, err := Lint([]string{"/f"}, o, nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(found) != 1 || found[0].Rule != ruleUnusedValue || !strings.Contains(found[0].Error.Msg, "${{OTHER}}") {
		t.Errorf("got %v, want one finding about OTHER", found)
	}
}

// TestLintFiles wants a stage that only another file needs not to be unused.
func TestLintFiles(t *testing.T) {
	o := LoadOptions{ReadFile: tree{
		"/base": "base:\n  from: {type: scratch}\n  build_only: true\n",
		"/app":  "config: {prerequisites: [base]}\napp:\n  from: {type: built, tag: base}\n",
	}.read}
	for _, c := range []struct {
		files []string
		want  int
	}{{[]string{"/base"}, 1}, {[]string{"/app"}, 0}, {[]string{"/base", "/app"}, 0}} {
		found, err := Lint(c.files, o, nil)
		if err != nil || len(found) != c.want {
			t.Errorf("Lint(%v) = %v, %v, want %d findings", c.files, found, err, c.want)
		}
	}
}

// TestLintDocs wants every rule in the documentation, with its severity and text.
func TestLintDocs(t *testing.T) {
	doc, err := os.ReadFile("../../../docs/lint.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range Rules() {
		if line := fmt.Sprintf("| `%s` | %s | %s |", r.ID, r.Severity, r.About); !strings.Contains(string(doc), line) {
			t.Errorf("docs/lint.md has no line %s", line)
		}
	}
}
