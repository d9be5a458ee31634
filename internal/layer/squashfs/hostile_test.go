// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
)

// crafted writes an image of nodes that Write would refuse.
func crafted(t *testing.T, craft func(w *writer, dir func(name string, children ...*node) *node) *node) []byte {
	t.Helper()
	var m memory
	o := Options{Compression: Gzip, BlockSize: defaultBlock, Workers: 1}
	w, err := newWriter(&m, o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.id(0); err != nil {
		t.Fatal(err)
	}
	dir := func(name string, children ...*node) *node {
		n := &node{name: name, mode: unix.S_IFDIR | 0o755, xattrs: none32, children: children, links: 1}
		w.inodes = append(w.inodes, n)
		n.number = uint32(len(w.inodes))
		return n
	}
	w.root = craft(w, dir)
	if err := w.data.finish(false); err != nil {
		t.Fatal(err)
	}
	if err := w.metadata(); err != nil {
		t.Fatal(err)
	}
	return m.b
}

// What CVE-2021-40153, CVE-2021-41072 and CVE-2020-15229 are about, and what makes
// readers run forever.
func TestHostileTrees(t *testing.T) {
	link := func(w *writer, name, target string) *node {
		n := &node{name: name, mode: unix.S_IFLNK | 0o777, xattrs: none32, target: target, links: 1}
		w.inodes = append(w.inodes, n)
		n.number = uint32(len(w.inodes))
		return n
	}
	tests := []struct {
		name  string
		craft func(w *writer, dir func(string, ...*node) *node) *node
	}{
		{"parent", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir("..", dir("x"))) }},
		{"itself", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir(".")) }},
		{"slash", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir("a/../../x")) }},
		{"absolute", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir("/etc")) }},
		{"NUL", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir("a\x00b")) }},
		{"twice", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir("a"), dir("a")) }},
		{"link and directory", func(w *writer, dir func(string, ...*node) *node) *node {
			return dir("", link(w, "a", "/tmp"), dir("a", dir("x")))
		}},
		{"directory and link", func(w *writer, dir func(string, ...*node) *node) *node {
			return dir("", dir("a", dir("x")), link(w, "a", "/tmp"))
		}},
		{"not sorted", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir("b"), dir("a")) }},
		{"directory with two names", func(_ *writer, dir func(string, ...*node) *node) *node {
			a := dir("a", dir("x"))
			return dir("", a, &node{name: "b", link: a})
		}},
		{"deep", func(_ *writer, dir func(string, ...*node) *node) *node {
			n := dir(strings.Repeat("d", 200))
			for range 30 {
				n = dir(strings.Repeat("d", 200), n)
			}
			return dir("", n)
		}},
		{"root is no directory", func(w *writer, _ func(string, ...*node) *node) *node {
			l := link(w, "", "x")
			l.written, l.ref = true, 0
			w.root = l
			n := &node{mode: unix.S_IFDIR, number: 1, xattrs: none32, children: []*node{{name: "l", link: link(w, "l", "x")}}}
			return n
		}},
		{"whiteout name", func(_ *writer, dir func(string, ...*node) *node) *node { return dir("", dir(".wh.x")) }},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := crafted(t, tt.craft)
			if tt.name == "root is no directory" {
				le.PutUint64(b[32:], 0) // the link is the first inode
			}
			archive, err := unpack(b)
			if err == nil {
				t.Errorf("taken, as an archive of %d bytes", len(archive))
			}
		})
	}
}

// A directory that is in itself.
func TestLoop(t *testing.T) {
	var root *node
	craft := func(ref uint64) []byte {
		return crafted(t, func(_ *writer, dir func(string, ...*node) *node) *node {
			again := &node{mode: unix.S_IFDIR, written: true, ref: ref, number: 1}
			root = dir("", &node{name: "again", link: again})
			return root
		})
	}
	craft(0)
	if _, err := unpack(craft(root.ref)); err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v, want that the directory appears twice", err)
	}
}

