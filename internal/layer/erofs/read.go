// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"

	"build.stacker.dev/internal/layer"
	"golang.org/x/sys/unix"
)

// An Image is an image that is read. It may be used by several goroutines if its
// reader may.
type Image struct {
	r    io.ReaderAt
	size int64
	sb   superblock
}

// Limits of what is read.
const (
	maxPath     = 4095
	maxFileSize = 1 << 44   // bytes: the largest file of ext4
	maxXattrs   = 256 << 10 // bytes of all attributes of a file
)

// Open reads the superblock of the image of size bytes in r. What is behind the
// image in r, such as a verity tree, does not matter.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	m := &Image{r: r, size: size}
	head, err := m.bytes(0, blockSize)
	if err != nil {
		return nil, fmt.Errorf("open erofs image: %w", err)
	}
	if m.sb, err = decodeSuperblock(head); err != nil {
		return nil, fmt.Errorf("open erofs image: %w", err)
	}
	if end := int64(m.sb.blocks) * blockSize; end > size {
		return nil, fmt.Errorf("open erofs image: %w", broken("it has %d bytes and should have %d", size, end))
	}
	return m, nil
}

// Size returns the size of the image without what is behind it, in bytes.
func (m *Image) Size() int64 {
	return int64(m.sb.blocks) * blockSize
}

// bytes reads n bytes at byte at.
func (m *Image) bytes(at, n int64) ([]byte, error) {
	if err := m.within(at, n); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if k, err := m.r.ReadAt(b, at); k < len(b) {
		return nil, noEOF(err)
	}
	return b, nil
}

// within fails if n bytes at byte at are not in the image.
func (m *Image) within(at, n int64) error {
	if at < 0 || n < 0 || at > m.size || n > m.size-at {
		return broken("%d bytes at byte %d, which is not in the image", n, at)
	}
	return nil
}

// found is an inode and where it is.
type found struct {
	inode
	at int64
}

// end is the byte behind the inode and its attributes.
func (f *found) end() int64 {
	return f.at + int64(f.headSize()+f.xattrs)
}

// inode reads the inode with a number.
func (m *Image) inode(nid uint64) (*found, error) {
	if nid > uint64(m.size)/slotSize {
		return nil, broken("inode %d, which is not in the image", nid)
	}
	at := int64(m.sb.metaBlock)*blockSize + int64(nid)*slotSize
	if err := m.within(at, compactInodeSize); err != nil {
		return nil, err
	}
	b, err := m.bytes(at, min(extendedInodeSize, m.size-at))
	if err != nil {
		return nil, err
	}
	i, err := decodeInode(b, &m.sb)
	switch {
	case err != nil:
		return nil, err
	case i.size < 0 || i.size > maxFileSize:
		return nil, broken("inode %d has a size of %d bytes", nid, uint64(i.size))
	}
	return &found{inode: i, at: at}, nil
}

// Entries reads the files of the image, in the order of layer.Entry. Of a file
// with several names the first one is the file. What is wrong with a file is a
// layer.EntryError with a FormatError. Memory is 4 bytes for each KiB of the image,
// and more for files with several names.
func (m *Image) Entries(ctx context.Context) iter.Seq2[*layer.Entry, error] {
	return func(yield func(*layer.Entry, error) bool) {
		w := walker{Image: m, ctx: ctx, yield: yield, links: map[uint64]*linked{}}
		if err := w.root(); err != nil && !errors.Is(err, errStopped) {
			yield(nil, err)
		}
	}
}

var errStopped = errors.New("nobody wants more entries")

// walker is one run of Entries.
type walker struct {
	*Image
	ctx   context.Context
	yield func(*layer.Entry, error) bool
	seen  bitset
	links map[uint64]*linked // files of which more names are to come
	count int64
}

// linked is a file with several names.
type linked struct {
	entry layer.Entry
	left  uint32 // names that are to come
}

func (w *walker) root() error {
	nid := uint64(w.sb.rootNid)
	f, err := w.inode(nid)
	if err == nil && typeOf(f.mode) != typeDir {
		err = broken("the root is not a directory")
	}
	if err != nil {
		return &layer.EntryError{Name: ".", Err: err}
	}
	return w.found(f, nid, nid, ".")
}

