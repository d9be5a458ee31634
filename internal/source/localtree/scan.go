// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"build.stacker.dev/internal/atomicfile"
	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// scan is one run of Index.Scan.
type scan struct {
	ctx     context.Context // of this run only
	index   *Index
	o       Options
	root    string
	base    string    // of a root that is no directory: its name in top
	top     directory // the root, or its parent where it is no directory
	rootAt  status
	began   int64
	workers int
	volumes volumes
	nodes   []node
}

// newScan opens root. The caller closes s.top.
func newScan(ctx context.Context, x *Index, root string, o Options) (*scan, error) {
	s := &scan{ctx: ctx, index: x, o: o, workers: o.Workers, began: x.clock()}
	if s.workers <= 0 {
		s.workers = runtime.GOMAXPROCS(0)
	}
	var err error
	if s.root, err = filepath.Abs(root); err != nil {
		return nil, fmt.Errorf("find %q: %w", root, err)
	}
	if o.FollowRoot {
		if s.root, err = filepath.EvalSymlinks(s.root); err != nil {
			return nil, fmt.Errorf("find %q: %w", root, err)
		}
	}
	return s, s.openRoot()
}

func (s *scan) openRoot() error {
	st, err := lookup(unix.AT_FDCWD, s.root, false)
	if err != nil {
		return s.cannot("find", "", err)
	}
	dir := s.root
	if st.mode&unix.S_IFMT != unix.S_IFDIR {
		dir, s.base = filepath.Split(s.root)
	}
	fd, err := openat(unix.AT_FDCWD, dir, openFlags&^unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return s.cannot("open", "", err)
	}
	s.top = directory{fd}
	at, err := inspect(fd)
	if err == nil {
		// Looked at once more, through the directory that is now held and with the
		// attributes that its file system wants.
		fresh := s.volumes.isForeign(at.dev, fd)
		if s.base != "" {
			at, err = lookup(fd, s.base, fresh)
		}
	}
	if err != nil {
		s.top.close()
		return s.cannot("look at", "", err)
	}
	s.rootAt = at
	return nil
}

func (s *scan) run() (*Tree, error) {
	loaded := make(chan []byte, 1)
	go func() { loaded <- s.index.load(s.root) }()
	err := s.find()
	old := <-loaded
	if err != nil {
		return nil, err
	}
	s.recall(openRecords(old))
	t := &Tree{Root: s.root}
	if t.Read, err = s.hash(); err != nil {
		return nil, err
	}
	t.Unsaved = s.save(old)
	t.Entries = s.entries()
	return t, nil
}

// find fills s.nodes, sorted.
func (s *scan) find() error {
	name := s.base
	if name == "" {
		name = "."
	}
	n, ok, err := s.makeNode(s.top.fd, name, "", s.rootAt)
	if err != nil {
		return err
	}
	if !ok {
		return fmt.Errorf("%q is a socket: name a file or directory", s.root)
	}
	if s.base != "" {
		s.nodes = []node{n}
		return nil
	}
	f := &folder{dev: s.rootAt.dev}
	count, err := s.list(f)
	if err != nil {
		return err
	}
	s.nodes = f.flatten(append(make([]node, 0, count+1), n))
	if s.o.Include != nil {
		s.nodes = dropEmptyParents(s.nodes)
	}
	return nil
}

// recall takes what the index knows. Both lists are sorted by path.
func (s *scan) recall(d *decoder) {
	var r record
	more := d.next(&r)
	for i := range s.nodes {
		n := &s.nodes[i]
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
			n.sum, n.state = r.sum, remembered
		}
	}
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
	for i := range s.nodes {
		n := &s.nodes[i]
		for more && comparePath(was.path, n.Path) < 0 {
			e.keep(&was)
			more = d.next(&was)
		}
		if more && string(was.path) == n.Path {
			more = d.next(&was)
		}
		if n.state == remembered || n.state == hashed {
			now = record{path: append(now.path[:0], n.Path...), stat: n.stat, sum: n.sum}
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
	for i := range s.nodes {
		if s.nodes[i].state == hashed {
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

// entries drops the scan's own fields. All digests share one string, which makes
// one allocation of tens of thousands.
func (s *scan) entries() []Entry {
	const each = len("sha256:") + 2*sha256.Size
	var text strings.Builder
	text.Grow(each * len(s.nodes))
	var hexed [2 * sha256.Size]byte
	for i := range s.nodes {
		if n := &s.nodes[i]; n.IsRegular() && n.state != missing {
			hex.Encode(hexed[:], n.sum[:])
			text.WriteString("sha256:")
			text.Write(hexed[:])
		}
	}
	all := text.String()
	out := make([]Entry, 0, len(s.nodes))
	for i := range s.nodes {
		n := &s.nodes[i]
		if n.state == missing {
			continue
		}
		if n.IsRegular() {
			n.Digest, all = digest.Digest(all[:each]), all[each:]
		}
		out = append(out, n.Entry)
	}
	return out
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

// xattrs reads what an image may be given of a file's extended attributes.
func xattrs(dirfd int, name string) (map[string]string, error) {
	// There is no llistxattrat before Linux 6.13. The link is not followed.
	p := fmt.Sprintf("/proc/self/fd/%d/%s", dirfd, name)
	list := make([]byte, 64<<10)
	n, err := unix.Llistxattr(p, list)
	if err != nil {
		if errors.Is(err, unix.ENOTSUP) {
			return nil, nil
		}
		return nil, err
	}
	var out map[string]string
	for key := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(key, "user.") && key != "security.capability" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Lgetxattr(p, key, value)
		if errors.Is(err, unix.ENODATA) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = string(value[:n])
	}
	return out, nil
}
