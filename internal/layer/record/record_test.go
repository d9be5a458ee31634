// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package record_test

import (
	"testing"

	"build.stacker.dev/internal/layer/record"
)

func TestOwner(t *testing.T) {
	for _, tc := range []struct {
		uid, gid uint32
		want     string
	}{
		{0, 0, ""},
		{5, 0, "\x08\x05"},
		{0, 42, "\x10\x2a"},
		{1000, 300, "\x08\xe8\x07\x10\xac\x02"},
		{record.NoID - 1, 65535, "\x08\xfe\xff\xff\xff\x0f\x10\xff\xff\x03"},
	} {
		got := record.EncodeOwner(tc.uid, tc.gid)
		if string(got) != tc.want {
			t.Errorf("EncodeOwner(%d, %d) = %q, want %q", tc.uid, tc.gid, got, tc.want)
		}
		if uid, gid, err := record.DecodeOwner(got, 7, 7); uid != tc.uid || gid != tc.gid || err != nil {
			t.Errorf("DecodeOwner(%q) = %d, %d, %v, want %d, %d", got, uid, gid, err, tc.uid, tc.gid)
		}
	}
}

func TestSpecial(t *testing.T) {
	b := record.EncodeSpecial(1234, 65534)
	if uid, gid, ok := record.DecodeSpecial(b); uid != 1234 || gid != 65534 || !ok {
		t.Errorf("DecodeSpecial(%x) = %d, %d, %v", b, uid, gid, ok)
	}
	// Capabilities of a file: all, those of revision 2 and 3.
	for _, other := range []string{
		"", "\x01\x00\x00\x02", "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00",
		"\x01\x00\x00\x03\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\xe9\x03\x00\x00", string(b) + "\x00", string(b[:19]),
	} {
		if uid, gid, ok := record.DecodeSpecial([]byte(other)); ok {
			t.Errorf("DecodeSpecial(%x) = %d, %d, want none", other, uid, gid)
		}
	}
}

func TestACL(t *testing.T) {
	for _, name := range []string{"system.posix_acl_access", "system.posix_acl_default"} {
		note, ok := record.ACL(name)
		if back, known := record.NotedACL(note); !ok || !known || back != name {
			t.Errorf("ACL(%s) = %s, %v; NotedACL = %s, %v", name, note, ok, back, known)
		}
	}
	for _, name := range []string{"", "user.x", "system.posix_acl_", "security.capability", record.Owner} {
		if note, ok := record.ACL(name); ok {
			t.Errorf("ACL(%q) = %q, want none", name, note)
		}
	}
}

func FuzzOwner(f *testing.F) {
	f.Add([]byte("\x08\xe8\x07\x10\xac\x02"))
	f.Add([]byte("\x08\xff\xff\xff\xff\xff"))
	f.Fuzz(func(t *testing.T, b []byte) {
		uid, gid, err := record.DecodeOwner(b, 0, 0)
		if err != nil {
			return
		}
		u, g, err := record.DecodeOwner(record.EncodeOwner(uid, gid), 0, 0)
		if u != uid || g != gid || err != nil {
			t.Errorf("%q is %d:%d, and read again %d:%d, %v", b, uid, gid, u, g, err)
		}
	})
}
