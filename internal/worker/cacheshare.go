// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/layer"
)

// CacheMountRequest is about what a cache mount holds. Of one that has several
// directories it is the first.
type CacheMountRequest struct {
	Name string // see Mount.Cache
	Do   CacheMountAction
	// DiffID is that of the archive to load: it must come out.
	DiffID digest.Digest
}

// CacheMountAction says what to do.
type CacheMountAction string

// The actions.
const (
	// CacheMountLook tells whether the mount is empty, or was never used.
	CacheMountLook CacheMountAction = "look"
	// CacheMountLoad fills an empty one with the archive that file 0 is, compressed
	// or not. One that is not empty, or in use, stays as it is.
	CacheMountLoad CacheMountAction = "load"
	// CacheMountSave writes what it holds to file 0, which is empty: an archive,
	// compressed with zstd. Nobody may be using it.
	CacheMountSave CacheMountAction = "save"
)

// CacheMountReply answers.
type CacheMountReply struct {
	Empty bool      // of CacheMountLook
	Blob  PackReply // of CacheMountSave
}

// errCacheInUse is returned for a cache mount that others use for longer than patience.
var errCacheInUse = errors.New("another build is using it")

// patience is how long a cache mount is waited for that others use.
const patience = 10 * time.Second

// CacheMountEmpty tells whether a cache mount has nothing in it.
func (c *Client) CacheMountEmpty(ctx context.Context, name string) (bool, error) {
	var out CacheMountReply
	err := c.call(ctx, request{CacheMount: &CacheMountRequest{Name: name, Do: CacheMountLook}}, nil, nil, &out)
	return out.Empty, err
}

// LoadCacheMount fills an empty cache mount with an archive.
func (c *Client) LoadCacheMount(ctx context.Context, name string, diffID digest.Digest, in *os.File) error {
	r := CacheMountRequest{Name: name, Do: CacheMountLoad, DiffID: diffID}
	return c.call(ctx, request{CacheMount: &r}, []*os.File{in}, nil, nil)
}

// SaveCacheMount writes what a cache mount holds to out.
func (c *Client) SaveCacheMount(ctx context.Context, name string, out *os.File) (PackReply, error) {
	var reply CacheMountReply
	r := CacheMountRequest{Name: name, Do: CacheMountSave}
	err := c.call(ctx, request{CacheMount: &r}, []*os.File{out}, nil, &reply)
	return reply.Blob, err
}

func (s *server) cacheMount(ctx context.Context, c *call, r CacheMountRequest) (out CacheMountReply, err error) {
	dir, err := cachePath(r.Name, 0)
	if err != nil {
		return out, err
	}
	switch r.Do {
	case CacheMountLook:
		out.Empty = isMissingOrEmpty(dir)
		return out, nil
	case CacheMountLoad:
		return out, s.loadCache(ctx, c, dir, r.DiffID)
	case CacheMountSave:
		out.Blob, err = s.saveCache(ctx, c, dir)
		return out, err
	}
	return out, fmt.Errorf("cache mount: unknown action %q", r.Do)
}

func isMissingOrEmpty(dir string) bool {
	f, err := os.OpenFile(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return errors.Is(err, os.ErrNotExist)
	}
	defer f.Close()
	_, err = f.Readdirnames(1)
	return errors.Is(err, io.EOF)
}

// loadCache unpacks an archive beside, and moves it to its place when it is whole
// and what it was said to be.
func (s *server) loadCache(ctx context.Context, c *call, dir string, want digest.Digest) (err error) {
	in, err := c.file(0)
	if err != nil {
		return err
	}
	stop := closeOnCancel(ctx, in)
	defer stop()
	lock, err := lockCache(ctx, dir+".lock", unix.LOCK_EX, false)
	if err != nil {
		return err
	}
	if lock != nil {
		defer func() { err = errors.Join(err, lock.Close()) }()
	}
	if lock == nil || !isMissingOrEmpty(dir) {
		_, err := io.Copy(io.Discard, in) // the sender may not meet a closed pipe
		return err
	}
	id := s.session.newID()
	tmp, err := s.driver.Dir(id)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.driver.Discard(id)) }()
	made := filepath.Join(tmp, "cache")
	if err := makeCacheDir(made); err != nil {
		return err
	}
	got, err := applyBlob(ctx, made, in, "", layer.ApplyOptions{SingleID: s.singleID})
	if err != nil {
		return err
	}
	if got.DiffID != want {
		return fmt.Errorf("%w: the archive is %s, not %s", ErrMismatch, got.DiffID, want)
	}
	// Not os.Rename, which does not replace an empty directory.
	if err := unix.Rename(made, dir); err != nil {
		return &os.LinkError{Op: "rename", Old: made, New: dir, Err: err}
	}
	return nil
}

// makeCacheDir makes the directory of an empty cache.
func makeCacheDir(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return os.Chmod(dir, 0o755) // whatever the umask is
}

// saveCache writes the archive of a cache that nobody uses meanwhile.
func (s *server) saveCache(ctx context.Context, c *call, dir string) (out PackReply, err error) {
	f, err := c.file(0)
	if err != nil {
		return out, err
	}
	waiting, cancel := context.WithTimeoutCause(ctx, patience, errCacheInUse)
	defer cancel()
	lock, err := lockCache(waiting, dir+".lock", unix.LOCK_EX, true)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	return writeArchive(ctx, f, dir, archiveOptions{Algorithm: compress.Zstd, Diff: diffOptions(nil, 0, true)})
}
