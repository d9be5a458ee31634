// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package graph

import "time"

// Op is what a vertex does: one of the types of this file and no other.
type Op interface{ op() }

// Scratch is the empty root file system.
type Scratch struct{}

// Image is a source: an image in a registry or in an OCI layout.
type Image struct {
	Reference string // docker://host/repository:tag@digest, or oci:path:tag
	Insecure  bool   // plain http and unverified TLS are allowed
	OS, Arch  string // wanted platform; empty: this machine's
	Variant   string
}

// Tar is a source: an archive that becomes a root file system. Compression is
// detected. The file comes from Input 0 (a [Local], an [HTTP] or a [Pick]).
type Tar struct{}

// Local is a source: a file or a directory of this machine.
type Local struct {
	Path string // absolute
	Hash string // sha256 in lower-case hex that a file must have; empty: any
	Dir  bool   // it must be a directory
}

// HTTP is a source: a file behind an http or https URL.
type HTTP struct {
	URL  string
	Hash string // as in Local
}

// Pick is a source: a file or directory of input 0's root file system.
type Pick struct {
	Path string // inside the input; links are followed inside it
	Hash string // as in Local
}

// File makes files on top of input 0 by Actions, in order; the result is one
// more layer. Only Copy exists so far.
type File struct {
	Copies  []Copy
	Clamp   *time.Time // SOURCE_DATE_EPOCH: the time of every file
	History string     // how the layer came to be, for the image's history
}

// Copy puts what an input holds at Dest.
type Copy struct {
	Input    int    // number of the vertex' input: a Local, HTTP or Pick
	Name     string // base name that the source has for people
	Contents bool   // of a directory: its contents, not itself
	// Dest is absolute. IntoDir: Dest is a directory that receives the source
	// under its Name; otherwise the source itself becomes Dest.
	Dest    string
	IntoDir bool
	Mode    *uint32 // of files; nil: as in the source
	UID     *int    // nil: 0
	GID     *int    // nil: 0
}

// Network says what a step can reach.
type Network string

// The networks that a step can have.
const (
	NetworkHost Network = "host"
	NetworkNone Network = "none"
)

// Imports stands for the imports of a stage that runs nothing: the result is that
// of input 0, and the files must be there and be the right ones all the same.
type Imports struct {
	Copies   []Copy
	CopiesAt string // a directory of the user's where they are put; empty: none
}

// Exec runs a script or a command on top of input 0; what it changed is one more layer.
type Exec struct {
	Script      string   // text of a script with its #! line; the step sees it as .stacker-run.sh in ImportsAt
	Args        []string // instead of Script
	Env         []KV
	Ambient     []KV // environment that cannot change a result (proxies, TERM): not part of the key
	Dir         string
	Imports     []Copy // files that the step sees, read-only, below ImportsAt
	ImportsAt   string // absolute
	ToolsAt     string // where the step sees this program; empty: nowhere
	Binds       []Bind
	Network     Network
	Privileged  bool
	Clamp       *time.Time // SOURCE_DATE_EPOCH
	History     string
	ImportsCopy string // a directory of the user's where Imports are put too; empty: none
	// Collect is an absolute path that the step sees as an empty directory. The
	// files that it puts there are the result, and whatever else it changed is
	// lost. Empty: the result is a layer.
	Collect string
	Command *Command `json:",omitempty"` // set: the layer is kept even if it is empty
}

// Bind shows a directory or file of this machine inside a step. What the step
// makes of it cannot be known, so a vertex with binds is never reused.
type Bind struct {
	Source, Target string
	Pos            Pos
}

func (Scratch) op() {}
func (Image) op()   {}
func (Tar) op()     {}
func (Local) op()   {}
func (HTTP) op()    {}
func (Pick) op()    {}
func (File) op()    {}
func (Imports) op() {}
func (Exec) op()    {}
