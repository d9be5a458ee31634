// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"syscall"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/layer"
)

// ErrMismatch tells that bytes are not those that a digest names.
var ErrMismatch = errors.New("content does not match its digest")

// ErrNames tells that a layer has to be unpacked for its names to be known.
var ErrNames = layer.ErrNamesOnly

// request is the union of all calls; exactly one field is set.
type request struct {
	Unpack  *UnpackRequest  `json:"unpack,omitempty"`
	Apply   *ApplyRequest   `json:"apply,omitempty"`
	Exec    *ExecRequest    `json:"exec,omitempty"`
	Change  *ChangeRequest  `json:"change,omitempty"`
	Pack    *PackRequest    `json:"pack,omitempty"`
	ReadTar *ReadTarRequest `json:"readTar,omitempty"`
	Stat    *StatRequest    `json:"stat,omitempty"`
	Scan    *ScanRequest    `json:"scan,omitempty"`
	Remove  *RemoveRequest  `json:"remove,omitempty"`
	Usage   *UsageRequest   `json:"usage,omitempty"`
	Probe   *ProbeRequest   `json:"probe,omitempty"`

	CacheMount *CacheMountRequest `json:"cacheMount,omitempty"`
}

// UnpackRequest unpacks the layers of an image that are not there yet.
type UnpackRequest struct {
	Layers []UnpackLayer
}

// UnpackLayer is one layer of the image, bottom first. Either Tree names it
// where it is unpacked already, or File numbers the file to read its blob from.
type UnpackLayer struct {
	Tree   string
	File   int
	Name   string // for messages
	Format Format
	DiffID digest.Digest // of the tar; of an image it is Blob
	Chain  string        // chainID up to and with this layer
	Names  bool          // a tree of names only: see layer.ApplyOptions
	Blob   digest.Digest // of the bytes in File
	Size   int64         // of the bytes in File; -1: unknown
}

// UnpackEvent tells how far a layer is.
type UnpackEvent struct {
	Layer   int
	Current int64 // bytes of the blob read so far
}

// UnpackReply names the layers' trees, bottom first.
type UnpackReply struct {
	Trees []string
}

// ApplyRequest makes a layer from a tar stream (file 0) on top of Lower.
type ApplyRequest struct {
	Lower []string // trees, bottom first
	Chain string   // chainID of Lower; empty: there are none
	Clamp *int64   // SOURCE_DATE_EPOCH
	Start int64    // see ClampFrom of package layer; nanoseconds
	// Tree: keep the files under this name, as they are, instead of making a
	// layer of them (imports that a step sees but the image has not).
	Tree       string
	Decompress bool
}

// ApplyReply is the new layer.
type ApplyReply struct {
	DiffID   digest.Digest
	Size     int64
	Empty    bool // the stream had nothing: there is no tree
	WithRoot bool
}

// Bind shows a file of the request inside a step.
type Bind struct {
	File     int  // its number
	Detached bool // it is a mount of its own: see Client.Bind
	Target   string
	ReadOnly bool
}

// ExecRequest runs a step. Files 0, 1 and 2 are its standard streams; binds
// number others.
type ExecRequest struct {
	Lower      []string
	Chain      string   // chainID of Lower; empty: there are none
	Script     string   // text with #! line; shown at ScriptPath
	ScriptPath string   // where the step sees the script
	Args       []string // instead of Script
	Env        []string
	Dir        string
	Imports    string // tree shown read-only at ImportsPath
	ImportPath string
	Binds      []Bind
	Tools      string // where the step sees this program: /stacker/bin; empty: nowhere
	Network    string
	Privileged bool
	Terminal   bool
	UID, GID   uint32
	Clamp      *int64

	Collect string   // where the step sees an empty directory; what it puts there is replied; empty: nowhere
	Command *Command // of a Dockerfile's step; nil: none

	Hidden    []string // names in the root directory whose changes are dropped
	Commit    bool     // keep what the step changed as a layer
	OnFailure []string // command to run on the console after a failure, before the step's files go
	Path      string   // directories where emulators of other machines are looked for, as in PATH
	Console   int      // number of the first of the console's three streams; 0: none
}

