// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"encoding/json"
	"fmt"
	"maps"
)

// schema is a part of a JSON Schema (draft 2020-12).
type schema map[string]any

// placeholderShape is a value that substitution fills in: editors see the file before that.
var placeholderShape = schema{"type": "string", "pattern": `\$\{\{.*\}\}`}

// The shapes of values. A scalar is the text that was written, whatever YAML
// takes it for; nothing is "not set".
var (
	nothing      = schema{"type": "null"}
	text         = schema{"type": []string{"string", "number", "boolean", "null"}}
	nonEmpty     = schema{"type": []string{"string", "number", "boolean"}, "minLength": 1}
	absolutePath = either(schema{"type": "string", "pattern": "^/"}, placeholderShape)
	truth        = either(schema{"type": []string{"boolean", "null"}}, schema{"type": "string", "pattern": truthPattern}, placeholderShape)
	mapOfTexts   = schema{"type": []string{"object", "null"}, "additionalProperties": text, "propertyNames": schema{"minLength": 1}}
	command      = either(text, schema{"type": "array", "items": text})
	line         = schema{"type": []string{"string", "boolean"}}
	script       = either(line, nothing, schema{"type": "array", "items": line})
)

// truthPattern is what the decoder takes for a truth value, in any letter case.
const truthPattern = "^([Tt][Rr][Uu][Ee]|[Yy][Ee][Ss]|[Oo][Nn]|[Yy]|[Ff][Aa][Ll][Ss][Ee]|[Nn][Oo]|[Oo][Ff][Ff]|[Nn]|)$"

func either(shapes ...schema) schema { return schema{"anyOf": shapes} }

func listOf(item schema) schema {
	return schema{"type": []string{"array", "null"}, "items": item}
}

func oneOf(words ...string) schema { return either(schema{"enum": words}, placeholderShape) }

func matching(pattern string) schema {
	return either(schema{"type": []string{"string", "number", "null"}, "pattern": pattern}, placeholderShape)
}

func number(most int) schema {
	return either(schema{"type": []string{"integer", "null"}, "minimum": 0, "maximum": most}, placeholderShape)
}

func define(name string) schema { return schema{"$ref": "#/$defs/" + name} }

func deprecated(s schema) schema {
	s = maps.Clone(s)
	s["deprecated"] = true
	return s
}

// object is the shape of a map with the keys of a table.
func object[T any](about string, table []field[T], required ...string) schema {
	properties := schema{}
	for _, f := range table {
		p := maps.Clone(f.shape)
		if f.about != "" {
			p["description"] = f.about
		} else {
			p["description"] = "Accepted and ignored."
		}
		properties[f.name] = p
	}
	s := schema{"type": "object", "description": about, "properties": properties, "additionalProperties": false}
	if len(required) > 0 {
		s["required"] = required
	}
	return s
}

// SchemaID names the schema.
const SchemaID = "https://build.stacker.dev/schema/stacker.json"

// Schema returns the JSON Schema of build files, made of the decoder's own tables.
// It knows files before and after substitution. A file that it accepts can still
// be refused: it does not see double keys, what lies behind paths, or what other
// files have.
func Schema() ([]byte, error) {
	from := object("The base of a stage.", fromFields, "type")
	from["allOf"] = []schema{
		needs("docker", "url", schema{"minLength": 1}),
		needs("oci", "url", schema{"pattern": "[^:]:."}),
		needs("tar", "url", schema{"minLength": 1}),
		needs("built", "tag", schema{"minLength": 1}),
	}
	stage := object("A root file system; its name is the image's tag.", stageFields, "from")
	stage["not"] = schema{"required": []string{"import", "imports"}}
	entry := either(nonEmpty, define("import"))
	root := schema{
		"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": SchemaID,
		"title": "stacker.yaml", "description": "A build file of stacker: a map of stages.",
		"type":                 []string{"object", "null"},
		"properties":           schema{configKey: object("Settings of the file. Not a stage.", configFields)},
		"additionalProperties": define("stage"),
		"propertyNames":        schema{"pattern": "^[^:/]+(/[^:/]+)*$", "maxLength": 200},
		"$defs": schema{
			"stage": stage, "from": from,
			"imports":     either(nonEmpty, nothing, schema{"type": "array", "items": entry}),
			"import":      object("A file or directory from outside.", importFields, "path"),
			"overlay_dir": object("A local directory that becomes a layer.", overlayDirFields, "source"),
			"bind":        either(nonEmpty, object("A path of this machine that run sees.", bindFields, "source")),
			"bom":         object("A bill of materials.", bomFields),
			"bom_package": object("What a set of files belongs to.", bomPackageFields, "name"),
		},
	}
	data, err := json.MarshalIndent(root, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode schema: %w", err)
	}
	return append(data, '\n'), nil
}

// needs says which key a type of base must have.
func needs(kind, key string, value schema) schema {
	return schema{
		"if":   schema{"properties": schema{"type": schema{"const": kind}}, "required": []string{"type"}},
		"then": schema{"properties": schema{key: value}, "required": []string{key}},
	}
}
