// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package mount makes mounts with the kernel's file-descriptor interface
// (fsopen, open_tree, mount_setattr, move_mount; Linux 5.12). Overlays have two
// ways, since it takes Linux 6.7 to make them of many layers by that interface.
//
// A mount is first made detached: an *os.File that is a mount of its own and
// visible to nobody. It can be read through its descriptor, changed with SetAttr
// and attached to a place with Attach. When the last descriptor of a mount that
// was never attached closes, the mount is gone: nothing needs unmounting and
// nothing is left behind by a process that was killed.
//
// The package does not decide what is mounted where, and resolves no path that
// an image or a build file chose: callers hand in descriptors for these.
//
// It is used by the first process of a container before the rest of the program
// is initialised, so it imports nothing but package os and what that needs.
package mount

import (
	"os"
	"strconv"
	"syscall"
	"unsafe"
)

// Attr is a set of mount attributes (MOUNT_ATTR_* of mount_setattr(2)).
type Attr uint64

// The attributes that this program uses.
const (
	ReadOnly Attr = 0x1
	NoSuid   Attr = 0x2
	NoDev    Attr = 0x4
	NoExec   Attr = 0x8
	idMapped Attr = 0x100000
)

// Error is a mount operation that the kernel refused.
type Error struct {
	Op  string // the system call, and what it was asked
	Err syscall.Errno
	Log string // what the file system said about it; often empty
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Op + ": " + e.Err.Error()
	if e.Log != "" {
		s += " (" + e.Log + ")"
	}
	return s
}

// Unwrap gives the errno.
func (e *Error) Unwrap() error { return e.Err }

// Option is one parameter of a file system. An empty Value makes it a flag.
type Option struct{ Key, Value string }

// New mounts a new file system instance of the given type, detached.
func New(fstype string, attr Attr, options ...Option) (*os.File, error) {
	fs, err := open(fstype)
	if err != nil {
		return nil, err
	}
	defer fs.close()
	for _, o := range options {
		if err := fs.set(o); err != nil {
			return nil, err
		}
	}
	return fs.mount(attr)
}

// Clone makes a detached copy (a bind mount) of what f is: a directory, a file or
// a device, held open in any way, in this process's mount namespace. recursive
// copies the mounts below it too; without it the kernel refuses (EINVAL) a
// directory that hides something below a mount of a more privileged namespace.
func Clone(f *os.File, recursive bool) (*os.File, error) {
	return openTree(int(f.Fd()), "", atEmptyPath|flag(recursive, atRecursive), "open_tree "+f.Name())
}

// ClonePath is Clone of a path that the program itself chose. The last element
// is followed if it is a symbolic link.
func ClonePath(path string, recursive bool) (*os.File, error) {
	return openTree(atFdcwd, path, flag(recursive, atRecursive), "open_tree "+path)
}

// CloneAt is Clone of the entry name of a directory, which is not followed if it
// is a symbolic link.
func CloneAt(dir *os.File, name string, recursive bool) (*os.File, error) {
	return openTree(int(dir.Fd()), name, atSymlinkNofollow|flag(recursive, atRecursive), "open_tree "+name)
}

func openTree(dirfd int, path string, flags uintptr, op string) (*os.File, error) {
	p, err := syscall.BytePtrFromString(path)
	if err != nil {
		return nil, &Error{Op: op, Err: syscall.EINVAL}
	}
	fd, _, errno := syscall.Syscall(sysOpenTree, uintptr(dirfd), uintptr(unsafe.Pointer(p)), openTreeClone|cloexec|flags)
	if errno != 0 {
		return nil, &Error{Op: op, Err: errno}
	}
	return os.NewFile(fd, path), nil
}

// SetAttr adds attributes to a mount; recursive: and to all mounts below it.
func SetAttr(m *os.File, attr Attr, recursive bool) error {
	return setAttr(m, mountAttr{set: attr}, recursive)
}

// IDMap makes a detached mount show its files with the ids of a user namespace:
// what is owned by an id in the namespace's parent is owned by the id that maps
// to it. The caller needs privilege over the file system (so: root), which must
// support it; recursive maps the mounts below it too.
func IDMap(m, userns *os.File, recursive bool) error {
	return setAttr(m, mountAttr{set: idMapped, userns: uint64(userns.Fd())}, recursive)
}

type mountAttr struct {
	set, clear  Attr
	propagation uint64
	userns      uint64
}

func setAttr(m *os.File, a mountAttr, recursive bool) error {
	var empty byte
	_, _, errno := syscall.Syscall6(sysMountSetattr, m.Fd(), uintptr(unsafe.Pointer(&empty)),
		atEmptyPath|flag(recursive, atRecursive), uintptr(unsafe.Pointer(&a)), unsafe.Sizeof(a), 0)
	if errno != 0 {
		return &Error{Op: "mount_setattr " + strconv.FormatUint(uint64(a.set), 16), Err: errno}
	}
	return nil
}

// Attach puts a detached mount over what target is. Both must be directories, or
// both something else.
func Attach(m, target *os.File) error {
	var empty byte
	p := uintptr(unsafe.Pointer(&empty))
	_, _, errno := syscall.Syscall6(sysMoveMount, m.Fd(), p, target.Fd(), p, moveFromEmpty|moveToEmpty, 0)
	if errno != 0 {
		return &Error{Op: "move_mount", Err: errno}
	}
	return nil
}

func flag(on bool, f uintptr) uintptr {
	if on {
		return f
	}
	return 0
}
