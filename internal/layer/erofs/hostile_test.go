// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"

	"build.stacker.dev/internal/layer"
	"golang.org/x/sys/unix"
)

// buffer is a file in memory.
type buffer []byte

// WriteAt implements io.WriterAt.
func (b *buffer) WriteAt(p []byte, at int64) (int, error) {
	if need := int(at) + len(p); need > len(*b) {
		*b = append(*b, make([]byte, need-len(*b))...)
	}
	return copy((*b)[at:], p), nil
}

// smallEntries are entries of which each kind of damage can be made.
func smallEntries() []*layer.Entry {
	file := func(name string, content []byte) *layer.Entry {
		return &layer.Entry{Name: name, Mode: unix.S_IFREG | 0o644, Size: int64(len(content)), Content: bytes.NewReader(content), ModTime: 5}
	}
	plain := file("plain", random(2*blockSize))
	plain.Xattrs = []layer.Xattr{{Name: "user.one", Value: "value"}, {Name: "user.two", Value: strings.Repeat("s", sharedFrom)}}
	return []*layer.Entry{
		{Name: ".", Mode: unix.S_IFDIR | 0o755},
		{Name: "dir", Mode: unix.S_IFDIR | 0o755},
		{Name: "dir/sub", Mode: unix.S_IFDIR | 0o755},
		file("dir/sub/x", []byte("x")),
		{Name: "link", Mode: unix.S_IFLNK | 0o777, Target: "plain"},
		file("packed", append(text(30000), random(2*blockSize+5)...)),
		plain,
		{Name: "second", HardLink: "plain"},
	}
}

// smallImage makes the image of smallEntries. Its checksum is not used, so that
// all of it can be changed.
func smallImage(tb testing.TB, c Compression) []byte {
	tb.Helper()
	var b buffer
	if _, err := Write(context.Background(), &b, seq(smallEntries()...), Options{Compression: c}); err != nil {
		tb.Fatal(err)
	}
	b[superOffset+8] = 0
	return b
}

// readAll reads everything in an image.
func readAll(image []byte, limits Limits) error {
	m, err := Open(bytes.NewReader(image), int64(len(image)), limits)
	if err != nil {
		return err
	}
	for e, err := range m.Entries(context.Background()) {
		if err != nil {
			return err
		}
		if e.Content == nil {
			continue
		}
		if n, err := io.Copy(io.Discard, e.Content); err != nil {
			return err
		} else if n != e.Size {
			return errors.New("content is shorter than said")
		}
	}
	return nil
}

// damage finds places in a small image and changes them.
type damage struct {
	tb    testing.TB
	image []byte
	*Image
}

// find gives an inode by its path.
func (d *damage) find(path string) (*found, uint64) {
	d.tb.Helper()
	nid := uint64(d.sb.rootNid)
	f, err := d.inode(nid)
	for _, elem := range strings.Split(path, "/") {
		if err != nil {
			d.tb.Fatal(err)
		}
		if path == "." {
			break
		}
		nid = binary.LittleEndian.Uint64(d.image[d.dirent(f, elem):])
		f, err = d.inode(nid)
	}
	return f, nid
}

// list gives where the only block of a directory is.
func (d *damage) list(f *found) int {
	if f.layout == layoutInline {
		return int(f.end())
	}
	return int(f.union) * blockSize
}

// dirent gives where the entry of a name is.
func (d *damage) dirent(f *found, name string) int {
	d.tb.Helper()
	at := d.list(f)
	names, err := decodeDirents(d.image[at : at+int(f.size)])
	if err != nil {
		d.tb.Fatal(err)
	}
	for i, n := range names {
		if n.name == name {
			return at + i*direntSize
		}
	}
	d.tb.Fatalf("no %q", name)
	return 0
}

// rename changes a name in the root to one of equal length.
func (d *damage) rename(from, to string) {
	root, _ := d.find(".")
	at := d.list(root)
	e := d.dirent(root, from)
	copy(d.image[at+int(binary.LittleEndian.Uint16(d.image[e+8:])):], to)
}

