// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package lockfile locks files between processes with flock(2). The kernel frees
// a lock when its holder ends, however it ends, so there are no stale locks.
package lockfile

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Lock takes path exclusively, making the file where it is missing, and waits
// for other holders until ctx ends. onWait (may be nil) is called once when
// there is something to wait for. The file stays.
func Lock(ctx context.Context, path string, onWait func()) (unlock func(), err error) {
	return wait(ctx, path, unix.LOCK_EX, onWait)
}

// LockShared is Lock for holders that do not exclude each other.
func LockShared(ctx context.Context, path string, onWait func()) (unlock func(), err error) {
	return wait(ctx, path, unix.LOCK_SH, onWait)
}

// Try takes path exclusively, or shared, if that is possible at once. An error
// that wraps unix.EWOULDBLOCK says that somebody else has it.
func Try(path string, shared bool) (unlock func(), err error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if shared {
		how = unix.LOCK_SH
	}
	if err := flock(f, how|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return func() { _ = f.Close() }, nil
}

// Owner gives the id of a process of this pid namespace that holds path, or 0.
func Owner(path string) int {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	data, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	// 1: FLOCK  ADVISORY  WRITE 1234 fd:01:5678 0 EOF
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(st.Dev), unix.Minor(st.Dev), st.Ino)
	for line := range strings.Lines(string(data)) {
		words := strings.Fields(line)
		if len(words) < 6 || words[1] != "FLOCK" || words[5] != file {
			continue
		}
		if pid, err := strconv.Atoi(words[4]); err == nil && pid > 0 {
			return pid
		}
	}
	return 0
}

func open(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open lock: %w", err)
	}
	return f, nil
}

func wait(ctx context.Context, path string, how int, onWait func()) (func(), error) {
	f, err := open(path)
	if err != nil {
		return nil, err
	}
	// flock cannot be given up by a context, so it is asked for again and again;
	// the pause grows to a length that nobody notices and costs nothing.
	for pause := time.Millisecond; ; pause = min(pause*2, 50*time.Millisecond) {
		err := flock(f, how|unix.LOCK_NB)
		if err == nil {
			return func() { _ = f.Close() }, nil
		}
		if !errors.Is(err, unix.EWOULDBLOCK) {
			_ = f.Close()
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if onWait != nil {
			onWait()
			onWait = nil
		}
		select {
		case <-ctx.Done():
			_ = f.Close()
			return nil, ctx.Err()
		case <-time.After(pause):
		}
	}
}

func flock(f *os.File, how int) error {
	for {
		err := unix.Flock(int(f.Fd()), how)
		if !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
