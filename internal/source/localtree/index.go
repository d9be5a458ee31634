// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"bytes"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/atomicfile"
)

// Index remembers the digests of files between scans, in one file per root (see
// format.go). Any number of goroutines and processes may use a directory at once.
type Index struct {
	dir   string
	clock clock
}

// OpenIndex uses dir, which is made when there is something to keep in it. An
// empty dir keeps nothing: every scan reads every file.
func OpenIndex(dir string) *Index { return &Index{dir: dir, clock: wallClock} }

// recall takes what the index knows. Both lists are sorted by path.
func (s *scan) recall(d *decoder) {
	var r record
	more := d.next(&r)
	for _, n := range s.nodes {
		if !n.IsRegular() {
			continue
		}
		for more && comparePath(r.path, n.Path) < 0 {
			more = d.next(&r)
		}
		if !more {
			return
		}
		// The second look at the clock's margin is for a clock that was set back
		// since the record was made.
		if string(r.path) == n.Path && r.stat == n.stat && settled(n.stat.ctime, s.began, s.volumes.margin(n.stat.dev)) {
			n.sum, n.state, n.marked = r.sum, remembered, r.marked
		}
	}
}

// recallXattrs reads the attributes of files that are not read themselves. They did not
// change: that would have changed the ctime.
func (s *scan) recallXattrs() error {
	if !s.o.Xattrs {
		return nil
	}
	for _, n := range s.nodes {
		if n.state != remembered || !n.marked {
			continue
		}
		fd, err := s.top.open(s.inTop(n.Path), 0)
		if err == nil {
			n.Xattrs, err = xattrs(fd)
			_ = unix.Close(fd)
		}
		if err != nil {
			return s.cannot("read attributes of", n.Path, err)
		}
	}
	return nil
}

// save writes the index if there is something new that may be trusted.
func (s *scan) save(old []byte) error {
	if s.index.dir == "" || !s.learned() {
		return nil
	}
	if err := os.MkdirAll(s.index.dir, 0o700); err != nil {
		return fmt.Errorf("keep digests of %s: %w", s.root, err)
	}
	e := newEncoder(len(old) + 64*len(s.nodes))
	d := openRecords(old)
	var was, now record
	more := d.next(&was)
	for _, n := range s.nodes {
		for more && comparePath(was.path, n.Path) < 0 {
			e.keep(&was)
			more = d.next(&was)
		}
		if more && string(was.path) == n.Path {
			more = d.next(&was)
		}
		if n.state == remembered || n.state == hashed {
			now = record{path: append(now.path[:0], n.Path...), stat: n.stat, marked: n.marked, sum: n.sum}
			e.add(&now)
		}
	}
	for ; more; more = d.next(&was) {
		e.keep(&was)
	}
	// Not flushed to the disk: a torn file is told by its checksum.
	if err := atomicfile.Write(s.index.indexPath(s.root), e.bytes(), 0o600, atomicfile.NoSync); err != nil {
		return fmt.Errorf("keep digests of %s: %w", s.root, err)
	}
	return nil
}

func (s *scan) learned() bool {
	for _, n := range s.nodes {
		if n.state == hashed {
			return true
		}
	}
	return false
}

// keep writes a record of a file that this scan did not meet.
func (e *encoder) keep(r *record) {
	if r.unseen < maxUnseen {
		r.unseen++
		e.add(r)
	}
}

// load reads the index file of root; nil if there is none that can be read.
func (x *Index) load(root string) []byte {
	if x.dir == "" {
		return nil
	}
	// Without O_NONBLOCK a FIFO in its place would hang the build.
	f, err := os.OpenFile(x.indexPath(root), openFlags, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil || !st.Mode().IsRegular() || st.Size() > maxIndexSize {
		return nil
	}
	buf := bytes.NewBuffer(make([]byte, 0, st.Size()+bytes.MinRead))
	if _, err := buf.ReadFrom(f); err != nil {
		return nil
	}
	return buf.Bytes()
}

// comparePath compares bytewise, without making a string of a.
func comparePath(a []byte, b string) int {
	n := commonPrefix(a, b)
	switch {
	case n == len(a) && n == len(b):
		return 0
	case n == len(a):
		return -1
	case n == len(b):
		return 1
	}
	return int(a[n]) - int(b[n])
}