// put writes a number of size bytes.
func (d *damage) put(at, size int, value uint64) {
	var b [8]byte
	binary.LittleEndian.PutUint64(b[:], value)
	copy(d.image[at:], b[:size])
}

// TestHostile damages images; each must be refused, for the reason given.
func TestHostile(t *testing.T) {
	for _, c := range []struct {
		name   string
		packed bool
		change func(d *damage)
		want   string
	}{
		{"magic", false, func(d *damage) { d.put(superOffset, 4, 1) }, "no EROFS superblock"},
		{"checksum", false, func(d *damage) { d.put(superOffset+8, 4, compatChecksum); d.image[superOffset+60] ^= 1 }, "checksum"},
		{"block size", false, func(d *damage) { d.image[superOffset+12] = 16 }, "blocks of 2^16 bytes"},
		{"cut off", false, func(d *damage) { d.put(superOffset+36, 4, 1000) }, "should have"},
		{"unknown feature", false, func(d *damage) { d.put(superOffset+80, 4, 1<<20) }, "features 0x100000"},
		{"fragments", false, func(d *damage) { d.put(superOffset+80, 4, featFragments) }, "fragments"},
		{"devices", false, func(d *damage) { d.put(superOffset+80, 4, featDevices); d.put(superOffset+86, 2, 1) }, "another device"},
		{"root is a file", false, func(d *damage) { _, nid := d.find("plain"); d.put(superOffset+14, 2, nid) }, "root is not a directory"},
		{"root nowhere", false, func(d *damage) { d.put(superOffset+14, 2, 0xffff) }, "not in the image"},
		{"inodes nowhere", false, func(d *damage) { d.put(superOffset+40, 4, 1<<32-1) }, "not in the image"},
		{"name with a slash", false, func(d *damage) { d.rename("link", "li/k") }, `a file called "li/k"`},
		{"name with a NUL", false, func(d *damage) { d.rename("link", "li\x00k") }, `a file called "li\x00k"`},
		{"name twice", false, func(d *damage) { d.rename("second", "plain\x00") }, "not in order"},
		{"out of order", false, func(d *damage) { d.rename("link", "aink") }, "not in order"},
		{"dot dot for a file", false, func(d *damage) {
			root, _ := d.find(".")
			_, nid := d.find("plain")
			d.put(d.dirent(root, ".."), 8, nid)
		}, `a file called ".."`},
		{"no dot", false, func(d *damage) {
			sub, _ := d.find("dir/sub")
			copy(d.image[d.list(sub)+3*direntSize:], "+")
		}, "a directory with two names"},
		{"empty list", false, func(d *damage) { f, _ := d.find("dir/sub"); d.put(int(f.at)+8, 4, 0) }, "a directory without"},
		{"names overlap", false, func(d *damage) { root, _ := d.find("."); d.put(d.dirent(root, "link")+8, 2, 20) }, "a name from byte"},
		{"list without a start", false, func(d *damage) { root, _ := d.find("."); d.put(d.list(root)+8, 2, 7) }, "begins at byte 7"},
		{"list of length 5", false, func(d *damage) { root, _ := d.find("."); d.put(int(root.at)+8, 8, 5) }, "a list of names of 5 bytes"},
		{"cycle", false, func(d *damage) {
			sub, _ := d.find("dir/sub")
			_, nid := d.find("dir")
			at := d.dirent(sub, "x")
			d.put(at, 8, nid)
			d.image[at+10] = typeDir
		}, "a directory with two names"},
		{"wrong parent", false, func(d *damage) {
			sub, _ := d.find("dir/sub")
			_, nid := d.find("dir/sub")
			d.put(d.dirent(sub, ".."), 8, nid)
		}, `a file called ".."`},
		{"wrong type", false, func(d *damage) { root, _ := d.find("."); d.image[d.dirent(root, "link")+10] = typeFile }, "that its directory calls"},
		{"inode nowhere", false, func(d *damage) { root, _ := d.find("."); d.put(d.dirent(root, "link"), 8, 1<<62) }, "not in the image"},
		{"inode format", false, func(d *damage) { f, _ := d.find("plain"); d.image[f.at] |= 0x10 }, "an inode of format"},
		{"layout", false, func(d *damage) { f, _ := d.find("plain"); d.image[f.at] |= 7 << 1 }, "unknown layout"},
		{"one link too few", false, func(d *damage) { f, _ := d.find("plain"); d.put(int(f.at)+extendedLinks, 4, 1) }, "more names than it says"},
		{"negative size", false, func(d *damage) { f, _ := d.find("plain"); d.put(int(f.at)+8, 8, 1<<63) }, "a size of"},
		{"giant size", false, func(d *damage) { f, _ := d.find("plain"); d.put(int(f.at)+8, 8, 1<<39) }, "not in the image"},
		{"giant size, compressed", true, func(d *damage) { f, _ := d.find("packed"); d.put(int(f.at)+8, 8, 1<<39) }, "not in the image"},
		{"giant hole", false, func(d *damage) {
			f, _ := d.find("plain")
			d.image[f.at] = layoutChunks<<1 | 1
			d.put(int(f.at)+8, 8, 1<<43)
			d.put(int(f.at)+16, 4, chunkBitsMask)
		}, "larger than the limit"},
		{"long list", false, func(d *damage) { root, _ := d.find("."); d.put(int(root.at)+8, 8, 1<<43) }, "not in the image"},
		{"long link", false, func(d *damage) { f, _ := d.find("link"); d.put(int(f.at)+8, 4, 5000) }, "a symbolic link of 5000"},
		{"content nowhere", false, func(d *damage) { f, _ := d.find("plain"); d.put(int(f.at)+16, 4, 1<<32-2) }, "not in the image"},
		{"tail over the end of its block", false, func(d *damage) { f, _ := d.find("dir/sub/x"); d.put(int(f.at)+8, 8, blockSize-1) }, "crosses"},
		{"many shared attributes", false, func(d *damage) { f, _ := d.find("plain"); d.image[f.at+extendedInodeSize+4] = 255 }, "255 shared attributes"},
		{"shared attribute nowhere", false, func(d *damage) {
			f, _ := d.find("plain")
			d.put(int(f.at)+extendedInodeSize+xattrHeader, 4, 1<<32-1)
		}, "not in the image"},
		{"attribute cut off", false, func(d *damage) {
			f, _ := d.find("plain")
			d.put(int(f.at)+extendedInodeSize+xattrHeader+4+2, 2, 5000)
		}, "cut off"},
		{"attribute of no class", false, func(d *damage) { f, _ := d.find("plain"); d.image[f.at+extendedInodeSize+xattrHeader+4+1] = 99 }, "unknown class"},
		{"attribute twice", false, func(d *damage) {
			f, _ := d.find("plain")
			copy(d.image[f.at+extendedInodeSize+xattrHeader+4+4:], "two")
		}, "two attributes"},
		{"compression", true, func(d *damage) { f, _ := d.find("packed"); d.image[f.end()+6] = 1 }, "LZMA"},
		{"compression properties", true, func(d *damage) { f, _ := d.find("packed"); d.image[f.end()+5] = 1 }, "properties"},
		{"large clusters", true, func(d *damage) { f, _ := d.find("packed"); d.image[f.end()+7] = 1 }, "logical clusters"},
		{"tail of no bytes", true, func(d *damage) { f, _ := d.find("packed"); d.put(int(f.end())+2, 2, 0) }, "takes 0 bytes"},
		{"no start", true, func(d *damage) { f, _ := d.find("packed"); d.image[f.end()+indexHeader] = indexNonHead }, "does not begin"},
		{"start in the middle", true, func(d *damage) { f, _ := d.find("packed"); d.put(int(f.end())+indexHeader+2, 2, 4095) }, "does not begin"},
		{"start out of its block", true, func(d *damage) { f, _ := d.find("packed"); d.put(int(f.end())+indexHeader+2, 2, 4096) }, "byte 4096"},
		{"pcluster nowhere", true, func(d *damage) { f, _ := d.find("packed"); d.put(int(f.end())+indexHeader+4, 4, 1<<32-2) }, "not in the image"},
		{"giant pcluster", true, func(d *damage) {
			f, _ := d.find("packed")
			d.put(int(f.end())+indexHeader+indexEntry+4, 2, blockCount|2000)
		}, "a pcluster of"},
		{"corrupt block", true, func(d *damage) {
			f, _ := d.find("packed")
			at := int(binary.LittleEndian.Uint32(d.image[f.end()+indexHeader+4:])) * blockSize
			clear(d.image[at : at+blockSize])
		}, "corrupt block"},
		{"plain extent that is too long", true, func(d *damage) {
			f, _ := d.find("packed")
			d.image[f.end()+indexHeader] = indexPlain
		}, "bytes of content in"},
	} {
		t.Run(c.name, func(t *testing.T) {
			image := smallImage(t, None)
			if c.packed {
				image = smallImage(t, LZ4HC)
			}
			if err := readAll(image, Limits{}); err != nil {
				t.Fatalf("the image itself: %v", err)
			}
			m, err := Open(bytes.NewReader(image), int64(len(image)), Limits{})
			if err != nil {
				t.Fatal(err)
			}
			c.change(&damage{tb: t, image: image, Image: m})
			if err := readAll(image, Limits{}); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("error %v, want one with %q", err, c.want)
			}
		})
	}
}

