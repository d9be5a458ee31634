// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// attempts bounds how often a file that keeps changing is hashed.
const attempts = 5

// largeFile is hashed before the others, so that no single goroutine is left with
// it at the end.
const largeFile = 32 << 20

// errMoving tells that a file changed while it was read.
var errMoving = errors.New("it changes while it is read: stop what writes it or exclude it")

// hash hashes the files that the index did not know and returns their bytes.
func (s *scan) hash(ctx context.Context) (int64, error) {
	var todo []*node
	for _, n := range s.nodes {
		if n.IsRegular() && n.state == unhashed {
			todo = append(todo, n)
		}
	}
	slices.SortStableFunc(todo, func(a, b *node) int { return min(int(b.Size/largeFile), 1) - min(int(a.Size/largeFile), 1) })

	errs := make([]error, len(todo))
	var next, total atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(s.workers, len(todo)) {
		wg.Go(func() {
			h := hasher{scan: s, sum: sha256.New(), buf: make([]byte, 256<<10)}
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(todo) {
					break
				}
				if errs[i] = h.file(ctx, todo[i]); errs[i] != nil {
					failed.Store(true)
				}
			}
			total.Add(h.bytes)
		})
	}
	wg.Wait()
	for _, err := range errs {
		if err != nil {
			return 0, err
		}
	}
	return total.Load(), nil
}

// hasher is one goroutine's tools.
type hasher struct {
	*scan
	sum   hash.Hash
	buf   []byte
	bytes int64
}

// file fills in n's digest, and its stat where it changed since it was listed.
func (h *hasher) file(ctx context.Context, n *node) error {
	for range attempts {
		began := h.index.clock()
		before, after, err := h.once(ctx, n)
		if errors.Is(err, unix.ENOENT) {
			n.state = missing
			return nil
		}
		if err != nil {
			return h.cannot("read", n.Path, err)
		}
		if before.stat != after.stat {
			continue
		}
		n.stat, n.Mode, n.Size, n.MTime = after.stat, after.mode, after.size, after.mtime
		if h.o.Owners {
			n.UID, n.GID = after.uid, after.gid
		}
		h.sum.Sum(n.sum[:0])
		n.state = tooNew
		if settled(after.ctime, began, h.volumes.margin(after.dev)) {
			n.state = hashed
		}
		return nil
	}
	return fmt.Errorf("read %q: %w", h.name(n.Path), errMoving)
}

// once reads n from its beginning to its end. Its bytes are one content only if the
// two states are equal.
func (h *hasher) once(ctx context.Context, n *node) (before, after status, err error) {
	fd, err := h.top.open(h.inTop(n.Path), 0)
	if err != nil {
		return before, after, err
	}
	defer unix.Close(fd)
	if before, err = inspect(fd); err != nil {
		return before, after, err
	}
	if before.mode&unix.S_IFMT != unix.S_IFREG {
		return before, after, errMoving
	}
	h.sum.Reset()
	// A file that grows as fast as it is read would never end.
	for left := before.size; left >= 0; {
		if err := ctx.Err(); err != nil {
			return before, after, err
		}
		got, err := read(fd, h.buf)
		if err != nil {
			return before, after, err
		}
		if got == 0 {
			break
		}
		left -= int64(got)
		h.sum.Write(h.buf[:got])
		h.bytes += int64(got)
		if h.o.Progress != nil {
			h.o.Progress(int64(got))
		}
	}
	all, err := xattrs(fd)
	if err != nil {
		return before, after, err
	}
	n.marked = len(all) > 0
	if h.o.Xattrs {
		n.Xattrs = all
	}
	after, err = inspect(fd)
	return before, after, err
}

// inTop is where in the open directory a path of the tree lies.
func (s *scan) inTop(p string) string {
	if s.base != "" {
		return s.base
	}
	return p
}
