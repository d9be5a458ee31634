// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A reader of SQLite files (sqlite.org/fileformat2.html), as small as rpm's need: a
// file is pages, numbered from 1; the table sqlite_schema, whose root is page 1,
// names the root page of each table; a table is a b-tree whose leaves have the rows.
const (
	sqliteMagic = "SQLite format 3\x00"
	fileHeader  = 100 // bytes of page 1 before its b-tree
	leafPage    = 0x0d
	innerPage   = 0x05
	maxDepth    = 30
	utf8Text    = 1
)

var errSQLite = errors.New("damaged SQLite file")

// database is an open SQLite file.
type database struct {
	r      io.ReaderAt
	page   int64 // bytes of a page
	usable int64 // without what is reserved at its end
	pages  int64
	seen   map[uint32]bool // pages that were read: each belongs to one tree only
}

// readSQLite calls f for the second column, "blob", of each row of the table Packages.
func readSQLite(r io.ReaderAt, size int64, f func([]byte) error) error {
	db, err := openSQLite(r, size)
	if err != nil {
		return err
	}
	var root int64
	err = db.rows(1, maxDepth, func(row []any) error {
		if len(row) >= 4 && row[0] == "table" && row[1] == "Packages" {
			root, _ = row[3].(int64)
		}
		return nil
	})
	if err != nil {
		return err
	}
	if root <= 0 || root > db.pages {
		return errors.New("the SQLite file has no table Packages")
	}
	return db.rows(uint32(root), maxDepth, func(row []any) error {
		if len(row) < 2 {
			return errSQLite
		}
		blob, ok := row[1].([]byte)
		if !ok {
			return fmt.Errorf("%w: a package is no blob", errSQLite)
		}
		return f(blob)
	})
}

func openSQLite(r io.ReaderAt, size int64) (*database, error) {
	var head [fileHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return nil, err
	}
	db := &database{r: r, page: int64(binary.BigEndian.Uint16(head[16:])), seen: map[uint32]bool{}}
	if db.page == 1 {
		db.page = 65536
	}
	if db.page < 512 || db.page&(db.page-1) != 0 {
		return nil, fmt.Errorf("%w: pages of %d bytes", errSQLite, db.page)
	}
	db.usable = db.page - int64(head[20])
	db.pages = size / db.page
	if db.usable < 480 || db.pages == 0 {
		return nil, errSQLite
	}
	if enc := binary.BigEndian.Uint32(head[56:]); enc > utf8Text {
		return nil, fmt.Errorf("the SQLite file has the text encoding %d, want UTF-8", enc)
	}
	return db, nil
}

// read returns a page, once.
func (db *database) read(n uint32) ([]byte, error) {
	if n == 0 || int64(n) > db.pages || db.seen[n] {
		return nil, fmt.Errorf("%w: page %d", errSQLite, n)
	}
	db.seen[n] = true
	b := make([]byte, db.page)
	if _, err := db.r.ReadAt(b, int64(n-1)*db.page); err != nil {
		return nil, fmt.Errorf("%w: page %d: %w", errSQLite, n, err)
	}
	return b[:db.usable], nil
}

// rows calls f for each row of the table whose tree has its root at page n.
func (db *database) rows(n uint32, depth int, f func(row []any) error) error {
	b, err := db.read(n)
	if err != nil {
		return err
	}
	at := 0
	if n == 1 {
		at = fileHeader
	}
	kind, cells, pointers := b[at], int(binary.BigEndian.Uint16(b[at+3:])), at+8
	if kind == innerPage {
		pointers += 4
	}
	if depth == 0 || kind != leafPage && kind != innerPage || pointers+2*cells > len(b) {
		return fmt.Errorf("%w: page %d is no part of a table", errSQLite, n)
	}
	for i := range cells {
		cell := int(binary.BigEndian.Uint16(b[pointers+2*i:]))
		if cell+4 > len(b) {
			return fmt.Errorf("%w: page %d", errSQLite, n)
		}
		if kind == innerPage {
			err = db.rows(binary.BigEndian.Uint32(b[cell:]), depth-1, f)
		} else {
			err = db.row(b[cell:], f)
		}
		if err != nil {
			return err
		}
	}
	if kind == innerPage {
		return db.rows(binary.BigEndian.Uint32(b[at+8:]), depth-1, f)
	}
	return nil
}

