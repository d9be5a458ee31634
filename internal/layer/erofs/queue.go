// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"runtime"
	"sync"

	"build.stacker.dev/internal/compress/lz4"
)

// A task is a piece of work that is committed after all before it: places in the
// image are given out in the order of entries, however the work is scheduled.
type task struct {
	size   int             // bytes that it holds
	ready  <-chan struct{} // closed when it can be committed; nil: at once
	commit func() error
}

// queue is the row of tasks that are not committed. Goroutines compress segments;
// everything else is done by the one that calls push.
type queue struct {
	compression Compression
	tasks       []task
	size        int // of all tasks
	limit       int
	jobs        chan func(*lz4.Encoder)
	workers     sync.WaitGroup
}

// maxTasks bounds tasks that hold little.
const maxTasks = 1024

func newQueue(c Compression) *queue {
	q := &queue{compression: c, limit: segmentSize}
	if c == None {
		return q
	}
	n := runtime.GOMAXPROCS(0)
	q.limit = 2 * (n + 1) * segmentSize
	// A job belongs to a task, so a send never blocks.
	q.jobs = make(chan func(*lz4.Encoder), maxTasks+1)
	for range n {
		q.workers.Go(func() {
			enc := &lz4.Encoder{}
			for job := range q.jobs {
				job(enc)
			}
		})
	}
	return q
}

// close ends the workers; tasks that were not committed are dropped.
func (q *queue) close() {
	if q.jobs == nil {
		return
	}
	close(q.jobs)
	q.workers.Wait()
}

// push adds a task and commits the first ones if there are too many.
func (q *queue) push(t task) error {
	q.tasks = append(q.tasks, t)
	q.size += t.size
	for len(q.tasks) > maxTasks || q.size > q.limit {
		if err := q.pop(); err != nil {
			return err
		}
	}
	return nil
}

// flush commits all tasks.
func (q *queue) flush() error {
	for len(q.tasks) > 0 {
		if err := q.pop(); err != nil {
			return err
		}
	}
	q.tasks = nil
	return nil
}

func (q *queue) pop() error {
	t := q.tasks[0]
	q.tasks[0] = task{}
	q.tasks = q.tasks[1:]
	q.size -= t.size
	if t.ready != nil {
		<-t.ready
	}
	return t.commit()
}

// segment queues a part of the content of f.
func (q *queue) segment(f *file, src []byte, last bool) error {
	if q.compression == None {
		return q.push(task{size: len(src), commit: func() error { return f.raw(src, last) }})
	}
	done := make(chan struct{})
	var p packed
	q.jobs <- func(enc *lz4.Encoder) {
		p = pack(enc, src, last)
		close(done)
	}
	return q.push(task{size: len(src), ready: done, commit: func() error { return f.packed(src, p, last) }})
}
