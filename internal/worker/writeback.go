// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"

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
