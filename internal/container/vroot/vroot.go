// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package vroot runs a step where no namespace, no chroot and no mount can be had: it
// answers every system call of the step that names a file.
//
// The filter of a step (package seccomp, Options.Virtual) hands these calls over instead of
// letting the kernel do them (seccomp_unotify(2)). A thread of this process does them with
// its own rights, and gives the process the outcome; an opened file too. Paths are resolved
// here, element by element, below the directory that is the step's root, and through a table
// that shows other directories in it, which makes mounts (walk.go, mounts.go).
//
// execve(2) and chdir(2) change the process itself. For them it is stopped by its tracer
// (ptrace(2)), which this process is, and made to call execveat(2) and fchdir(2) with files
// that it is given (trace.go). A program that asks for a loader gets it started in its
// place, and has itself mapped as the kernel would have (exec.go, load.go): the path of the
// loader is one of the step's root, which the kernel would look for elsewhere.
//
// Ids of processes and owners of files are those of package supervisor, with the same notes.
//
// What differs from a container:
//
//   - processes, the network and System V objects are those of outside, as
//     far as the filter and a landlock domain do not keep the step from them; /proc shows
//     the processes of the step only, but has the others' numbers in its listing;
//   - a process cannot trace another, and cannot run programs of another architecture;
//   - there are no Unix sockets but pairs, and files cannot be watched;
//   - owners of links, FIFOs and sockets are forgotten at the end of the step;
//   - /dev has what Devices says, and no terminals but the step's own.
//
// Confinement: no path of the step reaches the kernel but through this package, which opens
// each element without following links, never goes above the root, and shows nothing but the
// root and the table. Where the kernel has landlock, the step itself can only read and run what
// lies in these places, so a call that the filter should miss leads
// nowhere. Another thread of a step can change memory while a call is looked at: strings are
// copied once and acted on from the copy. All processes of the step are traced with
// PTRACE_O_EXITKILL: none outlives this process.
//
// The package runs where nearly nothing is initialised (package boot), so it imports next to
// nothing.
package vroot

import (
	"errors"
	"sync"
	"sync/atomic"
	"syscall"

	"build.stacker.dev/internal/container/supervisor"
)

// engine answers the calls of a step. One thread does (serve), another one traces (trace.go).
type engine struct {
	core     *supervisor.Core
	listener int
	call     supervisor.Call

	root     node // the step's root directory
	mounts   []*mount
	names    map[string]bool // last elements of the places of mounts
	roots    []node          // root directories of processes, by Place.Root
	uid      uint32          // this process's own, which stands for 0
	specials map[ident][2]uint32

	// Of the tracer: ends of processes that were seen while it waited for something else.
	ends []end

	stopping atomic.Bool // the step is to end

	mu    sync.Mutex
	tasks map[uint32]*task // threads of the step
}

// answer is what becomes of a call.
type answer struct {
	value int64
	errno syscall.Errno
	how   how
}

type how int

const (
	reply  how = iota // with value or errno
	kernel            // the kernel does the call
	sent              // the answer is given already, or will be
)

func done(value int64) answer      { return answer{value: value} }
func fails(e syscall.Errno) answer { return answer{errno: e} }
func passed() answer               { return answer{how: kernel} }
func given() answer                { return answer{how: sent} }

// serve answers calls until there can be no more.
func (e *engine) serve() error {
	e.core.Quick(e.listener)
	for {
		call, errno := e.core.Next(e.listener)
		switch errno {
		case 0:
		case syscall.EINTR, syscall.ENOENT: // the process was killed meanwhile
			continue
		default:
			return errors.New("receive system call: " + errno.Error())
		}
		e.call = call
		a := e.answer()
		switch a.how {
		case reply:
			e.core.Reply(call.ID, a.value, a.errno)
		case kernel:
			e.core.Continue(call.ID)
		}
	}
}
