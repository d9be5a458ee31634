// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rpmdb

import (
	"bytes"
	"compress/gzip"
	"encoding/binary"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
)

// sqliteFile is the database of testdata, which rpm made.
func sqliteFile(t testing.TB) []byte {
	t.Helper()
	f, err := os.Open("testdata/rpmdb.sqlite.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func read(data []byte) ([]Package, error) { return Read(bytes.NewReader(data), int64(len(data))) }

func checkPackages(t *testing.T, got []Package, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	slices.SortFunc(got, func(a, b Package) int { return strings.Compare(a.Name, b.Name) })
	if len(got) != 2 {
		t.Fatalf("%d packages, want 2: %+v", len(got), got)
	}
	files := got[1].Files // enough for overflow pages
	got[1].Files = nil
	want := []Package{
		{Name: "hello", Version: "2.10", Release: "1", Arch: "noarch", Epoch: "1", License: "GPL-3.0-or-later", Vendor: "Example Project",
			URL: "https://www.gnu.org/software/hello/", SourceRPM: "hello-2.10-1.src.rpm", Files: []string{"/lib/hello/module", "/usr/bin/hello"}},
		{Name: "hello-data", Version: "2.10", Release: "1", Arch: "noarch", Epoch: "1", License: "MIT and Public Domain", Vendor: "Example Project",
			URL: "https://www.gnu.org/software/hello/", SourceRPM: "hello-2.10-1.src.rpm"},
	}
	for i := range want {
		if !equal(got[i], want[i]) {
			t.Errorf("package %d:\n got %+v\nwant %+v", i, got[i], want[i])
		}
	}
	if len(files) != 301 || !slices.Contains(files, "/usr/share/hello/text-with-a-rather-long-name-300") {
		t.Errorf("hello-data has %d files, want 301: %v", len(files), files)
	}
}

func equal(a, b Package) bool {
	files := slices.Equal(a.Files, b.Files)
	a.Files, b.Files = nil, nil
	return files && a.Name == b.Name && a.Version == b.Version && a.Release == b.Release && a.Arch == b.Arch && a.Epoch == b.Epoch &&
		a.License == b.License && a.Vendor == b.Vendor && a.URL == b.URL && a.SourceRPM == b.SourceRPM
}

func TestSQLite(t *testing.T) {
	got, err := read(sqliteFile(t))
	checkPackages(t, got, err)
}

// ndbFile puts headers into an ndb file as rpmpkg.c lays it out.
func ndbFile(headers [][]byte) []byte {
	le := binary.LittleEndian
	file := make([]byte, ndbPage)
	copy(file, ndbMagic)
	le.PutUint32(file[12:], 1)
	for i := ndbHeader; i < ndbPage; i += ndbSlotSize {
		copy(file[i:], ndbSlot)
	}
	for i, h := range headers {
		slot := file[ndbHeader+(i+1)*ndbSlotSize:] // the first one stays free
		blob := append([]byte(ndbBlob), make([]byte, 12)...)
		le.PutUint32(blob[4:], uint32(i+1))
		le.PutUint32(blob[12:], uint32(len(h)))
		blob = append(blob, h...)
		blob = append(blob, make([]byte, -len(blob)&(ndbBlock-1))...)
		le.PutUint32(slot[4:], uint32(i+1))
		le.PutUint32(slot[8:], uint32(len(file)/ndbBlock))
		le.PutUint32(slot[12:], uint32(len(blob)/ndbBlock))
		file = append(file, blob...)
	}
	return file
}

// TestNDB reads the headers that rpm wrote out of an ndb file made here: Debian's
// rpm does not write that format.
func TestNDB(t *testing.T) {
	var headers [][]byte
	data := sqliteFile(t)
	err := readSQLite(bytes.NewReader(data), int64(len(data)), func(h []byte) error {
		headers = append(headers, h)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	got, err := read(ndbFile(headers))
	checkPackages(t, got, err)
}

func TestRefused(t *testing.T) {
	berkeley := make([]byte, 512)
	binary.LittleEndian.PutUint32(berkeley[12:], 0x00061561)
	if _, err := read(berkeley); !errors.Is(err, ErrBerkeley) {
		t.Errorf("Berkeley DB: %v, want ErrBerkeley", err)
	}
	whole := sqliteFile(t)
	loop := slices.Clone(whole)
	// Each page that is an inner one of a table gets itself as its last child.
	pageSize := int(binary.BigEndian.Uint16(loop[16:]))
	for at := 0; at < len(loop); at += pageSize {
		b := loop[at:]
		if at == 0 {
			b = loop[fileHeader:]
		}
		b[0] = innerPage
		binary.BigEndian.PutUint32(b[8:], uint32(at/pageSize+1))
	}
	tests := map[string][]byte{
		"empty": nil, "text": []byte(strings.Repeat("hello", 100)), "cut": whole[:len(whole)/8], "loop": loop,
		"ndb without slots": ndbFile(nil)[:ndbHeader],
		"ndb version":       append([]byte("RpmP\x01\x00\x00\x00"), make([]byte, 100)...),
		"ndb bad header":    ndbFile([][]byte{[]byte("nonsense of more than eight bytes")}),
	}
	for name, data := range tests {
		if got, err := read(data); err == nil {
			t.Errorf("%s: read %d packages, want an error", name, len(got))
		}
	}
}

// makeHeader makes a package's header of values by their tags: strings with their NULs,
// or numbers.
func makeHeader(values map[uint32]any) []byte {
	be := binary.BigEndian
	var index, data []byte
	for tag, v := range values {
		kind, count := uint32(typeList), 0
		at := len(data)
		switch v := v.(type) {
		case string:
			data, count = append(data, v...), strings.Count(v, "\x00")
		case []uint32:
			kind, count = typeInt32, len(v)
			for _, n := range v {
				data = be.AppendUint32(data, n)
			}
		}
		for _, n := range []uint32{tag, kind, uint32(at), uint32(count)} {
			index = be.AppendUint32(index, n)
		}
	}
	head := be.AppendUint32(be.AppendUint32(nil, uint32(len(values))), uint32(len(data)))
	return slices.Concat(head, index, data)
}

// A file of some megabytes can say much more, by the same bytes again and again.
func TestBounded(t *testing.T) {
	const files, long = 300, 1 << 20
	dirs := map[uint32]any{
		tagName: "a\x00", tagVersion: "1\x00", tagBaseNames: strings.Repeat("f\x00", files),
		tagDirNames: strings.Repeat("d", long) + "\x00", tagDirIndexes: make([]uint32, files),
	}
	again := ndbFile([][]byte{makeHeader(map[uint32]any{tagName: "a\x00", tagVersion: "1\x00", tagVendor: strings.Repeat("v", 4<<20) + "\x00"})})
	first := again[ndbHeader+ndbSlotSize:][:ndbSlotSize]
	for at := ndbHeader; at < ndbPage; at += ndbSlotSize {
		copy(again[at:], first)
	}
	for name, data := range map[string][]byte{"one directory": ndbFile([][]byte{makeHeader(dirs)}), "one header": again} {
		if got, err := read(data); err == nil || !strings.Contains(err.Error(), "more than") {
			t.Errorf("%s: read %d packages, %v, want an error", name, len(got), err)
		}
	}
	dirs[tagDirNames] = "d\x00"
	if got, err := read(ndbFile([][]byte{makeHeader(dirs)})); err != nil || len(got[0].Files) != files {
		t.Errorf("short names: %v", err)
	}
}

func FuzzRead(f *testing.F) {
	whole := sqliteFile(f)
	f.Add(whole)
	f.Add(ndbFile([][]byte{{0, 0, 0, 0, 0, 0, 0, 0}}))
	f.Fuzz(func(_ *testing.T, data []byte) {
		_, _ = read(data) // must end, without a panic
	})
}

func FuzzHeader(f *testing.F) {
	data := sqliteFile(f)
	err := readSQLite(bytes.NewReader(data), int64(len(data)), func(h []byte) error {
		f.Add(h)
		return nil
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(_ *testing.T, data []byte) { _, _ = parseHeader(data, new(int)) })
}
