// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package inflate decodes DEFLATE streams (RFC 1951) about twice as fast as the decoders that Go
// programs usually have, because unpacking base images waits for nothing else.
//
// It decodes into buffers of its caller and keeps no window of its own: see Decoder.Decode. It
// knows nothing of gzip headers and checksums; package compress does. It uses memory of a fixed
// size, starts no goroutine, and never reads or writes outside its buffers, whatever the input:
// every access is an ordinary checked Go slice access.
package inflate

import (
	"encoding/binary"
	"errors"
	"io"
)

const (
	// WindowSize is how far back a match can reach.
	WindowSize = 32 << 10

	// Slack is the room that Decode leaves unused at the end of a buffer, so that its fast loop
	// may write a little too much without looking.
	Slack = 320

	inputSize = 128 << 10
	// fastInput is how many bytes the fast loop may load in one round.
	fastInput = 32
	// maxEmptyReads is how often a source may return neither bytes nor an error.
	maxEmptyReads = 100
)

// ErrCorrupt is returned for input that is not a DEFLATE stream.
var ErrCorrupt = errors.New("corrupt deflate data")

// state is what Decode does next.
type state int

const (
	stateHeader state = iota // the header of a block
	stateStored              // bytes of a stored block
	stateBlock               // symbols of a compressed block
	stateDone                // nothing: the last block has ended
)

// Decoder decodes DEFLATE streams that lie one after another, with other bytes between them, in
// one source. It is not safe for concurrent use.
type Decoder struct {
	src    io.Reader
	srcErr error
	in     []byte // in[pos:end] is unread
	pos    int
	end    int
	bits   uint64 // the next nbits bits of input; what lies above them is unspecified
	nbits  uint

	state   state
	final   bool
	stored  int // bytes left of a stored block
	history int // bytes that a match may reach back, at most WindowSize

	entries *symbolEntries
	fixed   bool // lit and dist hold the fixed code
	lit     [litEntries]uint32
	dist    [distEntries]uint32
}

// NewDecoder returns a decoder that reads from src, with a buffer of its own.
func NewDecoder(src io.Reader) *Decoder {
	return &Decoder{
		src:     src,
		in:      make([]byte, inputSize+8),
		entries: newSymbolEntries(),
	}
}

// Reset makes Decode expect the start of a new stream, at the next whole byte of the source.
func (d *Decoder) Reset() {
	d.unread()
	d.state = stateHeader
	d.final = false
	d.history = 0
}

// Decode writes decoded bytes to buf[start:] and returns the end of what it wrote. Before the
// first call for a stream start may be anything; in later calls buf[:start] must end with the last
// WindowSize bytes that were written (or all, if fewer). It returns when buf is full but for
// Slack, or with a nil error a little before; with io.EOF when the stream has ended; with
// io.ErrUnexpectedEOF when the source ends too early; with ErrCorrupt; or with the source's error. The
// bytes before the error are valid. buf must be longer than start+Slack.
func (d *Decoder) Decode(buf []byte, start int) (int, error) {
	out := start
	limit := len(buf) - Slack
	oldest := start - d.history
	defer func() { d.history = min(out-oldest, WindowSize) }()
	for out < limit {
		var err error
		switch d.state {
		case stateHeader:
			if d.final {
				d.unread()
				d.state = stateDone
				continue
			}
			err = d.header()
		case stateStored:
			out, err = d.copyStored(buf[:limit], out)
		case stateBlock:
			out, err = d.block(buf, out, oldest)
		case stateDone:
			return out, io.EOF
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// ReadFull reads whole bytes that lie outside of a stream. Its errors are those of io.ReadFull.
func (d *Decoder) ReadFull(p []byte) error {
	d.unread()
	for n := 0; n < len(p); {
		if d.pos == d.end {
			if err := d.fill(); err != nil {
				if err == io.EOF && n > 0 {
					err = io.ErrUnexpectedEOF
				}
				return err
			}
		}
		m := copy(p[n:], d.in[d.pos:d.end])
		n += m
		d.pos += m
	}
	return nil
}

// unread gives whole bytes in the bit buffer back to the input buffer and drops the rest
// of a byte that was begun.
func (d *Decoder) unread() {
	d.keepPartial()
	d.bits, d.nbits = 0, 0
}

// keepPartial gives whole bytes in the bit buffer back to the input buffer.
func (d *Decoder) keepPartial() {
	d.pos -= int(d.nbits >> 3)
	d.nbits &= 7
	d.bits &= 1<<d.nbits - 1
}

// fill reads more input, at least one byte.
func (d *Decoder) fill() error {
	d.keepPartial()
	copy(d.in, d.in[d.pos:d.end])
	d.end -= d.pos
	d.pos = 0
	for range maxEmptyReads {
		if d.srcErr != nil {
			return d.srcErr
		}
		n, err := d.src.Read(d.in[d.end:inputSize])
		d.end += n
		d.srcErr = err
		if n > 0 {
			return nil
		}
	}
	d.srcErr = io.ErrNoProgress
	return d.srcErr
}

// refill makes the bit buffer hold at least 56 bits, or all that is left, and zeros above them.
// What is left may be less because the source failed: then that is the error.
func (d *Decoder) refill() error {
	d.bits &= 1<<d.nbits - 1
	for d.nbits < 56 {
		if d.pos < d.end {
			d.bits |= uint64(d.in[d.pos]) << d.nbits
			d.pos++
			d.nbits += 8
			continue
		}
		if d.srcErr == io.EOF {
			return nil
		}
		if d.srcErr != nil {
			return d.srcErr
		}
		// It gives back what the bit buffer holds; an error is noticed once that is read again.
		_ = d.fill()
	}
	return nil
}

// take removes n bits, n ≤ 32, from the input.
func (d *Decoder) take(n uint) (int, error) {
	if d.nbits < n {
		if err := d.refill(); err != nil {
			return 0, err
		}
		if d.nbits < n {
			return 0, io.ErrUnexpectedEOF
		}
	}
	v := d.bits & (1<<n - 1)
	d.bits >>= n
	d.nbits -= n
	return int(v), nil
}

func truncated(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}

// header reads the header of a block.
func (d *Decoder) header() error {
	v, err := d.take(3)
	if err != nil {
		return err
	}
	d.final = v&1 != 0
	switch v >> 1 {
	case 0:
		return d.storedHeader()
	case 1:
		d.useFixed()
	case 2:
		if err := d.readTables(); err != nil {
			return err
		}
	default:
		return ErrCorrupt
	}
	d.state = stateBlock
	return nil
}

func (d *Decoder) storedHeader() error {
	var p [4]byte
	if err := d.ReadFull(p[:]); err != nil {
		return truncated(err)
	}
	n := binary.LittleEndian.Uint16(p[:])
	if n != ^binary.LittleEndian.Uint16(p[2:]) {
		return ErrCorrupt
	}
	d.stored = int(n)
	d.state = stateStored
	return nil
}

// copyStored copies what is left of a stored block, as far as buf and the input reach.
func (d *Decoder) copyStored(buf []byte, out int) (int, error) {
	if d.stored == 0 {
		d.state = stateHeader
		return out, nil
	}
	if d.pos == d.end {
		if err := d.fill(); err != nil {
			return out, truncated(err)
		}
	}
	n := copy(buf[out:], d.in[d.pos:min(d.end, d.pos+d.stored)])
	d.pos += n
	d.stored -= n
	return out + n, nil
}
