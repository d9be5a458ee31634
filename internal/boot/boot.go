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

	"build.stacker.dev/internal/container/initproc"
)

// What os.Args[0] is in processes that this program starts of itself.
const (
	// WorkerName is the worker in its user namespace.
	WorkerName = "stacker-worker"
	// WaitName is the worker before its ids are mapped: it waits for one byte on
	// ControlFd and then becomes the worker.
	WaitName = "stacker-worker-wait"
)

// Descriptors of the worker.
const (
	ControlFd = 3 // socket to the main process
	TreeFd    = 4 // with ArgTree: detached mount that becomes the working directory
)

// Arguments of the worker.
const (
	ArgSingle = "single" // only one id is mapped
	ArgTree   = "tree"   // see TreeFd
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
	Control  int  // descriptor of the worker's socket
	SingleID bool // only one id is mapped
}

// Role tells what this process is.
func Role() Process { return role }

var role Process

func init() {
	if len(os.Args) == 0 {
		return
	}
	switch os.Args[0] {
	case initproc.Name:
		initproc.Main()
	case WaitName:
		waitForIDs()
	case WorkerName:
		role = Process{Kind: Worker, Control: ControlFd}
		tree := false
		for _, a := range os.Args[1:] {
			role.SingleID = role.SingleID || a == ArgSingle
			tree = tree || a == ArgTree
		}
		os.Args = os.Args[:1]
		step, err := enterWorker(tree)
		ready(step, err)
	}
}

// ready tells the main process that the worker is up: an empty line, or one that
// says what failed.
func ready(step string, err error) {
	line := "\n"
	if err != nil {
		line = step + ": " + err.Error() + "\n"
	}
	if _, werr := syscall.Write(ControlFd, []byte(line)); werr != nil || err != nil {
		syscall.Exit(1)
	}
}
