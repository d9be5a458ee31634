// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import "slices"

// task is a thread of the step.
type task struct {
	process uint32   // the first thread of its process
	program *program // that the process runs
	change  *change  // what becomes of its call; nil: nothing

	stopped bool // before anything was known of it
}

// has tells whether a thread or process is the step's.
func (e *engine) has(id uint32) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.tasks[id] != nil
}

// leader gives the process that a thread belongs to.
func (e *engine) leader(id uint32) uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tasks[id]; t != nil {
		return t.process
	}
	return id
}

// leaders gives the processes of the step.
func (e *engine) leaders() []uint32 {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []uint32
	for id, t := range e.tasks {
		if id == t.process {
			out = append(out, id)
		}
	}
	slices.Sort(out)
	return out
}

// program gives what a process runs; nil: it is not known.
func (e *engine) program(id uint32) *program {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tasks[id]; t != nil {
		return t.program
	}
	return nil
}

func (e *engine) changeOf(id uint32) *change {
	e.mu.Lock()
	defer e.mu.Unlock()
	if t := e.tasks[id]; t != nil {
		return t.change
	}
	return nil
}
