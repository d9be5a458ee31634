// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package btrfs

import (
	"fmt"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Requests of ioctl(2) (linux/btrfs.h).
const (
	subvolCreate = 0x5000940e // BTRFS_IOC_SUBVOL_CREATE
	snapDestroy  = 0x5000940f // BTRFS_IOC_SNAP_DESTROY
	snapCreate   = 0x50009417 // BTRFS_IOC_SNAP_CREATE_V2
)

// arguments are struct btrfs_ioctl_vol_args.
type arguments struct {
	_    int64
	name [4088]byte
}

// snapshotArguments are struct btrfs_ioctl_vol_args_v2.
type snapshotArguments struct {
	fd int64
	_  [6]uint64 // transaction, flags and what is unused: a writable snapshot has 0
	// BTRFS_SUBVOL_NAME_MAX is 4039.
	name [4040]byte
}

// in opens the directory of p and calls f with it and the last element's name,
// which the program itself chose.
func in(p string, f func(fd uintptr, name string) error) error {
	d, err := os.OpenFile(filepath.Dir(p), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer d.Close()
	return f(d.Fd(), filepath.Base(p))
}

func ioctl(fd, request uintptr, arg unsafe.Pointer) error {
	if _, _, e := unix.Syscall(unix.SYS_IOCTL, fd, request, uintptr(arg)); e != 0 {
		return e
	}
	return nil
}

// create makes an empty subvolume.
func create(p string) error {
	err := in(p, func(fd uintptr, name string) error {
		var a arguments
		copy(a.name[:len(a.name)-1], name)
		return ioctl(fd, subvolCreate, unsafe.Pointer(&a))
	})
	if err != nil {
		return fmt.Errorf("make subvolume: %w", err)
	}
	return nil
}

// snapshotOf makes the subvolume p as a writable snapshot of the subvolume from.
func snapshotOf(from, p string) error {
	src, err := os.OpenFile(from, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	defer src.Close()
	err = in(p, func(fd uintptr, name string) error {
		a := snapshotArguments{fd: int64(src.Fd())}
		copy(a.name[:len(a.name)-1], name)
		return ioctl(fd, snapCreate, unsafe.Pointer(&a))
	})
	if err != nil {
		return fmt.Errorf("make snapshot: %w", err)
	}
	return nil
}

// destroy removes a subvolume at once. A plain user may do that only where the file
// system is mounted with user_subvol_rm_allowed; otherwise it is removed file by
// file as any directory, which takes longer (Linux 4.18).
func destroy(p string) error {
	return in(p, func(fd uintptr, name string) error {
		var a arguments
		copy(a.name[:len(a.name)-1], name)
		return ioctl(fd, snapDestroy, unsafe.Pointer(&a))
	})
}
