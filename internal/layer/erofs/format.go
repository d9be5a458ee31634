// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"

	"golang.org/x/sys/unix"
)

// The format is that of Linux, fs/erofs/erofs_fs.h and Documentation/filesystems/
// erofs.rst; all numbers are little endian. Images that Write makes:
//
//	block 0…    superblock at byte 1024, compression settings, the root inode with
//	            its attributes
//	…           contents of files, in order, and between them blocks of metadata
//	…           attributes that several files have, lists of directories
//
// A block of metadata holds inodes, each at a multiple of 32 bytes, followed by
// its attributes, then for compressed files by the index of the compressed parts,
// and by the end of the content where that fits into the block. The number of an
// inode (nid) is its place in the image, in units of 32 bytes.
const (
	blockBits = 12
	blockSize = 1 << blockBits
	slotSize  = 32 // the unit of places of inodes

	superOffset = 1024
	superSize   = 128
	magic       = 0xe0f5e1e2

	maxName = 255
)

// Features that readers may ignore.
const (
	compatChecksum = 1 << 0
	compatMtime    = 1 << 1
)

// Features that readers must know.
const (
	featZeroPadding  = 1 << 0 // compressed data ends where its blocks end
	featBigPcluster  = 1 << 1 // and there are compression settings
	featChunks       = 1 << 2
	featDevices      = 1 << 3 // or a second compression for one file
	featTailPacking  = 1 << 4 // the last compressed part may lie behind the index
	featFragments    = 1 << 5 // or deduplicated compressed data
	featXattrPrefix  = 1 << 6
	featKnown        = featZeroPadding | featBigPcluster | featChunks | featDevices | featTailPacking
	algorithmLZ4Only = 1 // bit set of compressions
)

// Layouts of the data of an inode.
const (
	layoutPlain       = 0 // whole blocks from one place on
	layoutFullIndex   = 1 // compressed, 8 bytes of index for each block
	layoutInline      = 2 // as layoutPlain, but the last part follows the inode
	layoutCompactIdx  = 3 // compressed, 2 or 4 bytes of index for each block
	layoutChunks      = 4
	chunkBitsMask     = 0x1f
	chunkFormatIndex  = 0x20
	chunkFormatKnown  = chunkBitsMask | chunkFormatIndex
	holeAddr          = 1<<32 - 1
	compactInodeSize  = 32
	extendedInodeSize = 64
)

// A superblock is what the image says about itself.
type superblock struct {
	blockBits  uint8
	rootNid    uint16
	inodes     uint64
	time       int64
	timeNsec   uint32
	blocks     uint32
	metaBlock  uint32 // nids count from here
	xattrBlock uint32
	uuid       [16]byte
	features   uint32
	algorithms uint16
	slots      uint8 // extensions of the superblock, 16 bytes each
}

// encode puts the superblock into head, the first blocks of the image, of which
// all else must be final: the checksum covers the rest of the block.
func (s superblock) encode(head []byte) {
	le := binary.LittleEndian
	b := head[superOffset:]
	le.PutUint32(b, magic)
	le.PutUint32(b[8:], compatChecksum|compatMtime)
	b[12] = s.blockBits
	le.PutUint16(b[14:], s.rootNid)
	le.PutUint64(b[16:], s.inodes)
	le.PutUint64(b[24:], uint64(s.time))
	le.PutUint32(b[36:], s.blocks)
	le.PutUint32(b[40:], s.metaBlock)
	le.PutUint32(b[44:], s.xattrBlock)
	copy(b[48:64], s.uuid[:])
	le.PutUint32(b[80:], s.features)
	le.PutUint16(b[84:], s.algorithms)
	le.PutUint32(b[4:], checksum(head[superOffset:blockSize]))
}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// checksum is CRC-32C without the final inversion, as the kernel's function.
func checksum(b []byte) uint32 {
	return ^crc32.Checksum(b, castagnoli)
}

// decodeSuperblock reads a superblock from the start of an image. b has at least
// the block in which the superblock is.
func decodeSuperblock(b []byte) (superblock, error) {
	le := binary.LittleEndian
	p := b[superOffset:]
	if le.Uint32(p) != magic {
		return superblock{}, broken("no EROFS superblock")
	}
	s := superblock{
		blockBits: p[12], slots: p[13], rootNid: le.Uint16(p[14:]), inodes: le.Uint64(p[16:]),
		time: int64(le.Uint64(p[24:])), timeNsec: le.Uint32(p[32:]), blocks: le.Uint32(p[36:]),
		metaBlock: le.Uint32(p[40:]), xattrBlock: le.Uint32(p[44:]), features: le.Uint32(p[80:]), algorithms: le.Uint16(p[84:]),
	}
	copy(s.uuid[:], p[48:64])
	if s.blockBits != blockBits {
		return superblock{}, broken("blocks of 2^%d bytes: only 4096 is supported", s.blockBits)
	}
	switch unknown := s.features &^ featKnown; {
	case unknown&featFragments != 0:
		return superblock{}, broken("it has fragments or deduplicated compressed data, which are not supported")
	case unknown&featXattrPrefix != 0:
		return superblock{}, broken("it has long prefixes of attribute names, which are not supported")
	case unknown != 0:
		return superblock{}, broken("features %#x are not supported", unknown)
	case s.features&featDevices != 0 && le.Uint16(p[86:]) != 0:
		return superblock{}, broken("its data is on another device, which is not supported")
	}
	if le.Uint32(p[8:])&compatChecksum != 0 {
		block := bytes.Clone(b[superOffset:blockSize])
		clear(block[4:8])
		if checksum(block) != le.Uint32(p[4:]) {
			return superblock{}, broken("the checksum of the superblock is wrong")
		}
	}
	return s, nil
}

