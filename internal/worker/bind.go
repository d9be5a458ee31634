// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"

	"golang.org/x/sys/unix"
)

// Bind opens a file or directory of this machine for a step to see, in the form
// in which it can: detached tells whether that is a mount of its own.
func (c *Client) Bind(path string) (f *os.File, detached bool, err error) {
	f, err = os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, false, err
	}
	m, detached, err := c.proc.Share(f, true)
	if m != f {
		_ = f.Close() // only looked at
	}
	return m, detached, err
}
