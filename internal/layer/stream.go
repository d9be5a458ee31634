// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
)

// Data moves in chunks between the goroutines of one Apply or Diff: a fixed
// number of them, large enough that handing one over costs nothing, small enough
// that all stay in the cache that the cores share.
const (
	chunkSize  = 256 << 10
	chunkCount = 8
)

// A chunk is a piece of the archive that refs goroutines still have to read.
type chunk struct {
	buf  []byte
	n    int
	refs atomic.Int32
}

// pool holds the chunks that nobody uses.
type pool chan *chunk

func newPool() pool {
	p := make(pool, chunkCount)
	for range chunkCount {
		p <- &chunk{}
	}
	return p
}

// fill gives a chunk that came out of the pool its memory: a small layer needs
// one chunk only.
func (c *chunk) fill() {
	if c.buf == nil {
		c.buf = make([]byte, chunkSize)
	}
}

// release gives the chunk back when the last reader is done with it.
func (p pool) release(c *chunk) {
	if c.refs.Add(-1) == 0 {
		p <- c
	}
}

// hashing consumes chunks and sends the digest of all when in is closed.
func hashing(in <-chan *chunk, p pool) <-chan digest.Digest {
	out := make(chan digest.Digest, 1)
	go func() {
		h := sha256.New()
		for c := range in {
			h.Write(c.buf[:c.n])
			p.release(c)
		}
		out <- digest.NewDigestFromBytes(digest.SHA256, h.Sum(nil))
	}()
	return out
}

// A source reads an archive ahead of its parser and hashes what it reads. It is
// an io.Reader for one goroutine.
type source struct {
	pool   pool
	parsed chan *chunk // to Read
	stop   chan struct{}
	digest <-chan digest.Digest
	done   chan struct{} // closed when the reading goroutine is gone

	size int64 // bytes read; valid after parsed is closed
	err  error // why reading ended, nil for the end of the archive; as size

	current *chunk
	rest    []byte
}

// newSource starts reading r. maxBytes bounds the archive, 0 does not. The caller
// must call close.
func newSource(ctx context.Context, r io.Reader, maxBytes int64) *source {
	s := &source{
		pool:   newPool(),
		parsed: make(chan *chunk, chunkCount),
		stop:   make(chan struct{}),
		done:   make(chan struct{}),
	}
	hashed := make(chan *chunk, chunkCount)
	s.digest = hashing(hashed, s.pool)
	go func() {
		s.err = s.pump(ctx, r, maxBytes, hashed)
		close(hashed)
		close(s.parsed)
		close(s.done)
	}()
	return s
}

func (s *source) pump(ctx context.Context, r io.Reader, maxBytes int64, hashed chan<- *chunk) error {
	for {
		var c *chunk
		select {
		case c = <-s.pool:
		case <-s.stop:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
		c.fill()
		n, err := fill(r, c.buf)
		s.size += int64(n)
		if maxBytes > 0 && s.size > maxBytes {
			return fmt.Errorf("layer is larger than the limit of %d bytes", maxBytes)
		}
		c.n = n
		c.refs.Store(2)
		hashed <- c
		s.parsed <- c
		switch {
		case err == io.EOF:
			return nil
		case err != nil:
			return fmt.Errorf("read layer: %w", err)
		}
	}
}

// fill reads until buf is full or r ends. Unlike io.ReadFull it keeps the end of
// r apart from the io.ErrUnexpectedEOF that a broken compressed stream gives.
func fill(r io.Reader, buf []byte) (n int, err error) {
	for n < len(buf) && err == nil {
		var k int
		k, err = r.Read(buf[n:])
		n += k
	}
	return n, err
}

// Read gives the next bytes of the archive.
func (s *source) Read(p []byte) (int, error) {
	for len(s.rest) == 0 {
		if !s.next() {
			if s.err != nil {
				return 0, s.err
			}
			return 0, io.EOF
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

// next moves to the next chunk.
func (s *source) next() bool {
	if s.current != nil {
		s.pool.release(s.current)
		s.current = nil
	}
	c, ok := <-s.parsed
	if !ok {
		return false
	}
	s.current = c
	s.rest = c.buf[:c.n]
	return true
}

// finish reads what follows the archive's end mark and returns the digest and the
// size of the whole.
func (s *source) finish() (digest.Digest, int64, error) {
	s.rest = nil
	for s.next() {
	}
	if s.err != nil {
		return "", 0, s.err
	}
	return <-s.digest, s.size, nil
}

// close ends the reading and waits for it.
func (s *source) close() {
	close(s.stop)
	for s.next() {
	}
	<-s.done
}

// A sink takes an archive, hashes it and writes it to w, both beside the
// goroutine that makes it.
type sink struct {
	pool    pool
	readers int32
	hashed  chan *chunk
	written chan *chunk
	digest  <-chan digest.Digest
	wrote   chan error // the first error of w, when written is closed
	failed  atomic.Bool

	current *chunk
	size    int64
}

// newSink starts a sink; w may be nil. The caller must call finish.
func newSink(w io.Writer) *sink {
	s := &sink{pool: newPool(), readers: 1, hashed: make(chan *chunk, chunkCount)}
	s.digest = hashing(s.hashed, s.pool)
	if w == nil || w == io.Discard {
		return s
	}
	s.readers = 2
	s.written = make(chan *chunk, chunkCount)
	s.wrote = make(chan error, 1)
	go func() {
		var err error
		for c := range s.written {
			if err == nil {
				if _, err = w.Write(c.buf[:c.n]); err != nil {
					s.failed.Store(true)
				}
			}
			s.pool.release(c)
		}
		s.wrote <- err
	}()
	return s
}

// space returns the free part of the current chunk, never empty.
func (s *sink) space() []byte {
	if s.current != nil && s.current.n == len(s.current.buf) {
		s.flush()
	}
	if s.current == nil {
		s.current = <-s.pool
		s.current.fill()
		s.current.n = 0
	}
	return s.current.buf[s.current.n:]
}

// advance says that n bytes of space were filled.
func (s *sink) advance(n int) {
	s.current.n += n
	s.size += int64(n)
}

func (s *sink) flush() {
	c := s.current
	s.current = nil
	if c == nil {
		return
	}
	c.refs.Store(s.readers)
	s.hashed <- c
	if s.written != nil {
		s.written <- c
	}
}

// Write appends p.
func (s *sink) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := copy(s.space(), p)
		s.advance(k)
		p = p[k:]
	}
	return n, nil
}

// zeros appends n zero bytes.
func (s *sink) zeros(n int64) {
	for n > 0 {
		b := s.space()
		b = b[:min(int64(len(b)), n)]
		clear(b)
		s.advance(len(b))
		n -= int64(len(b))
	}
}

// finish hands over the rest, waits for both goroutines and returns the digest
// and size of what was written.
func (s *sink) finish() (digest.Digest, int64, error) {
	s.flush()
	close(s.hashed)
	var err error
	if s.written != nil {
		close(s.written)
		err = <-s.wrote
	}
	return <-s.digest, s.size, err
}
