// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
)

// ErrMismatch is what Verify's error wraps where the file is not what the root
// hash says.
var ErrMismatch = errors.New("does not match the root hash")

// Verify reads the image of size bytes in r, data and tree, compares every block
// with root, and returns how many bytes of it are data. It holds no more of the
// tree than the levels above the lowest, 64 bytes for each megabyte of data. What
// Verify read is what was verified: that it is the same at the next reading is up
// to whoever holds the file.
func Verify(ctx context.Context, r io.ReaderAt, size int64, root Hash) (data int64, err error) {
	data, ok := DataSize(size)
	if !ok {
		return 0, fmt.Errorf("verify image: %d bytes are not the size of an image with a verity tree", size)
	}
	b := make([]byte, BlockSize)
	if err := readFull(r, b, data); err != nil {
		return 0, fmt.Errorf("verify image: %w", err)
	}
	sb, err := decodeSuperblock(b[:superSize])
	if err != nil {
		return 0, fmt.Errorf("verify image: %w", err)
	}
	if sb.blocks != data/BlockSize {
		return 0, fmt.Errorf("verify image: the verity superblock says %d blocks of data, but there are %d", sb.blocks, data/BlockSize)
	}
	if err := verifyTree(ctx, r, sb, root); err != nil {
		return 0, fmt.Errorf("verify image: %w", err)
	}
	return data, nil
}

func verifyTree(ctx context.Context, r io.ReaderAt, sb superblock, root Hash) error {
	lv := levels(sb.blocks)
	at := starts(sb.blocks, lv)
	if len(lv) == 0 {
		_, err := verified(r, sb, 0, 1, root[:])
		return err
	}
	want := root[:] // the hashes of the blocks of the level
	for i := len(lv) - 1; i > 0; i-- {
		var err error
		if want, err = verified(r, sb, at[i], lv[i], want); err != nil {
			return err
		}
	}
	return eachLeaf(ctx, lv[0], func(i int64, s *scratch) error {
		leaf, err := s.leaf(r, sb, i)
		if err != nil {
			return err
		}
		if sum := s.hash(sb.salt, leaf); !bytes.Equal(sum[:], want[i*hashSize:(i+1)*hashSize]) {
			return fmt.Errorf("data from byte %d on: %w", i*perBlock*BlockSize, ErrMismatch)
		}
		// The kernel reads the hashes from the file, so they must be these.
		if err := readFull(r, s.data[:BlockSize], at[0]+i*BlockSize); err != nil {
			return err
		}
		if !bytes.Equal(leaf, s.data[:BlockSize]) {
			return fmt.Errorf("hashes at byte %d: %w", at[0]+i*BlockSize, ErrMismatch)
		}
		return nil
	})
}

// verified reads n blocks from offset on and compares them with their hashes.
func verified(r io.ReaderAt, sb superblock, offset, n int64, want []byte) ([]byte, error) {
	level := make([]byte, n*BlockSize)
	if err := readFull(r, level, offset); err != nil {
		return nil, err
	}
	for i := range n {
		if sum := hash(sb.salt, level[i*BlockSize:(i+1)*BlockSize]); !bytes.Equal(sum[:], want[i*hashSize:(i+1)*hashSize]) {
			return nil, fmt.Errorf("block at byte %d: %w", offset+i*BlockSize, ErrMismatch)
		}
	}
	return level, nil
}
