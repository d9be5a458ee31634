// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"testing"
)

// Words from which FuzzApplyEntries makes archives.
var (
	fuzzNames = []string{
		"a", "b", "a/b", "b/a", "a/b/c", "l", "l/a", "l/secret", "l/d/f", "a/l", "a/l/secret", ".wh.a", "a/.wh.b", "l/.wh.secret",
		"a/.wh..wh..opq", ".", "/a", "a/../b", "usr/lib/x", "lib", "lib/x", "f", "below/l/secret", ".wh.lib",
	}
	fuzzTargets = []string{
		"..", "../canary", "../../canary", "CANARY", "CANARY/secret", "/", "a", "b", "/a/b", "l", "a/l", "../tree1-sibling", ".", "/usr/lib", "f", "lib/x", "below/l",
	}
	fuzzTypes = []byte{tar.TypeReg, tar.TypeDir, tar.TypeSymlink, tar.TypeSymlink, tar.TypeLink, tar.TypeChar, tar.TypeFifo, tar.TypeReg}
)

// FuzzApplyEntries applies well-formed archives of hostile entries: three bytes of
// input make one entry.
func FuzzApplyEntries(f *testing.F) {
	f.Add([]byte{2, 5, 1, 0, 7, 0})
	f.Add([]byte{2, 9, 3, 0, 10, 0, 1, 9, 0, 0, 10, 0})
	f.Add([]byte{0, 11, 0, 1, 0, 0, 4, 5, 13, 0, 20, 0})
	f.Fuzz(func(t *testing.T, script []byte) {
		base := t.TempDir()
		canary := newCanary(t, base)
		before := canaryState(t, base)
		lower := pack(t, dir("usr/lib", 0o755), symlink("lib", "usr/lib"), symlink("below/l", canary), file("f", "x"))
		var list []entry
		for ; len(script) >= 3 && len(list) < 50; script = script[3:] {
			e := entry{Header: tar.Header{
				Typeflag: fuzzTypes[int(script[0])%len(fuzzTypes)],
				Name:     fuzzNames[int(script[1])%len(fuzzNames)],
				Mode:     int64(script[0]) * 8,
			}}
			if e.Typeflag == tar.TypeSymlink || e.Typeflag == tar.TypeLink {
				e.Linkname = fuzzTargets[int(script[2])%len(fuzzTargets)]
			}
			list = append(list, e.at(canary))
		}
		trees, _, err := applyAll(t, base, ApplyOptions{}, lower, pack(t, list...))
		if after := canaryState(t, base); after != before {
			t.Errorf("canary changed:\n%s\nwas:\n%s", after, before)
		}
		if err != nil {
			return
		}
		var first bytes.Buffer
		res, err := Diff(context.Background(), &first, trees[1], DiffOptions{})
		if err != nil {
			t.Fatalf("Diff: %v", err)
		}
		// What Diff wrote comes back as the same, by itself.
		_, again, err := applyAll(t, t.TempDir(), ApplyOptions{}, first.Bytes())
		if err != nil || again.DiffID != res.DiffID {
			t.Errorf("apply what was packed: %s, error %v, want %s", again.DiffID, err, res.DiffID)
		}
	})
}
