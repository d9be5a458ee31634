// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// detail is what a user sees of err.
func detail(err error) string {
	var d interface {
		error
		Detail() string
	}
	if errors.As(err, &d) {
		return d.Detail() + "\n"
	}
	return err.Error() + "\n"
}

// values are supplied to the files in testdata.
var values = []Substitution{
	{"WORD", "word"}, {"FLOW", "b, c: d"}, {"HASH", "a # b"}, {"LINES", "a\nb"},
}

func TestBadFiles(t *testing.T) {
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			_, err := Load(file, LoadOptions{Substitutions: values})
			if err == nil {
				t.Fatal("got no error")
			}
			got := detail(err)
			golden := strings.TrimSuffix(file, ".yaml") + ".txt"
			if *update {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("got:\n%swant:\n%s", got, want)
			}
		})
	}
}
