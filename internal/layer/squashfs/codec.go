// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zlib"
	"github.com/klauspost/compress/zstd"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/compress/lz4"
)

// zstdLevel and gzipLevel are what mksquashfs takes when it is not told.
const (
	zstdLevel = 15
	gzipLevel = 9
)

// An encoder compresses blocks, one after the other. Blocks know nothing of each
// other.
type encoder interface {
	// encode appends the compressed src to dst.
	encode(dst, src []byte) ([]byte, error)
}

func newEncoder(c Compression, blockSize int) (encoder, error) {
	switch c {
	case Zstd:
		e, err := zstd.NewWriter(nil,
			zstd.WithEncoderLevel(zstd.EncoderLevelFromZstd(zstdLevel)),
			zstd.WithEncoderConcurrency(1),
			zstd.WithWindowSize(blockSize), // the kernel has no room for a larger one
			zstd.WithSingleSegment(true),
			zstd.WithEncoderCRC(false))
		if err != nil {
			return nil, fmt.Errorf("make compressor: %w", err)
		}
		return zstdEncoder{e}, nil
	case Gzip:
		z, err := zlib.NewWriterLevel(nil, gzipLevel)
		if err != nil {
			return nil, fmt.Errorf("make compressor: %w", err)
		}
		return zlibEncoder{z}, nil
	}
	return nil, fmt.Errorf("squashfs with compression %s cannot be written: use gzip or zstd", c)
}

type zstdEncoder struct{ z *zstd.Encoder }

func (e zstdEncoder) encode(dst, src []byte) ([]byte, error) {
	return e.z.EncodeAll(src, dst), nil
}

type zlibEncoder struct{ z *zlib.Writer }

func (e zlibEncoder) encode(dst, src []byte) ([]byte, error) {
	out := bytes.NewBuffer(dst)
	e.z.Reset(out)
	_, err := e.z.Write(src)
	err = errors.Join(err, e.z.Close())
	return out.Bytes(), err
}

// A decoder decompresses blocks.
type decoder interface {
	// decode appends the decompressed src to dst. It is an error if dst has not
	// the room.
	decode(dst, src []byte) ([]byte, error)
}

var errTooLong = errors.New("a compressed block is longer than it may be")

func newDecoder(c Compression) (decoder, error) {
	switch c {
	case Zstd:
		d, err := zstd.NewReader(nil,
			zstd.WithDecoderConcurrency(1),
			zstd.WithDecoderMaxWindow(maxBlock),
			zstd.WithDecoderMaxMemory(maxBlock))
		if err != nil {
			return nil, fmt.Errorf("make decompressor: %w", err)
		}
		return zstdDecoder{d}, nil
	case Gzip:
		return &streamDecoder{open: openZlib}, nil
	case XZ:
		return &streamDecoder{open: openXZ}, nil
	case LZ4:
		return lz4Decoder{}, nil
	case LZMA, LZO:
	}
	return nil, fmt.Errorf("squashfs with compression %s is not supported: gzip, lz4, xz and zstd are", c)
}

type lz4Decoder struct{}

func (lz4Decoder) decode(dst, src []byte) ([]byte, error) {
	n, err := lz4.Decode(dst[len(dst):cap(dst)], src)
	return dst[:len(dst)+n], err
}

type zstdDecoder struct{ z *zstd.Decoder }

func (d zstdDecoder) decode(dst, src []byte) ([]byte, error) {
	room := cap(dst)
	out, err := d.z.DecodeAll(src, dst)
	if err == nil && len(out) > room {
		err = errTooLong
	}
	return out, err
}

// streamDecoder decodes with what reads streams.
type streamDecoder struct {
	open func(old io.ReadCloser, src io.Reader) (io.ReadCloser, error)
	r    io.ReadCloser
}

func openZlib(old io.ReadCloser, src io.Reader) (io.ReadCloser, error) {
	if old == nil {
		return zlib.NewReader(src)
	}
	return old, old.(zlib.Resetter).Reset(src, nil)
}

func openXZ(_ io.ReadCloser, src io.Reader) (io.ReadCloser, error) {
	return compress.NewReaderFor(compress.Xz, src)
}

func (d *streamDecoder) decode(dst, src []byte) ([]byte, error) {
	r, err := d.open(d.r, bytes.NewReader(src))
	if err != nil {
		return dst, err
	}
	d.r = r
	for {
		if len(dst) == cap(dst) {
			var more [1]byte
			if n, err := io.ReadFull(r, more[:]); n > 0 || err != io.EOF {
				return dst, errors.Join(errTooLong, err)
			}
			return dst, nil
		}
		n, err := r.Read(dst[len(dst):cap(dst)])
		dst = dst[:len(dst)+n]
		if err == io.EOF {
			return dst, nil
		}
		if err != nil {
			return dst, err
		}
	}
}