// found gives the entry called path, and for a directory all that is in it.
func (w *walker) found(f *found, nid, parent uint64, path string) error {
	again, err := w.visit(f, nid, path)
	if err != nil {
		return &layer.EntryError{Name: path, Err: err}
	}
	if again != nil {
		return w.give(again)
	}
	e, err := w.entry(f, path)
	if err != nil {
		return &layer.EntryError{Name: path, Err: err}
	}
	if typeOf(f.mode) != typeDir {
		if f.links > 1 {
			first := *e
			first.Content = nil
			w.links[nid] = &linked{entry: first, left: f.links - 1}
		}
		return w.give(e)
	}
	if err := w.give(e); err != nil {
		return err
	}
	return w.directory(f, nid, parent, path)
}

// visit notes that inode nid was found. For a further name of a file it returns
// the entry.
func (w *walker) visit(f *found, nid uint64, path string) (again *layer.Entry, err error) {
	// Each name takes some bytes of a list that no other directory shares.
	if w.count++; w.count > w.size/direntSize {
		return nil, broken("it has more names than there is room for")
	}
	if w.seen.add(nid) {
		return nil, nil
	}
	if typeOf(f.mode) == typeDir {
		return nil, broken("a directory with two names")
	}
	l := w.links[nid]
	if l == nil {
		return nil, broken("a file with more names than it says")
	}
	if l.left--; l.left == 0 {
		delete(w.links, nid)
	}
	e := l.entry
	e.HardLink, e.Name = e.Name, path
	return &e, nil
}

func (w *walker) give(e *layer.Entry) error {
	if err := w.ctx.Err(); err != nil {
		return context.Cause(w.ctx)
	}
	if !w.yield(e, nil) {
		return errStopped
	}
	return nil
}

// entry makes the entry of an inode.
func (w *walker) entry(f *found, path string) (*layer.Entry, error) {
	e := &layer.Entry{Name: path, Mode: f.mode, UID: f.uid, GID: f.gid, ModTime: f.time}
	var err error
	if e.Xattrs, err = w.xattrs(f); err != nil {
		return nil, err
	}
	switch typeOf(f.mode) {
	case typeFile:
		e.Size = f.size
		e.Content, err = w.content(f)
	case typeLink:
		if f.size > maxPath {
			return nil, broken("a symbolic link of %d bytes", f.size)
		}
		var target []byte
		if r, err := w.content(f); err != nil {
			return nil, err
		} else if target, err = io.ReadAll(r); err != nil {
			return nil, err
		}
		e.Target = string(target)
	case typeChar, typeBlock:
		e.Major, e.Minor = decodeDevice(f.union)
	case 0:
		return nil, broken("unknown file type %o", f.mode&unix.S_IFMT)
	}
	return e, err
}

// directory gives what is in the directory f.
func (w *walker) directory(f *found, nid, parent uint64, path string) error {
	list, err := w.content(f)
	if err != nil {
		return &layer.EntryError{Name: path, Err: err}
	}
	last, dots := "", 0
	block := make([]byte, blockSize)
	for left := f.size; left > 0; left -= int64(len(block)) {
		block = block[:min(blockSize, left)]
		var names []dirent
		if _, err = io.ReadFull(list, block); err == nil {
			names, err = decodeDirents(block)
		}
		if err != nil {
			return &layer.EntryError{Name: path, Err: noEOF(err)}
		}
		for _, d := range names {
			switch {
			case d.name <= last:
				return &layer.EntryError{Name: path, Err: broken("the names of a directory are not in order: %q after %q", d.name, last)}
			case d.name == "." && d.nid == nid, d.name == ".." && d.nid == parent:
				dots++
			default:
				if err := w.child(d, nid, path); err != nil {
					return err
				}
			}
			last = d.name
		}
	}
	if dots != 2 {
		return &layer.EntryError{Name: path, Err: broken("a directory without %q and %q", ".", "..")}
	}
	return nil
}

// child gives what a name in the directory path is.
func (w *walker) child(d dirent, parent uint64, path string) error {
	full := d.name
	if path != "." {
		full = path + "/" + d.name
	}
	f, err := w.inode(d.nid)
	switch {
	case d.name == "." || d.name == ".." || strings.ContainsAny(d.name, "/\x00") || len(d.name) > maxName:
		err = broken("a file called %q", d.name)
	case len(full) > maxPath:
		err = broken("a path of %d bytes", len(full))
	case err == nil && (d.kind != typeOf(f.mode) || d.kind == 0):
		err = broken("a file of mode %o that its directory calls type %d", f.mode, d.kind)
	}
	if err != nil {
		return &layer.EntryError{Name: full, Err: err}
	}
	return w.found(f, d.nid, parent, full)
}

