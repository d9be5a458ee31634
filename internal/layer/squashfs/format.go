// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package squashfs writes and reads layers as SquashFS 4.0 images, the read-only
// file system that the kernel mounts and that unsquashfs unpacks.
//
// Write makes an image of a layer's entries; Open and Entries give them back. Both
// see what a mounted overlay wants to see, see layer.Entry: whiteouts are character
// devices 0:0. The package knows nothing of tar, of trees on disk or of mounts, and
// does not call mksquashfs.
//
// Invariants:
//   - The same entries and options give the same bytes, whatever the number of
//     processors and the time.
//   - Contents are never kept in memory; some hundred bytes for each entry are, when
//     writing, and the names of directories and of files with several names, when
//     reading.
//   - An image that is read is hostile. Every position, size and count is checked
//     before it is used; a directory is visited once, so that an image cannot
//     contain itself; names are checked by package layer. Nothing of the image
//     reaches the kernel.
//
// The format is described in Documentation/filesystems/squashfs.rst of Linux and,
// in more detail, at https://dr-emann.github.io/squashfs/. All numbers are little
// endian. An image is, in this order:
//
//	superblock              96 bytes: see superblock
//	compressor options      a metadata block; not written here
//	data                    blocks of files, and fragments: ends of files put together
//	inode table             metadata
//	directory table         metadata
//	fragment table          metadata, then the positions of its blocks; if there are any
//	export table            from inode numbers to inodes; the same form
//	id table                owners that inodes refer to by index; the same form
//	attribute table         metadata of names and values, then of sets, then a header
//	                        and the positions of the sets' blocks; if there are any
//	zeros                   up to a multiple of 4096 bytes
//
// Metadata is a row of blocks of 8 KiB, each compressed behind two bytes of length,
// where the highest bit says that it is not. A reference to metadata is the position
// of the block, from the start of the table, and the offset in the uncompressed
// block, which is the low 16 bits.
package squashfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math/bits"

	"golang.org/x/sys/unix"
)

// Compression is how an image's blocks are compressed, as the superblock numbers it.
type Compression uint16

// The compressions. Gzip and Zstd can be written; those, XZ and LZ4 can be read.
const (
	Gzip Compression = 1
	LZMA Compression = 2
	LZO  Compression = 3
	XZ   Compression = 4
	LZ4  Compression = 5
	Zstd Compression = 6
)

// String returns the name that mksquashfs has for c.
func (c Compression) String() string {
	switch c {
	case Gzip:
		return "gzip"
	case LZMA:
		return "lzma"
	case LZO:
		return "lzo"
	case XZ:
		return "xz"
	case LZ4:
		return "lz4"
	case Zstd:
		return "zstd"
	}
	return fmt.Sprintf("number %d", uint16(c))
}

// Sizes and bounds of the format.
const (
	magic          = 0x73717368 // "hsqs"
	superblockSize = 96
	metaSize       = 8192 // of a metadata block, uncompressed
	minBlock       = 4 << 10
	maxBlock       = 1 << 20
	padding        = 4096
	maxLeaf        = 255 // NAME_MAX; the format could hold one more
	maxRun         = 256 // entries behind one header of a directory

	metaRaw  = 1 << 15    // in a metadata block's length: not compressed
	blockRaw = 1 << 24    // in a data block's length: not compressed
	none32   = 1<<32 - 1  // no fragment, no attributes
	noTable  = ^uint64(0) // in the superblock: there is no such table
	emptyDir = 3          // what a directory's size is too large by
	attrOut  = 1 << 8     // in an attribute's type: its value is elsewhere
	maxID    = 1<<16 - 1  // number of different owners
	flagDup  = 0x40       // superblock: equal files are stored once
	flagExp  = 0x80       // superblock: there is an export table
	setBytes = 16         // of an entry of the attribute and fragment tables
	maxAttrs = 1 << 20    // bytes of all attributes of one file that are read
	typeExt  = 7          // the extended form of an inode type is so much higher
)

// Types of inodes and, only these, of directory entries.
const (
	typeDir = 1 + iota
	typeFile
	typeSymlink
	typeBlockDevice
	typeCharDevice
	typeFifo
	typeSocket
)

