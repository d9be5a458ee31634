// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"os"
	"path/filepath"
	"testing"

	"build.stacker.dev/internal/snapshot"
)

// Where memory has no attributes, mount points are made beside the snapshot, and
// anew for each command that is started on it.
func TestPointsDir(t *testing.T) {
	base := t.TempDir()
	a := snapshot.Active{Upper: filepath.Join(base, "fs"), Extra: filepath.Join(base, "memory")}
	if err := os.Mkdir(a.Upper, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		plain bool
		root  string
		want  string
	}{
		{false, "", a.Extra},
		{true, filepath.Join(base, "root"), a.Extra},
		{true, "", filepath.Join(base, "extra")},
		{true, "", filepath.Join(base, "extra")},
	} {
		a.Root = c.root
		s := &server{plain: c.plain}
		got, err := s.pointsDir(a)
		if err != nil || filepath.Clean(got) != c.want {
			t.Fatalf("plain %t, root %q: got %q, %v; want %q", c.plain, c.root, got, err, c.want)
		}
		if got == a.Extra {
			continue
		}
		if names, err := os.ReadDir(got); err != nil || len(names) > 0 {
			t.Errorf("it has %v, %v; want it empty", names, err)
		}
		if err := os.Mkdir(filepath.Join(got, "left"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}
