// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// fileData is where the content of a regular file lies.
type fileData struct {
	size     int64
	start    int64    // of the first block
	blocks   []uint32 // sizes of the blocks as stored; 0: all zeros, not stored
	sparse   int64    // bytes that are not stored
	fragment uint32   // that the end of the file lies in; none32: there is none
	offset   uint32   // in the fragment
}

// A job is one block on its way: filled by the caller of Write, compressed by a
// worker, written in its turn.
type job struct {
	raw    []byte // cap: the size of a block
	packed []byte
	file   *fileData // nil: a fragment
	last   bool      // of the file's blocks
	zero   bool
	sum    [sha256.Size]byte // of raw, for blocks of files
	err    error
	done   chan struct{} // has an element when a worker is finished
}

// content names what lies in the data area, to store it once.
type content [sha256.Size]byte

// A run is a row of blocks.
type run struct {
	start  int64
	blocks []uint32
}

// A tail is the end of a file in a fragment.
type tail struct {
	fragment, offset uint32
}

// A storedBlock is an entry of the fragment table.
type storedBlock struct {
	start int64
	size  uint32
}

// dataWriter writes contents, compressed on several processors. A file becomes full
// blocks, which lie in a row, and an end, which shares a fragment with the ends of
// other files. Equal rows and equal ends are stored once.
//
// The number of jobs bounds the memory. Results are written in the order in which
// the blocks came, so that the output does not depend on who was first.
type dataWriter struct {
	out       Output
	blockSize int
	pool      chan *job
	work      chan *job
	order     chan *job
	workers   sync.WaitGroup
	done      chan struct{} // closed when all is written
	failed    atomic.Bool
	discard   atomic.Bool // the caller gave up: compress no more

	// Only the caller's.
	open  *job // the fragment that is being filled
	count uint32
	tails map[content]tail

	// Only the writing goroutine's, until done is closed.
	pos       int64
	err       error
	fragments []storedBlock
	runs      map[content]run
	current   hash.Hash // of the sums of the current file's blocks
}

// jobsPerWorker keeps the workers busy while results wait for their turn.
const jobsPerWorker = 4

func newDataWriter(out Output, o Options) (*dataWriter, error) {
	var encoders []encoder
	for range o.Workers {
		enc, err := newEncoder(o.Compression, o.BlockSize)
		if err != nil {
			return nil, err
		}
		encoders = append(encoders, enc)
	}
	jobs := jobsPerWorker*o.Workers + 1 // and the open fragment
	d := &dataWriter{
		out: out, blockSize: o.BlockSize, pos: superblockSize,
		pool: make(chan *job, jobs), work: make(chan *job, jobs), order: make(chan *job, jobs), done: make(chan struct{}),
		tails: map[content]tail{}, runs: map[content]run{}, current: sha256.New(),
	}
	for range jobs {
		d.pool <- &job{done: make(chan struct{}, 1)}
	}
	for _, enc := range encoders {
		d.workers.Go(func() { d.compress(enc) })
	}
	go d.write()
	return d, nil
}

// errOutput ends the reading of entries; finish tells why.
var errOutput = errors.New("the output failed")

