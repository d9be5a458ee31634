// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"path/filepath"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// ErrChanged tells that a file is no longer what the scan found.
var ErrChanged = errors.New("changed during the build")

func changed(name string) error {
	return fmt.Errorf("%w: %q: build again when nothing writes there", ErrChanged, name)
}

// TarOptions decide what a tree looks like in a tar stream. The zero value
// gives the entries under their own paths, without the root.
type TarOptions struct {
	// Name gives an entry its name in the stream, or leaves it out. It may name
	// a directory with or without a slash at the end.
	Name func(Entry) (name string, ok bool)
	// Header may change every field but the type, the link target and the size.
	// The mode is the entry's, the owner too (0 unless kept), the time is its MTime.
	Header func(*tar.Header)
}

// WriteTar writes the tree to w as tar, in the order of its entries: a header per
// entry in the oldest of the formats USTAR and PAX that can hold it. Each file's bytes
// are checked against its digest; ErrChanged if they are others. The end of the archive
// is not written, so that a caller can write several trees; see tar.Writer.Close.
func (t *Tree) WriteTar(ctx context.Context, w *tar.Writer, o TarOptions) error {
	src, err := t.open()
	if err != nil {
		return err
	}
	defer src.close()
	c := copier{sum: sha256.New(), buf: make([]byte, 256<<10)}
	for i := range t.Entries {
		e := &t.Entries[i]
		h, ok := header(e, o)
		if !ok {
			continue
		}
		if err := w.WriteHeader(h); err != nil {
			return fmt.Errorf("write header of %q: %w", h.Name, err)
		}
		if e.IsRegular() {
			if err := c.file(ctx, src, e, w); err != nil {
				return err
			}
		}
	}
	return nil
}

func header(e *Entry, o TarOptions) (*tar.Header, bool) {
	name, ok := e.Path, e.Path != ""
	if o.Name != nil {
		name, ok = o.Name(*e)
	}
	if !ok {
		return nil, false
	}
	h := &tar.Header{
		Name: name, Mode: int64(e.Perm()), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: time.Unix(0, e.MTime), Typeflag: tar.TypeReg, Size: e.Size,
	}
	switch {
	case e.IsDir():
		h.Typeflag = tar.TypeDir
		h.Name = strings.TrimSuffix(name, "/") + "/"
	case e.IsSymlink():
		h.Typeflag, h.Linkname = tar.TypeSymlink, e.Target
	}
	for key, value := range e.Xattrs {
		if h.PAXRecords == nil {
			h.PAXRecords = map[string]string{}
		}
		h.PAXRecords["SCHILY.xattr."+key] = value
	}
	if o.Header != nil {
		o.Header(h)
	}
	return h, true
}

// source is a tree that is open for reading.
type source struct {
	top  directory
	base string // of a root that is no directory
	root string
}

func (t *Tree) open() (*source, error) {
	s := &source{root: t.Root}
	dir := t.Root
	if len(t.Entries) > 0 && !t.Entries[0].IsDir() {
		dir, s.base = filepath.Split(t.Root)
	}
	fd, err := openat(unix.AT_FDCWD, dir, openFlags&^unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %q: %w", dir, err)
	}
	s.top = directory{fd}
	return s, nil
}

func (s *source) close() { s.top.close() }

// file opens the regular file of an entry.
func (s *source) file(e *Entry) (int, error) {
	name := e.Path
	if s.base != "" {
		name = s.base
	}
	fd, err := s.top.open(name, 0)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.ENXIO):
		return -1, changed(s.name(e))
	case err != nil:
		return -1, fmt.Errorf("open %q: %w", s.name(e), err)
	}
	return fd, nil
}

func (s *source) name(e *Entry) string { return filepath.Join(s.root, e.Path) }

// copier copies files and checks their bytes.
type copier struct {
	sum hash.Hash
	buf []byte
}

// file writes the bytes of an entry to w.
func (c *copier) file(ctx context.Context, src *source, e *Entry, w io.Writer) error {
	fd, err := src.file(e)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return c.bytes(ctx, src, e, fd, w)
}

func (c *copier) bytes(ctx context.Context, src *source, e *Entry, fd int, w io.Writer) error {
	c.sum.Reset()
	left := e.Size
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := read(fd, c.buf)
		if err != nil {
			return fmt.Errorf("read %q: %w", src.name(e), err)
		}
		if left -= int64(n); left < 0 {
			return changed(src.name(e))
		}
		if n == 0 {
			break
		}
		c.sum.Write(c.buf[:n])
		if _, err := w.Write(c.buf[:n]); err != nil {
			return fmt.Errorf("copy %q: %w", src.name(e), err)
		}
	}
	if left != 0 || digest.NewDigest(digest.SHA256, c.sum) != e.Digest {
		return changed(src.name(e))
	}
	return nil
}