// A dirent is an entry of a directory.
type dirent struct {
	nid  uint64
	kind uint8
	name string
}

// decodeDirents reads a block of a directory.
func decodeDirents(b []byte) ([]dirent, error) {
	if len(b) < direntSize {
		return nil, broken("a list of names of %d bytes", len(b))
	}
	le := binary.LittleEndian
	first := int(le.Uint16(b[8:]))
	if first%direntSize != 0 || first < direntSize || first > len(b) {
		return nil, broken("a list of names that begins at byte %d", first)
	}
	names := make([]dirent, first/direntSize)
	for i := range names {
		e := b[i*direntSize:]
		start, end := int(le.Uint16(e[8:])), len(b)
		if i+1 < len(names) {
			end = int(le.Uint16(e[direntSize+8:]))
		}
		if start < first || end > len(b) || start >= end {
			return nil, broken("a name from byte %d to %d of its block", start, end)
		}
		name := b[start:end]
		if i+1 == len(names) {
			name, _, _ = bytes.Cut(name, []byte{0}) // the rest of the block is empty
		}
		if len(name) == 0 {
			return nil, broken("an empty name")
		}
		names[i] = dirent{nid: le.Uint64(e), kind: e[10], name: string(name)}
	}
	return names, nil
}

// xattrs reads the attributes of an inode.
func (m *Image) xattrs(f *found) ([]layer.Xattr, error) {
	if f.xattrs == 0 {
		return nil, nil
	}
	body, err := m.bytes(f.at+int64(f.headSize()), int64(f.xattrs))
	if err != nil {
		return nil, err
	}
	shared := int(body[4])
	if xattrHeader+4*shared > len(body) {
		return nil, broken("%d shared attributes in %d bytes", shared, len(body))
	}
	var list []layer.Xattr
	total := 0
	for i := range shared {
		place := binary.LittleEndian.Uint32(body[xattrHeader+4*i:])
		x, err := m.shared(int64(m.sb.xattrBlock)*blockSize + int64(place)*4)
		if err != nil {
			return nil, err
		}
		if total += len(x.Value); total > maxXattrs {
			return nil, broken("attributes of more than %d bytes", maxXattrs)
		}
		list = append(list, x)
	}
	for rest := body[xattrHeader+4*shared:]; len(rest) > 0; {
		x, n, err := decodeXattr(rest)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
		rest = rest[min(len(rest), roundUp(n, 4)):]
	}
	slices.SortFunc(list, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(list); i++ {
		if list[i].Name == list[i-1].Name {
			return nil, broken("two attributes called %q", list[i].Name)
		}
	}
	return list, nil
}

// shared reads the attribute at byte at.
func (m *Image) shared(at int64) (layer.Xattr, error) {
	head, err := m.bytes(at, xattrEntry)
	if err != nil {
		return layer.Xattr{}, err
	}
	all, err := m.bytes(at, xattrEntry+int64(head[0])+int64(binary.LittleEndian.Uint16(head[2:])))
	if err != nil {
		return layer.Xattr{}, err
	}
	x, _, err := decodeXattr(all)
	return x, err
}

// decodeXattr reads an attribute and gives its length.
func decodeXattr(b []byte) (layer.Xattr, int, error) {
	if len(b) < xattrEntry {
		return layer.Xattr{}, 0, broken("an attribute that is cut off")
	}
	name, value := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
	n := xattrEntry + name + value
	if n > len(b) {
		return layer.Xattr{}, 0, broken("an attribute that is cut off")
	}
	full, err := joinXattr(b[1], string(b[xattrEntry:xattrEntry+name]))
	return layer.Xattr{Name: full, Value: string(b[xattrEntry+name : n])}, n, err
}

// bitset is a set of numbers, in pages that are made when they are needed.
type bitset struct {
	pages map[uint64]*[64]uint64
}

// add adds n and tells whether it was not there.
func (s *bitset) add(n uint64) bool {
	page := s.pages[n>>12]
	if page == nil {
		if s.pages == nil {
			s.pages = map[uint64]*[64]uint64{}
		}
		page = new([64]uint64)
		s.pages[n>>12] = page
	}
	word, bit := &page[n>>6&63], uint64(1)<<(n&63)
	added := *word&bit == 0
	*word |= bit
	return added
}
