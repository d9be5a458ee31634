// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"strings"
	"testing"
	"time"
)

// standard is the header that package archive/tar writes.
func standard(hdr *tar.Header) ([]byte, error) {
	var b bytes.Buffer
	err := tar.NewWriter(&b).WriteHeader(hdr)
	return b.Bytes(), err
}

// sameHeader compares a header with that of package archive/tar.
func sameHeader(t *testing.T, hdr tar.Header) {
	t.Helper()
	a, b := hdr, hdr
	want, wantErr := standard(&a)
	var got bytes.Buffer
	err := new(headers).write(&got, &b)
	if (err == nil) != (wantErr == nil) {
		t.Fatalf("%+v: got error %v, want %v", hdr, err, wantErr)
	}
	if err == nil && !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%+v:\ngot  %q\nwant %q", hdr, got.Bytes(), want)
	}
}

func TestHeadersAreThoseOfTheStandardLibrary(t *testing.T) {
	now := time.Unix(1_795_294_560, 0)
	for _, tt := range []struct {
		what  string
		plain bool
		hdr   tar.Header
	}{
		{"file", true, tar.Header{Typeflag: tar.TypeReg, Name: "a/b", Mode: 0o4755, Uid: 1000, Gid: 100, Size: 12345, ModTime: now}},
		{"directory", true, tar.Header{Typeflag: tar.TypeDir, Name: "a/", Mode: 0o1777, ModTime: now}},
		{"longest name", true, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 100), ModTime: now}},
		{"prefix", false, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 90) + "/" + strings.Repeat("n", 90), ModTime: now}},
		{"long name", false, tar.Header{Typeflag: tar.TypeReg, Name: strings.Repeat("n", 101), ModTime: now}},
		{"umlaut", false, tar.Header{Typeflag: tar.TypeReg, Name: "ä", ModTime: now}},
		{"zero", false, tar.Header{Typeflag: tar.TypeReg, Name: "a\x00b", ModTime: now}},
		{"no name", false, tar.Header{Typeflag: tar.TypeReg, ModTime: now}},
		{"file with a slash", false, tar.Header{Typeflag: tar.TypeReg, Name: "a/", ModTime: now}},
		{"largest numbers", true, tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 0o7777777, Gid: 0o7777777, Size: 0o77777777777, ModTime: time.Unix(0o77777777777, 0)}},
		{"large owner", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", Uid: 0o10000000, ModTime: now}},
		{"large group", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", Gid: 0o10000000, ModTime: now}},
		{"large file", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", Size: 0o100000000000, ModTime: now}},
		{"late", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(0o100000000000, 0)}},
		{"before 1970", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(-1, 0)}},
		{"parts of a second", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(1, 600_000_000)}},
		{"no time", false, tar.Header{Typeflag: tar.TypeReg, Name: "a"}},
		{"1970", true, tar.Header{Typeflag: tar.TypeReg, Name: "a", ModTime: time.Unix(0, 0)}},
		{"attribute", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", ModTime: now, PAXRecords: map[string]string{paxXattr + "user.x": "y"}}},
		{"link", false, tar.Header{Typeflag: tar.TypeSymlink, Name: "a", Linkname: "b", ModTime: now}},
		{"further name", false, tar.Header{Typeflag: tar.TypeLink, Name: "a", Linkname: "b", ModTime: now}},
		{"device", false, tar.Header{Typeflag: tar.TypeChar, Name: "a", Devmajor: 1, Devminor: 3, ModTime: now}},
		{"user", false, tar.Header{Typeflag: tar.TypeReg, Name: "a", Uname: "root", ModTime: now}},
	} {
		sameHeader(t, tt.hdr)
		if got := new(headers).plain(&tt.hdr); got != tt.plain {
			t.Errorf("%s: plain: got %v, want %v", tt.what, got, tt.plain)
		}
	}
}

// FuzzHeaders compares headers with those of package archive/tar.
func FuzzHeaders(f *testing.F) {
	f.Add(byte(tar.TypeReg), "a/b", int64(0o644), 0, 0, int64(3), int64(1_795_294_560), int64(0))
	f.Add(byte(tar.TypeDir), "a/", int64(0o755), 1<<21, 7, int64(0), int64(-1), int64(1))
	f.Add(byte(tar.TypeReg), strings.Repeat("long/", 30), int64(1), 1, 1<<31, int64(1)<<33, int64(1)<<33, int64(0))
	f.Fuzz(func(t *testing.T, kind byte, name string, mode int64, uid, gid int, size, seconds, nanos int64) {
		if kind == tar.TypeDir {
			size = 0
		}
		sameHeader(t, tar.Header{Typeflag: kind, Name: name, Mode: mode, Uid: uid, Gid: gid, Size: size, ModTime: time.Unix(seconds, nanos)})
	})
}
