// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package boot takes over, before the rest of the program is initialised, in the
// processes that this program starts of itself.
//
// Such a process is told by os.Args[0] what it is. The first process of a
// container (package initproc) spends its whole life in this package's init
// function and never reaches main. A worker is prepared here, and main asks Role
// and goes on as the worker.
//
// Go initialises packages in the order of their import paths, each as soon as
// what it imports is initialised (The Go Programming Language Specification,
// "Package initialization"). "build.stacker.dev/internal/boot" is early in that
// order, and imports only packages os, syscall and what these need. So the work
// of all other packages, milliseconds with everything linked in, does not happen
// in a container's init. This holds as long as boot and what it imports stay
// poor in imports: a test looks after that. It is also why this package may do
// what no other may: have an init function and a variable that it sets.
package boot

import (
	"os"
	"syscall"

	"build.stacker.dev/internal/boot/role"
	"build.stacker.dev/internal/container/initproc"
	"build.stacker.dev/internal/container/supervisor"
	"build.stacker.dev/internal/container/vroot"
)

// Kind is what a process of this program is.
type Kind int

// The kinds.
const (
	Main   Kind = iota // the one that the user started
	Worker             // the one inside the user namespace
)

// Process describes this process.
type Process struct {
	Kind     Kind
	Control  int    // descriptor of the worker's socket
	SingleID bool   // only one id is mapped
	Bare     bool   // there are no namespaces
	Driver   string // of snapshots, by name; empty: the worker chooses
}

// Role tells what this process is.
func Role() Process { return this }

var this Process

func init() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case initproc.Name:
		initproc.Main(os.Args, func(s *initproc.Step, end func(error)) (func(int), error) {
			return supervisor.Prepare(supervisor.IDs{UID: s.UID, GID: s.GID, Groups: s.Groups, Caps: s.Caps}, end)
		}, vroot.Run)
	case initproc.CommandName:
		initproc.CommandMain()
	case initproc.InnerName:
		initproc.Inner()
	case role.WaitName:
		waitForIDs()
	case role.WorkerName:
		this = Process{Kind: Worker, Control: role.ControlFd}
		tree := false
		for _, a := range os.Args[1:] {
			this.SingleID = this.SingleID || a == role.ArgSingle
			this.Bare = this.Bare || a == role.ArgBare
			tree = tree || a == role.ArgTree
			if len(a) > len(role.ArgDriver) && a[:len(role.ArgDriver)] == role.ArgDriver {
				this.Driver = a[len(role.ArgDriver):]
			}
		}
		os.Args = os.Args[:1]
		if this.Bare {
			ready(enterBare(this.SingleID))
			return
		}
		ready(enterWorker(tree))
	}
}

// ready tells the main process that the worker is up: an empty line, or one that
// says what failed.
func ready(step string, err error) {
	line := "\n"
	if err != nil {
		line = step + ": " + err.Error() + "\n"
	}
	if _, werr := syscall.Write(role.ControlFd, []byte(line)); werr != nil || err != nil {
		syscall.Exit(1)
	}
}
