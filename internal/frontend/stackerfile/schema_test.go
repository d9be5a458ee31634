// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/txtar"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"go.yaml.in/yaml/v3"
)

func compileSchema(t *testing.T) *jsonschema.Schema {
	t.Helper()
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.DefaultDraft(jsonschema.Draft2020)
	if err := c.AddResource(SchemaID, doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(SchemaID)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// plainYAML reads a file as an editor does.
func plainYAML(data []byte) (any, error) {
	var v any
	err := yaml.Unmarshal(data, &v)
	return textKeys(v), err
}

// textKeys makes keys texts, which those of JSON are.
func textKeys(v any) any {
	switch v := v.(type) {
	case []any:
		for i := range v {
			v[i] = textKeys(v[i])
		}
	case map[string]any:
		for k := range v {
			v[k] = textKeys(v[k])
		}
	case time.Time: // JSON has none
		return v.String()
	case map[any]any:
		m := map[string]any{}
		for k, e := range v {
			m[fmt.Sprint(k)] = textKeys(e)
		}
		return m
	}
	return v
}

// accepted calls f with every file of the tests and the examples that the
// decoder accepts, as written and after substitution.
func accepted(t *testing.T, f func(t *testing.T, name string, data []byte)) {
	t.Helper()
	try := func(name, text string) {
		o := LoadOptions{ReadFile: tree{"/p/f": text}.read, AllowMissing: true, Substitutions: values}
		l := &loader{opts: o, read: o.ReadFile}
		var err error
		if l.subs, err = newSubstitutions(o, nil); err != nil {
			t.Fatal(err)
		}
		file := &File{Path: "/p/f", Name: "f", Dir: "/p", Raw: []byte(text)}
		if l.decode(file); len(l.errs) > 0 {
			return
		}
		src := newDocument("f", []byte(text))
		l.subs.substitute(src)
		f(t, name, []byte(src.text))
		if _, err := plainYAML([]byte(text)); err == nil {
			f(t, name+" as written", []byte(text))
		}
	}
	scripts, err := filepath.Glob("../../cli/testdata/script/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("no scripts: %v", err)
	}
	for _, path := range scripts {
		a, err := txtar.ParseFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range a.Files {
			if strings.HasSuffix(file.Name, ".yaml") {
				try(filepath.Base(path)+"/"+file.Name, string(file.Data))
			}
		}
	}
	for _, pattern := range []string{"testdata/good/*.yaml", "../../../examples/*/*.yaml"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no files %s: %v", pattern, err)
		}
		for _, path := range files {
			data, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			try(path, string(data))
		}
	}
}

func TestSchemaAccepts(t *testing.T) {
	s := compileSchema(t)
	n := 0
	accepted(t, func(t *testing.T, name string, data []byte) {
		doc, err := plainYAML(data)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			return
		}
		n++
		if err := s.Validate(doc); err != nil {
			t.Errorf("%s: the schema refuses what the decoder accepts: %v\n%s", name, err, data)
		}
	})
	if n < 100 {
		t.Errorf("only %d files were validated", n)
	}
}

// beyondSchema are malformed files that a schema cannot refuse, and why.
var beyondSchema = map[string]string{
	"duplicate-layer": "double key", "duplicate-key": "double key", "documents": "several documents", "laughs": "size",
	"alias-loop": "alias", "value-structure": "substitution", "value-lines": "substitution", "value-comment": "substitution",
	"missing-value": "substitution", "old-placeholder": "substitution", "int-name": "JSON has no such keys",
}

func TestSchemaRefuses(t *testing.T) {
	s := compileSchema(t)
	files, err := filepath.Glob("testdata/bad/*.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no test files: %v", err)
	}
	for _, path := range files {
		name := strings.TrimSuffix(filepath.Base(path), ".yaml")
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		doc, err := plainYAML(data)
		if err != nil {
			continue // no YAML
		}
		_, beyond := beyondSchema[name]
		if err := s.Validate(doc); (err == nil) != beyond {
			t.Errorf("%s: schema says %v, but it is beyond the schema: %v", name, err, beyond)
		}
	}
}

// TestSchemaDescribes wants a description of every key.
func TestSchemaDescribes(t *testing.T) {
	data, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var check func(path string, v any)
	check = func(path string, v any) {
		m, ok := v.(map[string]any)
		if !ok {
			return
		}
		for k, v := range m {
			check(path+"/"+k, v)
		}
		p, ok := m["properties"].(map[string]any)
		if !ok || strings.HasSuffix(path, "/if") || strings.HasSuffix(path, "/then") {
			return
		}
		for k, v := range p {
			if d, ok := v.(map[string]any); !ok || d["description"] == nil {
				t.Errorf("%s: key %s has no description", path, k)
			}
		}
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	check("", doc)
}
