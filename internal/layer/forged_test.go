// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"bytes"
	"context"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer/record"
)

// TestDropForged makes a tree like that of a step which sets every attribute that
// is a note, over a base that has some notes itself.
func TestDropForged(t *testing.T) {
	base := plant(t, [2]string{"dir/far", "f"}, [2]string{"device", ""})
	upper := plant(t, [2]string{"etc/moved", "f"}, [2]string{"renamed", ""}, [2]string{"shell", "s"}, [2]string{"sub/dir/", ""},
		[2]string{"disk", ""}, [2]string{"caps", "c"}, [2]string{"acl", "a"}, [2]string{"same-attribute", "o"})
	node := string(node{kind: 'c', major: 1, minor: 3, mode: 0o666}.encode())
	for _, x := range []struct{ dir, name, attr, value string }{
		{base, "dir/far", record.Owner, string(record.EncodeOwner(70000, 5))},
		{base, "device", xattrNode, node},
		{upper, "etc/moved", record.Owner, string(record.EncodeOwner(70000, 5))},
		{upper, "renamed", xattrNode, node},
		{upper, "shell", record.Owner, ""}, // 0:0
		{upper, "shell", "user.kept", "yes"},
		{upper, "sub/dir", record.Owner, string(record.EncodeOwner(7, 7))},
		{upper, ".", record.Owner, string(record.EncodeOwner(8, 8))},
		{upper, "disk", xattrNode, "b 8 0 666"},
		{upper, "caps", record.Capability, "x"},
		{upper, "acl", "user.stacker.acl_access", "x"},
		{upper, "same-attribute", record.Owner, node}, // not in this form
	} {
		if err := unix.Setxattr(filepath.Join(x.dir, x.name), x.attr, []byte(x.value), 0); err != nil {
			t.Fatal(err)
		}
	}
	if err := DropForged(t.Context(), upper, []string{base}); err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, name := range []string{".", "acl", "caps", "disk", "etc/moved", "renamed", "same-attribute", "shell", "sub/dir"} {
		buf := make([]byte, 1000)
		n, err := unix.Listxattr(filepath.Join(upper, name), buf)
		if err != nil {
			t.Fatal(err)
		}
		for attr := range strings.SplitSeq(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
			if strings.HasPrefix(attr, "user.") {
				got = append(got, name+" "+attr)
			}
		}
	}
	want := []string{"etc/moved " + record.Owner, "renamed " + xattrNode, "shell user.kept"}
	if !slices.Equal(got, want) {
		t.Errorf("left are %q, want %q", got, want)
	}
	var out bytes.Buffer
	if _, err := Diff(t.Context(), &out, upper, DiffOptions{}); err != nil {
		t.Errorf("pack what is left: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := DropForged(ctx, upper, nil); err == nil {
		t.Error("no error, though the context has ended")
	}
}