func TestLimits(t *testing.T) {
	image := smallImage(t, LZ4HC)
	if err := readAll(image, Limits{MaxEntries: 5}); err == nil || !strings.Contains(err.Error(), "more than 5 entries") {
		t.Errorf("few entries: %v", err)
	}
	if err := readAll(image, Limits{MaxBytes: 40000}); err == nil || !strings.Contains(err.Error(), "limit of 40000 bytes") {
		t.Errorf("few bytes: %v", err)
	}
	for n := 0; n < len(image)-blockSize; n += 1000 {
		if err := readAll(image[:n], Limits{}); err == nil {
			t.Errorf("the first %d bytes: no error", n)
		}
	}
}

// FuzzEntries reads images that were changed: three bytes of input say which byte
// becomes what. What can be read can be written, and is then the same.
func FuzzEntries(f *testing.F) {
	images := map[bool][]byte{false: smallImage(f, None), true: smallImage(f, LZ4HC)}
	f.Add(false, []byte{0, 4, 0})
	f.Add(true, []byte{0xb0, 4, 1})
	f.Fuzz(func(t *testing.T, compressed bool, changes []byte) {
		image := bytes.Clone(images[compressed])
		for ; len(changes) >= 3; changes = changes[3:] {
			at := int(binary.LittleEndian.Uint16(changes))
			image[at%len(image)] = changes[2]
		}
		limits := Limits{MaxEntries: 200, MaxBytes: 4 << 20}
		if readAll(image, limits) != nil {
			return
		}
		m, err := Open(bytes.NewReader(image), int64(len(image)), limits)
		if err != nil {
			t.Fatal(err)
		}
		want := list(t, m.Entries(context.Background()))
		var b buffer
		res, err := Write(context.Background(), &b, m.Entries(context.Background()), Options{})
		if err != nil {
			return // such as an owner that package layer refuses
		}
		again, err := Open(bytes.NewReader(b), res.Size, Limits{})
		if err != nil {
			t.Fatal(err)
		}
		sameLines(t, list(t, again.Entries(context.Background())), want)
	})
}
