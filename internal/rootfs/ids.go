// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// Trees are handled by root: that of the machine or of a user namespace, where the user's own
// id is 0. At the level where neither can be had (vroot of package userns) it is an ordinary
// user, or a root without capabilities, who is no more than that. What belongs to that user is then what would belong to root, so that trees look the
// same at all levels. Of groups there is no other either: a directory of outside that hands
// on its group says nothing about an image.

// powerless tells whether this process has no other rights than the owner of a file has. What it
// finds out first holds for good.
var powerless = sync.OnceValue(func() bool {
	if os.Geteuid() != 0 {
		return true
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) == nil && data[0].Effective&(1<<unix.CAP_CHOWN|1<<unix.CAP_DAC_OVERRIDE) == 0
})

// inside gives the ids of st their meaning.
func inside(st *unix.Stat_t) {
	if powerless() && st.Uid == uint32(os.Geteuid()) {
		st.Uid, st.Gid = 0, 0
	}
}

// Fstat describes an open file, with the owner as it is inside.
func Fstat(fd int, st *unix.Stat_t) error {
	err := unix.Fstat(fd, st)
	inside(st)
	return err
}

// Fchown sets the owner of an open file, as it is inside.
func Fchown(fd, uid, gid int) error {
	if ownAlready(uid, gid) {
		return nil
	}
	return unix.Fchown(fd, uid, gid)
}

// ownAlready tells whether files have an owner in any case: they have no other.
func ownAlready(uid, gid int) bool { return uid == 0 && gid == 0 && powerless() }

// openOwn opens what the descriptor own, which it closes, only names: a file that this user
// owns and whose mode forbids to open it. Root could.
func openOwn(own, flags int) (int, error) {
	defer closeFd(own)
	if !powerless() {
		return -1, unix.EACCES
	}
	flags &^= unix.O_NOFOLLOW
	fd := -1
	err := unlocked(own, func(path string) (err error) {
		fd, err = unix.Open(path, flags|unix.O_CLOEXEC, 0)
		return err
	})
	if err != nil && fd >= 0 {
		closeFd(fd)
		fd = -1
	}
	return fd, err
}

// Unlock lets the owner of the directory, which st describes, do everything in it, for good. It does nothing where
// root does that, whose rights do not depend on modes.
func (d *Dir) Unlock(st *unix.Stat_t) error {
	const all = 0o700
	if !powerless() || st.Mode&all == all {
		return nil
	}
	return pathError("chmod", ".", unix.Fchmod(d.fd, st.Mode&0o7777|all))
}

// Statx is statx(2) of name in the directory dirfd, or of the directory if name is empty and flags say so.
func Statx(dirfd int, name string, flags, mask int, st *unix.Statx_t) error {
	err := unix.Statx(dirfd, name, flags, mask, st)
	if err == unix.EACCES {
		err = asOwner(dirfd, func() error { return unix.Statx(dirfd, name, flags, mask, st) })
	}
	return err
}

// asOwner does something with the open file fd, or in the directory fd, if need be as root could whatever its mode.
func asOwner(fd int, do func() error) error {
	err := do()
	if err != unix.EACCES || !powerless() {
		return err
	}
	return unlocked(fd, func(string) error { return do() })
}

// unlocked does something while the mode of the file fd, which path leads to, lets its owner do
// everything.
func unlocked(fd int, do func(path string) error) error {
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil || int(st.Uid) != os.Geteuid() {
		return unix.EACCES
	}
	mode, kind := st.Mode&0o7777, st.Mode&unix.S_IFMT
	if kind != unix.S_IFREG && kind != unix.S_IFDIR || mode&0o700 == 0o700 {
		return unix.EACCES
	}
	path := "/proc/self/fd/" + strconv.Itoa(fd)
	if err := unix.Chmod(path, mode|0o700); err != nil {
		return unix.EACCES
	}
	err := do(path)
	if back := unix.Chmod(path, mode); err == nil {
		err = back
	}
	return err
}
