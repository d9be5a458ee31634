// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package erofs

import (
	"encoding/binary"
	"fmt"
	"strings"

	"build.stacker.dev/internal/layer"
)

// Attributes of an inode: a header of 12 bytes (4 reserved, the number of shared
// ones, 7 reserved), 4 bytes for each shared one, which is its place in the shared
// area in units of 4 bytes, and then the others, each padded to 4 bytes: length of
// the name, index of the prefix, 2 bytes length of the value, name, value.
const (
	xattrHeader    = 12
	xattrEntry     = 4
	maxXattrShared = 255
	maxXattrValue  = 1<<16 - 1
	maxXattrBody   = xattrHeader + 4*(1<<16-2)
)

// xattrPrefixes are the prefixes of names by their index. The two that are whole
// names come before the shorter ones.
var xattrPrefixes = []struct {
	index  uint8
	prefix string
}{
	{2, "system.posix_acl_access"},
	{3, "system.posix_acl_default"},
	{1, "user."},
	{4, "trusted."},
	{6, "security."},
}

// splitXattr gives the index of the prefix of an attribute's name and the rest;
// ok is false for what EROFS cannot hold.
func splitXattr(name string) (index uint8, rest string, ok bool) {
	for _, p := range xattrPrefixes {
		rest, found := strings.CutPrefix(name, p.prefix)
		whole := !strings.HasSuffix(p.prefix, ".")
		if found && whole == (rest == "") {
			return p.index, rest, true
		}
	}
	return 0, "", false
}

// joinXattr is the inverse of splitXattr.
func joinXattr(index uint8, rest string) (string, error) {
	for _, p := range xattrPrefixes {
		if p.index == index {
			name := p.prefix + rest
			if i, _, ok := splitXattr(name); !ok || i != index || len(name) > 255 || strings.IndexByte(name, 0) >= 0 {
				return "", broken("an attribute called %q", name)
			}
			return name, nil
		}
	}
	return "", broken("an attribute of the unknown class %d", index)
}

// Bounds of what is shared. An attribute is written beside its inode at first, and
// into the shared area when it comes again; a large one at once.
const (
	sharedFrom = 512     // bytes
	maxSeen    = 1 << 16 // attributes that are remembered
)

// xattrTable collects the attributes of all inodes.
type xattrTable struct {
	seen    map[string]uint32 // encoded attribute → its place, or seenOnce
	shared  []byte
	dropped int
}

const seenOnce = 1<<32 - 1

// encode gives the attributes of an entry as they stand behind its inode.
func (t *xattrTable) encode(list []layer.Xattr) ([]byte, error) {
	if len(list) == 0 {
		return nil, nil
	}
	body := make([]byte, xattrHeader)
	var inline []byte
	shared := 0
	for _, x := range list {
		index, rest, ok := splitXattr(x.Name)
		if !ok {
			t.dropped++
			continue
		}
		if len(x.Value) > maxXattrValue {
			return nil, fmt.Errorf("attribute %s of %d bytes: EROFS holds %d", x.Name, len(x.Value), maxXattrValue)
		}
		e := append([]byte{byte(len(rest)), index, byte(len(x.Value)), byte(len(x.Value) >> 8)}, rest...)
		e = append(e, x.Value...)
		e = append(e, make([]byte, -len(e)&3)...)
		if place, ok := t.share(e); ok && shared < maxXattrShared {
			body = binary.LittleEndian.AppendUint32(body, place)
			shared++
			continue
		}
		inline = append(inline, e...)
	}
	body[4] = byte(shared)
	body = append(body, inline...)
	switch {
	case len(body) == xattrHeader:
		return nil, nil
	case len(body) > maxXattrBody:
		return nil, fmt.Errorf("attributes of %d bytes: EROFS holds %d", len(body), maxXattrBody)
	}
	return body, nil
}

// share gives the place of an encoded attribute in the shared area, if it is or
// now comes there.
func (t *xattrTable) share(e []byte) (uint32, bool) {
	place, seen := t.seen[string(e)]
	switch {
	case seen && place != seenOnce:
		return place, true
	case !seen && len(e) < sharedFrom:
		if len(t.seen) < maxSeen {
			t.remember(e, seenOnce)
		}
		return 0, false
	case len(t.shared)+len(e) > 1<<32-blockSize:
		return 0, false
	}
	place = uint32(len(t.shared) / 4)
	t.shared = append(t.shared, e...)
	if seen || len(t.seen) < maxSeen {
		t.remember(e, place)
	}
	return place, true
}

func (t *xattrTable) remember(e []byte, place uint32) {
	if t.seen == nil {
		t.seen = map[string]uint32{}
	}
	t.seen[string(e)] = place
}
