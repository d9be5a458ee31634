// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"cmp"
	"context"
	"errors"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
)

const (
	// batch is how many files a goroutine takes at once. Those of one directory
	// follow each other, so that it is opened once for all of them.
	batch = 32
	// maxHands bounds the goroutines, each of which has a buffer of 256 KiB: where
	// there are more processors, the file system is what is waited for.
	maxHands = 8
)

// job is a regular file to be made.
type job struct {
	*item
	to     string
	number int // in the order of the source
}

// crew makes the regular files of one source with several goroutines, while the
// copy goes on with directories and all else. A directory is there before the
// first of its files is handed over, and no two files have one name.
type crew struct {
	copier *copier
	next   []job
	count  int
	jobs   chan []job // nil: no goroutine was needed so far
	wg     sync.WaitGroup
	failed atomic.Bool

	mu     sync.Mutex
	linked []job // files with several names, in no order
	err    error // of the first file in order that has one
	at     int
}

// add hands over a file.
func (c *crew) add(ctx context.Context, i *item, to string) {
	c.next = append(c.next, job{item: i, to: to, number: c.count})
	c.count++
	if len(c.next) < batch {
		return
	}
	if c.jobs == nil {
		c.start(ctx)
	}
	c.jobs <- c.next
	c.next = nil
}

func (c *crew) start(ctx context.Context) {
	hands := min(runtime.GOMAXPROCS(0), maxHands)
	c.jobs = make(chan []job, hands)
	for range hands {
		c.wg.Go(func() {
			h := &hand{copier: c.copier}
			defer h.close()
			for jobs := range c.jobs {
				c.make(ctx, h, jobs)
			}
		})
	}
}

// make makes files, unless something failed.
func (c *crew) make(ctx context.Context, h *hand, jobs []job) {
	for i := range jobs {
		if c.failed.Load() {
			return
		}
		if err := h.file(ctx, jobs[i].item, jobs[i].to); err != nil {
			c.note(jobs[i], err)
		}
	}
}

// note keeps what is to be done at the end, or why there is no end.
func (c *crew) note(j job, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.Is(err, errLinked) {
		c.linked = append(c.linked, j)
		return
	}
	if c.err == nil || j.number < c.at {
		c.err, c.at = err, j.number
	}
	c.failed.Store(true)
}

// finish waits until all files are made, and makes the links between them.
func (c *crew) finish(ctx context.Context) error {
	h := &hand{copier: c.copier}
	defer h.close()
	c.make(ctx, h, c.next)
	if c.jobs != nil {
		close(c.jobs)
		c.wg.Wait()
	}
	if c.err != nil {
		return c.err
	}
	slices.SortFunc(c.linked, func(a, b job) int { return cmp.Compare(a.number, b.number) })
	for i := range c.linked {
		if err := h.link(ctx, c.linked[i].item, c.linked[i].to); err != nil {
			return err
		}
	}
	return nil
}