// fileTypes are the type bits of a mode for the types of inodes.
var fileTypes = [...]uint32{
	typeDir: unix.S_IFDIR, typeFile: unix.S_IFREG, typeSymlink: unix.S_IFLNK, typeBlockDevice: unix.S_IFBLK,
	typeCharDevice: unix.S_IFCHR, typeFifo: unix.S_IFIFO, typeSocket: unix.S_IFSOCK,
}

// typeOf is the inverse of fileTypes; 0 for no type.
func typeOf(mode uint32) uint16 {
	for t, bits := range fileTypes {
		if t > 0 && bits == mode&unix.S_IFMT {
			return uint16(t)
		}
	}
	return 0
}

// attrPrefixes are the kinds of attributes that the format knows, by their number.
var attrPrefixes = [...]string{"user.", "trusted.", "security."}

// A superblock is the first 96 bytes of an image.
type superblock struct {
	Magic       uint32
	Inodes      uint32
	ModTime     uint32 // seconds since 1970
	BlockSize   uint32
	Fragments   uint32
	Compression Compression
	BlockLog    uint16
	Flags       uint16
	IDs         uint16
	Major       uint16
	Minor       uint16
	Root        uint64 // reference to the inode
	BytesUsed   uint64 // without the padding
	IDTable     uint64 // positions from here on; noTable if missing
	XattrTable  uint64
	InodeTable  uint64
	DirTable    uint64
	FragTable   uint64
	ExportTable uint64
}

func (s *superblock) encode() []byte {
	b := make([]byte, superblockSize)
	if n, err := binary.Encode(b, binary.LittleEndian, s); err != nil || n != superblockSize {
		panic("the superblock has 96 bytes") // its fields have fixed sizes
	}
	return b
}

// decodeSuperblock reads a superblock and makes sure that its tables lie within
// size bytes, one behind the other.
func decodeSuperblock(b []byte, size int64) (superblock, error) {
	var s superblock
	if len(b) < superblockSize {
		return s, errors.New("it is shorter than a superblock")
	}
	if _, err := binary.Decode(b, binary.LittleEndian, &s); err != nil {
		return s, err
	}
	switch {
	case s.Magic != magic:
		return s, errors.New("it does not start with a squashfs superblock")
	case s.Major != 4 || s.Minor != 0:
		return s, fmt.Errorf("squashfs version %d.%d is not supported: only 4.0 is", s.Major, s.Minor)
	case s.BlockSize < minBlock || s.BlockSize > maxBlock || bits.OnesCount32(s.BlockSize) != 1 || s.BlockLog != uint16(bits.TrailingZeros32(s.BlockSize)):
		return s, fmt.Errorf("block size %d with logarithm %d is not valid", s.BlockSize, s.BlockLog)
	case s.BytesUsed > uint64(size):
		return s, fmt.Errorf("it has %d bytes, but should have %d", size, s.BytesUsed)
	}
	return s, s.checkTables()
}

func (s *superblock) checkTables() error {
	end := s.BytesUsed
	for _, t := range []struct {
		name  string
		start *uint64
		must  bool
	}{
		{"attribute", &s.XattrTable, false}, {"id", &s.IDTable, true}, {"export", &s.ExportTable, false},
		{"fragment", &s.FragTable, s.Fragments > 0}, {"directory", &s.DirTable, true}, {"inode", &s.InodeTable, true},
	} {
		if *t.start == noTable && !t.must {
			continue
		}
		if *t.start < superblockSize || *t.start > end {
			return fmt.Errorf("position %d of the %s table is not valid", *t.start, t.name)
		}
		end = *t.start
	}
	return nil
}

// encodeDevice gives a device number the kernel's form of 32 bits.
func encodeDevice(major, minor uint32) (uint32, error) {
	if major >= 1<<12 || minor >= 1<<20 {
		return 0, fmt.Errorf("device %d:%d: the numbers may have 12 and 20 bits", major, minor)
	}
	return minor&0xff | major<<8 | minor&^0xff<<12, nil
}

func decodeDevice(dev uint32) (major, minor uint32) {
	return dev >> 8 & 0xfff, dev&0xff | dev>>12&0xfff00
}
