// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package overlay_test

import (
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
	"build.stacker.dev/internal/snapshot/snapshottest"
)

func TestDriver(t *testing.T) {
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("mounting needs root")
		}
		t.Skip("mounting needs root")
	}
	for _, fs := range []string{"tmpfs", "ext4", "btrfs"} {
		t.Run(fs, func(t *testing.T) { testDriver(t, fs, false) })
	}
	t.Run("old", func(t *testing.T) { testDriver(t, "ext4", true) })
}

// testDriver runs the suite on a file system; old: mounting as before Linux 6.7.
func testDriver(t *testing.T, fs string, old bool) {
	snapshottest.Run(t, func(t *testing.T) snapshot.Driver {
		dir := snapshottest.FileSystem(t, fs)
		if err := overlay.MakeDirs(dir); err != nil {
			t.Fatal(err)
		}
		return overlay.New(dir)
	}, func(t *testing.T, a snapshot.Active, f func(dir string)) { view(t, a, old, f) })
}

// view mounts the snapshot over a directory.
func view(t *testing.T, a snapshot.Active, old bool, f func(dir string)) {
	t.Helper()
	lowers := a.Lowers
	if len(lowers) == 0 {
		lowers = []string{a.Extra}
	}
	m, err := mount.Overlay(mount.OverlayOptions{Lowers: lowers, Upper: a.Upper, Work: a.Work, Old: old})
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	dir := t.TempDir()
	at, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer at.Close()
	if err := mount.Attach(m, at); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	f(dir)
}
