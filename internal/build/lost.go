// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"archive/tar"
	"errors"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Lost counts the files of an image that are not there as they are in the image. The zero value: all are.
type Lost struct {
	Owners  int // that belong to somebody else than root in the image, and to the user here
	SetID   int // that had a set-user-id or set-group-id bit
	Devices int // that were left out
	// Attributes counts files by the name of an attribute that could not be set. Of
	// more than maxLostNames names the others are counted under "others".
	Attributes map[string]int
}

// maxLostNames is how many names of attributes are told apart.
const maxLostNames = 8

// note counts what a copy of a file never keeps.
func (l *Lost) note(h *tar.Header) {
	const setID = 0o6000
	switch {
	case h.Typeflag == tar.TypeChar || h.Typeflag == tar.TypeBlock:
		l.Devices++
		return
	case h.Typeflag == tar.TypeLink:
		return
	}
	if h.Uid != 0 || h.Gid != 0 {
		l.Owners++
	}
	if h.Mode&setID != 0 && h.Typeflag != tar.TypeSymlink {
		l.SetID++
	}
}

// attribute counts an attribute that was not set.
func (l *Lost) attribute(name string) {
	if l.Attributes == nil {
		l.Attributes = map[string]int{}
	}
	if _, known := l.Attributes[name]; !known && len(l.Attributes) >= maxLostNames {
		name = "others"
	}
	l.Attributes[name]++
}

// String tells it in one line; empty if nothing was lost.
func (l Lost) String() string {
	var out []string
	add := func(n int, what string) {
		if n > 0 {
			files := "files"
			if n == 1 {
				files = "file"
			}
			out = append(out, fmt.Sprintf("%s of %d %s", what, n, files))
		}
	}
	add(l.Owners, "owners")
	add(l.SetID, "set-user-id and set-group-id bits")
	if l.Devices > 0 {
		out = append(out, fmt.Sprintf("devices (%d)", l.Devices))
	}
	for _, name := range slices.Sorted(maps.Keys(l.Attributes)) {
		add(l.Attributes[name], fmt.Sprintf("attribute %q", name))
	}
	return strings.Join(out, ", ")
}

// xattrRecord begins the names of records that hold extended attributes.
const xattrRecord = "SCHILY.xattr."

// attributes sets the extended attributes of a copy, as far as the user and the file
// system let it have them. Access control lists are left out: the ids that they name
// are those of the image.
func (c *copies) attributes(f *os.File, h *tar.Header) error {
	for _, record := range slices.Sorted(maps.Keys(h.PAXRecords)) {
		name, ok := strings.CutPrefix(record, xattrRecord)
		if !ok {
			continue
		}
		if !strings.HasPrefix(name, "user.") && !(name == "security.capability" && c.opt.Capabilities) {
			c.lost.attribute(name)
			continue
		}
		err := unix.Fsetxattr(int(f.Fd()), name, []byte(h.PAXRecords[record]), 0)
		switch {
		case err == nil:
		case refused(err):
			c.lost.attribute(name)
		default:
			return fmt.Errorf("set attribute %q: %w", name, err)
		}
	}
	return nil
}

// refused tells whether a file system does not take an attribute that another one took: it has
// none, or no room for one so long, or the kernel does not let this user set it.
func refused(err error) bool {
	for _, no := range []error{unix.ENOTSUP, unix.EPERM, unix.EACCES, unix.ENOSPC, unix.E2BIG, unix.ERANGE, unix.EINVAL, unix.ENODATA} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}
