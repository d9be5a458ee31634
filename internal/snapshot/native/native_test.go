// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package native_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/native"
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
	for _, fs := range []string{"tmpfs", "ext4", "btrfs", "overlay"} {
		t.Run(fs, func(t *testing.T) {
			snapshottest.Run(t, func(t *testing.T) snapshot.Driver {
				dir := snapshottest.FileSystem(t, fs)
				if err := overlay.MakeDirs(dir); err != nil {
					t.Fatal(err)
				}
				return native.New(overlay.New(dir))
			}, view)
		})
	}
}

// view shows the snapshot where it lies.
func view(_ *testing.T, a snapshot.Active, f func(dir string)) { f(a.Root) }

// BenchmarkDriver compares a copy of the base with that of cp(1), sharing content
// where the file system can.
func BenchmarkDriver(b *testing.B) {
	for _, fs := range []string{"btrfs", "ext4"} {
		b.Run(fs, func(b *testing.B) {
			dir := snapshottest.FileSystem(b, fs)
			if err := overlay.MakeDirs(dir); err != nil {
				b.Fatal(err)
			}
			to := filepath.Join(dir, "copy")
			snapshottest.Bench(b, native.New(overlay.New(dir)), func(base string) {
				if out, err := exec.Command("cp", "-a", "--reflink=auto", base, to).CombinedOutput(); err != nil {
					b.Fatalf("cp: %v\n%s", err, out)
				}
				b.StopTimer()
				if err := os.RemoveAll(to); err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
			})
		})
	}
}
