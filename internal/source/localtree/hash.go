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
	"strings"
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

// hashBatch is how many files a goroutine takes at once: those of one directory follow
// each other, so that it is opened once for all of them.
const hashBatch = 32

// hash hashes the files that the index did not know and returns their bytes.
func (s *scan) hash(ctx context.Context) (int64, error) {
	var large, todo []*node
	for _, n := range s.nodes {
		switch {
		case !n.IsRegular() || n.state != unhashed:
		case n.Size >= largeFile:
			large = append(large, n)
		default:
			todo = append(todo, n)
		}
	}
	var work [][]*node
	for i := range large {
		work = append(work, large[i:i+1])
	}
	work = slices.AppendSeq(work, slices.Chunk(todo, hashBatch))

	errs := make([]error, len(work))
	var next, total atomic.Int64
	var failed atomic.Bool
	var wg sync.WaitGroup
	for range min(s.workers, len(work)) {
		wg.Go(func() {
			h := hasher{scan: s, sum: sha256.New(), buf: make([]byte, 256<<10), dir: directory{-1}}
			defer h.leave()
			for !failed.Load() {
				i := int(next.Add(1)) - 1
				if i >= len(work) {
					break
				}
				if errs[i] = h.files(ctx, work[i]); errs[i] != nil {
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
	dir   directory // of the last file, open for its neighbours; -1: none is
	path  string    // its path
	wary  bool      // files here are not always as they were listed
}

func (h *hasher) files(ctx context.Context, todo []*node) error {
	for _, n := range todo {
		if err := h.file(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// file fills in n's digest, and its stat where it changed since it was listed.
func (h *hasher) file(ctx context.Context, n *node) error {
	for i := range attempts {
		began := h.index.clock()
		// How it was listed is how it was before it was read, if it still is that then.
		listed := i == 0 && !h.wary
		before, after, err := h.once(ctx, n, listed)
		if errors.Is(err, unix.ENOENT) {
			n.state = missing
			return nil
		}
		if listed && (err != nil && ctx.Err() == nil || before != after.stat) {
			h.wary = true
			continue
		}
		if err != nil {
			return h.cannot("read", n.Path, err)
		}
		if before != after.stat {
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
// two states are equal. listed says that the first one is that of the listing.
func (h *hasher) once(ctx context.Context, n *node, listed bool) (before stat, after status, err error) {
	fd, err := h.open(n.Path)
	if err != nil {
		return before, after, err
	}
	defer unix.Close(fd)
	before = n.stat
	if !listed {
		at, err := inspect(fd)
		if err != nil {
			return before, after, err
		}
		before = at.stat
	}
	if before.mode&unix.S_IFMT != unix.S_IFREG {
		return before, after, errMoving
	}
	if err := h.read(ctx, fd, before.size); err != nil {
		return before, after, err
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

// read hashes a file that has size bytes. What is beyond is seen by its size, later: a
// file that grows as fast as it is read would never end.
func (h *hasher) read(ctx context.Context, fd int, size int64) error {
	h.sum.Reset()
	for left := size; ; {
		if err := ctx.Err(); err != nil {
			return err
		}
		got, err := read(fd, h.buf)
		if err != nil || got == 0 {
			return err
		}
		h.sum.Write(h.buf[:got])
		h.bytes += int64(got)
		if h.o.Progress != nil {
			h.o.Progress(int64(got))
		}
		if left -= int64(got); left <= 0 {
			return nil
		}
	}
}

// open opens a file, and keeps its directory open.
func (h *hasher) open(p string) (int, error) {
	if h.base != "" {
		return h.top.open(h.base, 0)
	}
	dir, name := "", p
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		dir, name = p[:i], p[i+1:]
	}
	if h.dir.fd < 0 || h.path != dir {
		h.leave()
		fd, err := h.top.open(dir, unix.O_DIRECTORY)
		if errors.Is(err, unix.EACCES) { // one that may be entered and not listed
			return h.top.open(p, 0)
		}
		if err != nil {
			return -1, err
		}
		h.dir, h.path = directory{fd}, dir
	}
	return openat(h.dir.fd, name, openFlags, 0)
}

func (h *hasher) leave() {
	if h.dir.fd >= 0 {
		h.dir.close()
		h.dir.fd = -1
	}
}

// inTop is where in the open directory a path of the tree lies.
func (s *scan) inTop(p string) string {
	if s.base != "" {
		return s.base
	}
	return p
}
