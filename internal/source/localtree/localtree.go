// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package localtree reads what a build takes from the user's own files: a build
// context, or a file or directory that a build file imports. It lists the tree,
// hashes every file once per content, and gives the result away as a digest, as
// a tar stream or as a directory copy.
//
// It runs as the user, follows no symlink below the root and knows nothing of
// build files or images: names, owners and times in the output are the caller's.
//
// # What is trusted
//
// An unchanged file is not read again: Index remembers the digest of a file
// together with its device, inode, size, type, mtime and ctime. A digest is used
// only where all of them are equal and where the file could not have changed
// since without one of them changing. That is the hard part, because file
// systems stamp time in steps: a write within the same step as the one before
// leaves the same ctime. So a digest is kept only if the file's ctime was older
// than a margin when its hashing began; every later write then gets another
// ctime. Younger files are hashed again by the next scan. The margin is
//
//   - 3 s on local file systems: kernel ticks are 1 to 10 ms (less with the
//     multigrain times of Linux 6.13), FAT's steps are 2 s;
//   - 1 h on everything else (network, FUSE, unknown): there the times are made
//     by another machine, whose clock may be behind ours. Attributes are fetched
//     from that machine, never from the kernel's cache (AT_STATX_FORCE_SYNC).
//
// A ctime in the future, or none at all, is never trusted; size, mtime and ctime
// are not believed alone because mtime can be set by anyone. Two things cannot be
// seen by any stat: a block device written below its file system, and stores
// through a shared mapping that was dirty already when the file was hashed.
package localtree

import (
	"context"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sys/unix"
)

// Entry is one file, directory or symlink of a tree.
type Entry struct {
	// Path is relative to the root, with slashes; the root itself is "".
	Path string
	// Mode is st_mode: the type (unix.S_IFREG, S_IFDIR or S_IFLNK) and 12 bits
	// of permissions. Those of symlinks are always 0777.
	Mode uint32
	// Size is that of a regular file in bytes; 0 for everything else.
	Size int64
	// Digest is that of a regular file's bytes; empty for everything else.
	Digest digest.Digest
	// Target is what a symlink says.
	Target string
	// UID and GID are 0 unless Options.Owners.
	UID, GID uint32
	// MTime is in nanoseconds since 1970; it is not part of any digest.
	MTime int64
	// Xattrs is nil unless Options.Xattrs.
	Xattrs map[string]string
	// Stamp is not part of any digest.
	Stamp Stamp
}

// IsDir reports whether e is a directory.
func (e *Entry) IsDir() bool { return e.Mode&unix.S_IFMT == unix.S_IFDIR }

// IsRegular reports whether e is a regular file.
func (e *Entry) IsRegular() bool { return e.Mode&unix.S_IFMT == unix.S_IFREG }

// IsSymlink reports whether e is a symlink.
func (e *Entry) IsSymlink() bool { return e.Mode&unix.S_IFMT == unix.S_IFLNK }

// Perm returns the permission bits with set-uid, set-gid and sticky: 07777.
func (e *Entry) Perm() uint32 { return e.Mode & permBits }

const permBits = 0o7777

// Tree is what a scan found.
type Tree struct {
	// Root is the absolute path that was scanned, links resolved where
	// Options.FollowRoot asked for it.
	Root string
	// Entries is sorted bytewise by Path, so parents precede their children. The
	// first is the root. There is one only if the root is no directory.
	Entries []Entry
	// Read is how many bytes had to be hashed.
	Read int64
	// Unsaved says why the digests could not be kept for the next scan; the tree
	// is right all the same.
	Unsaved error
}

// Options of a scan. The zero value takes everything.
type Options struct {
	// Include is asked once for each directory that is descended into ("" is the
	// root), from several goroutines. What it returns is called by one of them for
	// each path in that directory: keep it, and, for directories, descend into it.
	// Nil takes everything below, and nothing is asked there any more. A directory
	// that is descended into but not kept appears if something below it is kept.
	Include func(dir string) func(path string, dir bool) (keep, descend bool)
	// FollowRoot: a root that is a symlink stands for what it points to.
	FollowRoot bool
	// Owners keeps UID and GID, which makes them part of the digest.
	Owners bool
	// Xattrs keeps user.* and security.capability, likewise.
	Xattrs bool
	// Workers is the number of goroutines; 0: one per CPU.
	Workers int
	// Progress is told how many more bytes were hashed, from several goroutines.
	Progress func(bytes int64)

	// allTypes lists FIFOs, sockets and devices instead of refusing them.
	allTypes bool
}

// Scan lists root and gives every regular file its digest. A socket is left out, and so
// is a file that is being written beside its place (atomicfile.Beside);
// a FIFO, a device or an unreadable file is an error that names it. A file that
// changes while it is hashed is hashed again, a few times.
func (x *Index) Scan(ctx context.Context, root string, o Options) (*Tree, error) {
	s, err := newScan(x, root, o)
	if err != nil {
		return nil, err
	}
	defer s.top.close()
	return s.run(ctx)
}
