// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fuse_test

import (
	"os"
	"testing"

	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/fuse"
	"build.stacker.dev/internal/snapshot/overlay"
	"build.stacker.dev/internal/snapshot/snapshottest"
)

func TestDriver(t *testing.T) {
	if err := fuse.Probe(t.TempDir()); err != nil || os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the suite needs root: ", err)
		}
		t.Skip("the suite needs root: ", err)
	}
	for _, fs := range []string{"tmpfs", "ext4"} {
		t.Run(fs, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshot.Driver {
				dir := snapshottest.FileSystem(t, fs)
				if err := overlay.MakeDirs(dir); err != nil {
					t.Fatal(err)
				}
				return fuse.New(overlay.New(dir))
			}, view)
		})
	}
}

// view shows the snapshot where it lies.
func view(_ *testing.T, a snapshot.Active, f func(dir string)) { f(a.Root) }
