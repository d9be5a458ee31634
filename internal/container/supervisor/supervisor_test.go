// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"
	"unsafe"
)

// What the kernel does to ids, from setuid(2), setreuid(2) and setresuid(2).
func TestChange(t *testing.T) {
	const no = keep
	for _, tc := range []struct {
		name       string
		f          change
		old        ids
		privileged bool
		args       [3]uint32
		want       ids
		errno      syscall.Errno
	}{
		{"root drops all", setOne, ids{}, true, [3]uint32{5}, ids{5, 5, 5, 5}, 0},
		{"back to the real one", setOne, ids{5, 6, 7, 6}, false, [3]uint32{5}, ids{5, 5, 7, 5}, 0},
		{"back to the saved one", setOne, ids{5, 6, 7, 6}, false, [3]uint32{7}, ids{5, 7, 7, 7}, 0},
		{"no other", setOne, ids{5, 5, 5, 5}, false, [3]uint32{0}, ids{5, 5, 5, 5}, syscall.EPERM},
		{"no id at all", setOne, ids{}, true, [3]uint32{no}, ids{}, syscall.EINVAL},
		{"an id that nobody has", setOne, ids{}, true, [3]uint32{65536}, ids{}, syscall.EINVAL},
		{"swap", setTwo, ids{5, 6, 6, 6}, false, [3]uint32{6, 5}, ids{6, 5, 5, 5}, 0},
		{"effective only, the real one: saved stays", setTwo, ids{5, 6, 7, 6}, false, [3]uint32{no, 5}, ids{5, 5, 7, 5}, 0},
		{"effective only, the saved one: saved follows", setTwo, ids{5, 6, 7, 6}, false, [3]uint32{no, 7}, ids{5, 7, 7, 7}, 0},
		{"real to saved is refused", setTwo, ids{5, 6, 7, 6}, false, [3]uint32{7, no}, ids{5, 6, 7, 6}, syscall.EPERM},
		{"three", setThree, ids{}, true, [3]uint32{1, 2, 3}, ids{1, 2, 3, 2}, 0},
		{"three of what there is", setThree, ids{1, 2, 3, 2}, false, [3]uint32{3, 1, 2}, ids{3, 1, 2, 1}, 0},
		{"three, one foreign", setThree, ids{1, 2, 3, 2}, false, [3]uint32{3, 4, 2}, ids{1, 2, 3, 2}, syscall.EPERM},
		{"three, nothing", setThree, ids{1, 2, 3, 2}, false, [3]uint32{no, no, no}, ids{1, 2, 3, 2}, 0},
		{"file system id", setFileSystem, ids{1, 2, 3, 2}, false, [3]uint32{3}, ids{1, 2, 3, 3}, 0},
		{"file system id, foreign", setFileSystem, ids{1, 2, 3, 2}, false, [3]uint32{4}, ids{1, 2, 3, 2}, 0},
	} {
		got, e := tc.f(tc.old, tc.privileged, tc.args)
		if got != tc.want || e != tc.errno {
			t.Errorf("%s: got %v, %v, want %v, %v", tc.name, got, e, tc.want, tc.errno)
		}
	}
}

// capabilities(7), "Effect of user ID changes on capabilities".
func TestFollow(t *testing.T) {
	const all = 0x800405fb
	root := capSets{permitted: all, effective: all}
	user, half := ids{5, 5, 5, 5}, ids{0, 5, 0, 5}
	for _, tc := range []struct {
		name     string
		old, now ids
		c, want  capSets
	}{
		{"root becomes a user", ids{}, user, root, capSets{}},
		{"root becomes a user and keeps", ids{}, user, capSets{permitted: all, effective: all, keep: true}, capSets{permitted: all, keep: true}},
		{"for a time", ids{}, half, root, capSets{permitted: all}},
		{"and back", half, ids{}, capSets{permitted: all}, root},
		{"without fixups", ids{}, user, capSets{permitted: all, effective: all, noFixup: true}, capSets{permitted: all, effective: all, noFixup: true}},
		{"user to user", user, ids{6, 6, 6, 6}, capSets{permitted: 1, effective: 1}, capSets{permitted: 1, effective: 1}},
	} {
		tc.c.follow(tc.old, tc.now)
		if tc.c != tc.want {
			t.Errorf("%s: got %+v, want %+v", tc.name, tc.c, tc.want)
		}
	}
	c := root
	c.followFileSystem(0, 5)
	if c.effective != all&^capFS {
		t.Errorf("setfsuid(5): effective %x, want %x", c.effective, uint64(all&^capFS))
	}
	if c.followFileSystem(5, 0); c != root {
		t.Errorf("setfsuid(0): %+v, want %+v", c, root)
	}
}