// Command is what steps of Dockerfiles have beside the rest of an ExecRequest.
// Their layer is kept even if it is empty.
type Command struct {
	User      string // name or number, with an optional group: looked up in the step's root
	Hostname  string
	Hosts     []string // lines for /etc/hosts
	Mounts    []Mount
	Limits    []Limit
	ShmSize   int64
	ExitCodes []int // that count as success; none: 0
}

// Mount is something that a step sees beside its root.
type Mount struct {
	Target   string
	ReadOnly bool

	// Of a bind, what it shows, and of a cache, what it starts with: a path in a
	// stack of trees. Changes to a bind are lost with the step.
	Lower    []string
	Selector string

	Cache  string // name of a kept directory: 64 characters of 0-9a-f; empty: no cache
	Shared bool   // several steps may use it at the same time
	Locked bool   // wait for those who use it; else, without Shared, take another one

	Tmpfs bool
	Size  int64 // bytes of a tmpfs

	Secret int  // number of the file that holds the secret; 0: none
	SSH    bool // the other end of the listening socket goes to Client.Exec's listener
	UID    uint32
	GID    uint32
	Mode   uint32
	ID     int // tells the SSH mounts of a request apart
}

// Limit is a resource limit of setrlimit(2).
type Limit struct {
	Resource int
	Cur, Max uint64
}

// ExitStatus is how a step ended.
type ExitStatus struct {
	Code   int
	Signal syscall.Signal
}

// ExecReply is the end of a step. Layer is set after success with Commit.
type ExecReply struct {
	Exit  ExitStatus
	Full  bool // it failed, and the file system that it wrote to has no room left
	Layer ApplyReply
	Files map[string]string // of ExecRequest.Collect: what the files hold, by name
	Start int64             // when the step started: see Layer.Start of package cache
	User  time.Duration     // CPU time used by the step
	Sys   time.Duration
}

// PackRequest writes a kept layer as a blob to file 0, which is empty if Format is
// not TarArchive.
type PackRequest struct {
	Tree      string        // empty: a layer without files, not for TarArchive
	DiffID    digest.Digest // of the tar: must come out; empty: whatever does
	Clamp     *int64
	Start     int64
	WithRoot  bool
	Format    Format
	Algorithm compress.Algorithm // of a tar
	Level     int
	Verity    bool // append a hash tree to an image
}

// PackReply describes the blob.
type PackReply struct {
	Digest digest.Digest
	Size   int64
	// DiffID and TarSize are of the tar, where the blob holds one.
	DiffID        digest.Digest
	TarSize       int64
	RootHash      string // of the hash tree
	DroppedXattrs int    // attributes that an image of the format cannot hold
}

// ReadTarRequest streams what Path names in the stack of trees as a tar to file 0.
type ReadTarRequest struct {
	Lower []string
	Path  string // links are followed inside the stack
	Name  string // name of the top entry in the tar; "" for the directory's contents only
}

// StatRequest asks what paths name in a stack of trees; links are followed.
type StatRequest struct {
	Lower []string
	Paths []string
}

// ScanRequest finds out what a stack of trees holds, and writes it to file 0: a
// bom.Inventory in JSON.
type ScanRequest struct{ Lower []string }

// FileKind is what a path names.
type FileKind string

// What a path can name. The zero value says that there is nothing.
const (
	Nothing   FileKind = ""
	Directory FileKind = "directory"
	OtherFile FileKind = "file"
)

// StatReply answers in the order of the paths.
type StatReply struct{ Kinds []FileKind }

// RemoveRequest deletes trees, whatever their modes and owners are.
type RemoveRequest struct{ Trees []string }

// UsageRequest measures trees.
type UsageRequest struct{ Trees []string }

// UsageReply gives the disk space of the trees in bytes, in their order.
type UsageReply struct{ Bytes []int64 }

// ProbeRequest asks what works here.
type ProbeRequest struct{}

// ProbeReply tells it: empty strings mean "works".
type ProbeReply struct {
	Whiteout string
	Exec     string
	Driver   string   // the snapshot driver that is used
	Why      []string // what speaks against better ones
}
