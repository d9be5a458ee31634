// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
)

// The file, in blocks:
//
//	data          n blocks
//	superblock    1 block, of which 512 bytes are used
//	level k-1     1 block
//	…
//	level 0       n/128 blocks, rounded up
//
// A block of level 0 holds the hashes of 128 blocks of data, one of level i those
// of 128 blocks of level i-1, each SHA-256 of salt and block. What is left of the
// last block of a level is zero. The root hash is that of the one block of the
// highest level; of a single block of data it is the hash of that.
//
// Source: the cryptsetup wiki, "DMVerity: verity superblock format" and "Merkle
// tree format"; lib/verity/verity.c of cryptsetup.
const (
	// BlockSize is the unit of data and tree, in bytes. An image that gets a
	// tree is a multiple of it.
	BlockSize = 4096

	hashSize  = sha256.Size
	perBlock  = BlockSize / hashSize
	superSize = 512
	saltSize  = 32

	// maxBlocks is so large that sums of sizes cannot overflow: 2^60 bytes.
	maxBlocks = 1 << 48
)

const signature = "verity\x00\x00"

// A superblock says how a tree was made.
type superblock struct {
	uuid   [16]byte
	blocks int64 // of data
	salt   []byte
}

// encode gives the superblock as its block of the file.
func (s superblock) encode() []byte {
	b := make([]byte, BlockSize)
	le := binary.LittleEndian
	copy(b, signature)
	le.PutUint32(b[8:], 1)  // version of the superblock
	le.PutUint32(b[12:], 1) // hash type: salt before the block
	copy(b[16:32], s.uuid[:])
	copy(b[32:64], "sha256")
	le.PutUint32(b[64:], BlockSize)
	le.PutUint32(b[68:], BlockSize)
	le.PutUint64(b[72:], uint64(s.blocks))
	le.PutUint16(b[80:], uint16(len(s.salt)))
	copy(b[88:344], s.salt)
	return b
}

// decodeSuperblock reads the first superSize bytes of a superblock. What this
// package does not write, except for the salt's length, it does not verify.
func decodeSuperblock(b []byte) (superblock, error) {
	le := binary.LittleEndian
	if string(b[:8]) != signature {
		return superblock{}, errors.New("no verity superblock behind the data")
	}
	if v := le.Uint32(b[8:]); v != 1 {
		return superblock{}, fmt.Errorf("verity superblock of version %d: only version 1 is supported", v)
	}
	if t := le.Uint32(b[12:]); t != 1 {
		return superblock{}, fmt.Errorf("verity hash type %d: only type 1 is supported", t)
	}
	if alg := string(b[32:64]); alg != "sha256"+string(make([]byte, 26)) {
		return superblock{}, fmt.Errorf("verity hash algorithm %q: only sha256 is supported", alg)
	}
	if d, h := le.Uint32(b[64:]), le.Uint32(b[68:]); d != BlockSize || h != BlockSize {
		return superblock{}, fmt.Errorf("verity blocks of %d and %d bytes: only %d is supported", d, h, BlockSize)
	}
	blocks, salt := le.Uint64(b[72:]), le.Uint16(b[80:])
	if blocks == 0 || blocks > maxBlocks {
		return superblock{}, fmt.Errorf("verity superblock: %d blocks of data", blocks)
	}
	if salt > 256 {
		return superblock{}, fmt.Errorf("verity superblock: salt of %d bytes: the limit is 256", salt)
	}
	s := superblock{blocks: int64(blocks), salt: append([]byte(nil), b[88:88+int(salt)]...)}
	copy(s.uuid[:], b[16:32])
	return s, nil
}

// levels gives the number of blocks of each level over n blocks of data, level 0
// first. A single block of data has no levels.
func levels(n int64) []int64 {
	var l []int64
	for n > 1 {
		n = (n + perBlock - 1) / perBlock
		l = append(l, n)
	}
	return l
}

// starts gives the byte where each level begins in the file.
func starts(n int64, lv []int64) []int64 {
	at := make([]int64, len(lv))
	next := n + 1
	for i := len(lv) - 1; i >= 0; i-- {
		at[i] = next * BlockSize
		next += lv[i]
	}
	return at
}

// Size returns how many bytes a tree with its superblock adds to an image of
// size bytes, a multiple of BlockSize.
func Size(size int64) int64 {
	blocks := int64(1)
	for _, l := range levels(size / BlockSize) {
		blocks += l
	}
	return blocks * BlockSize
}

// DataSize returns how many of the size bytes of an image with a tree are data. No
// two sizes of data give the same sum, so nothing needs to be read for it. ok is
// false if no image with a tree has this size.
func DataSize(size int64) (data int64, ok bool) {
	if size <= 0 || size%BlockSize != 0 || size/BlockSize > maxBlocks {
		return 0, false
	}
	low, high := int64(1), size/BlockSize
	for low < high {
		mid := (low + high) / 2
		if mid*BlockSize+Size(mid*BlockSize) < size {
			low = mid + 1
		} else {
			high = mid
		}
	}
	data = low * BlockSize
	return data, data+Size(data) == size
}

// hash is SHA-256 of salt and block.
func hash(salt, block []byte) (sum Hash) {
	h := sha256.New()
	h.Write(salt)
	h.Write(block)
	h.Sum(sum[:0])
	return sum
}
