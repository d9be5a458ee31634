// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/localtree"
)

// tree lists paths: a slash at the end is a directory, "a -> b" a link.
func tree(paths ...string) *Tree {
	entries := []localtree.Entry{{Mode: unix.S_IFDIR | 0o755}}
	for _, p := range paths {
		if name, target, ok := strings.Cut(p, " -> "); ok {
			entries = append(entries, localtree.Entry{Path: name, Mode: unix.S_IFLNK | 0o777, Target: target})
		} else if dir, ok := strings.CutSuffix(p, "/"); ok {
			entries = append(entries, localtree.Entry{Path: dir, Mode: unix.S_IFDIR | 0o755})
		} else {
			entries = append(entries, localtree.Entry{Path: p, Mode: unix.S_IFREG | 0o644})
		}
	}
	return ListTree(entries, nil, "", "")
}

func TestChoose(t *testing.T) {
	all := tree("a/", "a/b/", "a/b/x.go", "a/b/y.md", "a/l -> b", "c.go", "up -> ../../a/b", "loop -> loop")
	tests := []struct {
		name string
		copy action.Copy
		want string
	}{
		{"file", action.Copy{Src: "/c.go"}, "c.go"},
		{"tree", action.Copy{Src: "a/b"}, "a/b a/b/x.go a/b/y.md"},
		{"wildcard", action.Copy{Src: "*.go", Wildcard: true}, "c.go"},
		{"wildcard in the middle", action.Copy{Src: "a/*/x.go", Wildcard: true}, "a/b/x.go"},
		{"no slash matches", action.Copy{Src: "*/x.go", Wildcard: true, AllowNone: true}, ""},
		{"link followed", action.Copy{Src: "a/l", FollowLinks: true}, "a/b a/b/x.go a/b/y.md"},
		{"link kept", action.Copy{Src: "a/l"}, "a/l"},
		{"link stays inside", action.Copy{Src: "up", FollowLinks: true}, "a/b a/b/x.go a/b/y.md"},
		{"dots stay inside", action.Copy{Src: "../../c.go"}, "c.go"},
		{"exclude", action.Copy{Src: "a", Exclude: []string{"**/*.md"}}, "a a/b a/b/x.go a/l"},
		{"exclude but", action.Copy{Src: "a", Exclude: []string{"b", "!b/x.go"}}, "a a/b a/b/x.go a/l"},
		{"include", action.Copy{Src: "/", Include: []string{"a/b/x.go"}}, ". a a/b a/b/x.go"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var got []string
			err := Choose(all, &tt.copy, func(p, _ string) error {
				got = append(got, p)
				return nil
			})
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("got %q, error %v, want %q", got, err, tt.want)
			}
		})
	}
	for _, c := range []action.Copy{
		{Src: "missing"}, {Src: "*.c", Wildcard: true}, {Src: "[", Wildcard: true}, {Src: "loop", FollowLinks: true},
		{Src: "/", Include: []string{"a"}, Required: []string{"/missing"}}, {Src: "a", Exclude: []string{"["}},
	} {
		if err := Choose(all, &c, func(string, string) error { return nil }); err == nil {
			t.Errorf("%+v: no error", c)
		}
	}
}

func TestLookupUser(t *testing.T) {
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer root.Close()
	d := newDoer(Options{Root: root})
	d.plain = true
	for name, text := range map[string]string{
		"/etc/passwd": "root:x:0:0::/root:/bin/sh\nbroken\napp:x:10:20::/home/app:/bin/sh\nhuge:x:99999999999:1::/:\n",
		"/etc/group":  "root:x:0:\nother:x:30:app,x\nthird:x:31:appx\n",
	} {
		if err := Do(t.Context(), d.Options, nil); err != nil {
			t.Fatal(err)
		}
		if _, err := d.mkdirs("etc", 0o755, nil, nil); err != nil {
			t.Fatal(err)
		}
		if err := d.file(&action.File{Path: name, Mode: 0o644, Data: []byte(text)}); err != nil {
			t.Fatal(err)
		}
	}
	tests := []struct {
		spec string
		want User
		fail bool
	}{
		{"app", User{10, 20, []uint32{20, 30}, "/home/app"}, false},
		{"10", User{10, 20, []uint32{20, 30}, "/home/app"}, false},
		{"app:other", User{10, 30, []uint32{30}, "/home/app"}, false},
		{"app:31", User{10, 31, []uint32{31}, "/home/app"}, false},
		{"77", User{77, 0, []uint32{0}, ""}, false},
		{"01", User{1, 0, []uint32{0}, ""}, false},
		{spec: "nobody", fail: true}, {spec: "app:nobody", fail: true}, {spec: "huge", fail: true}, {spec: "-1", fail: true},
		{spec: "+1", fail: true}, {spec: "0x1", fail: true}, {spec: "1.0", fail: true}, {spec: "2147483648", fail: true},
		{spec: "4294967296", fail: true}, {spec: "0:4294967296", fail: true},
	}
	for _, tt := range tests {
		got, err := LookupUser(root, tt.spec)
		same := got.UID == tt.want.UID && got.GID == tt.want.GID && got.Home == tt.want.Home && slices.Equal(got.Groups, tt.want.Groups)
		if (err != nil) != tt.fail || err == nil && !same {
			t.Errorf("%s: got %+v, error %v, want %+v, failure %t", tt.spec, got, err, tt.want, tt.fail)
		}
	}
}
