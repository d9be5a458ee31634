// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"io/fs"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// blockSize is the unit of st_blocks, whatever the file system's own is.
const blockSize = 512

// diskUsage sums the blocks below dir.
func diskUsage(ctx context.Context, dir string) (int64, error) {
	type inode struct{ dev, ino uint64 }
	seen := map[inode]bool{}
	var sum int64
	err := filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return nil // removed meanwhile
		}
		if st.Nlink > 1 && !e.IsDir() {
			k := inode{uint64(st.Dev), st.Ino}
			if seen[k] {
				return nil
			}
			seen[k] = true
		}
		sum += st.Blocks * blockSize
		return nil
	})
	return sum, err
}
