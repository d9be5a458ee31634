// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
)

// Share makes a file or directory of this process ready to be sent to the worker
// and shown in a step. recursive takes the mounts below it along.
//
// With LevelRoot the ids in the namespace own nothing outside, and a worker may
// not copy mounts of this process's namespace. So m is a mount of its own then
// (detached is true), on which files of root belong to the namespace's root, as
// far as the file system supports that (mount_setattr(2), "ID-mapped mounts");
// who cannot have that sees the files as a stranger. It can be shown once: Share
// again for another step. With the other levels m is f itself.
//
// The caller closes m if it is not f.
func (p *Process) Share(f *os.File, recursive bool) (m *os.File, detached bool, err error) {
	if p.level != LevelRoot {
		return f, false, nil
	}
	m, err = mount.Clone(f, recursive)
	if errors.Is(err, unix.EPERM) {
		return f, false, nil // root of a container: the worker does what it can
	}
	if err != nil {
		return nil, false, fmt.Errorf("share %s with worker: %w", f.Name(), err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(p.Pid) + "/ns/user")
	if err != nil {
		_ = m.Close()
		return nil, false, fmt.Errorf("share %s with worker: %w", f.Name(), err)
	}
	defer ns.Close()
	err = mount.IDMap(m, ns, recursive)
	// EINVAL: the file system has no support. EPERM: it, or a mount below, belongs
	// to another namespace or is mapped already.
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EPERM) {
		_ = m.Close()
		return nil, false, fmt.Errorf("share %s with worker: %w", f.Name(), err)
	}
	return m, true, nil
}
