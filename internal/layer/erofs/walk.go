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
	"strings"

	"build.stacker.dev/internal/layer"
	"golang.org/x/sys/unix"
)

// maxPath is the longest path, and the longest target of a symbolic link.
const maxPath = 4095

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
	bytes int64 // of all files
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
	if w.count > int64(w.limits.MaxEntries) {
		return nil, fmt.Errorf("more than %d entries", w.limits.MaxEntries)
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
		if w.bytes += f.size; w.bytes > w.limits.MaxBytes {
			return nil, fmt.Errorf("files are larger than the limit of %d bytes", w.limits.MaxBytes)
		}
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
