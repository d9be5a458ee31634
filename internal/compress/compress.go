// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package compress reads and writes the compressions that layers and archives come in.
//
// It recognises gzip, zstd, xz and bzip2 by their first bytes, and decompresses them; it writes gzip
// and zstd on all cores. It knows nothing of tar, digests or media types.
//
// Invariants:
//   - Memory is bounded by constants, never by the input: readers need 2 MiB for gzip, and
//     the window of a zstd frame or the dictionary of an xz block, either refused above 128 MiB;
//     writers need at most 64 MiB (zstd levels from 10 on: 128 MiB).
//   - A reader that ends with io.EOF has seen a complete input whose checksums and lengths are
//     right. How much comes out is the caller's limit to set: a reader decodes whatever is there.
//   - What a writer writes depends on its input, algorithm and level only: not on the number of cores, the sizes
//     of writes or timing. A new version of the compression library may change it.
//   - A goroutine that a reader or writer starts ends before its Close returns.
package compress

import (
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"io/fs"

	"github.com/klauspost/compress/zstd"
)

// Algorithm names a compression. The zero value is not valid.
type Algorithm string

// The algorithms. Xz and Bzip2 can only be read.
const (
	None  Algorithm = "none"
	Gzip  Algorithm = "gzip"
	Zstd  Algorithm = "zstd"
	Xz    Algorithm = "xz"
	Bzip2 Algorithm = "bzip2"
)

// DetectSize is how many bytes Detect needs to see to recognise every algorithm.
const DetectSize = 6

// maxWindow is the largest zstd window and xz dictionary that is decoded, in bytes.
const maxWindow = 128 << 20

// Detect tells the algorithm by the first bytes of the input: at least DetectSize, if there are as
// many. It returns None if they look like nothing that this package can decompress.
func Detect(header []byte) Algorithm {
	switch {
	case bytes.HasPrefix(header, []byte{0x1f, 0x8b, 8}):
		return Gzip
	case bytes.HasPrefix(header, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		return Zstd
	case len(header) >= 4 && header[0]&0xf0 == 0x50 && bytes.Equal(header[1:4], []byte{0x2a, 0x4d, 0x18}):
		return Zstd // a skippable frame
	case bytes.HasPrefix(header, []byte(xzMagic)):
		return Xz
	case len(header) >= 4 && string(header[:3]) == "BZh" && '1' <= header[3] && header[3] <= '9':
		return Bzip2
	}
	return None
}

// NewReader detects the compression of r and returns a reader of the decompressed bytes. It
// reads DetectSize bytes at once; the rest follows NewReaderFor.
func NewReader(r io.Reader) (io.ReadCloser, Algorithm, error) {
	header := make([]byte, DetectSize)
	n, err := io.ReadFull(r, header)
	if err != nil && err != io.EOF && err != io.ErrUnexpectedEOF {
		return nil, "", fmt.Errorf("detect compression: %w", err)
	}
	a := Detect(header[:n])
	zr, err := NewReaderFor(a, io.MultiReader(bytes.NewReader(header[:n]), r))
	return zr, a, err
}

// NewReaderFor returns a reader of the bytes that r has compressed with a. It decodes
// everything up to the end of r: concatenated gzip members, zstd frames, xz and bzip2 streams are one
// output. Errors, also of an input that is not compressed with a, come from Read: they
// wrap io.ErrUnexpectedEOF if the input ends too early, and the error of r if that failed.
//
// Gzip and zstd are decoded ahead in other goroutines, and r is read there. Close ends them; it waits for a Read of
// r that is in progress, and does not close r.
func NewReaderFor(a Algorithm, r io.Reader) (io.ReadCloser, error) {
	switch a {
	case None:
		return io.NopCloser(r), nil
	case Gzip:
		return newGzipReader(r), nil
	case Zstd:
		return newZstdReader(r)
	case Xz:
		return newStreamReader(a, r, func(r io.Reader) io.Reader { return newXzReader(r) }), nil
	case Bzip2:
		return newStreamReader(a, r, bzip2.NewReader), nil
	}
	return nil, fmt.Errorf("read %q: no such compression", string(a))
}

// WriterOptions says how NewWriter compresses. The zero value is right.
type WriterOptions struct {
	// Level is 1 to 9 for gzip, 1 to 22 for zstd; 0 means 6 and 3.
	Level int
	// Workers is how many blocks may be compressed at the same time; 0 means GOMAXPROCS. Fewer
	// are used where the memory would not suffice.
	Workers int
}

// NewWriter returns a writer that compresses to w with a: Gzip, Zstd or None. It does not own w.
// Close must be called also after an error: it ends the writer's goroutines, writes what is left and returns
// the first error.
func NewWriter(w io.Writer, a Algorithm, o WriterOptions) (io.WriteCloser, error) {
	switch a {
	case None:
		return nopWriteCloser{w}, nil
	case Gzip:
		return newGzipWriter(w, o)
	case Zstd:
		return newZstdWriter(w, o)
	case Xz, Bzip2:
		return nil, fmt.Errorf("write %s: can only be read; use gzip or zstd", a)
	}
	return nil, fmt.Errorf("write %q: no such compression", string(a))
}

type nopWriteCloser struct{ io.Writer }

func (nopWriteCloser) Close() error { return nil }

// streamReader gives the errors of a decoder from a library one shape, and keeps them.
type streamReader struct {
	algorithm Algorithm
	src       countingReader
	dec       io.Reader
	close     func()
	err       error
}

func newStreamReader(a Algorithm, r io.Reader, dec func(io.Reader) io.Reader) *streamReader {
	s := &streamReader{algorithm: a, src: countingReader{r: r}}
	s.dec = dec(&s.src)
	return s
}

// Read reads decompressed bytes.
func (s *streamReader) Read(p []byte) (int, error) {
	if s.err != nil {
		return 0, s.err
	}
	n, err := s.dec.Read(p)
	switch {
	case err == nil:
	case err == io.EOF && s.src.n > 0:
		s.err = io.EOF
	case err == io.EOF:
		s.err = fmt.Errorf("read %s: %w", s.algorithm, io.ErrUnexpectedEOF)
	case errors.Is(err, zstd.ErrWindowSizeExceeded):
		s.err = fmt.Errorf("read %s: window of more than %d MiB: %w", s.algorithm, maxWindow>>20, err)
	default:
		s.err = fmt.Errorf("read %s: %w", s.algorithm, err)
	}
	return n, s.err
}

// Close ends the decoder.
func (s *streamReader) Close() error {
	if s.close != nil {
		s.close()
		s.close = nil
	}
	s.err = errClosed(s.algorithm)
	return nil
}

func errClosed(a Algorithm) error { return fmt.Errorf("read %s: %w", a, fs.ErrClosed) }

type countingReader struct {
	r io.Reader
	n int64
}

// Read reads from the source.
func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}