// row reads one cell of a leaf: size, rowid, and the payload, of which what does
// not fit is in overflow pages (section 1.6).
func (db *database) row(cell []byte, f func(row []any) error) error {
	size, n := varint(cell)
	_, m := varint(cell[n:])
	if n == 0 || m == 0 || size > maxHeader {
		return fmt.Errorf("%w: a row of %d bytes", errSQLite, size)
	}
	cell = cell[n+m:]
	here, most := int64(size), db.usable-35
	if here > most {
		least := (db.usable-12)*32/255 - 23
		here = least + (int64(size)-least)%(db.usable-4)
		if here > most {
			here = least
		}
	}
	if here > int64(len(cell)) {
		return errSQLite
	}
	payload := append([]byte(nil), cell[:here]...)
	if here < int64(size) {
		if int64(len(cell)) < here+4 {
			return errSQLite
		}
		rest, err := db.overflow(binary.BigEndian.Uint32(cell[here:]), int64(size)-here)
		if err != nil {
			return err
		}
		payload = append(payload, rest...)
	}
	row, err := columns(payload)
	if err != nil {
		return err
	}
	return f(row)
}

// overflow reads a chain of overflow pages.
func (db *database) overflow(page uint32, size int64) ([]byte, error) {
	var out []byte
	for size > 0 {
		b, err := db.read(page)
		if err != nil {
			return nil, err
		}
		page = binary.BigEndian.Uint32(b)
		part := b[4:][:min(size, db.usable-4)]
		out = append(out, part...)
		size -= int64(len(part))
	}
	return out, nil
}

// columns takes a record apart (section 2.1): nil, int64, string or []byte.
func columns(b []byte) ([]any, error) {
	size, n := varint(b)
	if n == 0 || size > uint64(len(b)) || size < uint64(n) {
		return nil, errSQLite
	}
	types, data := b[n:size], b[size:]
	var out []any
	for len(types) > 0 {
		t, n := varint(types)
		if n == 0 {
			return nil, errSQLite
		}
		types = types[n:]
		v, used, ok := column(t, data)
		if !ok {
			return nil, errSQLite
		}
		out, data = append(out, v), data[used:]
	}
	return out, nil
}

// column reads one value of a serial type.
func column(t uint64, data []byte) (v any, size int, ok bool) {
	length := uint64(0)
	switch {
	case t <= 4:
		length = t
	case t == 5, t == 6:
		length = 2*t - 4 // 6, 8
	case t == 7:
		length = 8
	case t >= 12:
		length = (t - 12) / 2
	}
	if length > uint64(len(data)) {
		return nil, 0, false
	}
	b := data[:length]
	switch {
	case t == 0, t == 7, t == 10, t == 11: // NULL; a float, which nothing here has; reserved
		return nil, int(length), t != 10 && t != 11
	case t == 8, t == 9:
		return int64(t - 8), 0, true
	case t >= 12 && t%2 == 0:
		return b, int(length), true
	case t >= 13:
		return string(b), int(length), true
	}
	n := int64(int8(b[0]))
	for _, c := range b[1:] {
		n = n<<8 | int64(c)
	}
	return n, int(length), true
}

// varint reads a number of 1 to 9 bytes, the first ones first; n is 0 where it is cut off.
func varint(b []byte) (v uint64, n int) {
	for n < len(b) && n < 8 {
		v = v<<7 | uint64(b[n]&0x7f)
		n++
		if b[n-1]&0x80 == 0 {
			return v, n
		}
	}
	if n < 8 || n >= len(b) {
		return 0, 0
	}
	return v<<8 | uint64(b[8]), 9
}
