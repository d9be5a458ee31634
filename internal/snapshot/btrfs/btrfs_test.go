// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package btrfs_test

import (
	"os"
	"testing"

	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/btrfs"
	"build.stacker.dev/internal/snapshot/overlay"
	"build.stacker.dev/internal/snapshot/snapshottest"
)

func TestDriver(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("the suite needs root")
		}
		t.Skip("the suite needs root")
	}
	for _, fs := range []string{"btrfs"} {
		t.Run(fs, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshot.Driver {
				dir := snapshottest.FileSystem(t, fs)
				if err := overlay.MakeDirs(dir); err != nil {
					t.Fatal(err)
				}
				return btrfs.New(overlay.New(dir))
			}, view)
		})
	}
}

// view shows the snapshot where it lies.
func view(_ *testing.T, a snapshot.Active, f func(dir string)) { f(a.Root) }

func BenchmarkDriver(b *testing.B) {
	dir := snapshottest.FileSystem(b, "btrfs")
	if err := overlay.MakeDirs(dir); err != nil {
		b.Fatal(err)
	}
	snapshottest.Bench(b, btrfs.New(overlay.New(dir)), nil)
}
