// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"
)

// TestDocsConfigurations wants every YAML and TOML file that docs show to be one: people copy them.
func TestDocsConfigurations(t *testing.T) {
	files, err := filepath.Glob("../../docs/*.md")
	if err != nil || len(files) == 0 {
		t.Fatalf("no docs: %v", err)
	}
	seen := map[string]int{}
	for _, f := range files {
		text, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for i, part := range strings.Split("\n"+string(text), "\n```")[1:] {
			kind, body, _ := strings.Cut(part, "\n")
			if i%2 == 1 { // the end of a block
				continue
			}
			seen[kind]++
			switch kind {
			case "yaml":
				err = eachYAML(body)
			case "toml":
				var v object
				_, err = toml.Decode(body, &v)
			}
			if err != nil {
				t.Errorf("%s: %v in\n%s", f, err, body)
			}
		}
	}
	if seen["yaml"] == 0 || seen["toml"] == 0 {
		t.Errorf("no blocks of YAML or TOML among %v", seen)
	}
}

func eachYAML(text string) error {
	d := yaml.NewDecoder(bytes.NewReader([]byte(text)))
	for {
		var v any
		if err := d.Decode(&v); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}
