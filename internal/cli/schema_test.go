// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
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
		if m.Subject != nil { // an artifact: its config is empty
			continue
		}
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
			if id, ok := m["$id"].(string); ok {
				ts.Check(c.AddResource(id, doc)) // what others of CycloneDX refer to
				continue
			}
		}
		ts.Check(c.AddResource("file:///schema/"+filepath.Base(f), doc))
	}
	return func(name string, document []byte) {
		place := "file:///schema/" + name
		if strings.HasPrefix(name, "bom-") {
			place = "http://cyclonedx.org/schema/" + name
		}
		s, err := c.Compile(place)
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

// bomSchemas are the schemas of bills of materials: CycloneDX's own, and ours.
var bomSchemas = []string{"bom-1.6.schema.json", "jsf-0.82.schema.json", "spdx.schema.json", "spdx-2.3.json"}

// cmdSchema checks a document against a schema: schema SCHEMA FILE.
func cmdSchema(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: schema SCHEMA FILE")
	}
	schemas(ts)(args[0], []byte(ts.ReadFile(args[1])))
}

// cmdReferrers prints how many artifacts are about a tag's image: referrers LAYOUT TAG.
func cmdReferrers(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: referrers LAYOUT TAG")
	}
	l, err := layout.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer l.Close()
	d, err := l.Resolve(context.Background(), args[1])
	ts.Check(err)
	list, err := l.Referrers(context.Background(), d.Digest)
	ts.Check(err)
	idx, err := l.Index()
	ts.Check(err)
	for _, e := range idx.Manifests {
		if e.ArtifactType != "" && !slices.ContainsFunc(list, func(d ocispec.Descriptor) bool { return d.Digest == e.Digest }) {
			ts.Fatalf("%s of another image is in %s", e.ArtifactType, args[0])
		}
	}
	_, err = fmt.Fprintln(ts.Stdout(), len(list))
	ts.Check(err)
}

// cmdSpoil writes over the documents that are attached to a tag's image: spoil LAYOUT TAG.
func cmdSpoil(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) != 2 {
		ts.Fatalf("usage: spoil LAYOUT TAG")
	}
	ctx := context.Background()
	l, err := layout.Open(ts.MkAbs(args[0]))
	ts.Check(err)
	defer l.Close()
	d, err := l.Resolve(ctx, args[1])
	ts.Check(err)
	list, err := l.Referrers(ctx, d.Digest)
	ts.Check(err)
	for _, d := range list {
		raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
		ts.Check(err)
		m, err := image.ParseManifest(raw, d.MediaType)
		ts.Check(err)
		blob := filepath.Join(ts.MkAbs(args[0]), "blobs", "sha256", m.Layers[0].Digest.Encoded())
		data, err := os.ReadFile(blob)
		ts.Check(err)
		data[len(data)/2] ^= 1
		ts.Check(os.WriteFile(blob, data, 0o644))
	}
}
