// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/layer/erofs"
	"build.stacker.dev/internal/layer/squashfs"
	"build.stacker.dev/internal/layer/verity"
)

// Format is how a blob holds a layer.
type Format string

// The formats. The zero value is a tar, compressed as a whole.
const (
	TarArchive Format = ""
	Squashfs   Format = "squashfs"
	Erofs      Format = "erofs"
)

// packImage writes a kept layer as a file system image.
func (s *server) packImage(ctx context.Context, f *os.File, r PackRequest) (PackReply, error) {
	if st, err := f.Stat(); err != nil || st.Size() != 0 {
		return PackReply{}, errors.Join(errors.New("an image needs an empty file"), err)
	}
	archive := emptyEntries
	check := func() error { return nil }
	if r.Tree != "" {
		var err error
		if archive, check, err = s.treeEntries(ctx, r); err != nil {
			return PackReply{}, err
		}
	}
	out, err := writeImage(ctx, f, r.Format, archive, r.Clamp)
	if treeErr := check(); treeErr != nil {
		err = treeErr // why the entries ended
	}
	if err != nil {
		return PackReply{}, err
	}
	if r.Verity {
		tree, err := verity.Append(ctx, f, out.Size)
		out.RootHash, out.Digest, out.Size = tree.Root.String(), tree.Digest, tree.Size
		return out, err
	}
	out.Digest, err = digestFile(ctx, f, out.Size)
	return out, err
}

// emptyEntries are those of a layer without files.
func emptyEntries(func(*layer.Entry, error) bool) {}

// treeEntries gives the entries of a kept tree. check must be called when they are
// no longer wanted: it tells whether the tree is the layer that it should be.
func (s *server) treeEntries(ctx context.Context, r PackRequest) (entries iter.Seq2[*layer.Entry, error], check func() error, err error) {
	dir := s.driver.Path(r.Tree)
	root, err := rootEntry(dir)
	if err != nil {
		return nil, nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		d, err := layer.Diff(ctx, pw, dir, diffOptions(r.Clamp, r.Start, r.WithRoot))
		if err == nil && r.DiffID != "" && d.DiffID != r.DiffID {
			err = fmt.Errorf("%w: the kept layer %s now reads as %s", ErrMismatch, r.DiffID, d.DiffID)
		}
		_ = pw.CloseWithError(err) // never fails
		done <- err
	}()
	check = func() error {
		defer cancel()
		_ = pr.Close() // never fails
		err := <-done
		if errors.Is(err, io.ErrClosedPipe) {
			return nil // who read the entries knows why no more were wanted
		}
		return err
	}
	return withRoot(root, layer.FromArchive(pr)), check, nil
}

// rootEntry describes the root of a tree. Its time is that of nothing: the tree's
// root was made when the step ran.
func rootEntry(dir string) (*layer.Entry, error) {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return nil, fmt.Errorf("stat root of layer: %w", err)
	}
	return &layer.Entry{Name: ".", Mode: st.Mode, UID: st.Uid, GID: st.Gid}, nil
}

// withRoot puts root before entries that do not describe it: the image of a layer
// that is mounted as the topmost shows its own root.
func withRoot(root *layer.Entry, entries iter.Seq2[*layer.Entry, error]) iter.Seq2[*layer.Entry, error] {
	return func(yield func(*layer.Entry, error) bool) {
		first := true
		for e, err := range entries {
			if first && err == nil && e.Name != "." && !yield(root, nil) {
				return
			}
			first = false
			if !yield(e, err) {
				return
			}
		}
		if first {
			yield(root, nil)
		}
	}
}

// writeImage writes an image of entries and tells its size and what it could not
// hold.
func writeImage(ctx context.Context, f *os.File, format Format, entries iter.Seq2[*layer.Entry, error], clamp *int64) (PackReply, error) {
	var at time.Time
	if clamp != nil {
		at = time.Unix(*clamp, 0)
	}
	switch format {
	case Squashfs:
		res, err := squashfs.Write(ctx, f, entries, squashfs.Options{ModTime: at})
		return PackReply{Size: res.Size, DroppedXattrs: res.DroppedXattrs}, err
	case Erofs:
		o := erofs.Options{Compression: erofs.LZ4HC}
		if clamp != nil {
			o.Time = *clamp
		}
		res, err := erofs.Write(ctx, f, entries, o)
		return PackReply{Size: res.Size, DroppedXattrs: res.DroppedXattrs}, err
	case TarArchive:
	}
	return PackReply{}, fmt.Errorf("layers of format %q cannot be written", format)
}

// openImage gives the entries of an image.
func openImage(ctx context.Context, f *os.File, size int64, format Format) (iter.Seq2[*layer.Entry, error], error) {
	switch format {
	case Squashfs:
		img, err := squashfs.Open(f, size, squashfs.Limits{})
		if err != nil {
			return nil, err
		}
		return img.Entries(ctx), nil
	case Erofs:
		img, err := erofs.Open(f, size, erofs.Limits{})
		if err != nil {
			return nil, err
		}
		return img.Entries(ctx), nil
	case TarArchive:
	}
	return nil, fmt.Errorf("layers of format %q cannot be read", format)
}

// applyImage unpacks the file system image in f, of which all bytes are verified
// before one of them is believed. The kernel never sees it: its drivers are not
// made for images that were made to harm.
func applyImage(ctx context.Context, dir string, f *os.File, u UnpackLayer, tell func(int64), o layer.ApplyOptions) (res layer.ApplyResult, got digest.Digest, size int64, err error) {
	st, err := f.Stat()
	if err != nil {
		return res, "", 0, fmt.Errorf("read blob: %w", err)
	}
	size = st.Size()
	if got, err = digestFile(ctx, f, size); err != nil {
		return res, "", size, err
	}
	if got != u.Blob || got != u.DiffID {
		return res, got, size, nil // the caller tells what is wrong
	}
	entries, err := openImage(ctx, f, size, u.Format)
	if err != nil {
		return res, got, size, err
	}
	ctx, cancel := context.WithCancel(ctx)
	pr, pw := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := layer.ToArchive(ctx, pw, entries)
		_ = pw.CloseWithError(err) // never fails
		done <- err
	}()
	res, err = layer.Apply(ctx, dir, pr, o)
	cancel()
	_ = pr.Close() // never fails
	if writeErr := <-done; err == nil {
		err = writeErr
	}
	tell(size)
	res.DiffID = got
	return res, got, size, err
}

// digestFile is the digest of the first size bytes of f, read by their offset.
func digestFile(ctx context.Context, f *os.File, size int64) (digest.Digest, error) {
	h := sha256.New()
	buf := make([]byte, 1<<20)
	for off := int64(0); off < size; {
		if err := ctx.Err(); err != nil {
			return "", err
		}
		n, err := f.ReadAt(buf[:min(int64(len(buf)), size-off)], off)
		h.Write(buf[:n])
		if off += int64(n); err != nil && off < size {
			return "", fmt.Errorf("read blob: %w", err)
		}
	}
	return digest.NewDigestFromBytes(digest.SHA256, h.Sum(nil)), nil
}
