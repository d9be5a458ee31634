// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/image"
)

// tempPrefix begins the names of files that are not complete yet.
const tempPrefix = ".new-"

// How often a lock that another process holds is tried.
const (
	firstWait = 2 * time.Millisecond
	maxWait   = 100 * time.Millisecond
)

// readFile reads one of the layout's own files.
func (l *Layout) readFile(name string) ([]byte, error) {
	// O_NONBLOCK: a FIFO must not hang.
	fd, err := unix.Openat(int(l.dir.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, fmt.Errorf("%s is a symbolic link", name)
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: filepath.Join(l.path, name), Err: err}
	}
	f := os.NewFile(uintptr(fd), name)
	defer func() { _ = f.Close() }()
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is not a regular file", name)
	}
	data, err := io.ReadAll(io.LimitReader(f, image.MaxManifestSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if len(data) > image.MaxManifestSize {
		return nil, fmt.Errorf("%s has more than %d bytes", name, image.MaxManifestSize)
	}
	return data, nil
}

// writeFile replaces one of the layout's own files, durably.
func (l *Layout) writeFile(name string, data []byte) error {
	dir := int(l.dir.Fd())
	temp := tempPrefix + rand.Text()
	fd, err := unix.Openat(dir, temp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, fileMode)
	if err != nil {
		return fmt.Errorf("create %s: %w", name, err)
	}
	f := os.NewFile(uintptr(fd), temp)
	_, err = f.Write(data)
	if err == nil {
		err = f.Chmod(fileMode) // the umask may have taken bits away
	}
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = unix.Renameat(dir, temp, dir, name)
	}
	if err != nil {
		_ = unix.Unlinkat(dir, temp, 0)
		return fmt.Errorf("write %s: %w", name, err)
	}
	return unix.Fsync(dir)
}

// makeDir makes a directory with its parents. A symbolic link in its place stays.
func makeDir(dir string) error {
	err := os.Mkdir(dir, dirMode)
	if errors.Is(err, os.ErrNotExist) {
		if err := makeDir(filepath.Dir(dir)); err != nil {
			return err
		}
		err = os.Mkdir(dir, dirMode)
	}
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return os.Chmod(dir, dirMode) // the umask may have taken bits away
}

// readNames returns the names in a directory.
func readNames(dir string) ([]string, error) {
	f, err := os.Open(dir)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }()
	return f.Readdirnames(-1)
}

// lockDir takes a flock of an open directory, waiting until it is free or ctx ends.
func lockDir(ctx context.Context, fd, how int) (unlock func(), err error) {
	wait := firstWait
	for {
		err := unix.Flock(fd, how|unix.LOCK_NB)
		if err == nil {
			return func() { _ = unix.Flock(fd, unix.LOCK_UN) }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) && !errors.Is(err, unix.EINTR) {
			return nil, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(wait):
		}
		wait = min(2*wait, maxWait)
	}
}
