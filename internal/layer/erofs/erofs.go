// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package erofs writes and reads images of EROFS, the read-only file system of
// the Linux kernel, as layers of an OCI image.
//
// Write makes an image of entries in one pass. Open and Entries read images of
// any origin; what they give can be written again. Contents are never held in
// memory as a whole: Write needs some megabytes for each processor and about 100
// bytes for each file, besides its name.
//
// Equal entries give equal images, whatever the number of processors: there is no
// random UUID, no clock and no order that comes from goroutines.
//
// Images are hostile here. The reader verifies what it follows: places lie within
// the image, names are valid and in order, no directory has two names, and the
// number of entries is bounded by the image's size. As EROFS may share and
// compress data, how large the files are together is bounded by Limits.
//
// The package neither mounts nor verifies: see package verity.
package erofs

import "fmt"

// A Compression says how Write stores the contents of files.
type Compression int

const (
	// None stores them as they are.
	None Compression = iota

	// LZ4HC compresses them by LZ4 with a thorough search for matches. Linux 5.17
	// and erofs-utils 1.5 read it.
	LZ4HC
)

// Suffix gives what the media type of a layer ends in: "" or "+lz4hc".
func (c Compression) Suffix() string {
	if c == LZ4HC {
		return "+lz4hc"
	}
	return ""
}

// Options say how Write writes. The zero value compresses nothing.
type Options struct {
	Compression Compression

	// Time is when the image was made, in seconds since 1970: what the superblock
	// says, such as SOURCE_DATE_EPOCH. A file of this time needs less space.
	Time int64
}

// A Result describes an image that was written.
type Result struct {
	Size          int64 // in bytes, a multiple of 4096
	DroppedXattrs int   // extended attributes that EROFS has no name for
}

// A FormatError says what is wrong with an image, or what in it cannot be read.
type FormatError struct {
	Reason string
}

// Error gives the reason.
func (e *FormatError) Error() string {
	return "erofs image: " + e.Reason
}

// broken makes a FormatError.
func broken(format string, args ...any) error {
	return &FormatError{Reason: fmt.Sprintf(format, args...)}
}
