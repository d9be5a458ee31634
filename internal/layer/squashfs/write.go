// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"iter"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
)

// Options say how Write makes an image. The zero value is right.
type Options struct {
	Compression Compression // Gzip or Zstd; 0 means Zstd
	BlockSize   int         // a power of two of 4 KiB to 1 MiB; 0 means 128 KiB
	ModTime     time.Time   // of the file system; the zero value means 1970
	Workers     int         // blocks that are compressed at the same time; 0 means GOMAXPROCS
}

// defaultBlock is what mksquashfs takes when it is not told.
const defaultBlock = 128 << 10

// Output is where an image is written, usually a file.
type Output interface {
	io.WriterAt
	Truncate(size int64) error
}

// A Result describes an image that was written.
type Result struct {
	Size    int64 // in bytes, a multiple of 4096
	Entries int
	// DroppedXattrs counts attributes that squashfs cannot hold: those with other
	// names than user.*, trusted.* and security.*, such as access control lists.
	DroppedXattrs int
}

// Write makes an image of entries and writes it to out, which it truncates to the
// image's size. Entries must be in the order that layer.Ordered checks; the root is
// 0755 and owned by 0:0 unless it is described. What is wrong with an entry is a
// layer.EntryError. After an error out holds nothing of use.
func Write(ctx context.Context, out Output, entries iter.Seq2[*layer.Entry, error], o Options) (Result, error) {
	if o.Compression == 0 {
		o.Compression = Zstd
	}
	if o.BlockSize == 0 {
		o.BlockSize = defaultBlock
	}
	if o.Workers <= 0 {
		o.Workers = runtime.GOMAXPROCS(0)
	}
	if o.BlockSize < minBlock || o.BlockSize > maxBlock || o.BlockSize&(o.BlockSize-1) != 0 {
		return Result{}, fmt.Errorf("write squashfs: block size %d: use a power of two from 4 KiB to 1 MiB", o.BlockSize)
	}
	w, err := newWriter(out, o)
	if err != nil {
		return Result{}, fmt.Errorf("write squashfs: %w", err)
	}
	err = w.entries(ctx, entries)
	if dataErr := w.data.finish(err != nil); dataErr != nil {
		err = dataErr // why the reading ended early
	}
	if err == nil {
		err = w.metadata()
	}
	if err != nil {
		return Result{}, fmt.Errorf("write squashfs: %w", err)
	}
	return w.result, nil
}

// A node is an inode, or another name of one.
type node struct {
	name     string // in its directory
	link     *node  // what this is another name of; all else but name is unset then
	children []*node
	file     *fileData // of a regular file
	target   string    // of a symbolic link
	mode     uint32
	mtime    uint32
	number   uint32
	links    uint32 // names of a file
	device   uint32
	xattrs   uint32 // number of the set
	uid, gid uint16 // numbers of the ids
	written  bool
	ref      uint64 // to the inode, if it is written
}

func (n *node) isDir() bool {
	return n.link == nil && n.mode&unix.S_IFMT == unix.S_IFDIR
}

// inode is the node that n is a name of.
func (n *node) inode() *node {
	if n.link != nil {
		return n.link
	}
	return n
}

// writer is one run of Write.
type writer struct {
	opt    Options
	out    Output
	enc    encoder // of metadata
	data   *dataWriter
	xattrs *xattrWriter
	ids    []uint32
	idOf   map[uint32]uint16
	root   *node
	path   []*node // directories that lead to the last entry, the root first
	inodes []*node // by number, from 1
	result Result
}

func newWriter(out Output, o Options) (*writer, error) {
	enc, err := newEncoder(o.Compression, max(o.BlockSize, metaSize))
	if err != nil {
		return nil, err
	}
	data, err := newDataWriter(out, o)
	if err != nil {
		return nil, err
	}
	return &writer{opt: o, out: out, enc: enc, data: data, xattrs: newXattrWriter(enc), idOf: map[uint32]uint16{}}, nil
}

func (w *writer) entries(ctx context.Context, entries iter.Seq2[*layer.Entry, error]) error {
	for e, err := range layer.Ordered(entries) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return err
		}
		if w.root == nil && e.Name != "." {
			if err := w.add(ctx, &layer.Entry{Name: ".", Mode: unix.S_IFDIR | 0o755}); err != nil {
				return err
			}
		}
		if err := w.add(ctx, e); err != nil {
			return &layer.EntryError{Name: e.Name, Err: err}
		}
		w.result.Entries++
	}
	if w.root == nil {
		return w.add(ctx, &layer.Entry{Name: ".", Mode: unix.S_IFDIR | 0o755})
	}
	return nil
}

// add takes in one entry.
func (w *writer) add(ctx context.Context, e *layer.Entry) error {
	_, leaf := e.Split()
	if len(leaf) > maxLeaf {
		return fmt.Errorf("name of %d bytes: the limit is %d", len(leaf), maxLeaf)
	}
	n := &node{name: leaf}
	depth := strings.Count(e.Name, "/")
	if e.Name == "." {
		w.root = n
	} else {
		w.path = w.path[:depth+1]
		parent := w.path[depth]
		parent.children = append(parent.children, n)
	}
	if e.HardLink != "" && !e.IsWhiteout() {
		return w.hardLink(n, e.HardLink)
	}
	if err := w.describe(n, e); err != nil {
		return err
	}
	if n.isDir() {
		w.path = append(w.path, n)
	}
	if n.mode&unix.S_IFMT != unix.S_IFREG {
		return nil
	}
	n.file = &fileData{size: e.Size, fragment: none32}
	return w.data.file(ctx, n.file, e.Content)
}

// hardLink makes n another name of the file called target.
func (w *writer) hardLink(n *node, target string) error {
	old := w.root
	for name := range strings.SplitSeq(target, "/") {
		i, found := slices.BinarySearchFunc(old.children, name, func(c *node, name string) int { return strings.Compare(c.name, name) })
		if !found || old.children[i] == n {
			return fmt.Errorf("hard link to %q, which does not come before it", target)
		}
		old = old.children[i].inode()
	}
	if old.isDir() {
		return fmt.Errorf("hard link to a directory: %q", target)
	}
	old.links++
	n.link = old
	return nil
}

// describe fills a node that is an inode of its own.
func (w *writer) describe(n *node, e *layer.Entry) (err error) {
	if uint64(len(w.inodes)) >= none32-1 {
		return errors.New("too many files for one squashfs")
	}
	w.inodes = append(w.inodes, n)
	n.number = uint32(len(w.inodes))
	n.links = 1
	n.mode = e.Mode
	n.mtime = uint32(min(max(e.ModTime, 0), 1<<32-1))
	n.target = e.Target
	if n.device, err = encodeDevice(e.Major, e.Minor); err != nil {
		return err
	}
	if n.uid, err = w.id(e.UID); err != nil {
		return err
	}
	if n.gid, err = w.id(e.GID); err != nil {
		return err
	}
	set, dropped := splitAttrs(e.Xattrs)
	w.result.DroppedXattrs += dropped
	n.xattrs, err = w.xattrs.add(set)
	return err
}

// id returns the number of an owner.
func (w *writer) id(id uint32) (uint16, error) {
	if i, ok := w.idOf[id]; ok {
		return i, nil
	}
	if len(w.ids) >= maxID {
		return 0, fmt.Errorf("more than %d different owners", maxID)
	}
	i := uint16(len(w.ids))
	w.ids = append(w.ids, id)
	w.idOf[id] = i
	return i, nil
}
