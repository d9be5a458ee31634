// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"io"
	"os"

	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/rootfs"
)

// extractContext unpacks a build context that came as an archive. Files belong to
// the user, and no name leads out of dir.
func extractContext(ctx context.Context, in io.Reader, dir string) error {
	if err := os.Chmod(dir, 0o700); err != nil { //nolint:gosec // a directory is entered
		return err
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	return fileop.Extract(ctx, in, root)
}
