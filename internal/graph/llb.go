// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package graph

import (
	"time"

	"build.stacker.dev/internal/fileop/action"
)

// Context is a source: a directory of this machine, or a part of it.
type Context struct {
	Path    string   // absolute
	Name    string   // what people call it: "context"
	Include []string `json:",omitempty"` // patterns of .dockerignore files; none: everything
	Exclude []string `json:",omitempty"`
	// Follow are paths, with wildcards, that are all that is needed, together
	// with what their links lead to; none: everything.
	Follow []string `json:",omitempty"`
}

// Git is a source: the files of a commit.
type Git struct {
	Remote         string // URL
	Ref            string // branch, tag or commit; empty: the remote's HEAD
	Subdir         string
	Checksum       string // commit, or its beginning, that Ref must lead to; empty: any
	KeepGitDir     bool
	SkipSubmodules bool
	CommitTimes    bool   // files have the commit's time
	TokenSecret    string // id of a secret, for the Authorization header; empty: none
	HeaderSecret   string
	KnownHosts     string // text for ssh
	SSH            string // id of the agent to use; empty: none
}

// Download is a source: a directory with one file, behind an http or https URL.
type Download struct {
	URL      string
	Filename string
	Checksum string // "sha256:…"; empty: any
	Mode     uint32 // permission bits; 0: 0600
	UID, GID int
}

// Change changes files on top of input 0 by Actions, in order; the result is one
// more layer, also where nothing changed.
type Change struct {
	Actions []action.Action
	Clamp   *time.Time // SOURCE_DATE_EPOCH: the latest time of a file
}

// Merge stacks the layers of all inputs, first at the bottom.
type Merge struct{}

// Diff is what input 1 has over input 0: layers that lead from one to the other.
type Diff struct{}

// MountType says what a step sees at a mount.
type MountType string

// The mounts of steps.
const (
	MountBind   MountType = "bind"   // files of an input
	MountCache  MountType = "cache"  // a directory that is kept between builds
	MountTmpfs  MountType = "tmpfs"  // an empty directory in memory
	MountSecret MountType = "secret" // a file with the secret ID
	MountSSH    MountType = "ssh"    // the socket of the user's ssh agent
)

// Sharing says who may use a cache mount at the same time.
type Sharing string

// The ways to share a cache mount.
const (
	SharingShared  Sharing = "shared"
	SharingPrivate Sharing = "private" // a new one while somebody else uses it
	SharingLocked  Sharing = "locked"  // one after the other
)

// Mount is something that a step sees beside its root.
type Mount struct {
	Type     MountType
	Target   string  // absolute
	Input    int     // of bind and cache: number of the vertex' input; -1: an empty directory
	Selector string  // path inside the input
	ReadOnly bool    `json:",omitempty"`
	ID       string  `json:",omitempty"` // of cache, secret and ssh
	Sharing  Sharing `json:",omitempty"`
	Size     int64   `json:",omitempty"` // of tmpfs, in bytes; 0: half of the memory
	UID, GID uint32  `json:",omitempty"` // of secret and ssh
	Mode     uint32  `json:",omitempty"`
	Optional bool    `json:",omitempty"` // of secret and ssh: none is no error
}

// SecretEnv is an environment variable that holds a secret.
type SecretEnv struct {
	Name, ID string
	Optional bool
}

// Limit is a resource limit of setrlimit(2) by the name that ulimit flags use:
// nofile, nproc, …
type Limit struct {
	Name       string
	Soft, Hard int64 // -1: none
}

// Command is how a step of a Dockerfile or an LLB definition differs from one of
// stacker.yaml: see Exec.Command.
type Command struct {
	User      string      // name or number, with an optional group; empty: root
	Hostname  string      `json:",omitempty"`
	Hosts     []KV        `json:",omitempty"` // names and addresses for /etc/hosts
	Mounts    []Mount     `json:",omitempty"`
	Secrets   []SecretEnv `json:",omitempty"`
	Limits    []Limit     `json:",omitempty"`
	ShmSize   int64       `json:",omitempty"` // bytes; 0: the default
	ExitCodes []int       `json:",omitempty"` // that count as success; none: 0
}

func (Context) op()  {}
func (Git) op()      {}
func (Download) op() {}
func (Change) op()   {}
func (Merge) op()    {}
func (Diff) op()     {}
