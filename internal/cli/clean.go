// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"build.stacker.dev/internal/progress"
)

func (a *app) cleanCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "clean",
		Short: "remove the project's oci, stacker and roots directories",
		Args:  cobra.NoArgs,
		RunE:  func(*cobra.Command, []string) error { return a.clean() },
	}
	cmd.Flags().Bool("all", false, "kept for compatibility: everything is removed anyway")
	return cmd
}

// clean removes what builds left in the project. The store of the user stays:
// stacker prune is for that.
func (a *app) clean() error {
	unlock, err := a.lockProject(false)
	if err != nil {
		return err
	}
	defer unlock()
	failed := false
	for _, dir := range []string{a.settings.rootsDir, a.settings.ociDir, a.settings.stackerDir} {
		size := sizeOf(dir)
		_, err := os.Lstat(dir)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = ours(dir)
		}
		if err == nil {
			err = os.RemoveAll(dir)
		}
		if err != nil {
			failed = true
			fmt.Fprintf(a.std.Err, "problem cleaning %s: %v\n", dir, err)
			continue
		}
		fmt.Fprintf(a.std.Err, "removed %s (%s)\n", dir, progress.Bytes(size))
	}
	if failed {
		return errors.New("cleaning failed")
	}
	return nil
}

// ownNames are the names that builds, of this program and of earlier ones, give to
// what they put into the project's directories.
var ownNames = []string{
	"oci-layout", "index.json", "blobs", "imports", "build.cache", "storage.type", "layer-bases", "imports-copy", "artifacts", "rootfsPivot", lockName,
}

// ours refuses to remove a directory with things that no build put there: a wrong
// option must not cost anybody their files.
func ours(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		n := e.Name()
		known := slices.Contains(ownNames, n) || strings.HasPrefix(n, ".tmp-") || strings.HasPrefix(n, "lxc-") || strings.HasPrefix(n, "sha256_")
		if !known && (!e.IsDir() || !isRoot(filepath.Join(dir, n), 0)) {
			return fmt.Errorf("it has %q, which no build put there: remove it by hand", n)
		}
	}
	return nil
}

// isRoot tells whether a directory in the roots directory is one of a stage, or
// the first part of a stage's name that has slashes. Empty ones were left by
// earlier versions.
func isRoot(dir string, depth int) bool {
	const deepest = 20
	entries, err := os.ReadDir(dir)
	if err != nil || depth > deepest {
		return false
	}
	for _, e := range entries {
		switch e.Name() {
		case "overlay", "rootfs", "work", "overlay,userxattr", "overlay_metadata.json":
			return true
		}
	}
	for _, e := range entries {
		if !e.IsDir() || !isRoot(filepath.Join(dir, e.Name()), depth+1) {
			return false
		}
	}
	return true
}

// sizeOf sums the sizes of the regular files below dir; what cannot be read is left out.
func sizeOf(dir string) int64 {
	var sum int64
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() {
			return nil
		}
		if info, err := e.Info(); err == nil {
			sum += info.Size()
		}
		return nil
	})
	return sum
}
