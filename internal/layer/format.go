// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"fmt"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer/record"
	"build.stacker.dev/internal/rootfs"
)

// Attributes with a meaning of their own in a tree.
const (
	xattrOpaque = "user.overlay.opaque"
	// xattrNode is on the empty file that stands for a device node:
	// "c MAJOR MINOR MODE" or "b …", the mode in octal.
	xattrNode = "user.stacker.node"

	overlayPrefix = "user.overlay."
	escapedPrefix = "user.overlay.overlay."
	stackerPrefix = "user.stacker."

	xattrCapability = "security.capability"
	aclPrefix       = "system.posix_acl_"
	aclDefault      = "system.posix_acl_default"

	paxXattr = "SCHILY.xattr."
)

// diskXattr returns the name under which an attribute of an archive is kept in a
// tree; ok is false for what is not kept: the marks of this package itself,
// labels and measurements of the host that made the archive, and marks that a
// privileged overlay left behind.
func diskXattr(name string) (disk string, ok bool) {
	switch {
	case OwnAttribute(name):
		return "", false
	case strings.HasPrefix(name, overlayPrefix):
		return escapedPrefix + name[len(overlayPrefix):], true
	case strings.HasPrefix(name, "user."), name == xattrCapability, strings.HasPrefix(name, aclPrefix):
		return name, true
	}
	return "", false
}

// OwnAttribute tells whether an attribute is one by which this program notes what a
// file cannot be: it comes from no archive, and goes into none.
func OwnAttribute(name string) bool {
	return name == record.Owner || strings.HasPrefix(name, stackerPrefix)
}

// EscapeAttribute gives the name under which a tree has an attribute that the
// mounted overlay of it shows as name. The marks of overlays are not shown, and
// what is called like one has another name (Documentation/filesystems/overlayfs,
// "Nesting overlayfs mounts").
func EscapeAttribute(name string) string {
	if rest, ok := strings.CutPrefix(name, overlayPrefix); ok {
		return escapedPrefix + rest
	}
	return name
}

// UnescapeAttribute is the inverse of EscapeAttribute; ok is false for a mark.
func UnescapeAttribute(disk string) (name string, ok bool) {
	if rest, ok := strings.CutPrefix(disk, escapedPrefix); ok {
		return overlayPrefix + rest, true
	}
	return disk, !strings.HasPrefix(disk, overlayPrefix)
}

// archiveXattr is the inverse of diskXattr.
func archiveXattr(disk string) (name string, ok bool) {
	switch {
	case OwnAttribute(disk):
		return "", false
	case strings.HasPrefix(disk, escapedPrefix):
		return overlayPrefix + disk[len(escapedPrefix):], true
	case strings.HasPrefix(disk, overlayPrefix):
		return "", false
	case strings.HasPrefix(disk, "user."), disk == xattrCapability, strings.HasPrefix(disk, aclPrefix):
		return disk, true
	}
	return "", false
}

// node is a device that a tree holds only as a note.
type node struct {
	kind         byte // 'c' or 'b'
	major, minor uint32
	mode         uint32 // permission bits
}

func (n node) encode() []byte {
	return fmt.Appendf(nil, "%c %d %d %o", n.kind, n.major, n.minor, n.mode)
}

// decodeNode reads the value of xattrNode.
func decodeNode(b []byte) (node, bool) {
	var n node
	count, err := fmt.Sscanf(string(b), "%c %d %d %o", &n.kind, &n.major, &n.minor, &n.mode)
	ok := err == nil && count == 4 && (n.kind == 'c' || n.kind == 'b') && n.mode <= 0o7777
	return n, ok
}

// IsDevice tells whether a regular file of a tree, described by st, stands for a
// device node.
func IsDevice(d *rootfs.Dir, name string, st *unix.Stat_t) bool {
	if st.Mode&unix.S_IFMT != unix.S_IFREG || st.Size != 0 {
		return false
	}
	value, err := d.Lgetxattr(name, xattrNode)
	if err != nil {
		return false
	}
	_, ok := decodeNode(value)
	return ok
}

// OwnerAttribute gives the attribute that records a file's owner in a tree where
// ids cannot be set, and its value.
func OwnerAttribute(uid, gid uint32) (name string, value []byte) {
	return record.Owner, record.EncodeOwner(uid, gid)
}
