// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"sync"
	"time"
)

// A large blob that comes slowly over one connection is read over several: what
// limits it is then the connection (a long way, a server's limit for each) and not
// the line. Pieces are read ahead into memory, so that the blob stays a stream in
// its order: it can be digested, decompressed and continued like any other.

// wideLimits say when a download is spread, and how far.
type wideLimits struct {
	chunk  int64 // bytes of one request
	least  int64 // bytes that must be missing for it to be worth it
	fast   int64 // bytes per second of one connection that is left alone
	ahead  int   // pieces of one blob that are read ahead
	memory int   // pieces of all blobs of a client
}

// defaultWide takes 32 MB of memory at most.
func defaultWide() wideLimits {
	return wideLimits{chunk: 4 << 20, least: 32 << 20, fast: 48 << 20, ahead: 4, memory: 8}
}

// piece is a part of a blob that is being read ahead.
type piece struct {
	from, to int64 // to is the offset behind it
	data     []byte
	err      error
	done     chan struct{}
}

// wide is the part of a blobReader that reads ahead.
type wide struct {
	client *Client
	fetch  func(ctx context.Context, p *piece) error
	pieces []*piece // in their order, without gaps
	next   int64    // where the piece after the last one begins
	size   int64    // of the blob
	narrow bool     // a piece could not be had: no more of them
	ctx    context.Context
	cancel context.CancelFunc
	wg     sync.WaitGroup
}

// rate measures one connection.
type rate struct {
	got    int64
	waited time.Duration
}

// slow reports whether enough was seen to call the connection slow.
func (r rate) slow(l wideLimits) bool {
	return r.got >= l.chunk && r.waited > 0 && float64(r.got)/r.waited.Seconds() < float64(l.fast)
}

// widen begins to read ahead where that is worth it.
func (b *blobReader) widen() {
	l := b.repo.client.wide
	if b.wide != nil || !b.ranges || b.whole || b.desc.Size-b.offset < l.least || !b.rate.slow(l) {
		return
	}
	// The connection at hand goes on to the end of its piece.
	w := &wide{client: b.repo.client, fetch: b.fetchPiece, next: b.offset + l.chunk, size: b.desc.Size}
	w.ctx, w.cancel = context.WithCancel(b.ctx)
	b.wide = w
	w.fill()
}

// fill starts reading as many pieces as there is memory for.
func (w *wide) fill() {
	for len(w.pieces) < w.client.wide.ahead && w.next < w.size && !w.narrow {
		var buf []byte
		select {
		case buf = <-w.client.spare:
		default:
			return // the other blobs have it
		}
		if buf == nil {
			buf = make([]byte, w.client.wide.chunk)
		}
		p := &piece{from: w.next, to: min(w.next+w.client.wide.chunk, w.size), done: make(chan struct{})}
		p.data = buf[:p.to-p.from]
		w.pieces = append(w.pieces, p)
		w.next = p.to
		w.wg.Go(func() {
			defer close(p.done)
			p.err = w.fetch(w.ctx, p)
		})
	}
}

// front returns the piece that comes first; nil if there is none.
func (w *wide) front() *piece {
	if w == nil || len(w.pieces) == 0 {
		return nil
	}
	return w.pieces[0]
}

// read copies from the piece that has the offset. It returns 0 where the piece could
// not be had: it is gone then, and must be read in the ordinary way.
func (w *wide) read(out []byte, offset int64) int {
	p := w.pieces[0]
	<-p.done // ends with w.ctx at the latest
	n := 0
	if p.err == nil {
		n = copy(out, p.data[offset-p.from:])
	} else {
		w.narrow = true
	}
	if p.err != nil || offset+int64(n) == p.to {
		w.pieces = w.pieces[1:]
		w.client.spare <- p.data[:cap(p.data)]
		w.fill()
	}
	return n
}

// limit returns how far the connection at hand may read: to the first piece.
func (w *wide) limit(offset int64, most int) int {
	if p := w.front(); p != nil {
		return int(min(int64(most), p.from-offset))
	}
	return most
}

// stop ends reading ahead and waits until it has ended.
func (w *wide) stop() {
	if w == nil {
		return
	}
	w.cancel()
	w.wg.Wait()
	for _, p := range w.pieces {
		w.client.spare <- p.data[:cap(p.data)]
	}
	w.pieces = nil
}

// fetchPiece reads one piece, without a second attempt: the ordinary way has those.
func (b *blobReader) fetchPiece(ctx context.Context, p *piece) error {
	req := &request{method: http.MethodGet, path: "blobs/" + string(b.desc.Digest), scopes: b.repo.pullScopes(),
		header: http.Header{"Range": {fmt.Sprintf("bytes=%d-%d", p.from, p.to-1)}}}
	resp, err := b.repo.authorized(ctx, req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusPartialContent || !startsAt(resp.Header.Get("Content-Range"), p.from, b.desc.Size) {
		return fmt.Errorf("no range: %d", resp.StatusCode)
	}
	_, err = io.ReadFull(resp.Body, p.data)
	return err
}