// An inode is a file without its name and content.
type inode struct {
	extended bool // 64 bytes instead of 32
	layout   uint8
	xattrs   int // bytes of attributes behind the inode
	mode     uint32
	links    uint32
	size     int64
	union    uint32 // block of the data, device number, compressed blocks or chunk format
	number   uint32 // of no meaning on 64-bit machines
	uid, gid uint32
	time     int64
	nsec     uint32 // of time
}

// Places of the link count in both forms.
const (
	compactLinks  = 6
	extendedLinks = 44
)

// headSize returns the size of the inode without attributes.
func (i *inode) headSize() int {
	if i.extended {
		return extendedInodeSize
	}
	return compactInodeSize
}

// fits tells whether the small form has room for the inode, in an image of time t.
func (i *inode) fits(t int64) bool {
	return i.size < 1<<32 && i.uid < 1<<16 && i.gid < 1<<16 && i.links < 1<<16 && i.time == t && i.nsec == 0
}

// encode gives the inode without attributes.
func (i *inode) encode() []byte {
	le := binary.LittleEndian
	b := make([]byte, i.headSize())
	format := uint16(i.layout) << 1
	if i.extended {
		format |= 1
	}
	le.PutUint16(b, format)
	if i.xattrs > 0 {
		le.PutUint16(b[2:], uint16((i.xattrs-xattrHeader)/4+1))
	}
	le.PutUint16(b[4:], uint16(i.mode))
	le.PutUint32(b[16:], i.union)
	le.PutUint32(b[20:], i.number)
	if !i.extended {
		le.PutUint16(b[compactLinks:], uint16(i.links))
		le.PutUint32(b[8:], uint32(i.size))
		le.PutUint16(b[24:], uint16(i.uid))
		le.PutUint16(b[26:], uint16(i.gid))
		return b
	}
	le.PutUint64(b[8:], uint64(i.size))
	le.PutUint32(b[24:], i.uid)
	le.PutUint32(b[28:], i.gid)
	le.PutUint64(b[32:], uint64(i.time))
	le.PutUint32(b[40:], i.nsec)
	le.PutUint32(b[extendedLinks:], i.links)
	return b
}

// decodeInode reads an inode from b, which has at least 32 bytes and for an
// extended inode 64.
func decodeInode(b []byte, s *superblock) (inode, error) {
	le := binary.LittleEndian
	format := le.Uint16(b)
	i := inode{extended: format&1 != 0, layout: uint8(format >> 1 & 7), mode: uint32(le.Uint16(b[4:])), union: le.Uint32(b[16:])}
	if format>>4 != 0 {
		return inode{}, broken("an inode of format %#x, which is not supported", format)
	}
	if n := int(le.Uint16(b[2:])); n > 0 {
		i.xattrs = xattrHeader + (n-1)*4
	}
	switch {
	case !i.extended:
		i.links, i.size = uint32(le.Uint16(b[compactLinks:])), int64(le.Uint32(b[8:]))
		i.uid, i.gid = uint32(le.Uint16(b[24:])), uint32(le.Uint16(b[26:]))
		// Linux 6.15 gave a meaning to what was 0 before: seconds since the
		// superblock's time.
		i.time, i.nsec = s.time+int64(le.Uint32(b[12:])), s.timeNsec
		return i, nil
	case len(b) < extendedInodeSize:
		return inode{}, broken("an inode that the image cuts off")
	}
	i.size, i.links = int64(le.Uint64(b[8:])), le.Uint32(b[extendedLinks:])
	i.uid, i.gid = le.Uint32(b[24:]), le.Uint32(b[28:])
	i.time, i.nsec = int64(le.Uint64(b[32:])), le.Uint32(b[40:])
	return i, nil
}

// encodeDevice gives a device number as in the kernel's new_encode_dev.
func encodeDevice(major, minor uint32) uint32 {
	return minor&0xff | major<<8 | minor&^0xff<<12
}

func decodeDevice(d uint32) (major, minor uint32) {
	return d & 0xfff00 >> 8, d&0xff | d>>12&0xfff00
}

// Types of files in directories.
const (
	typeFile   = 1
	typeDir    = 2
	typeChar   = 3
	typeBlock  = 4
	typeFIFO   = 5
	typeSocket = 6
	typeLink   = 7
)

// typeOf gives the type for directories of a mode; 0 for what is none.
func typeOf(mode uint32) uint8 {
	switch mode & unix.S_IFMT {
	case unix.S_IFREG:
		return typeFile
	case unix.S_IFDIR:
		return typeDir
	case unix.S_IFCHR:
		return typeChar
	case unix.S_IFBLK:
		return typeBlock
	case unix.S_IFIFO:
		return typeFIFO
	case unix.S_IFSOCK:
		return typeSocket
	case unix.S_IFLNK:
		return typeLink
	}
	return 0
}

// direntSize is the size of an entry of a directory without its name.
const direntSize = 12
