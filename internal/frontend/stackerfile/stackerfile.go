// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package stackerfile reads stacker.yaml files: it substitutes placeholders,
// decodes the YAML with the position of everything, refuses what is wrong and
// puts files and stages in the order in which they must be built.
//
// What it returns is data. Nothing is executed, fetched or looked up; the only
// files that it opens are the build files and the substitute file.
//
// Scalars are the text that the user wrote: `y`, `on` and `0755` mean nothing
// special, except where the language asks for a number or a truth value. A null
// value (nothing, `~` or `null`) is the empty text in a map of texts and "not
// set" everywhere else.
//
// # Substitution
//
// `${{K}}` and `${{K:default}}` are replaced as plain text before the YAML is
// read. A supplied value may name keys that were supplied after it. A value must
// stay data: it may be a number, a word, a key or a whole quoted scalar, but the
// file must have the same structure with every value as with a harmless word in
// its place, and the whole value must arrive. So a value with a line break, or a
// list such as `[a, b]`, is refused.
//
// # Invariants
//
//   - Every error that comes from the content of a file is an *Error with a
//     position in the file as written, never in the substituted text.
//   - Every path that is called absolute is absolute and clean. Relative ones were
//     taken from the directory of the build file. The URL of a From is as written:
//     the language takes those from the working directory.
//   - All slices are in the order of the file.
package stackerfile

import "regexp"

// LoadOptions says how build files are read. The zero value is a plain read.
type LoadOptions struct {
	// Substitutions are the values of placeholders, in the order given by the
	// user. The first value of a key counts.
	Substitutions []Substitution
	// SubstituteFile names a flat YAML map of more values. Empty: none. A key
	// that is in Substitutions, too, keeps the value from there.
	SubstituteFile string
	// Builtins are the values that the program itself supplies.
	Builtins map[string]string
	// RequireHash refuses http imports without a hash.
	RequireHash bool
	// AllowMissing replaces placeholders that have neither value nor default by
	// "dummy", for commands that do not build.
	AllowMissing bool
	// ReadFile reads a build file by its absolute path. nil: regular files of at
	// most MaxFileSize bytes are read from the file system.
	ReadFile func(path string) ([]byte, error)
}

// Substitution is the value of one placeholder.
type Substitution struct{ Key, Value string }

// Project is a set of build files, complete with their prerequisites.
type Project struct {
	// Files has prerequisites before the files that need them, and files that do
	// not need each other by path.
	Files []*File

	stages map[string]*Stage
}

// Stage returns the stage of that name, or nil.
func (p *Project) Stage(name string) *Stage { return p.stages[name] }

// File is one build file.
type File struct {
	// Path is absolute and clean; Name is the path as the user would write it,
	// for messages. Dir is the directory of Path.
	Path, Name, Dir string
	// Raw is the file as written, before substitution.
	Raw []byte
	// Prerequisites are the files that must be built before this one.
	Prerequisites []Prerequisite
	// Stages are in the order of the file.
	Stages []*Stage
	// SubstitutionsUsed has the values, supplied or default, of the placeholders
	// in this file. They may be secret.
	SubstitutionsUsed map[string]string

	unknownLines map[int]bool // lines with placeholders that nobody gave a value
}

// Prerequisite is one entry of `config: prerequisites`.
type Prerequisite struct {
	Pos  Pos
	Path string // absolute
	Text string // as written
}

// Stage is one top-level entry of a file: what becomes one image.
type Stage struct {
	Name string
	Pos  Pos
	File *File

	From    From
	Imports []Import
	// LegacyImport tells that the files came by the old key `import`, which shows
	// them in /stacker and not in /stacker/imports.
	LegacyImport bool
	OverlayDirs  []OverlayDir
	Binds        []Bind

	Run                 *Run         // nil: no run
	BuildEnv            []KV         // without the entries that have an empty value
	BuildEnvPassthrough *Passthrough // nil: the default list
	GenerateLabels      *Run         // nil: none
	Bom                 *Bom         // nil: none
	BuildOnly           bool

	// What the image's config and manifest say. Empty or nil: what the base has.
	OS, Arch    string
	Environment []KV
	Labels      []KV
	Annotations []KV
	Volumes     []string
	WorkingDir  string
	RuntimeUser string
	Cmd         *Command
	Entrypoint  *Command
	FullCommand *Command
}

// Passthrough are the patterns of the host variables that run sees, each anchored
// at both ends. No patterns: no variable.
type Passthrough struct {
	Pos      Pos
	Patterns []*regexp.Regexp
}

// KV is one entry of a map of texts. Keys are unique within their map.
type KV struct {
	Key, Value string
	Pos        Pos
}

// Command is a list of arguments. An empty list is set, too: to nothing.
type Command struct {
	Pos  Pos
	Args []string
}

// Run is a script.
type Run struct {
	Pos Pos
	// Script is the whole text, with a first line `#!/bin/sh -xe` where the user
	// wrote no `#!` line.
	Script string
	// Lines has the position of each line of Script in the build file. A line
	// that is not in the file has the position of the key's value.
	Lines []Pos

	list bool // it was written as a list
}

// From is the base of a stage. Which fields are set depends on Type.
type From struct {
	Pos Pos
	// Type is docker, oci, tar, built, scratch or dockerfile.
	Type string
	// URL is the text of `url`, for docker, oci and tar. A docker URL is
	// `docker://reference`, `oci:` and an oci URL, or an image's plain name; an
	// oci URL is a path, a colon and a tag; a tar URL is as an import's path.
	URL string
	// Tag is the name of the stage (built).
	Tag string
	// Insecure accepts plain http and unknown certificates (docker).
	Insecure bool
	// Path is the absolute path of a Dockerfile or of its directory, Target one of its
	// stages or empty, BuildArgs the values of its ARGs (dockerfile).
	Path      string
	Target    string
	BuildArgs []KV

	refPos Pos // of what names the stage or image
}

// ImportKind tells where an import comes from.
type ImportKind string

// The kinds of import.
const (
	Local     ImportKind = "local"
	HTTP      ImportKind = "http"
	FromStage ImportKind = "stage"
)

// Import is one entry of `imports`: a file or directory from outside the stage.
type Import struct {
	Pos Pos
	// Path is the text of `path`. A slash at its end means, of a directory, only
	// what is in it.
	Path string
	Kind ImportKind
	Abs  string  // absolute path (Local)
	Hash string  // sha256, 64 lower case hex digits; empty: not given
	Dest string  // absolute path in the image as written; empty: only for run
	Mode *uint32 // permission bits with setuid, setgid and sticky; nil: keep
	UID  *int    // nil: keep
	GID  *int    // nil: keep
}

// OverlayDir is one entry of `overlay_dirs`.
type OverlayDir struct {
	Pos    Pos
	Source string // as written
	Abs    string // absolute
	Dest   string // absolute path in the image
}

// Bind is one entry of `binds`: a host path that run sees, writable.
type Bind struct {
	Pos    Pos
	Source string // absolute path on the host
	Dest   string // absolute path in the image
}

// Bom asks for a bill of materials.
type Bom struct {
	Pos       Pos
	Generate  bool
	Namespace string
	Packages  []BomPackage
}

// BomPackage names what a set of files in the image belongs to.
type BomPackage struct {
	Pos                    Pos
	Name, Version, License string
	Paths                  []string
}
