// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"archive/tar"
	"bytes"
	"io"
)

// headers writes the headers of an archive, and nothing between them: content goes
// straight from where it is to the output. They are those of package archive/tar, byte
// for byte. What most files are is written here, without the allocations that make up
// most of what an archive of small files costs; that package writes the rest.
type headers struct {
	block [blockSize]byte
	rest  bytes.Buffer
}

// write writes the header of an entry to w.
func (h *headers) write(w io.Writer, hdr *tar.Header) error {
	if h.plain(hdr) {
		_, err := w.Write(h.block[:])
		return err
	}
	// A tar.Writer insists on passing on the content too: it is used for one header.
	h.rest.Reset()
	if err := tar.NewWriter(&h.rest).WriteHeader(hdr); err != nil {
		return err
	}
	_, err := w.Write(h.rest.Bytes())
	return err
}

// Places in a header of the format of POSIX.1-1988, in bytes ("ustar Interchange
// Format"). A number is its octal digits up to the last byte of its field, which is 0.
const (
	modeAt     = 100
	uidAt      = 108
	gidAt      = 116
	sizeAt     = 124
	timeAt     = 136
	checksumAt = 148
	typeAt     = 156
	magicAt    = 257
	majorAt    = 329
	minorAt    = 337
	prefixAt   = 345

	nameSize = modeAt
)

// plain fills the block with the header of a regular file or directory of which the
// format of POSIX.1-1988 can say all. Of others it says false.
func (h *headers) plain(hdr *tar.Header) bool {
	if hdr.Typeflag != tar.TypeReg && hdr.Typeflag != tar.TypeDir || len(hdr.PAXRecords) > 0 || hdr.Linkname != "" {
		return false
	}
	if hdr.Uname != "" || hdr.Gname != "" || hdr.Devmajor != 0 || hdr.Devminor != 0 || hdr.Format != tar.FormatUnknown {
		return false
	}
	if hdr.ModTime.Nanosecond() != 0 || hdr.ModTime.IsZero() || !hdr.AccessTime.IsZero() || !hdr.ChangeTime.IsZero() {
		return false
	}
	if !plainName(hdr.Name) || hdr.Typeflag == tar.TypeReg && hdr.Name[len(hdr.Name)-1] == '/' {
		return false
	}
	clear(h.block[:])
	copy(h.block[:nameSize], hdr.Name)
	h.block[typeAt] = hdr.Typeflag
	copy(h.block[magicAt:], "ustar\x0000")
	fits := h.octal(modeAt, uidAt, hdr.Mode) && h.octal(uidAt, gidAt, int64(hdr.Uid)) && h.octal(gidAt, sizeAt, int64(hdr.Gid)) &&
		h.octal(sizeAt, timeAt, hdr.Size) && h.octal(timeAt, checksumAt, hdr.ModTime.Unix())
	if !fits {
		return false
	}
	h.octal(majorAt, minorAt, 0)
	h.octal(minorAt, prefixAt, 0)
	h.checksum()
	return true
}

// plainName tells whether a name fits into its field, in the letters that it may have.
func plainName(name string) bool {
	if len(name) == 0 || len(name) > nameSize {
		return false
	}
	for i := range len(name) {
		if name[i] == 0 || name[i] >= 0x80 {
			return false
		}
	}
	return true
}

// octal writes a number into the field from a place to another, if it fits.
func (h *headers) octal(from, to int, n int64) bool {
	if n < 0 {
		return false
	}
	for i := to - 2; i >= from; i-- {
		h.block[i] = '0' + byte(n&7)
		n >>= 3
	}
	return n == 0
}

// checksum is the sum of all bytes, those of itself taken for spaces: six digits, a zero
// and a space.
func (h *headers) checksum() {
	sum := int64(8 * ' ')
	for _, b := range h.block {
		sum += int64(b)
	}
	h.octal(checksumAt, typeAt-1, sum)
	h.block[typeAt-1] = ' '
}
