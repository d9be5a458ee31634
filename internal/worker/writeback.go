// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// writeback is a new file that the kernel begins to bring to the disk while more is
// written. The flush at the end of the build, which makes it durable, has less to wait for.
type writeback struct {
	file    *os.File
	written int64
	begun   int64 // up to here the kernel was told
}

// writebackStep is how many bytes gather before the kernel is told: few calls, and
// pieces that a disk likes.
const writebackStep = 8 << 20

// Write implements io.Writer.
func (w *writeback) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	w.written += int64(n)
	if ready := w.written - w.begun; ready >= writebackStep {
		// Where this cannot be done, it is done later.
		_ = unix.SyncFileRange(int(w.file.Fd()), w.begun, ready, unix.SYNC_FILE_RANGE_WRITE)
		w.begun = w.written
	}
	return n, err
}

// flusher is the same for a tree of many files. To tell the kernel of each of them costs more
// than it saves: it would bring each to the disk alone. So one flush of the file system
// runs beside the work now and then, which joins what lies side by side.
type flusher struct {
	dir     string          // a directory of the file system
	beside  *sync.WaitGroup // of the flush, for which only the end of the worker waits
	written atomic.Int64
	begun   atomic.Int64 // up to here a flush was told
	running atomic.Bool
}

// flushStep is how many bytes gather before a flush, which also ends a transaction of a file
// system with a journal. What is smaller is left to the end of the build.
const flushStep = 64 << 20

// wrote counts bytes. It is for several goroutines.
func (f *flusher) wrote(n int64) {
	written := f.written.Add(n)
	if written-f.begun.Load() < flushStep || !f.running.CompareAndSwap(false, true) {
		return
	}
	f.begun.Store(written)
	f.beside.Go(func() {
		defer f.running.Store(false)
		// Where this cannot be done, it is done later.
		dir, err := os.Open(f.dir)
		if err != nil {
			return
		}
		defer dir.Close()
		_ = unix.Syncfs(int(dir.Fd()))
	})
}
