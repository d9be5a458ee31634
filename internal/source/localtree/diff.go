// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"maps"

	"golang.org/x/sys/unix"
)

// What says in which way a path of two trees differs.
type What string

// The ways to differ. A path has several where several are true, except that
// Added, Removed and Type say everything.
const (
	Added   What = "added"
	Removed What = "removed"
	Type    What = "type"    // a file became a directory, …
	Content What = "content" // of a regular file
	Target  What = "target"  // of a symlink
	Mode    What = "mode"    // permissions
	Owner   What = "owner"
	Xattrs  What = "attributes"
)

// Change is one difference between two trees.
type Change struct {
	Path string
	What What
}

// Diff lists how the tree new differs from old, sorted by path. Both are sorted
// by path already, as those of a Tree and of Unmarshal are.
func Diff(old, new []Entry) []Change {
	var out []Change
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].Path < new[0].Path:
			out = append(out, Change{old[0].Path, Removed})
			old = old[1:]
		case len(old) == 0 || new[0].Path < old[0].Path:
			out = append(out, Change{new[0].Path, Added})
			new = new[1:]
		default:
			out = appendChanges(out, &old[0], &new[0])
			old, new = old[1:], new[1:]
		}
	}
	return out
}

func appendChanges(out []Change, a, b *Entry) []Change {
	if a.Mode&unix.S_IFMT != b.Mode&unix.S_IFMT {
		return append(out, Change{b.Path, Type})
	}
	add := func(differs bool, what What) {
		if differs {
			out = append(out, Change{b.Path, what})
		}
	}
	add(a.Digest != b.Digest || a.Size != b.Size, Content)
	add(a.Target != b.Target, Target)
	add(a.Perm() != b.Perm(), Mode)
	add(a.UID != b.UID || a.GID != b.GID, Owner)
	add(!maps.Equal(a.Xattrs, b.Xattrs), Xattrs)
	return out
}
