// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package blob stores blobs in a directory, each under its digest.
//
//	sha256/<hex>      a whole blob, verified when it was written
//	partial/<hex>     the beginning of a blob whose download was interrupted
//
// A name in sha256/ appears at once and complete: bytes are written to a file
// without a name, verified, and linked. What is read back through Open is verified
// again, since disks rot and other programs write; File is for readers that verify
// by themselves. Symbolic links, FIFOs and devices inside the store are not
// followed, opened or written through.
//
// Any number of processes may use one store at the same time. Only a partial file
// is locked (flock, held by the one process that downloads that blob); lock order:
// nothing else is locked while one is held. The store does not know media types,
// images or which blobs are still needed.
package blob

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/image"
)

// ErrNotFound is returned for a blob that the store does not have.
var ErrNotFound = errors.New("no such blob")

// ErrCorrupt is returned when the bytes of a blob are not those of its digest, or
// when what has its name is no file that can be read.
var ErrCorrupt = errors.New("damaged blob")

// ErrExists is returned by Resume when the store has the whole blob.
var ErrExists = errors.New("blob exists")

const (
	algorithmDir = "sha256"
	partialDir   = "partial"
	tempPrefix   = ".new-"
)

// Options say how a store writes. The zero value is right for the state directory.
type Options struct {
	// Sync makes every blob durable before its name appears. Without it the caller
	// calls Store.Sync once, before it reports success.
	Sync bool
	// FileMode and DirMode are the exact modes of what is made, whatever the umask
	// is; 0600 and 0700 when zero.
	FileMode, DirMode os.FileMode
}

// Store is a directory of blobs.
type Store struct {
	root *os.File
	opts Options
}

// Create opens the store in dir, which is made if it is missing.
func Create(dir string, opts Options) (*Store, error) {
	opts = opts.withDefaults()
	if err := os.MkdirAll(filepath.Dir(dir), opts.DirMode); err != nil {
		return nil, fmt.Errorf("create blob store: %w", err)
	}
	if err := makeDir(unix.AT_FDCWD, dir, opts.DirMode); err != nil {
		return nil, fmt.Errorf("create blob store %s: %w", dir, err)
	}
	return Open(dir, opts)
}

// Open opens the store in the existing directory dir, which may be read-only.
func Open(dir string, opts Options) (*Store, error) {
	fd, err := openDir(unix.AT_FDCWD, dir)
	if err != nil {
		return nil, fmt.Errorf("open blob store %s: %w", dir, err)
	}
	return &Store{root: os.NewFile(uintptr(fd), dir), opts: opts.withDefaults()}, nil
}

func (o Options) withDefaults() Options {
	if o.FileMode == 0 {
		o.FileMode = 0o600
	}
	if o.DirMode == 0 {
		o.DirMode = 0o700
	}
	return o
}

// Close releases the store's descriptor. Files that it handed out stay open.
func (s *Store) Close() error { return s.root.Close() }

// File opens a blob for reading and returns its size. Its bytes are not verified.
func (s *Store) File(d digest.Digest) (*os.File, int64, error) {
	if err := image.CheckDigest(d); err != nil {
		return nil, 0, err
	}
	dir, err := s.subdir(algorithmDir, false)
	if err != nil {
		return nil, 0, fmt.Errorf("open blob %s: %w", d, err)
	}
	defer func() { _ = unix.Close(dir) }()
	f, size, err := openRegular(dir, d.Encoded(), unix.O_RDONLY)
	if err != nil {
		return nil, 0, fmt.Errorf("open blob %s: %w", d, err)
	}
	return f, size, nil
}

// Stat returns the size of a blob.
func (s *Store) Stat(d digest.Digest) (int64, error) {
	if err := image.CheckDigest(d); err != nil {
		return 0, err
	}
	dir, err := s.subdir(algorithmDir, false)
	if err != nil {
		return 0, fmt.Errorf("stat blob %s: %w", d, err)
	}
	defer func() { _ = unix.Close(dir) }()
	var st unix.Stat_t
	if err := unix.Fstatat(dir, d.Encoded(), &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return 0, fmt.Errorf("stat blob %s: %w", d, notFound(err))
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, fmt.Errorf("stat blob %s: %w: not a regular file", d, ErrCorrupt)
	}
	return st.Size, nil
}

// Has reports whether the store has a blob of that digest and size. It does not
// read it.
func (s *Store) Has(desc ocispec.Descriptor) bool {
	size, err := s.Stat(desc.Digest)
	return err == nil && size == desc.Size
}

// Open opens a blob for reading. The reader returns ErrCorrupt in place of io.EOF
// when the bytes are not those of the digest.
func (s *Store) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	f, size, err := s.File(desc.Digest)
	if err != nil {
		return nil, err
	}
	if size != desc.Size {
		_ = f.Close()
		return nil, fmt.Errorf("open blob %s: %w: it has %d bytes, want %d", desc.Digest, ErrCorrupt, size, desc.Size)
	}
	return Verify(f, desc), nil
}

// ReadAll returns the bytes of a blob of at most limit bytes, verified.
func (s *Store) ReadAll(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if desc.Size > limit {
		return nil, fmt.Errorf("read blob %s: it has %d bytes, more than %d", desc.Digest, desc.Size, limit)
	}
	r, err := s.Open(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer func() { _ = r.Close() }()
	return io.ReadAll(r)
}

// Remove removes a blob and the beginning of one. A missing blob is no error.
func (s *Store) Remove(d digest.Digest) error {
	if err := image.CheckDigest(d); err != nil {
		return err
	}
	for _, name := range []string{algorithmDir, partialDir} {
		dir, err := s.subdir(name, false)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remove blob %s: %w", d, err)
		}
		err = unix.Unlinkat(dir, d.Encoded(), 0)
		_ = unix.Close(dir)
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("remove blob %s: %w", d, err)
		}
	}
	return nil
}

// Walk calls fn for every blob with its size, in no particular order. A file that
// is not a blob is passed over.
func (s *Store) Walk(fn func(d digest.Digest, size int64) error) error {
	names, err := s.list(algorithmDir)
	if err != nil {
		return fmt.Errorf("list blobs: %w", err)
	}
	for _, name := range names {
		d := digest.Digest(algorithmDir + ":" + name)
		if !image.ValidDigest(d) {
			continue
		}
		size, err := s.Stat(d)
		if errors.Is(err, ErrNotFound) || errors.Is(err, ErrCorrupt) {
			continue
		}
		if err != nil {
			return err
		}
		if err := fn(d, size); err != nil {
			return err
		}
	}
	return nil
}

// RemoveStale removes the temporary files of writers that died; those of writers
// at work are locked and stay.
func (s *Store) RemoveStale() error {
	names, err := s.list(algorithmDir)
	if err != nil || len(names) == 0 {
		return err
	}
	dir, err := s.subdir(algorithmDir, false)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(dir) }()
	for _, name := range names {
		if !strings.HasPrefix(name, tempPrefix) {
			continue
		}
		f, _, err := openRegular(dir, name, unix.O_RDONLY)
		if err != nil {
			continue // gone by now, or not one of ours
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			err = unix.Unlinkat(dir, name, 0)
		}
		_ = f.Close()
		if err != nil {
			return fmt.Errorf("remove temporary file %s: %w", name, err)
		}
	}
	return nil
}

// Sync makes all that was written to the store durable (syncfs of its file system).
func (s *Store) Sync() error {
	if err := unix.Syncfs(int(s.root.Fd())); err != nil {
		return fmt.Errorf("sync blob store: %w", err)
	}
	return nil
}
