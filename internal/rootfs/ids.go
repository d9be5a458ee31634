// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"os"

	"golang.org/x/sys/unix"
)

// Trees are handled by root: that of the machine or of a user namespace, where the user's own
// id is 0. At the level where neither can be had (vroot of package userns) it is an ordinary
// user. What belongs to that user is then what would belong to root, so that trees look the
// same at all levels. Of groups there is no other either: a directory of outside that hands
// on its group says nothing about an image.

// inside gives the ids of st their meaning.
func inside(st *unix.Stat_t) {
	if own := uint32(os.Geteuid()); own != 0 && st.Uid == own {
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
func ownAlready(uid, gid int) bool { return uid == 0 && gid == 0 && os.Geteuid() != 0 }
