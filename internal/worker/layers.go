// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/snapshot"
)

// apply makes a layer or a kept tree from a tar stream.
func (s *server) apply(ctx context.Context, c *call, r ApplyRequest) (out ApplyReply, err error) {
	f, err := c.file(0)
	if err != nil {
		return out, err
	}
	if r.Tree != "" && s.driver.Exists(r.Tree) {
		_, err := io.Copy(io.Discard, f) // the sender may not meet a closed pipe
		return out, err
	}
	id := s.session.newID()
	dir, err := s.driver.Dir(id)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, s.driver.Discard(id)) }()
	stop := closeOnCancel(ctx, f)
	defer stop()
	lower := s.paths(r.Lower)
	algorithm := compress.None
	if r.Decompress {
		algorithm = ""
	}
	opts := layer.ApplyOptions{SingleID: s.singleID, Lower: func() ([]string, error) { return lower, nil }}
	if _, err := applyBlob(ctx, dir, f, algorithm, opts); err != nil {
		return out, err
	}
	if r.Tree != "" {
		return out, s.driver.Adopt(dir, r.Tree)
	}
	out, err = s.describe(ctx, dir, lower, r.Clamp, r.Start)
	if err != nil || out.Empty {
		return out, err
	}
	return out, s.driver.Adopt(dir, layerTree(r.Chain, out.DiffID))
}

// layerTree names the tree of a new layer on top of a chain; "" is no layers.
func layerTree(below string, diffID digest.Digest) string {
	return snapshot.LayerTree(snapshot.Chain(below, string(diffID)))
}

// describe computes the layer that a directory in overlay format is.
func (s *server) describe(ctx context.Context, dir string, lower []string, clamp *int64, start int64) (ApplyReply, error) {
	changed, err := rootChanged(dir, lower)
	if err != nil {
		return ApplyReply{}, err
	}
	if !changed && isEmpty(dir) {
		return ApplyReply{Empty: true}, nil
	}
	o := diffOptions(clamp, start, changed)
	o.Tidy, o.Lower = true, lower
	d, err := layer.Diff(ctx, nil, dir, o)
	if err != nil {
		return ApplyReply{}, fmt.Errorf("make layer: %w", err)
	}
	return ApplyReply{DiffID: d.DiffID, Size: d.Size, Empty: d.Empty, WithRoot: changed}, nil
}

func isEmpty(dir string) bool {
	f, err := os.Open(dir)
	if err != nil {
		return false
	}
	defer f.Close()
	names, err := f.Readdirnames(1)
	return len(names) == 0 && errors.Is(err, io.EOF)
}

// diffOptions are the same when a layer is described and when it is packed.
func diffOptions(clamp *int64, start int64, withRoot bool) layer.DiffOptions {
	var o layer.DiffOptions
	if clamp != nil {
		t := time.Unix(*clamp, 0)
		o.SourceDateEpoch = &t
		if start != 0 {
			from := time.Unix(0, start)
			o.ClampFrom = &from
		}
	}
	if withRoot {
		// A mode that no directory has: the entry for the root is written.
		o.Root = &layer.RootMeta{Mode: ^uint32(0)}
	}
	return o
}

// rootChanged tells whether the root directory's mode or owner differ from
// what the stack below shows; 0755 root:root where there is none.
func rootChanged(dir string, lower []string) (bool, error) {
	is, err := layer.RootOf(dir)
	if err != nil {
		return false, fmt.Errorf("stat root of layer: %w", err)
	}
	was := layer.RootMeta{Mode: 0o755}
	if len(lower) > 0 {
		if was, err = layer.RootOf(lower[len(lower)-1]); err != nil {
			return false, fmt.Errorf("stat root of the layer below: %w", err)
		}
	}
	return is != was, nil
}

// paths gives the directories of trees, as an overlay can have them.
func (s *server) paths(trees []string) []string {
	s.leaving.wait(trees)
	var out []string
	for _, t := range trees {
		out = append(out, s.driver.Path(t))
	}
	return out
}

// pack writes a kept layer as a blob: tree → tar → digest and compression, in one pass.
func (s *server) pack(ctx context.Context, c *call, r PackRequest) (PackReply, error) {
	f, err := c.file(0)
	if err != nil {
		return PackReply{}, err
	}
	if r.Format != TarArchive {
		out, err := s.packImage(ctx, f, r)
		if err != nil {
			return PackReply{}, fmt.Errorf("pack layer %s: %w", r.DiffID, err)
		}
		return out, nil
	}
	out, err := writeArchive(ctx, f, s.driver.Path(r.Tree), archiveOptions{Algorithm: r.Algorithm, Level: r.Level, Diff: diffOptions(r.Clamp, r.Start, r.WithRoot)})
	if err != nil {
		return PackReply{}, fmt.Errorf("pack layer %s: %w", r.DiffID, err)
	}
	if r.DiffID != "" && out.DiffID != r.DiffID {
		return PackReply{}, fmt.Errorf("%w: the kept layer %s now reads as %s", ErrMismatch, r.DiffID, out.DiffID)
	}
	return out, nil
}

// archiveOptions say how a directory becomes a blob.
type archiveOptions struct {
	Algorithm compress.Algorithm
	Level     int
	Diff      layer.DiffOptions
}

// writeArchive writes the archive of a directory in overlay format to an empty file.
func writeArchive(ctx context.Context, f *os.File, dir string, o archiveOptions) (PackReply, error) {
	sum := &summed{w: f, hash: sha256.New()}
	buffered := bufio.NewWriterSize(sum, 1<<20)
	z, err := compress.NewWriter(buffered, o.Algorithm, compress.WriterOptions{Level: o.Level})
	if err != nil {
		return PackReply{}, err
	}
	d, err := layer.Diff(ctx, z, dir, o.Diff)
	if err = errors.Join(err, z.Close()); err != nil {
		return PackReply{}, err
	}
	if err := buffered.Flush(); err != nil {
		return PackReply{}, fmt.Errorf("write blob: %w", err)
	}
	return PackReply{Digest: sum.digest(), Size: sum.n, DiffID: d.DiffID, TarSize: d.Size}, nil
}

// summed hashes and counts what passes through.
type summed struct {
	w    io.Writer
	hash hash.Hash
	n    int64
}

// Write implements io.Writer.
func (s *summed) Write(p []byte) (int, error) {
	n, err := s.w.Write(p)
	s.hash.Write(p[:n])
	s.n += int64(n)
	return n, err
}

func (s *summed) digest() digest.Digest {
	return digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(s.hash.Sum(nil)))
}

func (s *server) remove(ctx context.Context, r RemoveRequest) error {
	var errs []error
	for _, t := range r.Trees {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		errs = append(errs, s.driver.Remove(t))
	}
	return errors.Join(errs...)
}

// usage sums the disk space of trees; files with several names count once.
func (s *server) usage(ctx context.Context, r UsageRequest) (UsageReply, error) {
	var out UsageReply
	for _, t := range r.Trees {
		n, err := diskUsage(ctx, s.driver.Path(t))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return out, fmt.Errorf("measure %s: %w", t, err)
		}
		out.Bytes = append(out.Bytes, n)
	}
	return out, nil
}