func TestMayMake(t *testing.T) {
	c := creds{uid: ids{5, 5, 5, 5}, gid: ids{6, 6, 6, 6}, groups: []uint32{7}}
	for _, tc := range []struct {
		mode, uid, gid uint32
		want           bool
	}{
		{0o700, 5, 0, true}, {0o077, 5, 6, false}, {0o770, 0, 6, true}, {0o770, 0, 7, true}, {0o770, 0, 8, false},
		{0o777, 0, 0, true}, {0o775, 0, 0, false}, {0o707, 0, 7, false}, {0o1777, 0, 0, true}, {0o722, 0, 0, false},
	} {
		if got := c.mayMake(tc.mode, tc.uid, tc.gid); got != tc.want {
			t.Errorf("mode %o of %d:%d: got %v, want %v", tc.mode, tc.uid, tc.gid, got, tc.want)
		}
	}
}

// acl makes an access control list of tag, permissions and id.
func acl(entries ...[3]uint32) []byte {
	b := []byte{2, 0, 0, 0}
	for _, e := range entries {
		b = binary.LittleEndian.AppendUint16(b, uint16(e[0]))
		b = binary.LittleEndian.AppendUint16(b, uint16(e[1]))
		b = binary.LittleEndian.AppendUint32(b, e[2])
	}
	return b
}

func TestReadACL(t *testing.T) {
	const none = 1<<32 - 1
	for _, tc := range []struct {
		list    []byte
		mode    uint32
		foreign bool
	}{
		{acl([3]uint32{1, 6, none}, [3]uint32{4, 4, none}, [3]uint32{0x20, 0, none}), 0o640, false},
		{acl([3]uint32{1, 7, none}, [3]uint32{2, 6, 1500}, [3]uint32{4, 4, none}, [3]uint32{0x10, 6, none}, [3]uint32{0x20, 1, none}), 0o761, true},
		{acl([3]uint32{1, 7, none}, [3]uint32{4, 4, none}, [3]uint32{8, 4, 0}, [3]uint32{0x10, 5, none}, [3]uint32{0x20, 0, none}), 0o750, false},
		{[]byte{2, 0}, 0, false}, {append(acl(), 1, 2, 3), 0, false}, {nil, 0, false},
	} {
		if mode, foreign := readACL(tc.list); mode != tc.mode || foreign != tc.foreign {
			t.Errorf("readACL(%x) = %o, %v, want %o, %v", tc.list, mode, foreign, tc.mode, tc.foreign)
		}
	}
}

func FuzzReadACL(f *testing.F) {
	f.Add(acl([3]uint32{1, 7, 0}, [3]uint32{8, 255, 9}))
	f.Fuzz(func(t *testing.T, b []byte) {
		if mode, _ := readACL(b); mode > 0o777 {
			t.Errorf("mode %o", mode)
		}
	})
}

