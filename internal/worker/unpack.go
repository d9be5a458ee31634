// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/snapshot"
)

// unpacking is one layer on its way to a tree.
type unpacking struct {
	UnpackLayer
	done chan struct{} // closed when tree or err is set
	tree string
	err  error
}

// unpack unpacks all layers at the same time. A layer waits for those below it
// only when it takes something from them: a directory that it does not
// describe itself, or the target of a hard link.
func (s *server) unpack(ctx context.Context, c *call, r UnpackRequest) (UnpackReply, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stack := make([]*unpacking, len(r.Layers))
	for i, l := range r.Layers {
		stack[i] = &unpacking{UnpackLayer: l, done: make(chan struct{}), tree: l.Tree}
	}
	var wg sync.WaitGroup
	for i, u := range stack {
		if u.tree != "" {
			close(u.done)
			continue
		}
		wg.Go(func() {
			defer close(u.done)
			if u.err = s.unpackOne(ctx, c, i, stack); u.err != nil {
				u.err = fmt.Errorf("unpack layer %s: %w", u.Name, u.err)
				cancel(u.err)
			}
		})
	}
	wg.Wait()
	out := UnpackReply{}
	for _, u := range stack {
		if u.err != nil && (ctx.Err() == nil || !errors.Is(u.err, context.Canceled)) {
			return out, u.err
		}
		out.Trees = append(out.Trees, u.tree)
	}
	return out, context.Cause(ctx)
}

// lowerTrees waits for the layers below number n and says where they lie.
func (s *server) lowerTrees(ctx context.Context, stack []*unpacking, n int) ([]string, error) {
	var out []string
	for _, u := range stack[:n] {
		select {
		case <-u.done:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if u.err != nil {
			return nil, u.err
		}
		out = append(out, s.driver.Path(u.tree))
	}
	return out, nil
}

func (s *server) unpackOne(ctx context.Context, c *call, n int, stack []*unpacking) (err error) {
	u := stack[n]
	f, err := c.file(u.File)
	if err != nil {
		return err
	}
	id := s.session.newID()
	dir, err := s.driver.Dir(id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.driver.Discard(id)) }()
	stop := closeOnCancel(ctx, f)
	defer stop()
	res, err := s.applyLayer(ctx, dir, f, u.UnpackLayer, func(done int64) { c.event(UnpackEvent{Layer: n, Current: done}) },
		func() ([]string, error) { return s.lowerTrees(ctx, stack, n) })
	if err != nil {
		return err
	}
	if res.OpaqueRoot && n > 0 {
		return errors.New("it hides everything below it with an opaque root directory, which no overlay can do")
	}
	u.tree = snapshot.LayerTree(u.Chain)
	if u.Names {
		u.tree = snapshot.NamesTree(u.Chain)
	}
	return s.driver.Adopt(dir, u.tree)
}

// applyLayer unpacks a layer of an image and makes sure that it is the one that it
// should be.
func (s *server) applyLayer(ctx context.Context, dir string, f *os.File, u UnpackLayer, tell func(int64), lower func() ([]string, error)) (layer.ApplyResult, error) {
	o := layer.ApplyOptions{SingleID: s.singleID, NamesOnly: u.Names, Lower: lower}
	var res layer.ApplyResult
	var got digest.Digest
	var size int64
	var err error
	if u.Format == TarArchive {
		blob := newCounted(f, tell)
		res, err = applyBlob(ctx, dir, blob, "", o)
		got, size = blob.digest(), blob.read
	} else {
		res, got, size, err = applyImage(ctx, dir, f, u, tell, o)
	}
	switch {
	case err != nil:
		return res, err
	case u.Blob != "" && got != u.Blob:
		return res, fmt.Errorf("%w: the blob is %s, but should be %s", ErrMismatch, got, u.Blob)
	case u.Size >= 0 && size != u.Size:
		return res, fmt.Errorf("%w: the blob has %d bytes, but should have %d", ErrMismatch, size, u.Size)
	case u.DiffID != "" && u.Format != TarArchive && got != u.DiffID:
		return res, fmt.Errorf("%w: the image's config says that the layer is %s: of a file system it should be the blob's digest, %s", ErrMismatch, u.DiffID, got)
	case u.DiffID != "" && res.DiffID != u.DiffID:
		return res, fmt.Errorf("%w: the unpacked layer is %s, but the image's config says %s", ErrMismatch, res.DiffID, u.DiffID)
	}
	return res, nil
}

// applyBlob unpacks a blob of known or detected compression and reads it to its end.
func applyBlob(ctx context.Context, dir string, blob io.Reader, a compress.Algorithm, o layer.ApplyOptions) (layer.ApplyResult, error) {
	var tar io.ReadCloser
	var err error
	if a == "" {
		tar, _, err = compress.NewReader(blob)
	} else {
		tar, err = compress.NewReaderFor(a, blob)
	}
	if err != nil {
		return layer.ApplyResult{}, err
	}
	defer tar.Close()
	res, err := layer.Apply(ctx, dir, tar, o)
	if err != nil {
		return res, err
	}
	// What follows the compressed stream counts for the blob's digest.
	if _, err := io.Copy(io.Discard, blob); err != nil {
		return res, fmt.Errorf("read blob: %w", err)
	}
	return res, tar.Close()
}

// closeOnCancel makes reads of a pipe end when ctx does.
func closeOnCancel(ctx context.Context, f *os.File) func() bool {
	return context.AfterFunc(ctx, func() { _ = f.Close() })
}

// counted hashes and counts what is read, and tells about it now and then.
// Hashing happens in a goroutine of its own, beside the decompression.
type counted struct {
	r      io.Reader
	read   int64
	told   int64
	tell   func(int64)
	hash   hash.Hash
	chunks chan []byte
	free   chan []byte
	wg     sync.WaitGroup
	closed atomic.Bool
}

// tellEvery is the number of bytes between two progress events.
const tellEvery = 4 << 20

func newCounted(r io.Reader, tell func(int64)) *counted {
	c := &counted{r: r, tell: tell, hash: sha256.New(), chunks: make(chan []byte, 4), free: make(chan []byte, 5)}
	c.wg.Go(func() {
		for b := range c.chunks {
			c.hash.Write(b)
			c.free <- b[:0]
		}
	})
	for range 5 {
		c.free <- nil
	}
	return c
}

// Read implements io.Reader.
func (c *counted) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.chunks <- append(<-c.free, p[:n]...)
		c.read += int64(n)
		if c.read-c.told >= tellEvery {
			c.told = c.read
			c.tell(c.read)
		}
	}
	if err != nil {
		c.finish()
	}
	return n, err
}

func (c *counted) finish() {
	if c.closed.CompareAndSwap(false, true) {
		close(c.chunks)
	}
}

// digest ends the hashing.
func (c *counted) digest() digest.Digest {
	c.finish()
	c.wg.Wait()
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(c.hash.Sum(nil)))
}
