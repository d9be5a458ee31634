// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// clock tells the time in nanoseconds since 1970.
type clock func() int64

func wallClock() int64 { return time.Now().UnixNano() }

const (
	localMargin   = int64(3 * time.Second)
	foreignMargin = int64(time.Hour)
)

// volumes knows the file systems that a scan met.
type volumes struct {
	mu      sync.Mutex
	foreign map[uint64]bool // by device
}

// isForeign tells whether the attributes of the files on fd's device are made by
// another machine or process.
func (v *volumes) isForeign(dev uint64, fd int) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	foreign, known := v.foreign[dev]
	if !known {
		var fs unix.Statfs_t
		err := retry(func() error { return unix.Fstatfs(fd, &fs) })
		foreign = err != nil || !isLocal(uint32(fs.Type))
		if v.foreign == nil {
			v.foreign = map[uint64]bool{}
		}
		v.foreign[dev] = foreign
	}
	return foreign
}

// margin is how old a ctime must be before a digest can be trusted.
func (v *volumes) margin(dev uint64) int64 {
	v.mu.Lock()
	defer v.mu.Unlock()
	if foreign, known := v.foreign[dev]; known && !foreign {
		return localMargin
	}
	return foreignMargin
}

// isLocal lists the file systems whose times this kernel makes, with its clock.
func isLocal(magic uint32) bool {
	const (
		zfs      = 0x2fc12fc1
		bcachefs = 0xca451a4e
		exfat    = 0x2011bab0
	)
	switch magic {
	case unix.EXT4_SUPER_MAGIC, unix.XFS_SUPER_MAGIC, unix.BTRFS_SUPER_MAGIC, unix.TMPFS_MAGIC,
		unix.OVERLAYFS_SUPER_MAGIC, unix.F2FS_SUPER_MAGIC, unix.RAMFS_MAGIC, unix.MSDOS_SUPER_MAGIC,
		unix.SQUASHFS_MAGIC, unix.EROFS_SUPER_MAGIC_V1, zfs, bcachefs, exfat:
		return true
	}
	return false
}

// settled reports whether a file that had ctime when its hashing began cannot
// change any more without getting another ctime.
func settled(ctime, began, margin int64) bool {
	return ctime > 0 && ctime < began-margin
}