// take gives an empty job.
func (d *dataWriter) take(ctx context.Context) (*job, error) {
	select {
	case j := <-d.pool:
		if d.failed.Load() {
			d.pool <- j
			return nil, errOutput
		}
		if j.raw == nil {
			j.raw = make([]byte, 0, d.blockSize)
		}
		j.raw, j.file, j.last, j.zero, j.err = j.raw[:0], nil, false, false, nil
		return j, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// submit sends a filled job on its way.
func (d *dataWriter) submit(j *job) {
	d.work <- j
	d.order <- j
}

// file stores the content of a file.
func (d *dataWriter) file(ctx context.Context, f *fileData, r io.Reader) error {
	full := f.size / int64(d.blockSize)
	for i := range full {
		j, err := d.take(ctx)
		if err != nil {
			return err
		}
		j.raw = j.raw[:d.blockSize]
		if err := readContent(r, j.raw); err != nil {
			d.pool <- j
			return err
		}
		j.file, j.last = f, i == full-1
		d.submit(j)
	}
	if rest := int(f.size % int64(d.blockSize)); rest > 0 {
		return d.tail(ctx, f, r, rest)
	}
	return nil
}

func readContent(r io.Reader, b []byte) error {
	_, err := io.ReadFull(r, b)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("read content: %w", err)
	}
	return nil
}

// tail puts the last n bytes of a file into a fragment.
func (d *dataWriter) tail(ctx context.Context, f *fileData, r io.Reader, n int) error {
	if d.open != nil && len(d.open.raw)+n > d.blockSize {
		d.submit(d.open)
		d.open = nil
	}
	if d.open == nil {
		j, err := d.take(ctx)
		if err != nil {
			return err
		}
		d.open = j
		d.count++
	}
	at := len(d.open.raw)
	b := d.open.raw[at : at+n]
	if err := readContent(r, b); err != nil {
		return err
	}
	sum := content(sha256.Sum256(b))
	t, known := d.tails[sum]
	if !known {
		t = tail{d.count - 1, uint32(at)}
		d.tails[sum] = t
		d.open.raw = d.open.raw[:at+n]
	}
	f.fragment, f.offset = t.fragment, t.offset
	return nil
}

// finish waits until all is written; without is set if it is not needed any more.
func (d *dataWriter) finish(without bool) error {
	d.discard.Store(without)
	if d.open != nil && !without {
		d.submit(d.open)
		d.open = nil
	}
	close(d.work)
	close(d.order)
	d.workers.Wait()
	<-d.done
	return d.err
}

var zeros [4096]byte

func allZero(b []byte) bool {
	for len(b) > 0 {
		n := min(len(b), len(zeros))
		if !bytes.Equal(b[:n], zeros[:n]) {
			return false
		}
		b = b[n:]
	}
	return true
}

// compress is a worker.
func (d *dataWriter) compress(enc encoder) {
	for j := range d.work {
		if d.discard.Load() || d.failed.Load() {
			j.done <- struct{}{}
			continue
		}
		j.zero = j.file != nil && allZero(j.raw)
		if !j.zero {
			if j.file != nil {
				j.sum = sha256.Sum256(j.raw)
			}
			j.packed, j.err = enc.encode(j.packed[:0], j.raw)
		}
		j.done <- struct{}{}
	}
}

// write writes the results in order.
func (d *dataWriter) write() {
	for j := range d.order {
		<-j.done
		if d.err == nil && !d.discard.Load() {
			if d.err = d.result(j); d.err != nil {
				d.failed.Store(true)
			}
		}
		d.pool <- j
	}
	close(d.done)
}

func (d *dataWriter) result(j *job) error {
	if j.err != nil {
		return j.err
	}
	if j.file == nil {
		b, err := d.store(j)
		d.fragments = append(d.fragments, b)
		return err
	}
	f := j.file
	if len(f.blocks) == 0 {
		f.start = d.pos
		d.current.Reset()
	}
	if j.zero {
		f.blocks = append(f.blocks, 0)
		f.sparse += int64(len(j.raw))
		d.current.Write(make([]byte, sha256.Size))
	} else {
		b, err := d.store(j)
		if err != nil {
			return err
		}
		f.blocks = append(f.blocks, b.size)
		d.current.Write(j.sum[:])
	}
	if j.last {
		d.sameRun(f)
	}
	return nil
}

// sameRun takes back the blocks of a file if the same were written before.
func (d *dataWriter) sameRun(f *fileData) {
	var key content
	d.current.Sum(key[:0])
	if old, ok := d.runs[key]; ok {
		d.pos = f.start
		f.start, f.blocks = old.start, old.blocks
		return
	}
	d.runs[key] = run{f.start, f.blocks}
}

// store writes a block at the end of the data.
func (d *dataWriter) store(j *job) (storedBlock, error) {
	b := storedBlock{start: d.pos, size: uint32(len(j.packed))}
	bytes := j.packed
	if len(j.packed) >= len(j.raw) {
		b.size, bytes = uint32(len(j.raw))|blockRaw, j.raw
	}
	if _, err := d.out.WriteAt(bytes, d.pos); err != nil {
		return b, err
	}
	d.pos += int64(len(bytes))
	return b, nil
}
