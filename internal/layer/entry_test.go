// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// all is a layer in Diff's form with everything that an archive can say.
func all() []entry {
	opaqueMark := file("d/"+opaqueMarker, "").mode(0)
	gone := file("d/.wh.gone", "").mode(0)
	for _, e := range []*entry{&opaqueMark, &gone} {
		e.ModTime = removed("").ModTime
	}
	device := entry{Header: tar.Header{Typeflag: tar.TypeBlock, Name: "z/disk", Mode: 0o660, Devmajor: 8, Devminor: 300}}
	return []entry{
		dir("./", 0o750), dir("d/", 0o1777).xattr("user.x", "1").xattr("user.overlay.redirect", "nested"), opaqueMark, gone,
		file("d/set", "id").mode(0o4755).owned(7, 70000), hardlink("d/set2", "d/set").mode(0o4755).owned(7, 70000),
		file("e", strings.Repeat("content", 1000)).xattr("security.capability", "\x01\x00"),
		symlink("l", strings.Repeat("long/", 60)), dir("z/", 0o755), device,
		{Header: tar.Header{Typeflag: tar.TypeFifo, Name: "z/fifo", Mode: 0o622}},
	}
}

func TestEntriesKeepTheArchive(t *testing.T) {
	want := pack(t, all()...)
	var got bytes.Buffer
	if err := ToArchive(context.Background(), &got, FromArchive(bytes.NewReader(want))); err != nil {
		t.Fatal(err)
	}
	// A hard link's other fields come from the reader of an image; here they are
	// those of the archive.
	if !bytes.Equal(got.Bytes(), want) {
		t.Errorf("archive of the entries of an archive:\n%s\nwant:\n%s", describeArchive(t, got.Bytes()), describeArchive(t, want))
	}
}

func describeArchive(t *testing.T, b []byte) string {
	var out strings.Builder
	for hdr, err := range Entries(bytes.NewReader(b)) {
		if err != nil {
			t.Fatal(err)
		}
		out.WriteString(strings.Join([]string{hdr.Name, hdr.Linkname, hdr.FileInfo().Mode().String()}, " ") + "\n")
	}
	return out.String()
}

func TestEntriesForm(t *testing.T) {
	found := map[string]Entry{}
	for e, err := range FromArchive(bytes.NewReader(pack(t, all()...))) {
		if err != nil {
			t.Fatal(err)
		}
		found[e.Name] = *e
	}
	if e := found["d/gone"]; !e.IsWhiteout() {
		t.Errorf("whiteout is %+v", e)
	}
	want := []Xattr{{"user.overlay.opaque", "y"}, {"user.overlay.overlay.redirect", "nested"}, {"user.x", "1"}}
	if got := found["d"].Xattrs; !slices.Equal(got, want) {
		t.Errorf("attributes of the opaque directory %v, want %v", got, want)
	}
	if e := found["z/disk"]; e.Mode != unix.S_IFBLK|0o660 || e.Major != 8 || e.Minor != 300 {
		t.Errorf("device is %+v", e)
	}
}

func TestArchiveNotInOrder(t *testing.T) {
	tests := []struct {
		name    string
		entries []entry
	}{
		{"not sorted", []entry{file("b", ""), file("a", "")}},
		{"twice", []entry{file("a", ""), file("a", "")}},
		{"twice as whiteout", []entry{file(".wh.a", ""), file("a", "")}},
		{"no directory", []entry{file("a/b", "")}},
		{"directory is a file", []entry{file("a", ""), file("a/b", "")}},
		{"directory is a link", []entry{symlink("a", "/"), file("a/b", "")}},
		{"directory again", []entry{dir("a/", 0o755), file("b", ""), file("a/b", "")}},
		{"late root", []entry{file("a", ""), dir("./", 0o755)}},
		{"late opaque mark", []entry{dir("a/", 0o755), file("a/b", ""), file("a/"+opaqueMarker, "")}},
		{"climbing link", []entry{file("a", ""), hardlink("b", "../a")}},
		{"device 0:0", []entry{{Header: tar.Header{Typeflag: tar.TypeChar, Name: "a"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var entryErr *EntryError
			if err := drain(FromArchive(bytes.NewReader(pack(t, tt.entries...)))); !errors.As(err, &entryErr) {
				t.Errorf("got %v, want an EntryError", err)
			}
		})
	}
}

func drain(entries iter.Seq2[*Entry, error]) error {
	for _, err := range entries {
		if err != nil {
			return err
		}
	}
	return nil
}

func TestHostileEntries(t *testing.T) {
	const reg = unix.S_IFREG | 0o644
	tests := []struct {
		name string
		e    Entry
	}{
		{"climbing", Entry{Name: "../a", Mode: reg}},
		{"absolute", Entry{Name: "/a", Mode: reg}},
		{"dot", Entry{Name: "./a", Mode: reg}},
		{"empty", Entry{Mode: reg}},
		{"root is a file", Entry{Name: ".", Mode: reg}},
		{"NUL", Entry{Name: "a\x00b", Mode: reg}},
		{"whiteout name", Entry{Name: ".wh.a", Mode: reg}},
		{"no type", Entry{Name: "a", Mode: 0o644}},
		{"link to nothing", Entry{Name: "a", Mode: unix.S_IFLNK}},
		{"negative size", Entry{Name: "a", Mode: reg, Size: -1}},
		{"short content", Entry{Name: "a", Mode: reg, Size: 5, Content: strings.NewReader("1234")}},
		{"bad owner", Entry{Name: "a", Mode: reg, UID: 1<<32 - 1}},
		{"attributes twice", Entry{Name: "a", Mode: reg, Xattrs: []Xattr{{"user.a", ""}, {"user.a", ""}}}},
		{"attribute without a name", Entry{Name: "a", Mode: reg, Xattrs: []Xattr{{}}}},
		{"redirect", Entry{Name: "a", Mode: unix.S_IFDIR, Xattrs: []Xattr{{"trusted.overlay.redirect", "/x"}}}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			one := func(yield func(*Entry, error) bool) { yield(&tt.e, nil) }
			if err := ToArchive(context.Background(), io.Discard, one); err == nil {
				t.Errorf("%+v was taken", tt.e)
			}
		})
	}
}
