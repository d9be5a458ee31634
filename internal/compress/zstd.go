// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package compress

import (
	"fmt"
	"io"
	"math"

	"github.com/klauspost/compress/zstd"
)

const (
	zstdLevel    = 3
	zstdMaxLevel = 22
	zstdBlock    = 4 << 20
)

// newZstdReader returns a reader of zstd frames and skippable frames.
func newZstdReader(r io.Reader) (*streamReader, error) {
	s := &streamReader{algorithm: Zstd, src: countingReader{r: r}}
	d, err := zstd.NewReader(&s.src,
		zstd.WithDecoderMaxWindow(maxWindow),
		// The library would refuse large frames, and the amount of output is the caller's business.
		zstd.WithDecoderMaxMemory(math.MaxInt64),
		zstd.WithDecodeBuffersBelow(0))
	if err != nil {
		return nil, fmt.Errorf("read zstd: %w", err)
	}
	s.dec, s.close = d, d.Close
	return s, nil
}

// zstdWriter writes a frame for every zstdBlock bytes of input. Frames know nothing of each other, so that they
// can be made at the same time; every decoder takes a series of frames as one content. Each has its
// length and a checksum.
type zstdWriter struct {
	blocks *blockWriter
}

func newZstdWriter(w io.Writer, o WriterOptions) (*zstdWriter, error) {
	level := o.Level
	if level == 0 {
		level = zstdLevel
	}
	if level < 1 || level > zstdMaxLevel {
		return nil, fmt.Errorf("write zstd: level %d: use 1 to %d", level, zstdMaxLevel)
	}
	speed := zstd.EncoderLevelFromZstd(level)
	return &zstdWriter{newBlockWriter(w, blockConfig{
		size:       zstdBlock,
		workers:    o.workers(zstdMaxWorkers(speed)),
		newEncoder: func() (encoder, error) { return newZstdEncoder(speed) },
	})}, nil
}

// zstdMaxWorkers returns how many encoders the memory that a writer may use suffices for. One
// needs 5 MiB, or 10 or 40 at the higher speeds; its block and the output 6 to 8.
func zstdMaxWorkers(speed zstd.EncoderLevel) int {
	switch speed {
	case zstd.SpeedBetterCompression:
		return 3
	case zstd.SpeedBestCompression:
		return 2
	default:
		return 4
	}
}

// Write compresses p.
func (z *zstdWriter) Write(p []byte) (int, error) {
	n, err := z.blocks.Write(p)
	if err != nil {
		err = fmt.Errorf("write zstd: %w", err)
	}
	return n, err
}

// Close writes what is left.
func (z *zstdWriter) Close() error {
	if err := z.blocks.Close(); err != nil {
		return fmt.Errorf("write zstd: %w", err)
	}
	return nil
}

// zstdEncoder makes frames for zstdWriter.
type zstdEncoder struct {
	enc *zstd.Encoder
}

func newZstdEncoder(speed zstd.EncoderLevel) (*zstdEncoder, error) {
	e, err := zstd.NewWriter(nil,
		zstd.WithEncoderLevel(speed),
		zstd.WithEncoderConcurrency(1),
		zstd.WithWindowSize(zstdBlock), // it keeps a copy of as much
		zstd.WithLowerEncoderMem(true),
		zstd.WithZeroFrames(true)) // no input at all is a frame too
	if err != nil {
		return nil, fmt.Errorf("make compressor: %w", err)
	}
	return &zstdEncoder{e}, nil
}

func (e *zstdEncoder) encode(dst, _, src []byte) ([]byte, error) {
	return e.enc.EncodeAll(src, dst), nil
}
