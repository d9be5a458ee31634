// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/rootfs"
)

// Cache mounts are directories of the tree area, mounts/NAME.N, with a lock file
// mounts/NAME.N.lock beside them that who uses one holds: shared, or exclusively.
// N is 0 but for private ones that were used at the same time.
const mountsDir = "mounts"

// maxPrivate bounds how many directories one private cache has.
const maxPrivate = 1000

// cachePath is where the n-th directory of a cache mount is.
func cachePath(name string, n int) (string, error) {
	if len(name) != 64 || strings.Trim(name, "0123456789abcdef") != "" {
		return "", fmt.Errorf("%q is no name of a cache", name)
	}
	if err := os.Mkdir(mountsDir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return "", err
	}
	return filepath.Join(mountsDir, fmt.Sprintf("%s.%d", name, n)), nil
}

// cache finds the directory of a cache mount and locks it until the step's end.
func (k *commandSetup) cache(ctx context.Context, m Mount) (string, error) {
	for n := range maxPrivate {
		dir, err := cachePath(m.Cache, n)
		if err != nil {
			return "", err
		}
		ok, err := k.lock(ctx, dir+".lock", m)
		if err != nil {
			return "", err
		}
		if ok {
			return dir, k.fill(ctx, dir, m)
		}
	}
	return "", fmt.Errorf("more than %d steps use it", maxPrivate)
}

// lock takes the lock of a cache. It is false where somebody else has it, of a
// private one.
func (k *commandSetup) lock(ctx context.Context, name string, m Mount) (bool, error) {
	how := unix.LOCK_EX
	if m.Shared && !k.s.bare { // else the directory is in one step's root at a time
		how = unix.LOCK_SH
	}
	f, err := lockCache(ctx, name, how, m.Shared || m.Locked)
	if f == nil || err != nil {
		return false, err
	}
	k.later(func() { _ = f.Close() })
	now := time.Now()
	return true, os.Chtimes(name, now, now) // when it was used last
}

// lockCache takes the lock of a cache; closing the file gives it back. The file is
// nil where somebody else has the lock and it is not to be waited for.
func lockCache(ctx context.Context, name string, how int, wait bool) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) || !wait {
			_ = f.Close()
			if errors.Is(err, unix.EWOULDBLOCK) {
				err = nil
			}
			return nil, err
		}
		// A lock that is waited for in the kernel could not be given up.
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			_ = f.Close()
			return nil, context.Cause(ctx)
		}
	}
}

// fill makes the directory of a cache, with what it starts with.
func (k *commandSetup) fill(ctx context.Context, dir string, m Mount) error {
	if _, err := os.Lstat(dir); err == nil {
		return nil
	}
	id := k.s.session.newID()
	tmp, err := k.s.driver.Dir(id)
	if err != nil {
		return err
	}
	defer func() { _ = k.s.driver.Discard(id) }()
	made := filepath.Join(tmp, "cache")
	if len(m.Lower) == 0 {
		if err := makeCacheDir(made); err != nil {
			return err
		}
	} else if err := k.copyCache(ctx, tmp, m); err != nil {
		return err
	}
	err = os.Rename(made, dir)
	if errors.Is(err, os.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		return nil // somebody else who shares it was faster
	}
	return err
}

func (k *commandSetup) copyCache(ctx context.Context, tmp string, m Mount) error {
	view, err := k.s.view(m.Lower)
	if err != nil {
		return err
	}
	defer view.Close()
	root, err := rootfs.Open(tmp)
	if err != nil {
		return err
	}
	defer root.Close()
	return fileop.Do(ctx, fileop.Options{Root: root, Inputs: map[int]*fileop.Tree{1: viewTree(view, m.Lower)}, SingleID: k.s.singleID},
		[]action.Action{{Copy: &action.Copy{Input: 1, Src: m.Selector, Dest: "/cache", FollowLinks: true}}})
}
