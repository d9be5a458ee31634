// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// Futimens sets the access and modification times of the open file fd. Errors
// are those of the system call.
func Futimens(fd int, atime, mtime unix.Timespec) error {
	// A null path makes utimensat(2) work on the descriptor; x/sys has no
	// wrapper that can say so.
	ts := [2]unix.Timespec{atime, mtime}
	_, _, errno := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0)
	if errno != 0 {
		return errno
	}
	return nil
}
