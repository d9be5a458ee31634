// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
)

// Labels that keep the uses of the data's digest apart.
const (
	saltLabel = "stacker dm-verity salt 1\n"
	uuidLabel = "stacker dm-verity uuid 1\n"
)

// A File is an image that gets a tree.
type File interface {
	io.ReaderAt
	io.WriterAt
}

// A Tree describes a tree that was appended.
type Tree struct {
	Root   Hash
	Digest digest.Digest // of data and tree together
	Size   int64         // of data and tree together, in bytes
}

// Append writes superblock and tree behind the size bytes of data in f, which
// nothing else changes meanwhile. size must be a multiple of BlockSize and not 0.
// The data is read twice: once in order, for the digest from which salt and UUID
// are made, and once for the tree, on all processors. Memory is 64 bytes for each
// megabyte of data.
func Append(ctx context.Context, f File, size int64) (Tree, error) {
	if size <= 0 || size%BlockSize != 0 || size/BlockSize > maxBlocks {
		return Tree{}, fmt.Errorf("make verity tree: image of %d bytes: want a multiple of %d", size, BlockSize)
	}
	sum := sha256.New()
	if err := copyTo(ctx, sum, f, 0, size); err != nil {
		return Tree{}, fmt.Errorf("make verity tree: %w", err)
	}
	data := sum.Sum(nil)
	salt := sha256.Sum256(append([]byte(saltLabel), data...))
	root, err := format(ctx, f, superblock{uuid: makeUUID(data), blocks: size / BlockSize, salt: salt[:saltSize]})
	if err != nil {
		return Tree{}, fmt.Errorf("make verity tree: %w", err)
	}
	added := Size(size)
	if err := copyTo(ctx, sum, f, size, added); err != nil {
		return Tree{}, fmt.Errorf("make verity tree: %w", err)
	}
	return Tree{Root: root, Digest: digest.NewDigestFromBytes(digest.SHA256, sum.Sum(nil)), Size: size + added}, nil
}

// makeUUID makes a UUID of version 8 (RFC 9562, section 5.8) from the digest of
// the data.
func makeUUID(data []byte) (id [16]byte) {
	sum := sha256.Sum256(append([]byte(uuidLabel), data...))
	copy(id[:], sum[:])
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return id
}

// copyTo feeds size bytes of r from offset on to w.
func copyTo(ctx context.Context, w io.Writer, r io.ReaderAt, offset, size int64) error {
	buf := make([]byte, 256<<10)
	for size > 0 {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		b := buf[:min(int64(len(buf)), size)]
		if err := readFull(r, b, offset); err != nil {
			return err
		}
		if _, err := w.Write(b); err != nil {
			return err
		}
		offset += int64(len(b))
		size -= int64(len(b))
	}
	return nil
}

// readFull fills b from offset on; the end of r before that is an error.
func readFull(r io.ReaderAt, b []byte, offset int64) error {
	n, err := r.ReadAt(b, offset)
	switch {
	case n == len(b):
		return nil
	case err == io.EOF:
		return io.ErrUnexpectedEOF
	}
	return err
}

// format writes the superblock and the tree and returns the root hash.
func format(ctx context.Context, f File, sb superblock) (Hash, error) {
	lv := levels(sb.blocks)
	at := starts(sb.blocks, lv)
	if _, err := f.WriteAt(sb.encode(), sb.blocks*BlockSize); err != nil {
		return Hash{}, err
	}
	if len(lv) == 0 {
		block := make([]byte, BlockSize)
		if err := readFull(f, block, 0); err != nil {
			return Hash{}, err
		}
		return hash(sb.salt, block), nil
	}
	hashes := make([]byte, lv[0]*hashSize) // of the blocks of level 0
	err := eachLeaf(ctx, lv[0], func(i int64, s *scratch) error {
		leaf, err := s.leaf(f, sb, i)
		if err != nil {
			return err
		}
		sum := s.hash(sb.salt, leaf)
		copy(hashes[i*hashSize:], sum[:])
		_, err = f.WriteAt(leaf, at[0]+i*BlockSize)
		return err
	})
	if err != nil {
		return Hash{}, err
	}
	for i := 1; i < len(lv); i++ {
		level := make([]byte, lv[i]*BlockSize)
		copy(level, hashes)
		if _, err := f.WriteAt(level, at[i]); err != nil {
			return Hash{}, err
		}
		hashes = hashes[:0]
		for ; len(level) > 0; level = level[BlockSize:] {
			sum := hash(sb.salt, level[:BlockSize])
			hashes = append(hashes, sum[:]...)
		}
	}
	return Hash(hashes), nil
}
