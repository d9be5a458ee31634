// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package action is what a file op does to a root file system, as data: it goes
// from a frontend through the graph and the worker's socket to package fileop,
// which does it. The types mirror the file actions of BuildKit's LLB
// (solver/pb/ops.proto), so that what they mean is documented there too.
package action

// Action is one change. Exactly one field is set.
type Action struct {
	Copy    *Copy    `json:",omitempty"`
	File    *File    `json:",omitempty"`
	Dir     *Dir     `json:",omitempty"`
	Remove  *Remove  `json:",omitempty"`
	Symlink *Symlink `json:",omitempty"`
}

// Copy copies from one of the op's inputs.
type Copy struct {
	Input int    // number of the input that Src is in
	Src   string // links are followed inside the input
	Dest  string // a slash at the end makes it a directory
	Owner *Owner `json:",omitempty"` // nil: as in the source

	Mode     *uint32 `json:",omitempty"` // of files and directories; nil: as in the source
	ModeText string  `json:",omitempty"` // symbolic, as chmod(1) has it; wins over Mode

	FollowLinks  bool `json:",omitempty"` // Src may be a link itself
	ContentsOnly bool `json:",omitempty"` // of a directory
	Unpack       bool `json:",omitempty"` // an archive is unpacked
	MakeDest     bool `json:",omitempty"` // make missing parents of Dest
	Wildcard     bool `json:",omitempty"` // Src has wildcards as path.Match knows them
	AllowNone    bool `json:",omitempty"` // no match is no error
	Replace      bool `json:",omitempty"` // what is at Dest and of another type goes

	Include  []string `json:",omitempty"` // patterns of .dockerignore files, relative to Src; none: everything
	Exclude  []string `json:",omitempty"`
	Required []string `json:",omitempty"` // paths that must be there, where Include is set

	Time *int64 `json:",omitempty"` // of everything made, in nanoseconds since 1970; nil: as in the source
}

// File makes a file.
type File struct {
	Path  string
	Mode  uint32
	Data  []byte
	Owner *Owner `json:",omitempty"`
	Time  *int64 `json:",omitempty"`
}

// Dir makes a directory. It is no error if there is one.
type Dir struct {
	Path    string
	Mode    uint32
	Parents bool   `json:",omitempty"`
	Owner   *Owner `json:",omitempty"`
	Time    *int64 `json:",omitempty"`
}

// Remove removes a file or a tree.
type Remove struct {
	Path      string
	AllowNone bool `json:",omitempty"`
	Wildcard  bool `json:",omitempty"`
}

// Symlink makes a symbolic link at Path.
type Symlink struct {
	Path, Target string
	Owner        *Owner `json:",omitempty"`
	Time         *int64 `json:",omitempty"`
}

// Owner is a user and a group; nil ones are not given.
type Owner struct {
	User, Group *ID `json:",omitempty"`
}

// ID is a user or a group, by name or by number. A name is looked up in the
// /etc/passwd or /etc/group of the root file system that is changed; where it
// is not there it means 0, as in BuildKit.
type ID struct {
	Name   string `json:",omitempty"`
	Number uint32 `json:",omitempty"`
}