func TestSplit(t *testing.T) {
	for _, tc := range []struct {
		path, dir, leaf string
		ok              bool
	}{
		{"a", "", "a", true}, {"/a", "/", "a", true}, {"a/b", "a", "b", true}, {"/a/b/", "/a", "b", true}, {"//a//b//", "//a", "b", true},
		{"/", "", "", false}, {"", "", "", false}, {".", "", "", false}, {"a/..", "", "", false}, {"a/.", "", "", false},
	} {
		s := &supervisor{}
		s.pathLen = copy(s.path[:], tc.path)
		dir, leaf, ok := s.split()
		if ok != tc.ok {
			t.Errorf("%q: %v, want %v", tc.path, ok, tc.ok)
			continue
		}
		if !ok {
			continue
		}
		end := slices.Index(s.leaf[:], 0)
		if got := string(s.path[:dir]); got != tc.dir || string(s.leaf[:end]) != tc.leaf || leaf != &s.leaf[0] {
			t.Errorf("%q: %q and %q, want %q and %q", tc.path, got, s.leaf[:end], tc.dir, tc.leaf)
		}
	}
	s := &supervisor{}
	for i := range 300 {
		s.path[i] = 'x'
	}
	s.pathLen = 300
	if _, _, ok := s.split(); ok {
		t.Error("a name of 300 bytes was taken")
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("a/b/c//", int32(3))
	f.Add("/proc/self/fd/4", int32(-100))
	f.Fuzz(func(t *testing.T, path string, dir int32) {
		s := &supervisor{}
		s.pathLen = copy(s.path[:pathMax], path)
		if i := slices.Index(s.path[:s.pathLen], 0); i >= 0 {
			s.pathLen = i
		}
		s.ownFile(s.path[:s.pathLen])
		s.named(dir, s.pathLen)
		if _, leaf, ok := s.split(); ok && *leaf == 0 {
			t.Errorf("%q has an empty last element", path)
		}
	})
}

func TestOwnFile(t *testing.T) {
	for path, want := range map[string]int32{
		"/dev/stdout": 1, "/dev/fd/63": 63, "/proc/self/fd/0": 0, "/proc/thread-self/fd/7": 7, "/dev/null": -1, "/dev/fd/": -1, "/dev/fd/1/x": -1, "/dev/fd/99999999": -1,
		"/proc/selfish/fd/3": -1, "/proc/self/fd": -1,
	} {
		got, ok := (&supervisor{}).ownFile([]byte(path))
		if !ok {
			got = -1
		}
		if got != want {
			t.Errorf("%s: %d, want %d", path, got, want)
		}
	}
}

func TestOwnPlace(t *testing.T) {
	type place struct {
		dir  int32
		rest string
	}
	none := place{}
	for path, want := range map[string]place{
		"/proc/self/fd/3/a": {3, "a"}, "/dev/fd/12//a/b/": {12, "a/b/"}, "/proc/thread-self/fd/0/../x": {0, "../x"},
		"/proc/self/cwd/a": {atFdcwd, "a"}, "/proc/self/cwd//a": {atFdcwd, "a"}, "/proc/self/root/a": {atFdcwd, "/a"}, "/proc/self/root/": {atFdcwd, "/"},
		"/proc/self/fd/3": none, "/proc/self/fd/3/": none, "/proc/self/fd//a": none, "/proc/self/fd/x/a": none, "/proc/self/fd/99999999999/a": none,
		"/proc/self/cwd": none, "/proc/self/cwd/": none, "/proc/self/cwdx/a": none, "/proc/self/root": none, "/proc/selfish/cwd/a": none,
		"/proc/self/task/1/cwd/a": none, "/proc/1/root/a": none, "/proc/0/cwd/a": none, "/proc/": none, "/dev/fd/": none, "/dev/null": none, "": none,
	} {
		s := &supervisor{call: notification{pid: 1 << 30}}
		dir, rest, ok := s.ownPlace([]byte(path))
		got := none
		if ok {
			got = place{dir, path[rest:]}
		}
		if got != want {
			t.Errorf("%s: %v, want %v", path, got, want)
		}
	}
}

// TestTable fills the table: the step is then refused more, and all that it had
// stays.
func TestTable(t *testing.T) {
	s := &supervisor{table: []creds{newCreds(IDs{Caps: 1})}}
	for i := range maxCreds + 10 {
		e := s.intern(creds{uid: ids{uint32(i + 1)}})
		if refused := i >= maxCreds-1; (e < 0) != refused {
			t.Fatalf("entry %d: %d", i, e)
		}
	}
	for range 100 {
		n := rand.IntN(maxCreds-1) + 1
		if got := s.intern(creds{uid: ids{uint32(n)}}); got != n {
			t.Fatalf("entry %d was found at %d", n, got)
		}
	}
	s = &supervisor{table: []creds{{}}}
	groups := make([]uint32, perCreds)
	for i := range maxGroups/perCreds + 1 {
		if n := s.intern(creds{uid: ids{uint32(i + 1)}, groups: groups}); (n < 0) != (i >= maxGroups/perCreds) {
			t.Fatalf("groups %d: %d", i, n)
		}
	}
}

func TestHasName(t *testing.T) {
	for list, want := range map[string]bool{
		"": false, "user.a\x00": false, "user.a\x00user.rootlesscontainers\x00": true, "user.rootlesscontainers\x00x\x00": true,
		"user.rootlesscontainers.x\x00": false, "user.rootlesscontainers": false, "\x00\x00": false,
	} {
		if got := hasName([]byte(list), ownerAttr); got != want {
			t.Errorf("%q: %v, want %v", list, got, want)
		}
	}
}

// The kernel writes as much as it has.
func TestSizes(t *testing.T) {
	for name, got := range map[string][2]uintptr{
		"statx":        {unsafe.Sizeof(statxBuf{}), 256},
		"mount id":     {unsafe.Offsetof(statxBuf{}.mountID), 144},
		"notification": {unsafe.Sizeof(notification{}), 80},
		"response":     {unsafe.Sizeof(response{}), 24},
	} {
		if got[0] != got[1] {
			t.Errorf("%s: %d bytes, want %d", name, got[0], got[1])
		}
	}
}
