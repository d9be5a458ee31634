// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/rogpeppe/go-internal/testscript"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// cmdValidate checks the documents of a layout against the image specification's
// own JSON schemas: validate LAYOUT.
func cmdValidate(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: validate LAYOUT")
	}
	dir := ts.MkAbs(args[0])
	check := schemas(ts)
	index, err := os.ReadFile(filepath.Join(dir, ocispec.ImageIndexFile))
	ts.Check(err)
	check("image-index-schema.json", index)
	marker, err := os.ReadFile(filepath.Join(dir, ocispec.ImageLayoutFile))
	ts.Check(err)
	check("image-layout-schema.json", marker)
	l, err := layout.Open(dir)
	ts.Check(err)
	defer l.Close()
	idx, err := l.Index()
	ts.Check(err)
	for _, d := range idx.Manifests {
		raw, err := l.Blobs().ReadAll(context.Background(), d, image.MaxManifestSize)
		ts.Check(err)
		check("image-manifest-schema.json", raw)
		m, err := image.ParseManifest(raw, d.MediaType)
		ts.Check(err)
		config, err := l.Blobs().ReadAll(context.Background(), m.Config, image.MaxConfigSize)
		ts.Check(err)
		check("config-schema.json", config)
	}
}

// schemas gives a function that checks a document against a schema by its file name.
func schemas(ts *testscript.TestScript) func(name string, document []byte) {
	c := jsonschema.NewCompiler()
	files, err := filepath.Glob(filepath.Join(os.Getenv(homeVariable), "schema", "*.json"))
	ts.Check(err)
	for _, f := range files {
		data, err := os.ReadFile(f)
		ts.Check(err)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
		ts.Check(err)
		if m, ok := doc.(map[string]any); ok {
			stripIDs(m) // they name addresses that nothing is fetched from
		}
		ts.Check(c.AddResource("file:///schema/"+filepath.Base(f), doc))
	}
	return func(name string, document []byte) {
		s, err := c.Compile("file:///schema/" + name)
		ts.Check(err)
		doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(document))
		ts.Check(err)
		if err := s.Validate(doc); err != nil {
			ts.Fatalf("%s: %v\n%s", name, err, document)
		}
	}
}

func stripIDs(m map[string]any) {
	if id, ok := m["id"].(string); ok && strings.HasPrefix(id, "https://") {
		delete(m, "id")
	}
	for _, v := range m {
		if child, ok := v.(map[string]any); ok {
			stripIDs(child)
		}
	}
}
