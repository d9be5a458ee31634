// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package layer turns layer archives into directory trees and trees into layer
// archives.
//
// An archive is a tar of the OCI image specification (layer.md): what was added
// and changed, and ".wh." names for what was removed. A tree is the same on disk
// in the format of an overlay file system that is mounted with "userxattr", so
// that it can be a lower directory as it is:
//
//	.wh.NAME            a character device 0:0 called NAME
//	.wh..wh..opq        the directory's attribute user.overlay.opaque = "y"
//	user.overlay.X      the attribute user.overlay.overlay.X, as the kernel's own escape
//	device node         an empty file of mode 0 with the attribute user.stacker.node
//	foreign owner       where ids cannot be set, a note (package record)
//
// Apply unpacks, Diff packs, and Diff after Apply gives the same bytes for an
// archive that is already in Diff's form. Stack shows several trees as the mounted
// overlay would.
//
// Archives are hostile here. All names go through package rootfs: nothing is read
// or written outside the tree, whatever the archive says and whatever another
// process does to the tree meanwhile. No device is ever made. What parsers are
// known to read in different ways is refused. Memory does not grow with the size
// of the archive, except for some bytes for each directory.
//
// Apply and Diff run where the process may read and change every file of the
// tree, as root or in a user namespace: images have files that not even their
// owner may read.
//
// The package neither compresses nor fetches nor mounts, and does not sync.
package layer

import (
	"fmt"
	"path"
	"strings"
)

// Names in an archive that stand for removals.
const (
	whiteoutPrefix = ".wh."
	opaqueMarker   = ".wh..wh..opq"
	aufsPrefix     = ".wh..wh." // aufs's own bookkeeping; of no meaning in an image
)

// maxName is the longest path that the kernel takes, without its final NUL.
const maxName = 4095

// An EntryError is what is wrong with one entry of a layer.
type EntryError struct {
	Name string
	Err  error
}

// Error names the entry, with control characters escaped.
func (e *EntryError) Error() string {
	return fmt.Sprintf("layer entry %q: %v", e.Name, e.Err)
}

// Unwrap returns the cause.
func (e *EntryError) Unwrap() error {
	return e.Err
}

// cleanName makes a name of an archive relative to the root of the tree ("." is
// the root itself). Absolute names mean the same as relative ones; a name that
// climbs above the root is refused.
func cleanName(name string) (string, error) {
	if len(name) > maxName {
		return "", fmt.Errorf("name of %d bytes: the limit is %d", len(name), maxName)
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", fmt.Errorf("name contains a NUL byte")
	}
	p := path.Clean(strings.TrimLeft(name, "/"))
	if p == ".." || strings.HasPrefix(p, "../") {
		return "", fmt.Errorf("name leads out of the layer")
	}
	return p, nil
}

// splitName splits a cleaned name in directory and last element.
func splitName(p string) (dir, leaf string) {
	if i := strings.LastIndexByte(p, '/'); i >= 0 {
		return p[:i], p[i+1:]
	}
	return ".", p
}

// joinName puts leaf below the cleaned directory dir.
func joinName(dir, leaf string) string {
	if dir == "." {
		return leaf
	}
	return dir + "/" + leaf
}

// removal classifies the last element of a name.
type removal int

const (
	notRemoval removal = iota
	whiteout           // hides victim in the layers below
	opaque             // hides all that the layers below have in this directory
	ignored            // bookkeeping without meaning
)

// parseRemoval says what kind of removal the cleaned name p stands for and, for a
// whiteout, what it hides. A name that would hide the directory itself or its
// parent is an error, as is the prefix anywhere but in the last element.
func parseRemoval(p string) (kind removal, victim string, err error) {
	dir, leaf := splitName(p)
	if strings.HasPrefix(dir, whiteoutPrefix) || strings.Contains(dir, "/"+whiteoutPrefix) {
		if strings.HasPrefix(dir, aufsPrefix) || strings.Contains(dir, "/"+aufsPrefix) {
			return ignored, "", nil
		}
		return 0, "", fmt.Errorf("a directory may not be called %q…: the prefix is reserved", whiteoutPrefix)
	}
	if !strings.HasPrefix(leaf, whiteoutPrefix) {
		return notRemoval, "", nil
	}
	if leaf == opaqueMarker {
		return opaque, "", nil
	}
	if strings.HasPrefix(leaf, aufsPrefix) {
		return ignored, "", nil
	}
	switch victim = leaf[len(whiteoutPrefix):]; victim {
	case "", ".", "..":
		return 0, "", fmt.Errorf("whiteout of no name: %q", leaf)
	}
	return whiteout, victim, nil
}