func TestHostileSuperblocks(t *testing.T) {
	good := image(t, Options{}, file("a", noise(300_000, 1)), file("b", []byte("text")))
	put := func(off, size int, value uint64) func([]byte) {
		return func(b []byte) {
			for i := range size {
				b[off+i] = byte(value >> (8 * i))
			}
		}
	}
	tests := []struct {
		name   string
		change func([]byte)
		want   string
	}{
		{"magic", put(0, 4, 0x68737173), "superblock"},
		{"version", put(28, 2, 3), "version"},
		{"block size", put(12, 4, 3000), "block size"},
		{"huge block size", put(12, 4, 1<<31), "block size"},
		{"block logarithm", put(22, 2, 13), "block size"},
		{"lzma", put(20, 2, 2), "lzma"},
		{"lzo", put(20, 2, 3), "lzo"},
		{"another compression", put(20, 2, 5), "lz4"},
		{"unknown compression", put(20, 2, 77), "number 77"},
		{"size", put(40, 8, 1<<40), "should have"},
		{"root", put(32, 8, 1<<40), "reference"},
		{"root offset", put(32, 8, 0x7fff), "reference"},
		{"id table", put(48, 8, 1<<62), "id table"},
		{"negative table", put(48, 8, 1<<63), "id table"},
		{"no id table", put(48, 8, noTable), "id table"},
		{"inode table", put(64, 8, 0), "inode table"},
		{"directory table before inodes", put(72, 8, 96), "inode table"},
		{"ids", put(26, 2, 0), "owner"},
		{"many ids", put(26, 2, 0xffff), "id table"},
		{"fragments", put(16, 4, 0), "fragment"},
		{"attributes", put(56, 8, 100), "id table"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := bytes.Clone(good)
			tt.change(b)
			if _, err := unpack(b); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	for n := range 120 {
		if _, err := unpack(good[:n]); err == nil {
			t.Errorf("%d bytes of an image were taken", n)
		}
	}
}

func withXattrs() *layer.Entry {
	e := file("xattrs", []byte("x"))
	e.Xattrs = []layer.Xattr{{Name: "user.a", Value: "1"}, {Name: "user.b", Value: "2"}}
	return e
}

// Every changed byte gives an error or some other archive, and never a panic.
func TestDamage(t *testing.T) {
	for _, c := range []Compression{Gzip, Zstd} {
		good := image(t, Options{Compression: c}, &layer.Entry{Name: "d", Mode: unix.S_IFDIR | 0o755}, file("d/f", noise(3000, 1)),
			&layer.Entry{Name: "l", Mode: unix.S_IFLNK | 0o777, Target: "d/f"}, file("t", bytes.Repeat([]byte("text"), 40_000)), withXattrs())
		for i := range good {
			for _, x := range []byte{1, 0x80} {
				b := bytes.Clone(good)
				b[i] ^= x
				_, _ = drain(b, Limits{MaxEntries: 1000, MaxBytes: 1 << 22}) // the digest tells who changed it
			}
		}
	}
}

// drain reads all of an image and tells how much was in it.
func drain(b []byte, l Limits) (entries int, err error) {
	img, err := Open(bytes.NewReader(b), int64(len(b)), l)
	if err != nil {
		return 0, err
	}
	for e, err := range img.Entries(context.Background()) {
		if err != nil {
			return entries, err
		}
		entries++
		if e.Content != nil {
			if _, err := io.Copy(io.Discard, e.Content); err != nil {
				return entries, err
			}
		}
	}
	return entries, nil
}

func TestLimits(t *testing.T) {
	var list []*layer.Entry
	for i := range 20 {
		list = append(list, file(fmt.Sprintf("f%02d", i), make([]byte, 1000)))
	}
	b := image(t, Options{}, list...)
	for name, l := range map[string]Limits{"entries": {MaxEntries: 20}, "bytes": {MaxBytes: 19_999}} {
		if n, err := drain(b, l); err == nil {
			t.Errorf("limit of %s: %d entries were read", name, n)
		}
	}
	if n, err := drain(b, Limits{MaxEntries: 21, MaxBytes: 20_000}); err != nil || n != 21 {
		t.Errorf("exactly at the limits: %d entries, %v", n, err)
	}
}

// A small image cannot keep its reader busy: every directory is read once.
func TestWideImage(t *testing.T) {
	b := crafted(t, func(_ *writer, dir func(string, ...*node) *node) *node {
		below := dir("0")
		for range 60 { // 2^60 paths
			below = dir("0", below, &node{name: "1", link: below})
		}
		return dir("", below)
	})
	start := time.Now()
	if _, err := drain(b, Limits{}); err == nil {
		t.Error("taken")
	}
	if d := time.Since(start); d > time.Minute {
		t.Errorf("took %v", d)
	}
}

func FuzzImage(f *testing.F) {
	for _, c := range []Compression{Gzip, Zstd} {
		f.Add(image(f, Options{Compression: c, BlockSize: 4096}, &layer.Entry{Name: "d", Mode: unix.S_IFDIR | 0o755}, file("d/f", noise(300, 1)),
			&layer.Entry{Name: "l", Mode: unix.S_IFLNK | 0o777, Target: "d/f"}, file("t", bytes.Repeat([]byte("text"), 4000)), withXattrs()))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		img, err := Open(bytes.NewReader(b), int64(len(b)), Limits{MaxEntries: 1000, MaxBytes: 1 << 20})
		if err != nil {
			return
		}
		var first bytes.Buffer
		if layer.ToArchive(context.Background(), &first, img.Entries(context.Background())) != nil {
			return
		}
		// What could be read can be written, and reads as the same.
		var m memory
		if _, err := Write(context.Background(), &m, layer.FromArchive(bytes.NewReader(first.Bytes())), Options{Compression: Gzip, Workers: 1}); err != nil {
			t.Fatalf("write what was read: %v", err)
		}
		second, err := unpack(m.b)
		if err != nil {
			t.Fatalf("read what was written: %v", err)
		}
		if !bytes.Equal(second, first.Bytes()) {
			t.Error("reads as another archive when it is written again")
		}
	})
}
