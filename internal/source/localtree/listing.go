// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// A listing is a tree as bytes: all that makes its content and nothing else, so
// no times, no name or place of the root. Equal trees have equal listings:
//
//	"stacker tree 1\n"
//	entries, sorted bytewise by path, without gaps to the end
//
// One entry:
//
//	uvarint  how many bytes the path shares with the path before
//	text     the rest of the path
//	uvarint  mode: type and permissions as in st_mode
//	of a regular file: uvarint size, 32 bytes sha256 of its content
//	of a symlink: text target
//	uvarint  user id, uvarint group id (0 unless they are kept)
//	uvarint  number of extended attributes, then text name, text value of each,
//	         sorted by name
//
// Text is a uvarint length and the bytes. Uvarints are as short as possible.
const listingMagic = "stacker tree 1\n"

// Digest identifies the content: paths, types, permissions, targets, bytes, and
// owners and attributes where they are kept. It is the sha256 of Marshal's result.
func (t *Tree) Digest() digest.Digest { return digest.FromBytes(t.Marshal()) }

// Marshal returns the tree's listing, which Unmarshal reads.
func (t *Tree) Marshal() []byte { return Marshal(t.Entries) }

// Marshal returns the listing of entries that are sorted by path.
func Marshal(entries []Entry) []byte {
	b := append(make([]byte, 0, 64*len(entries)+len(listingMagic)), listingMagic...)
	last := ""
	for i := range entries {
		e := &entries[i]
		shared := commonPrefix(last, e.Path)
		last = e.Path
		b = binary.AppendUvarint(b, uint64(shared))
		b = appendText(b, e.Path[shared:])
		b = binary.AppendUvarint(b, uint64(e.Mode))
		switch {
		case e.IsRegular():
			b = binary.AppendUvarint(b, uint64(e.Size))
			b = appendSum(b, e.Digest)
		case e.IsSymlink():
			b = appendText(b, e.Target)
		}
		b = binary.AppendUvarint(b, uint64(e.UID))
		b = binary.AppendUvarint(b, uint64(e.GID))
		b = binary.AppendUvarint(b, uint64(len(e.Xattrs)))
		if len(e.Xattrs) == 0 { // sorting nothing has its price too, for each file
			continue
		}
		for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
			b = appendText(appendText(b, name), e.Xattrs[name])
		}
	}
	return b
}

func appendText(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// sumPrefix begins the digests of files.
const sumPrefix = "sha256:"

// appendSum appends the 32 bytes of a sha256 digest.
func appendSum(b []byte, d digest.Digest) []byte {
	var sum [sha256.Size]byte
	if text, ok := strings.CutPrefix(string(d), sumPrefix); ok && len(text) == 2*len(sum) {
		_, _ = hex.Decode(sum[:], []byte(text))
	}
	return append(b, sum[:]...)
}

var errListing = errors.New("not a listing of files, or damaged")

// Unmarshal reads a listing. MTime of its entries is 0. It accepts nothing but
// what Marshal writes.
func Unmarshal(data []byte) ([]Entry, error) {
	rest, ok := bytes.CutPrefix(data, []byte(listingMagic))
	if !ok {
		return nil, fmt.Errorf("read listing: %w", errListing)
	}
	d := &decoder{data: rest}
	out := make([]Entry, 0, len(rest)/listedSize)
	last := ""
	for len(d.data) > 0 && !d.bad {
		e := d.entry(last)
		if len(out) > 0 && e.Path <= last {
			d.bad = true
		}
		last = e.Path
		out = append(out, e)
	}
	// One tree has one listing: what is not written like this was not written by us.
	if d.bad || !bytes.Equal(Marshal(out), data) {
		return nil, fmt.Errorf("read listing: %w", errListing)
	}
	return out, nil
}

// listedSize is about what a file takes in a listing, in bytes: more than that.
const listedSize = 44

func (d *decoder) entry(last string) (e Entry) {
	shared := d.uvarint()
	if d.bad || shared > uint64(len(last)) {
		d.bad = true
		return e
	}
	e.Path = last[:shared] + d.text()
	e.Mode = uint32(d.uvarint())
	switch {
	case e.IsRegular():
		e.Size = int64(d.uvarint())
		if d.bad || len(d.data) < sha256.Size {
			d.bad = true
			return e
		}
		text := append(make([]byte, 0, len(sumPrefix)+2*sha256.Size), sumPrefix...)
		e.Digest = digest.Digest(hex.AppendEncode(text, d.data[:sha256.Size]))
		d.data = d.data[sha256.Size:]
	case e.IsSymlink():
		e.Target = d.text()
	}
	e.UID, e.GID = uint32(d.uvarint()), uint32(d.uvarint())
	for n := d.uvarint(); n > 0 && !d.bad; n-- {
		if e.Xattrs == nil {
			e.Xattrs = map[string]string{}
		}
		name := d.text()
		e.Xattrs[name] = d.text()
	}
	return e
}

func (d *decoder) text() string {
	n := d.uvarint()
	if d.bad || n > uint64(len(d.data)) {
		d.bad = true
		return ""
	}
	s := string(d.data[:n])
	d.data = d.data[n:]
	return s
}
