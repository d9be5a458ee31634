// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"context"
	"runtime"
	"sync"
)

const (
	// smallFile is up to how many bytes a file is read ahead, in bytes: opening
	// files is what takes time, and several goroutines do it at once.
	smallFile = 64 << 10
	// ahead is how many batches of files are read before they are wanted, for each
	// goroutine. What is held at most is ahead × maxHands × batch × smallFile, and a
	// tenth of it where files are as small as they mostly are.
	ahead = 2
)

// preload reads the copied files of a draft with several goroutines, and gives them in
// order.
type preload struct {
	tree    *laying         // where the files are kept; nil: nowhere
	batches chan *loadBatch // in order
	spare   chan []byte     // buffers for further batches
	wg      sync.WaitGroup
	current *loadBatch
	at      int
}

// loadBatch is some files, one after the other.
type loadBatch struct {
	files []loaded
	buf   []byte
	done  chan struct{}
}

func newPreload(ctx context.Context, list []named, t *laying) *preload {
	hands := min(runtime.GOMAXPROCS(0), maxHands)
	p := &preload{tree: t, batches: make(chan *loadBatch, hands*ahead), spare: make(chan []byte, hands*(ahead+1)+1)}
	work := make(chan *loadBatch)
	for range cap(p.spare) {
		p.spare <- nil
	}
	p.wg.Go(func() {
		defer close(work)
		defer close(p.batches)
		p.feed(ctx, list, work)
	})
	for range hands {
		p.wg.Go(func() { p.loadAll(ctx, work) })
	}
	return p
}

// feed parts the files into batches: each goes to the reader of all, and to one of
// those who load.
func (p *preload) feed(ctx context.Context, list []named, work chan<- *loadBatch) {
	for len(list) > 0 {
		var buf []byte
		select {
		case buf = <-p.spare:
		case <-ctx.Done():
			return
		}
		b := &loadBatch{done: make(chan struct{}), buf: buf[:0]}
		for len(list) > 0 && len(b.files) < batch {
			if c := list[0].copied; c != nil {
				b.files = append(b.files, loaded{name: list[0].name, item: c.item, copier: c.copier})
			}
			list = list[1:]
		}
		for _, to := range []chan<- *loadBatch{p.batches, work} {
			select {
			case to <- b:
			case <-ctx.Done():
				return
			}
		}
	}
}

// loadAll reads batches, and makes the files where they are to be in a tree: but for
// those of several names, and those that are too large.
func (p *preload) loadAll(ctx context.Context, work <-chan *loadBatch) {
	var to place
	defer to.close()
	hands := map[*copier]*hand{}
	defer func() {
		for _, h := range hands {
			h.close()
		}
	}()
	for b := range work {
		for i := range b.files {
			l := &b.files[i]
			h := hands[l.copier]
			if h == nil {
				h = &hand{copier: l.copier}
				hands[l.copier] = h
			}
			if b.buf, l.err = h.load(ctx, l, b.buf); l.err == nil && p.tree != nil && l.whole && l.links < 2 {
				l.err = p.tree.file(&to, l)
			}
			if l.err != nil {
				break // nobody reads further
			}
		}
		close(b.done)
	}
}

// next gives the next file. Its data is good until the one after it is asked for.
func (p *preload) next(ctx context.Context) (*loaded, error) {
	for p.current == nil || p.at == len(p.current.files) {
		if p.current != nil {
			p.spare <- p.current.buf
			p.current = nil
		}
		select {
		case b := <-p.batches:
			p.current, p.at = b, 0
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		select {
		case <-p.current.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	p.at++
	return &p.current.files[p.at-1], nil
}

// close waits for the goroutines, whose context has ended.
func (p *preload) close() { p.wg.Wait() }
