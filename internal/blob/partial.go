// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"os"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// How often a lock that another process holds is tried.
const (
	firstWait = 5 * time.Millisecond
	maxWait   = 200 * time.Millisecond
)

// Partial is the beginning of a blob that is being downloaded. It survives Close
// and the death of the process, and is locked against other processes. It is for
// one goroutine.
type Partial struct {
	store *Store
	desc  ocispec.Descriptor
	dir   int // the directory of partial blobs
	file  *os.File
	hash  hash.Hash
	size  int64
}

// Resume opens the beginning of a blob, perhaps an empty one, to append to it. While
// another process downloads the same blob, Resume waits. It returns ErrExists when
// the whole blob is there.
func (s *Store) Resume(ctx context.Context, desc ocispec.Descriptor) (*Partial, error) {
	if err := checkDescriptor(desc); err != nil {
		return nil, err
	}
	dir, err := s.subdir(partialDir, true)
	if err != nil {
		return nil, fmt.Errorf("resume blob %s: %w", desc.Digest, err)
	}
	p := &Partial{store: s, desc: desc, dir: dir}
	if err := p.open(ctx); err != nil {
		_ = p.Close()
		return nil, fmt.Errorf("resume blob %s: %w", desc.Digest, err)
	}
	return p, nil
}

// open opens and locks the file, and hashes what it holds.
func (p *Partial) open(ctx context.Context) error {
	wait := firstWait
	for {
		if p.store.Has(p.desc) {
			return ErrExists
		}
		locked, err := p.tryLock()
		if err != nil {
			return err
		}
		if locked {
			break
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, maxWait)
	}
	// The holder of the lock before us may have finished between Has and tryLock.
	if p.store.Has(p.desc) {
		_ = unix.Unlinkat(p.dir, p.desc.Digest.Encoded(), 0)
		return ErrExists
	}
	p.hash = sha256.New()
	n, err := io.Copy(p.hash, p.file)
	if err != nil {
		return err
	}
	p.size = n
	if n > p.desc.Size || (n == p.desc.Size && !p.whole()) {
		return p.Reset()
	}
	return nil
}

// tryLock opens the file and locks it if nobody else has.
func (p *Partial) tryLock() (bool, error) {
	name := p.desc.Digest.Encoded()
	fd, err := ignoringEINTR(func() (int, error) {
		return unix.Openat(p.dir, name, unix.O_CREAT|unix.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0o600)
	})
	if errors.Is(err, unix.ELOOP) || errors.Is(err, unix.EISDIR) {
		return false, fmt.Errorf("%w: %s/%s is not a regular file: remove it", ErrCorrupt, partialDir, name)
	}
	if err != nil {
		return false, err
	}
	_ = unix.SetNonblock(fd, false) // keep the file out of Go's poller
	f := os.NewFile(uintptr(fd), name)
	var mine, named unix.Stat_t
	err = unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		err = unix.Fstat(fd, &mine)
	}
	if err == nil && mine.Mode&unix.S_IFMT != unix.S_IFREG {
		_ = f.Close()
		return false, fmt.Errorf("%w: %s/%s is not a regular file: remove it", ErrCorrupt, partialDir, name)
	}
	if err == nil {
		// Whoever held the lock may have renamed the file to its final name.
		err = unix.Fstatat(p.dir, name, &named, unix.AT_SYMLINK_NOFOLLOW)
	}
	if err != nil || mine.Ino != named.Ino || mine.Dev != named.Dev {
		_ = f.Close()
		if err == nil || errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, unix.ENOENT) || errors.Is(err, unix.EINTR) {
			return false, nil
		}
		return false, err
	}
	p.file = f
	return true, nil
}

// Offset returns how many bytes are there.
func (p *Partial) Offset() int64 { return p.size }

// Write appends to the blob. More bytes than the blob has are refused.
func (p *Partial) Write(b []byte) (int, error) {
	if int64(len(b)) > p.desc.Size-p.size {
		return 0, fmt.Errorf("%w: %s has more than %d bytes", ErrCorrupt, p.desc.Digest, p.desc.Size)
	}
	n, err := p.file.Write(b)
	_, _ = p.hash.Write(b[:n])
	p.size += int64(n)
	return n, err
}

// Reset forgets what is there, to begin anew.
func (p *Partial) Reset() error {
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	p.hash, p.size = sha256.New(), 0
	return nil
}

// whole reports whether the bytes are those of the blob.
func (p *Partial) whole() bool {
	return p.size == p.desc.Size && hex.EncodeToString(p.hash.Sum(nil)) == p.desc.Digest.Encoded()
}

// Commit makes the blob a whole one. If the bytes are not those of its digest they
// are forgotten and ErrCorrupt is returned; too few are ErrCorrupt as well, but kept.
func (p *Partial) Commit() error {
	name := p.desc.Digest.Encoded()
	if p.size < p.desc.Size {
		return fmt.Errorf("commit blob %s: %w: it ends after %d of %d bytes", p.desc.Digest, ErrCorrupt, p.size, p.desc.Size)
	}
	if !p.whole() {
		if err := p.Reset(); err != nil {
			return fmt.Errorf("commit blob %s: %w", p.desc.Digest, err)
		}
		return fmt.Errorf("commit blob %s: %w: the bytes have another digest", p.desc.Digest, ErrCorrupt)
	}
	if err := p.publish(name); err != nil {
		return fmt.Errorf("commit blob %s: %w", p.desc.Digest, err)
	}
	return nil
}

// publish moves the file to the whole blobs.
func (p *Partial) publish(name string) error {
	if err := p.store.finish(p.file); err != nil {
		return err
	}
	to, err := p.store.subdir(algorithmDir, true)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(to) }()
	if err := replace(p.dir, name, to, name); err != nil {
		return err
	}
	return p.store.syncDir(to)
}

// Close unlocks the blob; what was written is kept for the next Resume.
func (p *Partial) Close() error {
	_ = unix.Close(p.dir)
	if p.file == nil {
		return nil
	}
	return p.file.Close()
}

// Fetch makes sure that the store has a blob. It calls open for the bytes that are
// missing, from an offset on, and keeps what arrived if that breaks off. Among
// several processes only one downloads, the others wait for it.
func (s *Store) Fetch(ctx context.Context, desc ocispec.Descriptor, open func(ctx context.Context, offset int64) (io.ReadCloser, error)) error {
	p, err := s.Resume(ctx, desc)
	if errors.Is(err, ErrExists) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { _ = p.Close() }()
	resumed := p.Offset() > 0
	err = p.fill(ctx, open)
	if errors.Is(err, ErrCorrupt) && resumed {
		// The beginning may have been torn by a power cut: once more from zero.
		if err := p.Reset(); err != nil {
			return fmt.Errorf("fetch blob %s: %w", desc.Digest, err)
		}
		err = p.fill(ctx, open)
	}
	return err
}

// fill appends what is missing and commits.
func (p *Partial) fill(ctx context.Context, open func(ctx context.Context, offset int64) (io.ReadCloser, error)) error {
	if p.size < p.desc.Size {
		r, err := open(ctx, p.size)
		if err != nil {
			return fmt.Errorf("fetch blob %s: %w", p.desc.Digest, err)
		}
		_, err = io.CopyBuffer(struct{ io.Writer }{p}, struct{ io.Reader }{r}, make([]byte, 256<<10))
		_ = r.Close()
		if err != nil {
			return fmt.Errorf("fetch blob %s: %w", p.desc.Digest, err)
		}
	}
	return p.Commit()
}
