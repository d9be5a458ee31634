// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/overlay"
)

// TestUserSpaceFileSystems looks at state directories on file systems in user space (FUSE): what
// would make other layers there is refused, with what to do.
func TestUserSpaceFileSystems(t *testing.T) {
	if _, err := exec.LookPath("bindfs"); err != nil || os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("install bindfs, and run this as root")
		}
		t.Skip("needs bindfs, and root")
	}
	for _, c := range []struct {
		name, options, want string // want: part of the error; empty: none
		more                []string
	}{
		{"names kept together", "attr_timeout=0,entry_timeout=0,use_ino", "", nil},
		{"names kept by themselves", "attr_timeout=100", "does not keep the names of a file together", nil},
		{"no attributes", "attr_timeout=0", "no extended attributes", []string{"--xattr-none"}},
		{"no owners", "attr_timeout=0,entry_timeout=0,use_ino", "does not keep owners", []string{"--chown-ignore", "--chgrp-ignore"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			behind, dir := t.TempDir(), t.TempDir()
			cmd := exec.Command("bindfs", append(c.more, "-o", c.options, behind, dir)...)
			if out, err := cmd.CombinedOutput(); err != nil {
				t.Fatalf("bindfs: %v\n%s", err, out)
			}
			t.Cleanup(func() {
				if out, err := exec.Command("fusermount", "-u", dir).CombinedOutput(); err != nil {
					t.Errorf("fusermount: %v\n%s", err, out)
				}
			})
			trees := overlay.New(dir)
			for what, got := range map[string]choice{
				"any":  choose(snapshot.Auto, filepath.Join(dir, "probe"), trees),
				"bare": chooseBare(snapshot.Auto, filepath.Join(dir, "probe"), trees),
			} {
				if got.driver.Name() != snapshot.Native || (got.err == nil) != (c.want == "") || got.err != nil && !strings.Contains(got.err.Error(), c.want) {
					t.Errorf("%s: driver %s, error %v, want %s and %q", what, got.driver.Name(), got.err, snapshot.Native, c.want)
				}
			}
		})
	}
}
