// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"iter"
	"strings"

	"build.stacker.dev/internal/layer"
	"golang.org/x/sys/unix"
)

// Write writes an image of entries to w, which is empty: nothing that is 0 is
// written where nothing needs to be. A file may have 65535 names, or if its time
// is not o.Time 2^32. What is wrong with an entry is a layer.EntryError. On an
// error w is left half filled.
func Write(ctx context.Context, w io.WriterAt, entries iter.Seq2[*layer.Entry, error], o Options) (Result, error) {
	b := builder{out: output{w: w, sum: sha256.New()}, opt: o, queue: newQueue(o.Compression)}
	defer b.queue.close()
	for e, err := range layer.Ordered(entries) {
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			return Result{}, err
		}
		if err := b.entry(ctx, e); err != nil {
			return Result{}, &layer.EntryError{Name: e.Name, Err: err}
		}
	}
	if b.root == nil {
		if err := b.makeRoot(&layer.Entry{Name: ".", Mode: unix.S_IFDIR | 0o755}); err != nil {
			return Result{}, fmt.Errorf("write erofs image: %w", err)
		}
	}
	if err := b.finish(); err != nil {
		return Result{}, fmt.Errorf("write erofs image: %w", err)
	}
	return Result{Size: b.space.next * blockSize, DroppedXattrs: b.xattrs.dropped}, nil
}

// A node is a file, which several names may share.
type node struct {
	nid      uint64
	links    uint32
	kind     uint8
	extended bool
	dir      *directory // of a directory
}

// A name is an entry of a directory.
type name struct {
	name string
	node *node
}

// A directory is kept until all entries are known.
type directory struct {
	node   *node
	parent *directory
	inode  inode
	xattrs []byte
	names  []name // in order
	dirs   uint32 // how many of them are directories
	data   int64  // first block of the list
}

// builder is one run of Write.
type builder struct {
	out    output
	opt    Options
	space  space
	xattrs xattrTable
	queue  *queue

	root     *directory
	rootSize int          // bytes that are kept at the start of the image
	path     []string     // names of the directories on the way to the last entry
	dirs     []*directory // these, the root first
	linked   []*node      // files that have several names
	inodes   uint64
}

// output writes to the image. It sums up what it writes for the UUID.
type output struct {
	w   io.WriterAt
	sum hash.Hash
	end int64
}

// meta writes inodes, attributes and lists of directories.
func (o *output) meta(b []byte, at int64) error {
	o.sum.Write(b)
	return o.write(b, at)
}

// data writes contents. For them a checksum must do: it is quicker, and the UUID
// protects nothing.
func (o *output) data(b []byte, at int64) error {
	var c [4]byte
	binary.LittleEndian.PutUint32(c[:], crc32.Checksum(b, castagnoli))
	o.sum.Write(c[:])
	return o.write(b, at)
}

func (o *output) write(b []byte, at int64) error {
	o.end = max(o.end, at+int64(len(b)))
	_, err := o.w.WriteAt(b, at)
	return err
}

func (b *builder) entry(ctx context.Context, e *layer.Entry) error {
	if e.Name == "." {
		return b.makeRoot(e)
	}
	if b.root == nil {
		if err := b.makeRoot(&layer.Entry{Name: ".", Mode: unix.S_IFDIR | 0o755}); err != nil {
			return err
		}
	}
	dir, leaf := e.Split()
	if len(leaf) > maxName {
		return fmt.Errorf("name of %d bytes: the limit is %d", len(leaf), maxName)
	}
	for len(b.path) > 0 && b.path[len(b.path)-1] != dir {
		b.path, b.dirs = b.path[:len(b.path)-1], b.dirs[:len(b.dirs)-1]
	}
	parent := b.dirs[len(b.dirs)-1]
	n, err := b.node(ctx, e, parent)
	if err != nil {
		return err
	}
	parent.names = append(parent.names, name{name: strings.Clone(leaf), node: n})
	if n.dir != nil {
		parent.dirs++
		b.path, b.dirs = append(b.path, strings.Clone(e.Name)), append(b.dirs, n.dir)
	}
	return nil
}

