// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
)

// program gives this program's file in a form that a step cannot use to change
// it: a step that is privileged can open the executable of the container's init
// (/proc/1/exe), and does so through the mount that it was started from. So that
// mount is a read-only one of its own.
func program() (*os.File, error) {
	self, err := os.OpenFile("/proc/self/exe", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open this program: %w", err)
	}
	if onReadOnlyMount(self) {
		return self, nil // the main process saw to it
	}
	defer self.Close()
	m, err := mount.Clone(self, false)
	if errors.Is(err, unix.EINVAL) {
		m, err = cloneForeign(self, false)
	}
	if err == nil {
		if err := mount.SetAttr(m, mount.ReadOnly, false); err != nil {
			_ = m.Close()
			return nil, fmt.Errorf("protect this program: %w", err)
		}
		return m, nil
	}
	return sealedCopy()
}

func onReadOnlyMount(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// sealedCopy is for a program that was replaced or moved since it was started: it
// gives a copy in memory that nobody can change.
func sealedCopy() (*os.File, error) {
	src, err := os.Open("/proc/self/exe")
	if err != nil {
		return nil, fmt.Errorf("open this program: %w", err)
	}
	defer src.Close()
	fd, err := unix.MemfdCreate("stacker", unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("copy this program: %w", err)
	}
	f := os.NewFile(uintptr(fd), "stacker")
	_, err = io.Copy(f, src)
	if err == nil {
		_, err = unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, unix.F_SEAL_SEAL|unix.F_SEAL_SHRINK|unix.F_SEAL_GROW|unix.F_SEAL_WRITE)
	}
	if err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("copy this program: %w", err)
	}
	return f, nil
}

// above duplicates f to a descriptor that the child process does not use for
// something else before it runs the program: package syscall numbers those in
// files from 0 up, and uses some above all of them while it does that. It gives
// the path by which the child finds f.
func above(f *os.File, files []*os.File) (*os.File, string, error) {
	minimum := len(files)
	for _, other := range files {
		minimum = max(minimum, int(other.Fd()))
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, minimum+len(files)+8)
	if err != nil {
		return nil, "", fmt.Errorf("duplicate descriptor: %w", err)
	}
	return os.NewFile(uintptr(fd), f.Name()), "/proc/self/fd/" + strconv.Itoa(fd), nil
}
