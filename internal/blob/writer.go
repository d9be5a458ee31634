// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/image"
)

// Writer writes one new blob. Nothing is visible before Commit. It is for one
// goroutine.
type Writer struct {
	store *Store
	dir   int // the directory of whole blobs
	file  *os.File
	temp  string // name of file; empty when it has none
	hash  hash.Hash
	size  int64
}

// Create begins a new blob. The caller calls Close, also after Commit.
func (s *Store) Create() (*Writer, error) {
	dir, err := s.subdir(algorithmDir, true)
	if err != nil {
		return nil, fmt.Errorf("create blob: %w", err)
	}
	w := &Writer{store: s, dir: dir, hash: sha256.New()}
	if err := w.openTemp(); err != nil {
		_ = unix.Close(dir)
		return nil, fmt.Errorf("create blob: %w", err)
	}
	return w, nil
}

// openTemp opens a file without a name, so that a killed process leaves nothing;
// where the file system cannot do that, one with a name, locked against RemoveStale.
func (w *Writer) openTemp() error {
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(w.dir, ".", unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	})
	if err != nil && (errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.EISDIR) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINVAL)) {
		w.temp = tempPrefix + rand.Text()
		fd, err = unix.Openat(w.dir, w.temp, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
		if err == nil {
			_ = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) // nobody else knows the name yet
		}
	}
	if err != nil {
		return err
	}
	w.file = os.NewFile(uintptr(fd), "new blob")
	return nil
}

// Write appends to the blob.
func (w *Writer) Write(p []byte) (int, error) {
	n, err := w.file.Write(p)
	_, _ = w.hash.Write(p[:n])
	w.size += int64(n)
	return n, err
}

// Commit gives the blob its name and returns its digest and size. A want that is
// not empty and a size that is not negative must be those of the bytes written,
// else ErrCorrupt is returned and nothing is kept.
func (w *Writer) Commit(want digest.Digest, size int64) (ocispec.Descriptor, error) {
	got := digest.Digest(algorithmDir + ":" + hex.EncodeToString(w.hash.Sum(nil)))
	if want != "" && want != got {
		return ocispec.Descriptor{}, fmt.Errorf("commit blob: %w: digest is %s, want %s", ErrCorrupt, got, want)
	}
	if size >= 0 && size != w.size {
		return ocispec.Descriptor{}, fmt.Errorf("commit blob %s: %w: it has %d bytes, want %d", got, ErrCorrupt, w.size, size)
	}
	if err := w.publish(got.Encoded()); err != nil {
		return ocispec.Descriptor{}, fmt.Errorf("commit blob %s: %w", got, err)
	}
	return ocispec.Descriptor{Digest: got, Size: w.size}, nil
}

// publish makes the file appear under name. A file that has the name already is
// replaced, since it may be damaged.
func (w *Writer) publish(name string) error {
	if err := w.store.finish(w.file); err != nil {
		return err
	}
	if w.temp == "" {
		err := w.link(name)
		if err == nil {
			return w.store.syncDir(w.dir)
		}
		if !errors.Is(err, unix.EEXIST) {
			return err
		}
		temp := tempPrefix + rand.Text()
		if err := w.link(temp); err != nil {
			return err
		}
		w.temp = temp
	}
	if err := replace(w.dir, w.temp, w.dir, name); err != nil {
		return err
	}
	w.temp = ""
	return w.store.syncDir(w.dir)
}

// link gives the file without a name one.
func (w *Writer) link(name string) error {
	self := "/proc/self/fd/" + strconv.Itoa(int(w.file.Fd()))
	return unix.Linkat(unix.AT_FDCWD, self, w.dir, name, unix.AT_SYMLINK_FOLLOW)
}

// Close releases the writer and drops what was not committed.
func (w *Writer) Close() error {
	if w.file == nil {
		return nil
	}
	if w.temp != "" {
		_ = unix.Unlinkat(w.dir, w.temp, 0)
	}
	err := w.file.Close()
	w.file = nil
	_ = unix.Close(w.dir)
	return err
}

// Put stores a small blob whose bytes are at hand.
func (s *Store) Put(data []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	w, err := s.Create()
	if err != nil {
		return d, err
	}
	defer func() { _ = w.Close() }()
	if _, err := w.Write(data); err != nil {
		return d, fmt.Errorf("write blob %s: %w", d.Digest, err)
	}
	return w.Commit(d.Digest, d.Size)
}

// finish gives a file its mode and makes it durable if that was asked for.
func (s *Store) finish(f *os.File) error {
	if err := f.Chmod(s.opts.FileMode); err != nil {
		return err
	}
	if s.opts.Sync {
		return f.Sync()
	}
	return nil
}

// syncDir makes the names in a directory durable if that was asked for.
func (s *Store) syncDir(dir int) error {
	if !s.opts.Sync {
		return nil
	}
	return unix.Fsync(dir)
}

// replace renames a file over whatever has the new name. An empty directory in its
// place, which only damage puts there, is removed first.
func replace(oldDir int, oldName string, newDir int, newName string) error {
	err := unix.Renameat(oldDir, oldName, newDir, newName)
	if errors.Is(err, unix.EISDIR) && unix.Unlinkat(newDir, newName, unix.AT_REMOVEDIR) == nil {
		err = unix.Renameat(oldDir, oldName, newDir, newName)
	}
	return err
}

// checkDescriptor checks the parts of a descriptor that a store uses.
func checkDescriptor(d ocispec.Descriptor) error {
	if err := image.CheckDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("blob %s: negative size %d", d.Digest, d.Size)
	}
	return nil
}
