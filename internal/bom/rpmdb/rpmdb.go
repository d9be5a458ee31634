// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package rpmdb reads the database of rpm: which packages are installed, and which
// files they have.
//
// It knows the two formats that rpm writes today: SQLite (rpmdb.sqlite; since rpm
// 4.16) and ndb (Packages.db; SUSE), and reads both without their libraries. The
// old one, Berkeley DB (Packages), is ErrBerkeley. A database comes from an image:
// all sizes and numbers in it are bounded, each page is visited once, and what does
// not fit together is an error.
package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ErrBerkeley is returned for a database in the format of Berkeley DB.
var ErrBerkeley = errors.New("the database is in the format of Berkeley DB, which cannot be read: rpmdb --rebuilddb of a newer rpm converts it")

// Package is one installed package.
type Package struct {
	Name, Version, Release, Arch string
	Epoch                        string // decimal; empty: none
	License, Vendor, URL         string
	SourceRPM                    string   // file name of its source package
	Files                        []string // absolute; without those that were never there (%ghost)
}

// Bounds of a database.
const (
	maxPackages = 200_000
	maxHeader   = 256 << 20 // bytes of one package's header, as in rpm itself
	// What the file says can be the same bytes again and again. All packages of a
	// distribution have some 300 MB of headers.
	maxHeaders = 512 << 20 // bytes of all headers
	maxNames   = 256 << 20 // bytes of the names of all files
)

// Read reads a database of size bytes. Packages are in the order of the database.
func Read(r io.ReaderAt, size int64) ([]Package, error) {
	var head [100]byte
	n, err := r.ReadAt(head[:], 0)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("read rpm database: %w", err)
	}
	var headers func(io.ReaderAt, int64, func([]byte) error) error
	switch {
	case n == len(head) && bytes.HasPrefix(head[:], []byte(sqliteMagic)):
		headers = readSQLite
	case n >= ndbHeader && bytes.HasPrefix(head[:], []byte(ndbMagic)):
		headers = readNDB
	case n >= 16 && isBerkeley(head[12:16]):
		return nil, ErrBerkeley
	default:
		return nil, errors.New("read rpm database: unknown format")
	}
	var out []Package
	total, names := 0, 0
	err = headers(r, size, func(h []byte) error {
		if total += len(h); total > maxHeaders {
			return fmt.Errorf("headers of more than %d bytes", maxHeaders)
		}
		if len(out) == maxPackages {
			return fmt.Errorf("more than %d packages", maxPackages)
		}
		p, err := parseHeader(h, &names)
		out = append(out, p)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read rpm database: %w", err)
	}
	return out, nil
}

// isBerkeley knows the magic numbers of hash and b-tree files, in both byte orders.
func isBerkeley(b []byte) bool {
	for _, o := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
		if m := o.Uint32(b); m == 0x00061561 || m == 0x00053162 {
			return true
		}
	}
	return false
}
