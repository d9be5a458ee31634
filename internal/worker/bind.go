// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/userns"
)

// Bind opens a file or directory of this machine for a step to see. For root it
// is a mount that shows root's ids as those of the step's root; where the file
// system cannot do that, and for other users, whose ids are mapped anyway, it
// is the file itself. detached tells which.
func (c *Client) Bind(path string) (f *os.File, detached bool, err error) {
	f, err = os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil || c.level != userns.LevelRoot {
		return f, false, err
	}
	defer f.Close()
	m, err := mount.Clone(f, true)
	if err != nil {
		return nil, false, err
	}
	ns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", c.proc.Pid))
	if err != nil {
		_ = m.Close()
		return nil, false, err
	}
	defer ns.Close()
	// Without it the files show as nobody's, which is better than no build.
	_ = mount.IDMap(m, ns, true)
	return m, true, nil
}
