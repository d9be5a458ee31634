// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"

	"build.stacker.dev/internal/container/initproc"
)

// forker is the worker's end of the process that makes the first processes of containers
// (initproc.ArgFork), which is started for the first of them. The zero value is ready for use.
type forker struct {
	mu      sync.Mutex // held while a container is made, which is a millisecond
	proc    *initProcess
	leaving sync.WaitGroup // first processes whose end is waited for beside the work
}

var errForker = errors.New("the process that starts containers ended without a word: was it killed, for want of memory?")

// runForked runs a step whose first process is forked.
func (r *run) runForked(ctx context.Context, f *forker) (Exit, error) {
	ready := make(chan error, 1)
	go func() { ready <- f.start() }()
	err := r.prepare()
	if serr := <-ready; err == nil {
		err = serr
	}
	if err != nil {
		return Exit{}, err
	}
	unlock, err := f.make(r)
	defer unlock()
	if err != nil {
		return Exit{}, err
	}
	return r.wait(ctx)
}

// start starts the process, where it does not run yet.
func (f *forker) start() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.proc != nil {
		return nil
	}
	p, err := startInit(initKind{forker: true})
	f.proc = p
	return err
}

// make has the first process of r's container made, and makes it r.init. The rest of its
// start is waited for by r.begin, after which others can have theirs; unlock, which is never
// nil, allows that in any case.
func (f *forker) make(r *run) (unlock func(), err error) {
	f.mu.Lock()
	unlock = sync.OnceFunc(f.mu.Unlock)
	if f.proc == nil {
		return unlock, errForker
	}
	here, there, err := controlSocket()
	if err != nil {
		return unlock, err
	}
	c := f.proc.control
	err = r.tellTo(c, append(r.mounts, there))
	_ = there.Close()
	var number [4]byte
	if err == nil {
		_, err = io.ReadFull(c, number[:])
	}
	pid := int(binary.LittleEndian.Uint32(number[:]))
	if err != nil || pid == 0 {
		_ = here.Close()
		if err != nil {
			return unlock, f.lost()
		}
		out, err := f.refusal(r)
		if err == nil {
			err = startError(out)
		}
		return unlock, err
	}
	// It is a child of this process, so the number is its own until it was waited for.
	proc, err := os.FindProcess(pid)
	if err != nil {
		_ = here.Close()
		return unlock, fmt.Errorf("find container's init: %w", err)
	}
	r.init = &initProcess{proc: proc, control: here}
	r.begin = func() (initproc.Outcome, error) {
		defer unlock()
		// One that is not known here would not be allowed to start a command.
		_, _ = here.Write([]byte{1}) // if it is gone, that is said in the next line
		out, err := f.refusal(r)
		if err != nil || out.Err != "" {
			r.end(r.init) // it waits for that
		}
		return out, err
	}
	if r.spec.Upper != "" { // a Root is in use as long as it is mounted
		r.leave = func() <-chan struct{} { return f.see(proc) }
	}
	return unlock, nil
}

// see waits for the end of a process beside the work. The channel is closed then.
func (f *forker) see(p *os.Process) <-chan struct{} {
	gone := make(chan struct{})
	f.leaving.Go(func() {
		defer close(gone)
		_, _ = p.Wait() // it has reported already
	})
	return gone
}

// refusal reads what became of a start: nothing, or why the command does not run.
func (f *forker) refusal(r *run) (initproc.Outcome, error) {
	kind, body, err := r.readReport(f.proc.control)
	if err != nil {
		return initproc.Outcome{}, f.lost()
	}
	if kind == initproc.ReportBegun {
		return initproc.Outcome{}, nil
	}
	return initproc.ParseReport(kind, body)
}

// lost forgets a process that does not answer.
func (f *forker) lost() error {
	f.proc.kill()
	f.proc = nil
	return errForker
}

// close ends the process, and waits for those that it made.
func (f *forker) close() {
	defer f.leaving.Wait()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.proc != nil {
		f.proc.kill()
		f.proc = nil
	}
}
