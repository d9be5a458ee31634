// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package role has the names by which this program tells processes that it
// starts of itself what they are. Package boot reads them, package userns writes
// them; the package is apart so that neither needs the other.
package role

// What os.Args[0] is in such a process.
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
	ArgSingle = "single"  // only one id is mapped
	ArgTree   = "tree"    // see TreeFd
	ArgBare   = "bare"    // there are no namespaces
	ArgDriver = "driver=" // followed by the name of the snapshot driver
)
