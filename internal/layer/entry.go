// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"errors"
	"fmt"
	"io"
	"iter"
	"math"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer/record"
)

// An Entry is one file of a layer as a file system image holds it: removals are in
// the form that a mounted overlay wants. It is what the packages squashfs and
// erofs write and read; FromArchive makes entries of a layer archive, and
// ToArchive makes an archive of entries.
//
//	.wh.NAME            a character device 0:0 called NAME
//	.wh..wh..opq        the directory's attribute user.overlay.opaque = "y"
//	user.overlay.X      the attribute user.overlay.overlay.X, as the kernel's own escape
//
// Unlike in a tree, devices are devices and owners are owners.
//
// Entries come in order: the root directory first, if it is described; each
// directory before what is in it; the names in one directory in the order of
// their bytes, a directory followed by all that is below it.
type Entry struct {
	Name         string // cleaned path; "." is the root
	Mode         uint32 // type (unix.S_IFMT) and permission bits, as in stat(2)
	UID, GID     uint32
	ModTime      int64  // seconds since 1970
	Major, Minor uint32 // of a device
	Target       string // of a symbolic link
	// HardLink is the name of an earlier entry, not a directory, that this is
	// another name of. All other fields, Mode too, may then be unset or repeat
	// that entry's, except that of a whiteout Mode, Major and Minor are set.
	HardLink string
	Xattrs   []Xattr // sorted by name, no name twice
	Size     int64   // of a regular file
	// Content gives Size bytes of a regular file. It is valid until the next
	// entry is asked for, and need not be read.
	Content io.Reader
}

// An Xattr is an extended attribute with its full name ("user.x").
type Xattr struct {
	Name, Value string
}

// IsWhiteout tells whether e hides what the layers below have by its name.
func (e *Entry) IsWhiteout() bool {
	return e.Mode&unix.S_IFMT == unix.S_IFCHR && e.Major == 0 && e.Minor == 0
}

// IsDir tells whether e is a directory.
func (e *Entry) IsDir() bool {
	return e.HardLink == "" && e.Mode&unix.S_IFMT == unix.S_IFDIR
}

// Split gives the directory that e is in ("." for the root) and its name there.
func (e *Entry) Split() (dir, leaf string) {
	return splitName(e.Name)
}

// Ordered passes entries on and makes sure that they are in order, that the
// directory of each was described, that no name appears twice, and that no field
// has a value that no file can have. What breaks a rule is an EntryError. It needs
// memory for the directories of one path only.
func Ordered(entries iter.Seq2[*Entry, error]) iter.Seq2[*Entry, error] {
	return func(yield func(*Entry, error) bool) {
		var o order
		for e, err := range entries {
			if err == nil {
				if err = o.check(e); err != nil {
					err = &EntryError{Name: e.Name, Err: err}
				}
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if !yield(e, nil) {
				return
			}
		}
	}
}

// order knows the directories that the entry before is in.
type order struct {
	started bool
	dirs    []string // the directories on the way to the last entry, without the root
	last    []string // the last name seen in the root and in each of dirs
}

var errOrder = errors.New("it is not in order, or its directory is missing, or it appears twice")

func (o *order) check(e *Entry) error {
	if err := checkEntry(e); err != nil {
		return err
	}
	if e.Name == "." {
		if o.started || !e.IsDir() {
			return errors.New("the root must be the first entry and a directory")
		}
		o.started = true
		return nil
	}
	if !o.started {
		o.started = true
	}
	if o.last == nil {
		o.last = []string{""}
	}
	dir, leaf := e.Split()
	for len(o.dirs) > 0 && o.dirs[len(o.dirs)-1] != dir {
		o.dirs, o.last = o.dirs[:len(o.dirs)-1], o.last[:len(o.last)-1]
	}
	top := len(o.last) - 1
	if len(o.dirs) == 0 && dir != "." || leaf <= o.last[top] {
		return errOrder
	}
	o.last[top] = leaf
	if e.IsDir() {
		o.dirs, o.last = append(o.dirs, e.Name), append(o.last, "")
	}
	return nil
}

// checkEntry refuses what no file can be.
func checkEntry(e *Entry) error {
	name, err := cleanName(e.Name)
	switch {
	case err != nil:
		return err
	case name != e.Name:
		return fmt.Errorf("name is not clean: want %q", name)
	case e.Size < 0:
		return fmt.Errorf("negative size %d", e.Size)
	case e.UID == record.NoID || e.GID == record.NoID:
		return fmt.Errorf("owner %d:%d is not valid", e.UID, e.GID)
	}
	for i, x := range e.Xattrs {
		if i > 0 && e.Xattrs[i-1].Name >= x.Name {
			return fmt.Errorf("attribute %q is out of order or appears twice", x.Name)
		}
		if err := checkXattr(x); err != nil {
			return err
		}
	}
	if e.HardLink != "" {
		return nil
	}
	switch e.Mode & unix.S_IFMT {
	case unix.S_IFREG, unix.S_IFDIR, unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO, unix.S_IFSOCK:
	case unix.S_IFLNK:
		if n := len(e.Target); n == 0 || n > maxName || strings.IndexByte(e.Target, 0) >= 0 {
			return errors.New("symbolic link to nothing, or too long, or with a NUL byte")
		}
	default:
		return fmt.Errorf("unknown file type %o", e.Mode&unix.S_IFMT)
	}
	return nil
}

// Limits of the kernel for extended attributes (XATTR_NAME_MAX, XATTR_SIZE_MAX).
const (
	maxXattrName  = 255
	maxXattrValue = 64 << 10
)

func checkXattr(x Xattr) error {
	if n := len(x.Name); n == 0 || n > maxXattrName || strings.IndexByte(x.Name, 0) >= 0 {
		return fmt.Errorf("attribute name %q is not valid", x.Name)
	}
	if len(x.Value) > maxXattrValue {
		return fmt.Errorf("attribute %s has %d bytes: the limit is %d", x.Name, len(x.Value), maxXattrValue)
	}
	return nil
}

// setXattr sets an attribute of e in its place.
func (e *Entry) setXattr(name, value string) {
	i, found := slices.BinarySearchFunc(e.Xattrs, name, func(x Xattr, name string) int { return strings.Compare(x.Name, name) })
	if found {
		e.Xattrs[i].Value = value
		return
	}
	e.Xattrs = slices.Insert(e.Xattrs, i, Xattr{name, value})
}

// deviceNumber gives a number of an archive, which is at most what stat(2) has.
func deviceNumber(n int64) (uint32, error) {
	if n < 0 || n > math.MaxInt32 {
		return 0, fmt.Errorf("device number %d is not valid", n)
	}
	return uint32(n), nil
}
