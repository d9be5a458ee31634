// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"os"
	"syscall"
	"time"
)

// Network says which network a step sees.
type Network string

// The networks. The empty string is NetworkHost.
const (
	NetworkHost Network = "host" // the one of this machine
	NetworkNone Network = "none" // only a loopback interface of its own
)

// Spec describes one step. Paths outside the step are relative to the working
// directory.
type Spec struct {
	Lowers []string // layer trees, bottom first
	Upper  string   // receives what the step changes; empty: the step cannot change anything
	Work   string   // empty directory beside Upper
	// Root is the step's root file system as one directory, in place of Lowers, Upper
	// and Work. Missing mount points are made in it, and stay.
	Root string
	// OnReady, if set, is called before the step starts with what was made or
	// changed in Root for it: paths, parents before what is in them.
	OnReady func(touched []string) error
	// OnRestored, if set, is called after a step without mounts (Bare) with paths in Root that
	// are again what they were when the step began, but for their change time.
	OnRestored func(paths []string) error
	Scratch    string // empty directory for missing mount points; the caller removes it afterwards

	Args []string // Args[0] without a slash is looked for in PATH of Env
	Env  []string
	Dir  string // in the step; must exist there

	UID, GID uint32
	Groups   []uint32
	SingleID bool // only id 0 is mapped: others are played by a supervisor, unless Privileged or SeccompOff

	// Links are made where the step's root has nothing of that name. As long as the
	// step leaves them alone they are not seen in Upper.
	Links []Link

	Hostname string // empty: "stacker"
	Mounts   []Mount
	Network  Network

	// Privileged gives all capabilities of the user namespace and takes away the
	// system call filter and the masks of /proc and /sys.
	Privileged bool
	NoNewPrivs bool
	SeccompOff bool

	Stdin, Stdout, Stderr *os.File // nil: /dev/null
	// Terminal gives the step a terminal of its own in place of the three files.
	// OnConsole, which must be set then, gets its other end before the step
	// starts, and closes it.
	Terminal  bool
	OnConsole func(*os.File)

	ShmSize int64 // bytes of /dev/shm; 0: 64 MiB
	Limits  []Limit
}

// Supervised tells whether the step's ids are played, and its notes of owners guarded.
func (s *Spec) Supervised() bool { return s.SingleID && !s.Privileged && !s.SeccompOff }

// Mount shows something of the outside, or a tmpfs, in the step.
type Mount struct {
	// One of Source, FD and Tmpfs. Source is a path that the program itself chose,
	// FD any open file or directory.
	Source string
	FD     *os.File
	Tmpfs  *Tmpfs

	// Detached says that FD is a mount of its own (mount.Clone, userns.IDMapMount):
	// it is used up.
	Detached bool

	// Own says that Source is for this step only, and in the volume of the step's root:
	// where nothing can be mounted it is moved into the root while the step runs. What is
	// not Own is copied there.
	Own bool

	// Target is where the step sees it. Links are followed inside the step's root;
	// what is missing is made and is not seen in Upper.
	Target    string
	ReadOnly  bool
	Recursive bool // with the mounts below it
	File      bool // a missing Target is made as a file; found out when Source or FD is set
}

// Link is a symbolic link.
type Link struct{ Name, Content string }

// Tmpfs is a new empty file system.
type Tmpfs struct {
	Size int64  // bytes; 0: the kernel's default, half of the memory
	Mode uint32 // permission bits of its root; 0: 01777
}

// Limit is a resource limit of setrlimit(2).
type Limit struct {
	Resource int
	Cur, Max uint64
}

// Exit is how a step's first process ended.
type Exit struct {
	Code   int            // exit status; 128 + Signal after a signal
	Signal syscall.Signal // 0: it exited by itself
	User   time.Duration  // CPU time of the step
	System time.Duration
	MaxRSS int64 // bytes, of its largest process
	// Gone is closed when the kernel has taken away the mounts of the step, which takes it
	// about a millisecond. Until then Upper may be read and changed, but not be mounted again,
	// and neither it nor Work be removed. Only a step that succeeded may set it; nil: no mount is left.
	Gone <-chan struct{}
}
