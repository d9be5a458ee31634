// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"io"
	"io/fs"
	"runtime"
	"slices"
	"sync"
)

// smallBlock is the buffer of a writer that has seen little so far, in bytes.
const smallBlock = 64 << 10

// encoder compresses one block at a time. It is used by one goroutine.
type encoder interface {
	// encode appends the compressed src to dst; history is the input before src. The result must depend on
	// nothing else.
	encode(dst, history, src []byte) ([]byte, error)
}

// blockConfig says how a blockWriter cuts and compresses its input.
type blockConfig struct {
	size       int // of a block
	history    int // bytes before a block that are given to its encoder
	workers    int
	newEncoder func() (encoder, error)
}

// workers returns how many workers to use, if limit are possible.
func (o WriterOptions) workers(limit int) int {
	n := o.Workers
	if n <= 0 {
		n = runtime.GOMAXPROCS(0)
	}
	return min(n, limit)
}

// block is a piece of input on its way from the writer to a worker and then to the emitter.
type block struct {
	in      []byte // history, then the input
	history int
	out     []byte
	err     error
	done    chan struct{} // gets one value when out is ready
}

// blockWriter cuts its input into blocks of one size, compresses them in several goroutines and writes
// the results in the order of the input. The goroutines start with the second block; workers+1 blocks
// exist at most.
type blockWriter struct {
	blockConfig
	dst     io.Writer
	current *block
	blocks  int // how many were made
	started bool
	closed  bool
	err     error // only for Write and Close

	jobs  chan *block // to the workers
	order chan *block // to the emitter
	free  chan *block // back from it
	wait  sync.WaitGroup

	mu     sync.Mutex
	failed error // of the emitter
}

func newBlockWriter(dst io.Writer, c blockConfig) *blockWriter {
	n := c.workers + 1
	return &blockWriter{
		blockConfig: c,
		dst:         dst,
		jobs:        make(chan *block, n),
		order:       make(chan *block, n),
		free:        make(chan *block, n),
		current:     &block{in: make([]byte, 0, smallBlock), done: make(chan struct{}, 1)},
		blocks:      1,
	}
}

// Write compresses p.
func (w *blockWriter) Write(p []byte) (int, error) {
	if w.closed {
		return 0, fs.ErrClosed
	}
	total := 0
	for len(p) > 0 {
		if w.err != nil {
			return total, w.err
		}
		b := w.current
		room := b.history + w.size - len(b.in)
		if room == 0 {
			w.submit()
			continue
		}
		n := min(room, len(p))
		if len(b.in)+n > cap(b.in) {
			b.in = slices.Grow(b.in, w.history+w.size-len(b.in))
		}
		b.in = append(b.in, p[:n]...)
		p = p[n:]
		total += n
	}
	return total, nil
}

// Close compresses the rest, which may be empty, and waits until all is written.
func (w *blockWriter) Close() error {
	if w.closed {
		return w.err
	}
	w.closed = true
	if !w.started {
		if w.err == nil {
			w.err = w.inline()
		}
		return w.err
	}
	w.jobs <- w.current
	w.order <- w.current
	w.stop()
	return w.err
}

// inline compresses an input of at most one block.
func (w *blockWriter) inline() error {
	e, err := w.newEncoder()
	if err != nil {
		return err
	}
	out, err := e.encode(nil, nil, w.current.in)
	if err != nil {
		return err
	}
	_, err = w.dst.Write(out)
	return err
}

// submit hands the full block on and makes the next one current.
func (w *blockWriter) submit() {
	if !w.started {
		w.start()
	}
	b := w.current
	next := w.nextBlock()
	tail := b.in[len(b.in)-min(w.history, len(b.in)):]
	next.in = append(next.in[:0], tail...)
	next.history = len(tail)
	w.jobs <- b
	w.order <- b
	w.current = next
	w.mu.Lock()
	w.err = w.failed
	w.mu.Unlock()
}

func (w *blockWriter) nextBlock() *block {
	if w.blocks <= w.workers {
		select {
		case b := <-w.free:
			return b
		default:
		}
		w.blocks++
		return &block{
			in:   make([]byte, 0, w.history+w.size),
			out:  make([]byte, 0, w.size/2),
			done: make(chan struct{}, 1),
		}
	}
	return <-w.free
}

func (w *blockWriter) start() {
	w.started = true
	for range w.workers {
		w.wait.Go(w.work)
	}
	w.wait.Go(w.emit)
}

func (w *blockWriter) stop() {
	close(w.jobs)
	close(w.order)
	w.wait.Wait()
	w.err = w.failed
}

// work compresses blocks.
func (w *blockWriter) work() {
	e, err := w.newEncoder()
	for b := range w.jobs {
		b.err = err
		if err == nil {
			b.out, b.err = e.encode(b.out[:0], b.in[:b.history], b.in[b.history:])
		}
		b.done <- struct{}{}
	}
}

// emit writes compressed blocks in the order of the input. After an error it only waits for them.
func (w *blockWriter) emit() {
	var failed error
	for b := range w.order {
		<-b.done
		if failed == nil {
			failed = b.err
			if failed == nil {
				_, failed = w.dst.Write(b.out)
			}
			if failed != nil {
				w.mu.Lock()
				w.failed = failed
				w.mu.Unlock()
			}
		}
		w.free <- b
	}
}