// node gives the file of an entry, which for all but directories is queued to be
// written.
func (b *builder) node(ctx context.Context, e *layer.Entry, parent *directory) (*node, error) {
	if e.HardLink != "" {
		return b.link(e.HardLink)
	}
	xattrs, err := b.xattrs.encode(e.Xattrs)
	if err != nil {
		return nil, err
	}
	b.inodes++
	n := &node{links: 1, kind: typeOf(e.Mode)}
	i := inode{
		xattrs: len(xattrs), mode: e.Mode, links: 1, number: uint32(b.inodes), uid: e.UID, gid: e.GID, time: e.ModTime,
	}
	switch n.kind {
	case typeDir:
		n.dir = &directory{node: n, parent: parent, inode: i, xattrs: xattrs}
		return n, nil
	case typeFile:
		return n, b.file(ctx, n, i, xattrs, e)
	case typeLink:
		i.size = int64(len(e.Target))
		return n, b.small(n, i, xattrs, []byte(e.Target))
	case typeChar, typeBlock:
		if e.Major >= 1<<12 || e.Minor >= 1<<20 {
			return nil, fmt.Errorf("device %d:%d: EROFS holds numbers to 4095:1048575", e.Major, e.Minor)
		}
		i.union = encodeDevice(e.Major, e.Minor)
	}
	return n, b.small(n, i, xattrs, nil)
}

// link finds the file that has the name already.
func (b *builder) link(target string) (*node, error) {
	d := b.root
	elems := strings.Split(target, "/")
	for i, elem := range elems {
		n := d.lookup(elem)
		last := i == len(elems)-1
		if n == nil || last == (n.dir != nil) {
			break
		}
		if !last {
			d = n.dir
			continue
		}
		if n.links == 1 {
			b.linked = append(b.linked, n)
		}
		n.links++
		return n, nil
	}
	return nil, fmt.Errorf("hard link to %q, which is not an earlier file", target)
}

// makeRoot keeps the place of the root inode: its number has 16 bits, so it lies
// at the start of the image.
func (b *builder) makeRoot(e *layer.Entry) error {
	xattrs, err := b.xattrs.encode(e.Xattrs)
	if err != nil {
		return err
	}
	b.inodes++
	n := &node{kind: typeDir, nid: rootSlot}
	b.root = &directory{node: n, inode: inode{
		extended: true, xattrs: len(xattrs), mode: e.Mode, number: uint32(b.inodes), uid: e.UID, gid: e.GID, time: e.ModTime,
	}, xattrs: xattrs}
	b.root.parent = b.root
	n.dir = b.root
	b.dirs = []*directory{b.root}
	b.rootSize = roundUp(rootSlot*slotSize+extendedInodeSize+len(xattrs), blockSize)
	b.space.data(int64(b.rootSize / blockSize))
	return nil
}

// small queues a file whose content is in memory.
func (b *builder) small(n *node, i inode, xattrs, content []byte) error {
	return b.queue.push(task{size: len(content), commit: func() error {
		return b.flat(n, i, xattrs, content)
	}})
}

// file queues a regular file.
func (b *builder) file(ctx context.Context, n *node, i inode, xattrs []byte, e *layer.Entry) error {
	i.size = e.Size
	switch {
	case e.Size > 0 && e.Content == nil:
		return errors.New("no content")
	case e.Size <= blockSize:
		content := make([]byte, e.Size)
		if _, err := io.ReadFull(e.Content, content); e.Size > 0 && err != nil {
			return fmt.Errorf("read: %w", err)
		}
		return b.small(n, i, xattrs, content)
	}
	f := &file{builder: b, node: n, inode: i, xattrs: xattrs}
	for left := e.Size; left > 0; {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		segment := make([]byte, min(left, segmentSize))
		if _, err := io.ReadFull(e.Content, segment); err != nil {
			return fmt.Errorf("read: %w", noEOF(err))
		}
		left -= int64(len(segment))
		if err := b.queue.segment(f, segment, left == 0); err != nil {
			return err
		}
	}
	return nil
}

// noEOF makes the end of a content that should be longer an error.
func noEOF(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
