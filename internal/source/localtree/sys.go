// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"bytes"
	"encoding/binary"
	"errors"
	"math"
	"strings"

	"golang.org/x/sys/unix"
)

// stat is what tells one state of a file from another.
type stat struct {
	dev, ino     uint64
	size         int64
	mode         uint32
	mtime, ctime int64 // nanoseconds since 1970, see nanoseconds
}

// status is stat with what only a listing wants.
type status struct {
	stat
	uid, gid uint32
	blocks   int64 // of 512 bytes
}

// lookup stats name below a directory, a symlink itself. fresh asks the server of
// a network file system instead of the kernel's cache.
func lookup(dirfd int, name string, fresh bool) (status, error) {
	if fresh {
		return lookupFresh(dirfd, name)
	}
	for {
		var st unix.Stat_t // no closure: it would move to the heap, for each file
		err := unix.Fstatat(dirfd, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if !errors.Is(err, unix.EINTR) {
			return fromStat(&st), err
		}
	}
}

func lookupFresh(dirfd int, name string) (status, error) {
	var st unix.Statx_t
	err := retry(func() error {
		return unix.Statx(dirfd, name, unix.AT_SYMLINK_NOFOLLOW|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
	})
	return status{
		stat: stat{
			dev: unix.Mkdev(st.Dev_major, st.Dev_minor), ino: st.Ino, size: int64(st.Size), mode: uint32(st.Mode),
			mtime: nanoseconds(st.Mtime.Sec, int64(st.Mtime.Nsec)), ctime: nanoseconds(st.Ctime.Sec, int64(st.Ctime.Nsec)),
		},
		uid: st.Uid, gid: st.Gid, blocks: int64(st.Blocks),
	}, err
}

// inspect stats an open file.
func inspect(fd int) (status, error) {
	var st unix.Stat_t
	err := retry(func() error { return unix.Fstat(fd, &st) })
	return fromStat(&st), err
}

func fromStat(st *unix.Stat_t) status {
	return status{
		stat: stat{
			dev: st.Dev, ino: st.Ino, size: st.Size, mode: st.Mode,
			mtime: nanoseconds(st.Mtim.Sec, st.Mtim.Nsec), ctime: nanoseconds(st.Ctim.Sec, st.Ctim.Nsec),
		},
		uid: st.Uid, gid: st.Gid, blocks: st.Blocks,
	}
}

// nanoseconds saturates outside the years 1678 to 2262; such a ctime is never
// trusted, so that two of them being equal does no harm.
func nanoseconds(sec, nsec int64) int64 {
	const limit = math.MaxInt64/1_000_000_000 - 1
	switch {
	case sec > limit:
		return math.MaxInt64
	case sec < -limit:
		return math.MinInt64
	}
	return sec*1e9 + nsec
}

// directory is an open directory that paths are resolved below, without following
// any symlink.
type directory struct{ fd int }

func (d directory) close() { _ = unix.Close(d.fd) }

// openFlags: a FIFO that took the place of a file must not block us, nor a
// terminal become ours.
const openFlags = unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY

// open opens path, which may be "" for d itself if flags ask for a directory.
func (d directory) open(path string, flags int) (int, error) {
	if path == "" {
		path = "."
	}
	how := unix.OpenHow{Flags: uint64(openFlags | flags), Resolve: unix.RESOLVE_NO_SYMLINKS}
	for {
		fd, err := unix.Openat2(d.fd, path, &how)
		switch {
		case err == nil:
			return fd, nil
		case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		case errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EPERM), errors.Is(err, unix.ENAMETOOLONG):
			// An old seccomp profile, or a path longer than the kernel takes at once.
			return d.walk(path, flags)
		default:
			return -1, err
		}
	}
}

// walk is open, one element at a time.
func (d directory) walk(path string, flags int) (int, error) {
	at := d.fd
	for {
		name, rest, more := strings.Cut(path, "/")
		how := openFlags | flags
		if more {
			how = openFlags | unix.O_DIRECTORY
		}
		fd, err := openat(at, name, how, 0)
		if at != d.fd {
			_ = unix.Close(at)
		}
		if err != nil || !more {
			return fd, err
		}
		at, path = fd, rest
	}
}

func openat(dirfd int, name string, flags int, mode uint32) (fd int, err error) {
	err = retry(func() error {
		fd, err = unix.Openat(dirfd, name, flags, mode)
		return err
	})
	if err != nil {
		return -1, err
	}
	return fd, nil
}

// names lists what an open directory holds, without "." and "..", in no order. What
// it returns are paths: dir, a slash where dir is not empty, and the name.
func names(fd int, dir string, buf []byte) ([]string, error) {
	if dir != "" {
		dir += "/"
	}
	var all []byte // all paths are parts of one string: one allocation in place of thousands
	var ends []int
	for {
		n, err := unix.ReadDirent(fd, buf)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n <= 0 {
			break
		}
		for rest := buf[:n]; len(rest) > 0; {
			var name []byte
			if name, rest = nextName(rest); len(name) > 0 {
				all = append(append(all, dir...), name...)
				ends = append(ends, len(all))
			}
		}
	}
	text, from := string(all), 0
	out := make([]string, len(ends))
	for i, end := range ends {
		out[i], from = text[from:end], end
	}
	return out, nil
}

// nextName takes one entry off what getdents64(2) returned. The name is empty where
// the entry is none of the directory's own.
func nextName(entries []byte) (name, rest []byte) {
	const header = 19 // of struct linux_dirent64: inode, offset, length, type
	if len(entries) < header {
		return nil, nil
	}
	inode, length := binary.NativeEndian.Uint64(entries), int(binary.NativeEndian.Uint16(entries[16:]))
	if length < header || length > len(entries) {
		return nil, nil
	}
	name, _, _ = bytes.Cut(entries[header:length], []byte{0})
	if inode == 0 || string(name) == "." || string(name) == ".." {
		name = nil
	}
	return name, entries[length:]
}

func readlink(dirfd int, name string) (string, error) {
	for size := 256; ; size *= 2 {
		buf := make([]byte, size)
		n, err := unix.Readlinkat(dirfd, name, buf)
		if err != nil {
			return "", err
		}
		if n < size {
			return string(buf[:n]), nil
		}
	}
}

func read(fd int, buf []byte) (n int, err error) {
	err = retry(func() error { n, err = unix.Read(fd, buf); return err })
	return n, err
}

func retry(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// xattrsAt is xattrs of a directory in another one.
func xattrsAt(dirfd int, name string) (map[string]string, error) {
	fd, err := openat(dirfd, name, openFlags|unix.O_DIRECTORY, 0)
	if err != nil {
		if errors.Is(err, unix.EACCES) || errors.Is(err, unix.ENOENT) {
			return nil, nil // whoever lists it says so
		}
		return nil, err
	}
	defer unix.Close(fd)
	return xattrs(fd)
}

// xattrs reads what an image may be given of an open file's extended attributes.
func xattrs(fd int) (map[string]string, error) {
	var small [256]byte
	list := small[:]
	n, err := unix.Flistxattr(fd, list)
	if errors.Is(err, unix.ERANGE) {
		list = make([]byte, 64<<10) // the most that there can be (xattr(7))
		n, err = unix.Flistxattr(fd, list)
	}
	if errors.Is(err, unix.ENOTSUP) || err == nil && n == 0 {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var out map[string]string
	for key := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !strings.HasPrefix(key, "user.") && key != "security.capability" {
			continue
		}
		value := make([]byte, 64<<10)
		n, err := unix.Fgetxattr(fd, key, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOVERFLOW) {
			continue // gone, or a capability of another user namespace
		}
		if err != nil {
			return nil, err
		}
		if out == nil {
			out = map[string]string{}
		}
		out[key] = string(value[:n])
	}
	return out, nil
}
