// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sweep ends what a step left whose first process was killed, which had it in its care: the
// children of this process that are no step's first process.
func (b *Bare) sweep() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for {
		orphans := b.orphans()
		if len(orphans) == 0 {
			return
		}
		for _, pid := range orphans {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		for _, pid := range orphans {
			// Their own children become ours.
			_, err := unix.Wait4(pid, nil, 0, nil)
			for errors.Is(err, unix.EINTR) {
				_, err = unix.Wait4(pid, nil, 0, nil)
			}
		}
	}
}

func (b *Bare) orphans() []int {
	lists, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		return nil
	}
	b.kids.Lock()
	defer b.kids.Unlock()
	var out []int
	for _, l := range lists {
		data, err := os.ReadFile(l)
		if err != nil {
			continue // a thread that ended
		}
		for _, f := range strings.Fields(string(data)) {
			if pid, err := strconv.Atoi(f); err == nil && !b.running[pid] {
				out = append(out, pid)
			}
		}
	}
	return out
}
