// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"

	"build.stacker.dev/internal/compress/inflate"
)

// The flags of a gzip header, RFC 1952 section 2.3.1.
const (
	gzipHeaderCRC = 1 << 1
	gzipExtra     = 1 << 2
	gzipName      = 1 << 3
	gzipComment   = 1 << 4
	gzipReserved  = 7 << 5
)

const (
	gunzipBuffers = 4
	gunzipChunk   = 256 << 10
)

var (
	errGzipHeader  = errors.New("invalid gzip header")
	errGzipSum     = errors.New("checksum or length of the content is wrong")
	errGzipGarbage = errors.New("garbage after the end of the gzip data")
)

// gzipReader decodes gzip in a goroutine of its own, which starts with the first Read, and runs up to gunzipBuffers
// chunks ahead. A chunk goes from free to the decoder, through full to the reader, and back.
type gzipReader struct {
	dec     gunzipper
	started bool
	stop    chan struct{}
	free    chan []byte
	full    chan gunzipChunkResult
	done    sync.WaitGroup

	buf  []byte // the buffer that data lies in
	data []byte // decoded and not yet read
	err  error  // follows data
}

type gunzipChunkResult struct {
	buf []byte
	end int
	err error
}

func newGzipReader(r io.Reader) *gzipReader {
	return &gzipReader{
		dec:  gunzipper{in: inflate.NewDecoder(r)},
		stop: make(chan struct{}),
		free: make(chan []byte, gunzipBuffers),
		full: make(chan gunzipChunkResult, gunzipBuffers),
	}
}

// Read reads decompressed bytes.
func (z *gzipReader) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	if err := z.next(); err != nil {
		return 0, err
	}
	n := copy(p, z.data)
	z.data = z.data[n:]
	return n, nil
}

// WriteTo writes all decompressed bytes to w, without the copy that Read makes.
func (z *gzipReader) WriteTo(w io.Writer) (int64, error) {
	var total int64
	for {
		if err := z.next(); err == io.EOF {
			return total, nil
		} else if err != nil {
			return total, err
		}
		n, err := w.Write(z.data)
		total += int64(n)
		z.data = z.data[n:]
		if err != nil {
			return total, err
		}
		if len(z.data) > 0 {
			return total, io.ErrShortWrite
		}
	}
}

// Close ends the decoder.
func (z *gzipReader) Close() error {
	if z.err == nil || z.started {
		close(z.stop)
		z.done.Wait()
		z.started = false
	}
	z.data, z.buf, z.err = nil, nil, errClosed(Gzip)
	return nil
}

// next makes data not empty, or returns what ends it.
func (z *gzipReader) next() error {
	if !z.started && z.err == nil {
		z.start()
	}
	for len(z.data) == 0 {
		if z.err != nil {
			return z.err
		}
		if z.buf != nil {
			z.free <- z.buf
		}
		c := <-z.full
		z.buf, z.data = c.buf, c.buf[inflate.WindowSize:c.end]
		if c.err != nil && c.err != io.EOF {
			c.err = fmt.Errorf("read gzip: %w", c.err)
		}
		z.err = c.err
	}
	return nil
}

func (z *gzipReader) start() {
	z.started = true
	for range gunzipBuffers {
		z.free <- nil // made when it is needed: many inputs are small
	}
	z.done.Go(func() {
		for {
			var buf []byte
			select {
			case <-z.stop:
				return
			case buf = <-z.free:
			}
			if buf == nil {
				buf = make([]byte, inflate.WindowSize+gunzipChunk+inflate.Slack)
			}
			end, err := z.dec.chunk(buf)
			z.full <- gunzipChunkResult{buf, end, err} // has room for every buffer
			if err != nil {
				return
			}
		}
	})
}

// gunzipper turns members into chunks of content.
type gunzipper struct {
	in      *inflate.Decoder
	members int
	inside  bool // a member has begun and not ended
	crc     uint32
	size    uint32
	window  []byte // end of the content so far, in the buffer before
}

// chunk fills buf after its first inflate.WindowSize bytes, and returns where the content
// ends, also if there is an error; io.EOF after the last member.
func (g *gunzipper) chunk(buf []byte) (int, error) {
	out := inflate.WindowSize
	copy(buf[out-len(g.window):], g.window)
	defer func() { g.window = buf[out-inflate.WindowSize : out] }()
	for out < len(buf)-inflate.Slack {
		if !g.inside {
			if err := g.header(); err != nil {
				return out, err
			}
			g.inside = true
		}
		end, err := g.in.Decode(buf, out)
		g.crc = crc32.Update(g.crc, crc32.IEEETable, buf[out:end])
		g.size += uint32(end - out)
		out = end
		if err == io.EOF {
			err = g.trailer()
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// header reads the header of a member. It returns io.EOF if there is none.
func (g *gunzipper) header() error {
	g.in.Reset()
	g.crc, g.size = 0, 0
	var h [10]byte
	if err := g.in.ReadFull(h[:1]); err != nil {
		if g.members > 0 {
			return err
		}
		return noEOF(err)
	}
	if g.members > 0 && h[0] == 0 {
		return g.padding()
	}
	if g.members > 0 && h[0] != 0x1f {
		return errGzipGarbage
	}
	if err := g.in.ReadFull(h[1:]); err != nil {
		return noEOF(err)
	}
	flags := h[3]
	if h[0] != 0x1f || h[1] != 0x8b || h[2] != 8 || flags&gzipReserved != 0 {
		return errGzipHeader
	}
	sum := crc32.ChecksumIEEE(h[:])
	if err := g.optional(flags, sum); err != nil {
		return err
	}
	g.members++
	return nil
}

// optional reads the fields of the header that flags announce; sum is the checksum of those before.
func (g *gunzipper) optional(flags byte, sum uint32) error {
	var p [2]byte
	read := func(b []byte) error {
		err := g.in.ReadFull(b)
		sum = crc32.Update(sum, crc32.IEEETable, b)
		return noEOF(err)
	}
	if flags&gzipExtra != 0 {
		if err := read(p[:]); err != nil {
			return err
		}
		for range binary.LittleEndian.Uint16(p[:]) {
			if err := read(p[:1]); err != nil {
				return err
			}
		}
	}
	for _, f := range []byte{gzipName, gzipComment} {
		for p[0] = 1; flags&f != 0 && p[0] != 0; {
			if err := read(p[:1]); err != nil {
				return err
			}
		}
	}
	if flags&gzipHeaderCRC != 0 {
		want := uint16(sum)
		if err := read(p[:]); err != nil {
			return err
		}
		if binary.LittleEndian.Uint16(p[:]) != want {
			return errGzipHeader
		}
	}
	return nil
}

// trailer reads the end of a member and verifies its content.
func (g *gunzipper) trailer() error {
	var t [8]byte
	if err := g.in.ReadFull(t[:]); err != nil {
		return noEOF(err)
	}
	if binary.LittleEndian.Uint32(t[:]) != g.crc || binary.LittleEndian.Uint32(t[4:]) != g.size {
		return errGzipSum
	}
	g.inside = false
	return nil
}

// padding reads the zeros that tapes and some tools leave behind the last member.
func (g *gunzipper) padding() error {
	var b [1]byte
	for b[0] == 0 {
		if err := g.in.ReadFull(b[:]); err != nil {
			return err
		}
	}
	return errGzipGarbage
}

func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
