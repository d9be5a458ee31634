// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"path/filepath"
)

// The index directory holds one file per scanned root, NAME.stat, where NAME is
// the sha256 of the root's absolute path in hex. Its content:
//
//	"stacker stat index 2\n"
//	the sha256 of everything that follows, 32 bytes
//	records, sorted bytewise by path, without gaps to the end of the file
//
// One record is one regular file:
//
//	uvarint  how many bytes the path shares with the path before
//	uvarint  length of the rest of the path, and the rest
//	uvarint  unseen: how often the file was written without meeting this path
//	uvarint  device
//	uvarint  inode
//	uvarint  size
//	uvarint  mode; with the bit 0x10000 if it has attributes that Options.Xattrs keeps
//	varint   mtime, nanoseconds since 1970
//	varint   ctime, likewise
//	32 bytes sha256 of the content
//
// Only digests that may be trusted are written (see the package comment). A file
// that does not match its checksum, or has another version, counts as empty and
// is replaced by the next scan. Files are written beside their place and renamed,
// so the last of two processes wins; either content is right.
const indexMagic = "stacker stat index 2\n"

// maxUnseen bounds how long a record outlives its file. It is not 0 because
// scans of one root may see different parts of it (Options.Include).
const maxUnseen = 8

// maxIndexSize keeps a damaged directory from filling memory: 2 GiB are about
// 20 million files.
const maxIndexSize = 2 << 30

// record is one file of the index.
type record struct {
	path   []byte // valid until the next call of decoder.next
	unseen uint64
	stat   stat
	marked bool // it has attributes
	sum    [sha256.Size]byte
}

// markedBit stands beside the 16 bits of a mode.
const markedBit = 1 << 16

// indexPath is where the digests of root are kept.
func (x *Index) indexPath(root string) string {
	sum := sha256.Sum256([]byte(root))
	return filepath.Join(x.dir, hex.EncodeToString(sum[:])+".stat")
}

// openRecords returns the records of an index file, or nothing if it is damaged.
func openRecords(data []byte) *decoder {
	rest, ok := bytes.CutPrefix(data, []byte(indexMagic))
	if !ok || len(rest) < sha256.Size {
		return &decoder{}
	}
	body := rest[sha256.Size:]
	if sum := sha256.Sum256(body); !bytes.Equal(sum[:], rest[:sha256.Size]) {
		return &decoder{}
	}
	return &decoder{data: body}
}

// decoder reads records one by one.
type decoder struct {
	data []byte
	bad  bool
}

// next fills r; it returns false at the end and at the first malformed record.
func (d *decoder) next(r *record) bool {
	if len(d.data) == 0 || d.bad {
		return false
	}
	shared, rest := d.uvarint(), d.uvarint()
	if d.bad || shared > uint64(len(r.path)) || rest > uint64(len(d.data)) {
		d.bad = true
		return false
	}
	r.path = append(r.path[:shared], d.data[:rest]...)
	d.data = d.data[rest:]
	r.unseen = d.uvarint()
	r.stat.dev = d.uvarint()
	r.stat.ino = d.uvarint()
	r.stat.size = int64(d.uvarint())
	mode := uint32(d.uvarint())
	r.stat.mode, r.marked = mode&^markedBit, mode&markedBit != 0
	r.stat.mtime = d.varint()
	r.stat.ctime = d.varint()
	if d.bad || len(d.data) < sha256.Size {
		d.bad = true
		return false
	}
	d.data = d.data[copy(r.sum[:], d.data):]
	return true
}

func (d *decoder) uvarint() uint64 {
	v, n := binary.Uvarint(d.data)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.data = d.data[n:]
	return v
}

func (d *decoder) varint() int64 {
	v, n := binary.Varint(d.data)
	if n <= 0 {
		d.bad = true
		return 0
	}
	d.data = d.data[n:]
	return v
}

// encoder writes records in the order of their paths.
type encoder struct {
	data []byte
	last []byte
}

func newEncoder(size int) *encoder {
	e := &encoder{data: make([]byte, 0, len(indexMagic)+sha256.Size+size)}
	e.data = append(e.data, indexMagic...)
	e.data = append(e.data, make([]byte, sha256.Size)...)
	return e
}

func (e *encoder) add(r *record) {
	shared := commonPrefix(e.last, r.path)
	e.last = append(e.last[:shared], r.path[shared:]...)
	b := binary.AppendUvarint(e.data, uint64(shared))
	b = binary.AppendUvarint(b, uint64(len(r.path)-shared))
	b = append(b, r.path[shared:]...)
	b = binary.AppendUvarint(b, r.unseen)
	b = binary.AppendUvarint(b, r.stat.dev)
	b = binary.AppendUvarint(b, r.stat.ino)
	b = binary.AppendUvarint(b, uint64(r.stat.size))
	mode := r.stat.mode
	if r.marked {
		mode |= markedBit
	}
	b = binary.AppendUvarint(b, uint64(mode))
	b = binary.AppendVarint(b, r.stat.mtime)
	b = binary.AppendVarint(b, r.stat.ctime)
	e.data = append(b, r.sum[:]...)
}

// bytes fills in the checksum and returns the file.
func (e *encoder) bytes() []byte {
	at := len(indexMagic)
	sum := sha256.Sum256(e.data[at+sha256.Size:])
	copy(e.data[at:], sum[:])
	return e.data
}

func commonPrefix[T, U string | []byte](a T, b U) int {
	n := min(len(a), len(b))
	for i := range n {
		if a[i] != b[i] {
			return i
		}
	}
	return n
}
