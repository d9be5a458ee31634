// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// scan is one run of Index.Scan.
type scan struct {
	index   *Index
	o       Options
	root    string
	base    string    // of a root that is no directory: its name in top
	top     directory // the root, or its parent where it is no directory
	rootAt  status
	began   int64
	workers int
	volumes volumes
	nodes   []*node
}

// newScan opens root. The caller closes s.top.
func newScan(x *Index, root string, o Options) (*scan, error) {
	s := &scan{index: x, o: o, workers: o.Workers, began: x.clock()}
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
	dir, flags := s.root, openFlags|unix.O_DIRECTORY
	if st.mode&unix.S_IFMT != unix.S_IFDIR {
		dir, s.base = filepath.Split(s.root)
		flags &^= unix.O_NOFOLLOW
	}
	fd, err := openat(unix.AT_FDCWD, dir, flags, 0)
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

func (s *scan) run(ctx context.Context) (*Tree, error) {
	loaded := make(chan []byte, 1)
	go func() { loaded <- s.index.load(s.root) }()
	err := s.find(ctx)
	old := <-loaded
	if err != nil {
		return nil, err
	}
	s.recall(openRecords(old))
	if err := s.recallXattrs(); err != nil {
		return nil, err
	}
	t := &Tree{Root: s.root}
	if t.Read, err = s.hash(ctx); err != nil {
		return nil, err
	}
	var saving sync.WaitGroup
	saving.Go(func() { t.Unsaved = s.save(old) }) // reads of the nodes what entries does not change
	t.Entries = s.entries()
	saving.Wait()
	return t, nil
}

// find fills s.nodes, sorted.
func (s *scan) find(ctx context.Context) error {
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
		s.nodes = []*node{&n}
		return nil
	}
	f := &folder{dev: s.rootAt.dev}
	count, err := s.list(ctx, f)
	if err != nil {
		return err
	}
	s.nodes = f.flatten(append(make([]*node, 0, count+1), &n))
	if s.o.Include != nil {
		s.nodes = dropEmptyParents(s.nodes)
	}
	return nil
}

// entries drops the scan's own fields. All digests share one string, which makes
// one allocation of tens of thousands.
func (s *scan) entries() []Entry {
	const each = len(sumPrefix) + 2*sha256.Size
	var text strings.Builder
	text.Grow(each * len(s.nodes))
	var hexed [2 * sha256.Size]byte
	for _, n := range s.nodes {
		if n.IsRegular() && n.state != missing {
			hex.Encode(hexed[:], n.sum[:])
			text.WriteString(sumPrefix)
			text.Write(hexed[:])
		}
	}
	all := text.String()
	out := make([]Entry, 0, len(s.nodes))
	for _, n := range s.nodes {
		if n.state == missing {
			continue
		}
		if n.IsRegular() {
			n.Digest, all = digest.Digest(all[:each]), all[each:]
			n.Stamp = s.stamp(n)
		}
		out = append(out, n.Entry)
	}
	return out
}
