// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

func TestStamps(t *testing.T) {
	entries := []Entry{
		{Mode: unix.S_IFDIR},
		{Path: "a", Mode: unix.S_IFREG, Stamp: Stamp{1, 2, -3, 4}},
		{Path: "b", Mode: unix.S_IFLNK},
		{Path: "c", Mode: unix.S_IFREG},
	}
	bare := slices.Clone(entries)
	bare[1].Stamp = Stamp{}
	data := MarshalStamps(entries)
	if err := SetStamps(bare, data); err != nil || bare[1].Stamp != entries[1].Stamp || bare[3].Stamp != (Stamp{}) {
		t.Errorf("got %+v (%v), want %+v", bare, err, entries)
	}
	for _, n := range []int{0, len(data) - 1, stampSize} {
		if SetStamps(bare, data[:n]) == nil {
			t.Errorf("%d bytes of %d are taken", n, len(data))
		}
	}
	if SetStamps(bare, append(data, 0)) == nil {
		t.Error("a byte too many is taken")
	}
}

// TestYoungFileHasNoStamp: its content could change without the stamp.
func TestYoungFileHasNoStamp(t *testing.T) {
	root := makeTree(t, "f=x")
	young := scanTree(t, OpenIndex(""), root, Options{})
	for _, e := range young.Entries {
		if e.Stamp != (Stamp{}) {
			t.Errorf("%s was written just now and has a stamp", e.Path)
		}
	}
	old := scanTree(t, later(t), root, Options{})
	if e := old.Entries[len(old.Entries)-1]; e.Stamp == (Stamp{}) {
		t.Errorf("%s is old and has no stamp", e.Path)
	}
}
