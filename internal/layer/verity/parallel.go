// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package verity

import (
	"context"
	"crypto/sha256"
	gohash "hash"
	"io"
	"runtime"
	"sync"
	"sync/atomic"
)

// A scratch is what one goroutine needs to hash the data below a block of level 0.
type scratch struct {
	data []byte
	out  [BlockSize]byte
	sum  gohash.Hash
}

// hash is as the function hash, without its allocations.
func (s *scratch) hash(salt, block []byte) (sum Hash) {
	s.sum.Reset()
	s.sum.Write(salt)
	s.sum.Write(block)
	s.sum.Sum(sum[:0])
	return sum
}

// leaf makes block i of level 0 from the data. The result is valid until the next
// call.
func (s *scratch) leaf(r io.ReaderAt, sb superblock, i int64) ([]byte, error) {
	first := i * perBlock
	n := min(perBlock, sb.blocks-first)
	data := s.data[:n*BlockSize]
	if err := readFull(r, data, first*BlockSize); err != nil {
		return nil, err
	}
	clear(s.out[:])
	for k := range int(n) {
		sum := s.hash(sb.salt, data[k*BlockSize:(k+1)*BlockSize])
		copy(s.out[k*hashSize:], sum[:])
	}
	return s.out[:], nil
}

// eachLeaf calls do for each number below n, on all processors and in about that
// order, and returns the first error.
func eachLeaf(ctx context.Context, n int64, do func(i int64, s *scratch) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var wg sync.WaitGroup
	for range min(int64(runtime.GOMAXPROCS(0)), n) {
		wg.Go(func() {
			s := &scratch{data: make([]byte, perBlock*BlockSize), sum: sha256.New()}
			for i := next.Add(1) - 1; i < n && ctx.Err() == nil; i = next.Add(1) - 1 {
				if err := do(i, s); err != nil {
					stop(err)
				}
			}
		})
	}
	wg.Wait()
	return context.Cause(ctx)
}
