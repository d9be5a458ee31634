// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package mount

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// Numbers of linux/loop.h.
const (
	loopGetFree   = 0x4c82 // LOOP_CTL_GET_FREE
	loopConfigure = 0x4c0a // LOOP_CONFIGURE, Linux 5.8
	loopReadOnly  = 1      // LO_FLAGS_READ_ONLY
	loopAutoclear = 4      // LO_FLAGS_AUTOCLEAR
)

// loopConfig is struct loop_config.
type loopConfig struct {
	fd, blockSize uint32
	device, inode uint64
	rdevice       uint64
	offset, size  uint64
	number        uint32
	encryption    [2]uint32
	flags         uint32
	names         [64 + 64 + 32]byte
	init          [2]uint64
	reserved      [8]uint64
}

// Image mounts the file system of the given type that the file f holds, read-only
// and detached, by a loop device that is gone when the mount is. It needs root, and
// the kernel parses the image: it is for images that the user trusts.
func Image(f *os.File, fstype string) (*os.File, error) {
	dev, err := loop(f)
	if err != nil {
		return nil, err
	}
	defer dev.Close()
	return New(fstype, ReadOnly, Option{"source", dev.Name()}, Option{"ro", ""})
}

// loop makes a loop device of f. It must be in use when its file is closed.
func loop(f *os.File) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 100 { // others may be faster
		n, _, errno := syscall.Syscall(syscall.SYS_IOCTL, control.Fd(), loopGetFree, 0)
		if errno != 0 {
			return nil, &Error{Op: "ioctl LOOP_CTL_GET_FREE", Err: errno}
		}
		dev, err := os.OpenFile("/dev/loop"+strconv.Itoa(int(n)), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		c := loopConfig{fd: uint32(f.Fd()), flags: loopReadOnly | loopAutoclear}
		_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, dev.Fd(), loopConfigure, uintptr(unsafe.Pointer(&c)))
		if errno == 0 {
			return dev, nil
		}
		_ = dev.Close() // not configured by us
		if errno != syscall.EBUSY {
			return nil, &Error{Op: "ioctl LOOP_CONFIGURE " + dev.Name(), Err: errno}
		}
	}
	return nil, &Error{Op: "find a free loop device", Err: syscall.EBUSY}
}
