// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package record is how a tree notes owners that its files cannot have, where
// one id is all that there is.
//
// A note is an extended attribute, so it belongs to the inode: it survives
// rename, hard link, a copy with attributes, and the copy-up of an overlay.
//
//   - Regular files and directories: the attribute Owner, the message of
//     rootlesscontaine.rs.
//   - Links, FIFOs, sockets and devices, on which the kernel allows no user.*
//     attributes: the attribute Special. The kernel takes any capability set
//     there that root of a user namespace writes, uses it for nothing, as only
//     regular files are executed, and copies it up (capabilities(7), "Namespaced
//     file capabilities"). The owner stands where the capabilities would.
//   - An access control list that names ids which do not exist here: the
//     attributes of ACL, with the list as system.posix_acl_* would have it.
//
// Apply of package layer writes notes for archives, package supervisor for what
// steps do; Diff of package layer reads them. The package imports next to
// nothing, because the first process of each container uses it.
package record

import "errors"

// Attributes that hold notes.
const (
	Owner   = "user.rootlesscontainers"
	Special = "security.capability"
	// Capability notes the value of security.capability of a regular file, where the
	// kernel refuses that attribute: outside of all user namespaces.
	Capability = "user.stacker.capability"
)

// aclPrefix is how the attributes of access control lists begin, and aclNote
// what stands there in the attribute for one that only is noted.
const (
	aclPrefix = "system.posix_acl_"
	aclNote   = "user.stacker.acl_"
)

// ACL gives the attribute that notes the list of the attribute name, and whether
// name is one.
func ACL(name string) (string, bool) {
	if len(name) <= len(aclPrefix) || name[:len(aclPrefix)] != aclPrefix {
		return "", false
	}
	return aclNote + name[len(aclPrefix):], true
}

// NotedACL is the inverse of ACL.
func NotedACL(note string) (string, bool) {
	if len(note) <= len(aclNote) || note[:len(aclNote)] != aclNote {
		return "", false
	}
	return aclPrefix + note[len(aclNote):], true
}

// Noted gives the attribute that another one stands for: an access control list, or the
// capabilities of a file.
func Noted(note string) (string, bool) {
	if note == Capability {
		return Special, true
	}
	return NotedACL(note)
}

// NoID is the number that is no id: chown(2) takes it for "as it is".
const NoID = 1<<32 - 1

var errOwner = errors.New("the attribute " + Owner + " is not valid")

// EncodeOwner gives the value of Owner: uid in field 1 and gid in field 2, zeros
// left out.
func EncodeOwner(uid, gid uint32) []byte {
	var b []byte
	if uid != 0 {
		b = varint(append(b, 1<<3), uid)
	}
	if gid != 0 {
		b = varint(append(b, 2<<3), gid)
	}
	return b
}

func varint(b []byte, v uint32) []byte {
	for ; v >= 0x80; v >>= 7 {
		b = append(b, byte(v)|0x80)
	}
	return append(b, byte(v))
}

// DecodeOwner reads the value of Owner. NoID means "as it is on disk", which is
// given as the two defaults.
func DecodeOwner(b []byte, uid, gid uint32) (uint32, uint32, error) {
	ids := [3]uint32{}
	for len(b) > 0 {
		field := b[0] >> 3
		if b[0] != 1<<3 && b[0] != 2<<3 {
			return 0, 0, errOwner
		}
		value, n := uvarint(b[1:])
		if n == 0 {
			return 0, 0, errOwner
		}
		ids[field] = value
		b = b[1+n:]
	}
	if ids[1] != NoID {
		uid = ids[1]
	}
	if ids[2] != NoID {
		gid = ids[2]
	}
	return uid, gid, nil
}

// uvarint reads a number and how many bytes it has; 0: it is none of 32 bits.
func uvarint(b []byte) (value uint32, n int) {
	var v uint64
	for i := 0; i < len(b) && i < 5; i++ {
		v |= uint64(b[i]&0x7f) << (7 * i)
		if b[i] < 0x80 {
			if v > NoID {
				return 0, 0
			}
			return uint32(v), i + 1
		}
	}
	return 0, 0
}

// The layout of struct vfs_cap_data, revision 2 (linux/capability.h): five
// little-endian numbers. The fourth, capabilities 32 to 63, is our mark.
const (
	specialSize = 20
	revision2   = 0x02000000
	mark        = 0x7374616b
)

// EncodeSpecial gives the value of Special.
func EncodeSpecial(uid, gid uint32) []byte {
	b := make([]byte, 0, specialSize)
	for _, v := range [...]uint32{revision2, uid, gid, mark, 0} {
		b = append(b, byte(v), byte(v>>8), byte(v>>16), byte(v>>24))
	}
	return b
}

// DecodeSpecial reads the value of Special; ok is false for one that notes no
// owner.
func DecodeSpecial(b []byte) (uid, gid uint32, ok bool) {
	if len(b) < specialSize || number(b) != revision2 || number(b[12:]) != mark || number(b[16:]) != 0 {
		return 0, 0, false
	}
	return number(b[4:]), number(b[8:]), len(b) == specialSize
}

func number(b []byte) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}
