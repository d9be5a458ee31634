// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"build.stacker.dev/internal/layer"
)

// An inode is one that was read.
type inode struct {
	typ      uint16 // the basic type
	mode     uint32 // permission bits
	uid, gid uint32
	mtime    uint32
	number   uint32
	links    uint32
	xattrs   uint32 // number of the set
	device   uint32
	target   string
	size     uint64 // of a file; of a directory's entries
	start    uint64 // of a file's blocks; a reference to a directory's entries
	fragment uint32
	offset   uint32 // in the fragment
	blocks   cursor // at the sizes of a file's blocks
}

// inode reads the inode that ref refers to.
func (i *Image) inode(ref uint64) (*inode, error) {
	c, err := i.cursor(i.super.InodeTable, i.super.DirTable, ref)
	if err != nil {
		return nil, err
	}
	n, err := i.readInode(&c)
	if err != nil {
		return nil, fmt.Errorf("inode at %#x: %w", ref, err)
	}
	return n, nil
}

func (i *Image) readInode(c *cursor) (*inode, error) {
	var head [16]byte
	if err := c.read(head[:]); err != nil {
		return nil, err
	}
	n := &inode{
		typ: le.Uint16(head[0:]), mode: uint32(le.Uint16(head[2:])), mtime: le.Uint32(head[8:]), number: le.Uint32(head[12:]),
		links: 1, xattrs: none32, fragment: none32,
	}
	ext := n.typ > typeExt
	if ext {
		n.typ -= typeExt
	}
	if n.typ < typeDir || n.typ > typeSocket {
		return nil, fmt.Errorf("type %d is not valid", le.Uint16(head[0:]))
	}
	if n.mode > 0o7777 {
		return nil, fmt.Errorf("mode %o is not valid", n.mode)
	}
	for _, id := range []struct {
		to  *uint32
		num uint16
	}{{&n.uid, le.Uint16(head[4:])}, {&n.gid, le.Uint16(head[6:])}} {
		if int(id.num) >= len(i.ids) {
			return nil, fmt.Errorf("owner number %d of %d is not valid", id.num, len(i.ids))
		}
		*id.to = i.ids[id.num]
	}
	switch n.typ {
	case typeDir:
		return n, n.readDirectory(c, ext)
	case typeFile:
		return n, n.readRegular(c, ext)
	}
	return n, n.readOther(c, ext)
}

func (n *inode) readDirectory(c *cursor, ext bool) error {
	if !ext {
		var b [16]byte
		err := c.read(b[:])
		n.size = uint64(le.Uint16(b[8:]))
		n.start = uint64(le.Uint32(b[0:]))<<16 | uint64(le.Uint16(b[10:]))
		return errors.Join(err, n.checkListing())
	}
	var b [24]byte
	err := c.read(b[:]) // an index follows; who reads all does not need it
	n.size = uint64(le.Uint32(b[4:]))
	n.start = uint64(le.Uint32(b[8:]))<<16 | uint64(le.Uint16(b[18:]))
	n.xattrs = le.Uint32(b[20:])
	return errors.Join(err, n.checkListing())
}

// checkListing takes off what the size of a directory is too large by.
func (n *inode) checkListing() error {
	if n.size < emptyDir {
		return fmt.Errorf("directory of size %d", n.size)
	}
	n.size -= emptyDir
	return nil
}

func (n *inode) readRegular(c *cursor, ext bool) error {
	var b [40]byte
	if !ext {
		err := c.read(b[:16])
		n.start, n.size = uint64(le.Uint32(b[0:])), uint64(le.Uint32(b[12:]))
		n.fragment, n.offset = le.Uint32(b[4:]), le.Uint32(b[8:])
		n.blocks = *c
		return err
	}
	err := c.read(b[:])
	n.start, n.size = le.Uint64(b[0:]), le.Uint64(b[8:])
	n.links, n.fragment, n.offset = le.Uint32(b[24:]), le.Uint32(b[28:]), le.Uint32(b[32:])
	n.xattrs = le.Uint32(b[36:])
	n.blocks = *c
	return err
}

// readOther reads links, devices, FIFOs and sockets.
func (n *inode) readOther(c *cursor, ext bool) (err error) {
	if n.links, err = c.uint32(); err != nil {
		return err
	}
	switch n.typ {
	case typeSymlink:
		size, err := c.uint32()
		if err != nil {
			return err
		}
		if size == 0 || size > 4095 {
			return fmt.Errorf("symbolic link of %d bytes", size)
		}
		target := make([]byte, size)
		if err := c.read(target); err != nil {
			return err
		}
		n.target = string(target)
	case typeBlockDevice, typeCharDevice:
		if n.device, err = c.uint32(); err != nil {
			return err
		}
	}
	if ext {
		n.xattrs, err = c.uint32()
	}
	return err
}

// attributes reads a set of attributes.
func (i *Image) attributes(set uint32) ([]layer.Xattr, error) {
	if set == none32 || i.super.XattrTable == noTable {
		return nil, nil
	}
	var b [setBytes]byte
	if err := i.sets.get(b[:], set); err != nil {
		return nil, fmt.Errorf("attributes: %w", err)
	}
	c, err := i.cursor(uint64(i.pairs), i.super.XattrTable, le.Uint64(b[:]))
	if err != nil {
		return nil, fmt.Errorf("attributes: %w", err)
	}
	var out []layer.Xattr
	size := 0
	for range le.Uint32(b[8:]) {
		x, err := i.attribute(&c)
		if err != nil {
			return nil, fmt.Errorf("attributes: %w", err)
		}
		if size += len(x.Name) + len(x.Value); size > maxAttrs {
			return nil, fmt.Errorf("attributes of more than %d bytes", maxAttrs)
		}
		out = append(out, x)
	}
	slices.SortFunc(out, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
	return out, nil
}

// attribute reads a name and a value, which may be elsewhere.
func (i *Image) attribute(c *cursor) (layer.Xattr, error) {
	var head [4]byte
	if err := c.read(head[:]); err != nil {
		return layer.Xattr{}, err
	}
	kind := le.Uint16(head[:])
	if int(kind&^attrOut) >= len(attrPrefixes) {
		return layer.Xattr{}, fmt.Errorf("kind %d is not valid", kind)
	}
	name := make([]byte, le.Uint16(head[2:]))
	if len(name) > maxLeaf {
		return layer.Xattr{}, fmt.Errorf("name of %d bytes", len(name))
	}
	if err := c.read(name); err != nil {
		return layer.Xattr{}, err
	}
	x := layer.Xattr{Name: attrPrefixes[kind&^attrOut] + string(name)}
	if kind&attrOut == 0 {
		value, err := i.value(c)
		x.Value = value
		return x, err
	}
	ref, err := i.value(c)
	if err != nil || len(ref) != 8 {
		return x, errors.Join(errors.New("reference to a value is not valid"), err)
	}
	there, err := i.cursor(uint64(i.pairs), i.super.XattrTable, le.Uint64([]byte(ref)))
	if err != nil {
		return x, err
	}
	x.Value, err = i.value(&there)
	return x, err
}

func (i *Image) value(c *cursor) (string, error) {
	size, err := c.uint32()
	if err != nil {
		return "", err
	}
	if size > 1<<16 {
		return "", fmt.Errorf("value of %d bytes", size)
	}
	value := make([]byte, size)
	err = c.read(value)
	return string(value), err
}
