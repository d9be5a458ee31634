// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"encoding/binary"
	"fmt"
	"io"
	"slices"
	"strings"

	"build.stacker.dev/internal/layer"
)

// Limits bound what is read of an image; 0 stands for the default.
type Limits struct {
	MaxEntries int   // default: 16 million
	MaxBytes   int64 // of all files together; default: 1 TiB
}

const (
	defaultEntries = 16 << 20
	defaultBytes   = 1 << 40
)

// An Image is an image that is read. It may be used by several goroutines if its
// reader may.
type Image struct {
	r      io.ReaderAt
	size   int64
	sb     superblock
	limits Limits
}

// Limits of one file.
const (
	maxFileSize = 1 << 44   // bytes: the largest file of ext4
	maxXattrs   = 256 << 10 // bytes of all attributes of a file
)

// Open reads the superblock of the image of size bytes in r. What is behind the
// image in r, such as a verity tree, does not matter.
func Open(r io.ReaderAt, size int64, limits Limits) (*Image, error) {
	if limits.MaxEntries == 0 {
		limits.MaxEntries = defaultEntries
	}
	if limits.MaxBytes == 0 {
		limits.MaxBytes = defaultBytes
	}
	m := &Image{r: r, size: size, limits: limits}
	head, err := m.read(0, blockSize)
	if err != nil {
		return nil, fmt.Errorf("open erofs image: %w", err)
	}
	if m.sb, err = decodeSuperblock(head); err != nil {
		return nil, fmt.Errorf("open erofs image: %w", err)
	}
	if end := int64(m.sb.blocks) * blockSize; end > size {
		return nil, fmt.Errorf("open erofs image: %w", broken("it has %d bytes and should have %d", size, end))
	}
	return m, nil
}

// Size returns the size of the image without what is behind it, in bytes.
func (m *Image) Size() int64 {
	return int64(m.sb.blocks) * blockSize
}

// read reads n bytes at byte at.
func (m *Image) read(at, n int64) ([]byte, error) {
	if err := m.within(at, n); err != nil {
		return nil, err
	}
	b := make([]byte, n)
	if k, err := m.r.ReadAt(b, at); k < len(b) {
		return nil, noEOF(err)
	}
	return b, nil
}

// within fails if n bytes at byte at are not in the image.
func (m *Image) within(at, n int64) error {
	if at < 0 || n < 0 || at > m.size || n > m.size-at {
		return broken("%d bytes at byte %d, which is not in the image", n, at)
	}
	return nil
}

// found is an inode and where it is.
type found struct {
	inode
	at int64
}

// end is the byte behind the inode and its attributes.
func (f *found) end() int64 {
	return f.at + int64(f.headSize()+f.xattrs)
}

// inode reads the inode with a number.
func (m *Image) inode(nid uint64) (*found, error) {
	if nid > uint64(m.size)/slotSize {
		return nil, broken("inode %d, which is not in the image", nid)
	}
	at := int64(m.sb.metaBlock)*blockSize + int64(nid)*slotSize
	if err := m.within(at, compactInodeSize); err != nil {
		return nil, err
	}
	b, err := m.read(at, min(extendedInodeSize, m.size-at))
	if err != nil {
		return nil, err
	}
	i, err := decodeInode(b, &m.sb)
	switch {
	case err != nil:
		return nil, err
	case i.size < 0 || i.size > maxFileSize:
		return nil, broken("inode %d has a size of %d bytes", nid, uint64(i.size))
	}
	return &found{inode: i, at: at}, nil
}

// xattrs reads the attributes of an inode.
func (m *Image) xattrs(f *found) ([]layer.Xattr, error) {
	if f.xattrs == 0 {
		return nil, nil
	}
	body, err := m.read(f.at+int64(f.headSize()), int64(f.xattrs))
	if err != nil {
		return nil, err
	}
	shared := int(body[4])
	if xattrHeader+4*shared > len(body) {
		return nil, broken("%d shared attributes in %d bytes", shared, len(body))
	}
	var list []layer.Xattr
	total := 0
	for i := range shared {
		place := binary.LittleEndian.Uint32(body[xattrHeader+4*i:])
		x, err := m.shared(int64(m.sb.xattrBlock)*blockSize + int64(place)*4)
		if err != nil {
			return nil, err
		}
		if total += len(x.Value); total > maxXattrs {
			return nil, broken("attributes of more than %d bytes", maxXattrs)
		}
		list = append(list, x)
	}
	for rest := body[xattrHeader+4*shared:]; len(rest) > 0; {
		x, n, err := decodeXattr(rest)
		if err != nil {
			return nil, err
		}
		list = append(list, x)
		rest = rest[min(len(rest), roundUp(n, 4)):]
	}
	slices.SortFunc(list, func(a, b layer.Xattr) int { return strings.Compare(a.Name, b.Name) })
	for i := 1; i < len(list); i++ {
		if list[i].Name == list[i-1].Name {
			return nil, broken("two attributes called %q", list[i].Name)
		}
	}
	return list, nil
}

// shared reads the attribute at byte at.
func (m *Image) shared(at int64) (layer.Xattr, error) {
	head, err := m.read(at, xattrEntry)
	if err != nil {
		return layer.Xattr{}, err
	}
	all, err := m.read(at, xattrEntry+int64(head[0])+int64(binary.LittleEndian.Uint16(head[2:])))
	if err != nil {
		return layer.Xattr{}, err
	}
	x, _, err := decodeXattr(all)
	return x, err
}

// decodeXattr reads an attribute and gives its length.
func decodeXattr(b []byte) (layer.Xattr, int, error) {
	if len(b) < xattrEntry {
		return layer.Xattr{}, 0, broken("an attribute that is cut off")
	}
	name, value := int(b[0]), int(binary.LittleEndian.Uint16(b[2:]))
	n := xattrEntry + name + value
	if n > len(b) {
		return layer.Xattr{}, 0, broken("an attribute that is cut off")
	}
	full, err := joinXattr(b[1], string(b[xattrEntry:xattrEntry+name]))
	return layer.Xattr{Name: full, Value: string(b[xattrEntry+name : n])}, n, err
}
