// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strconv"
)

// A header (rpm's docs/manual/hregions.md, lib/header.cc) is, in big endian, a
// number of entries, a number of bytes of data, the entries {tag, type, offset into
// the data, count}, and the data.
const (
	entrySize  = 16
	maxEntries = 1 << 16
	maxTexts   = 1 << 20 // in one entry; the largest packages have some 100 000 files
)

// The tags and types that are read (include/rpm/rpmtag.h).
const (
	tagName, tagVersion, tagRelease, tagEpoch = 1000, 1001, 1002, 1003
	tagVendor, tagLicense, tagURL, tagArch    = 1011, 1014, 1020, 1022
	tagOldFiles, tagFileFlags, tagSourceRPM   = 1027, 1037, 1044
	tagDirIndexes, tagBaseNames, tagDirNames  = 1116, 1117, 1118
	typeInt32, typeString, typeList, typeI18N = 4, 6, 8, 9
	flagGhost                                 = 1 << 6
)

var errHeader = errors.New("damaged package header")

// header is a parsed header.
type header struct {
	entries map[uint32]entry
	data    []byte
}

type entry struct{ kind, offset, count uint32 }

func parseHeader(b []byte, names *int) (Package, error) {
	h, err := openHeader(b)
	if err != nil {
		return Package{}, err
	}
	p := Package{
		Name: h.text(tagName), Version: h.text(tagVersion), Release: h.text(tagRelease), Arch: h.text(tagArch),
		License: h.text(tagLicense), Vendor: h.text(tagVendor), URL: h.text(tagURL), SourceRPM: h.text(tagSourceRPM),
	}
	if p.Name == "" || p.Version == "" {
		return p, fmt.Errorf("%w: it has no name or no version", errHeader)
	}
	if e := h.numbers(tagEpoch); len(e) == 1 {
		p.Epoch = strconv.FormatUint(uint64(e[0]), 10)
	}
	p.Files, err = h.files(names)
	if err != nil {
		err = fmt.Errorf("package %q: %w", p.Name, err)
	}
	return p, err
}

func openHeader(b []byte) (header, error) {
	if len(b) < 8 {
		return header{}, errHeader
	}
	n, size := binary.BigEndian.Uint32(b), binary.BigEndian.Uint32(b[4:])
	if n > maxEntries || size > maxHeader || uint64(len(b)) < 8+uint64(n)*entrySize+uint64(size) {
		return header{}, errHeader
	}
	h := header{entries: make(map[uint32]entry, n), data: b[8+n*entrySize:][:size]}
	for i := range n {
		e := b[8+i*entrySize:]
		tag := binary.BigEndian.Uint32(e)
		h.entries[tag] = entry{binary.BigEndian.Uint32(e[4:]), binary.BigEndian.Uint32(e[8:]), binary.BigEndian.Uint32(e[12:])}
	}
	return h, nil
}

// text is the first string of a tag, or empty.
func (h header) text(tag uint32) string {
	if list := h.texts(tag); len(list) > 0 {
		return list[0]
	}
	return ""
}

// texts are the strings of a tag; nil where it is missing or damaged.
func (h header) texts(tag uint32) []string {
	e, ok := h.entries[tag]
	if !ok || e.offset > uint32(len(h.data)) || e.kind != typeString && e.kind != typeList && e.kind != typeI18N {
		return nil
	}
	rest := h.data[e.offset:]
	if uint64(e.count) > uint64(len(rest)) || e.count > maxTexts { // each has its NUL
		return nil
	}
	out := make([]string, 0, e.count)
	for range e.count {
		s, after, ok := bytes.Cut(rest, []byte{0})
		if !ok {
			return nil
		}
		out, rest = append(out, string(s)), after
	}
	return out
}

// numbers are the 32 bit numbers of a tag; nil where it is missing or damaged.
func (h header) numbers(tag uint32) []uint32 {
	e, ok := h.entries[tag]
	if !ok || e.kind != typeInt32 || uint64(e.offset)+4*uint64(e.count) > uint64(len(h.data)) {
		return nil
	}
	out := make([]uint32, e.count)
	for i := range out {
		out[i] = binary.BigEndian.Uint32(h.data[e.offset+4*uint32(i):])
	}
	return out
}

// files puts names together: a base name and the number of its directory each, or,
// in old packages, whole paths. total counts the bytes of all names of a database.
func (h header) files(total *int) ([]string, error) {
	flags := h.numbers(tagFileFlags)
	ghost := func(i int) bool { return i < len(flags) && flags[i]&flagGhost != 0 }
	var out []string
	if _, old := h.entries[tagOldFiles]; old {
		for i, name := range h.texts(tagOldFiles) {
			if !ghost(i) {
				out = append(out, name)
			}
		}
		return out, nil
	}
	names, dirs, places := h.texts(tagBaseNames), h.texts(tagDirNames), h.numbers(tagDirIndexes)
	if len(names) != len(places) {
		return nil, fmt.Errorf("%w: %d names of files with %d directories", errHeader, len(names), len(places))
	}
	for i, name := range names {
		if uint64(places[i]) >= uint64(len(dirs)) {
			return nil, fmt.Errorf("%w: directory %d of %d", errHeader, places[i], len(dirs))
		}
		if ghost(i) {
			continue
		}
		// All files can be in one directory with a name of megabytes.
		if *total += len(dirs[places[i]]) + len(name); *total > maxNames {
			return nil, fmt.Errorf("%w: names of more than %d bytes", errHeader, maxNames)
		}
		out = append(out, dirs[places[i]]+name)
	}
	return out, nil
}
