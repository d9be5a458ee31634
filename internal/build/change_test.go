// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/source/localtree"
)

// What below finds is what the rules of package fileop choose.
func TestListingBelow(t *testing.T) {
	const dir, file, link = unix.S_IFDIR | 0o755, unix.S_IFREG | 0o644, unix.S_IFLNK | 0o777
	var all listings
	l := &listing{entries: []localtree.Entry{
		{Path: "", Mode: dir}, {Path: "a", Mode: dir}, {Path: "a-b", Mode: file}, {Path: "a.go", Mode: file},
		{Path: "a/b", Mode: dir}, {Path: "a/b/c", Mode: file}, {Path: "a/b0", Mode: file}, {Path: "a/z", Mode: link, Target: "b"},
		{Path: "a0", Mode: file}, {Path: "l", Mode: link, Target: "a"}, {Path: "z", Mode: dir},
	}}
	all.add(l)
	tests := []struct {
		copy action.Copy
		fast bool
	}{
		{action.Copy{Src: "/"}, true},
		{action.Copy{Src: "a"}, true},
		{action.Copy{Src: "/a/", Wildcard: true}, true},
		{action.Copy{Src: "a/b", FollowLinks: true}, true},
		{action.Copy{Src: "a/b/c"}, true},
		{action.Copy{Src: "../a0"}, true},
		{action.Copy{Src: "z"}, true},
		{action.Copy{Src: "a/z"}, false},
		{action.Copy{Src: "l", FollowLinks: true}, false},
		{action.Copy{Src: "l/b", FollowLinks: true}, false},
		{action.Copy{Src: "a*", Wildcard: true}, false},
		{action.Copy{Src: "a", Exclude: []string{"b"}}, false},
		{action.Copy{Src: "missing"}, false},
		{action.Copy{Src: "a-b/x"}, false},
	}
	for _, tt := range tests {
		fast := l.below(&tt.copy)
		if (fast != nil) != tt.fast {
			t.Errorf("%+v: found without a closer look: %t, want %t", tt.copy, fast != nil, tt.fast)
		}
		if fast == nil {
			continue
		}
		want, err := l.matching(&tt.copy)
		if err != nil {
			t.Fatalf("%+v: %v", tt.copy, err)
		}
		if got := string(localtree.Marshal(fast)); got != string(localtree.Marshal(want)) {
			t.Errorf("%+v: got %v, want %v", tt.copy, fast, want)
		}
	}
}
