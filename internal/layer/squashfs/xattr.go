// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"bytes"
	"errors"
	"strings"

	"build.stacker.dev/internal/layer"
)

// xattrWriter collects sets of attributes. Files with equal attributes share a set.
type xattrWriter struct {
	meta   metaWriter
	out    *bytes.Buffer // of meta
	number map[string]uint32
	sets   []byte // entries of the table: reference, count and size of the pairs
}

func newXattrWriter(enc encoder) *xattrWriter {
	out := &bytes.Buffer{}
	return &xattrWriter{meta: metaWriter{enc: enc, w: out}, out: out, number: map[string]uint32{}}
}

// attrKind returns the number of an attribute's prefix and the rest of its name.
func attrKind(name string) (kind uint16, rest string, ok bool) {
	for i, p := range attrPrefixes {
		if rest, ok = strings.CutPrefix(name, p); ok {
			return uint16(i), rest, true
		}
	}
	return 0, "", false
}

// splitAttrs returns what squashfs can hold, and how many attributes it cannot.
func splitAttrs(list []layer.Xattr) (keep []layer.Xattr, dropped int) {
	for _, x := range list {
		if _, _, ok := attrKind(x.Name); ok {
			keep = append(keep, x)
		} else {
			dropped++
		}
	}
	return keep, dropped
}

// add returns the number of a set; none32 if it is empty.
func (x *xattrWriter) add(list []layer.Xattr) (uint32, error) {
	if len(list) == 0 {
		return none32, nil
	}
	var b []byte
	for _, a := range list {
		kind, name, _ := attrKind(a.Name)
		b = le.AppendUint16(b, kind)
		b = le.AppendUint16(b, uint16(len(name)))
		b = append(b, name...)
		b = le.AppendUint32(b, uint32(len(a.Value)))
		b = append(b, a.Value...)
	}
	if len(b) > maxAttrs {
		return 0, errors.New("it has too many extended attributes")
	}
	if n, ok := x.number[string(b)]; ok {
		return n, nil
	}
	n := uint32(len(x.number))
	x.number[string(b)] = n
	x.sets = le.AppendUint64(x.sets, x.meta.at())
	x.sets = le.AppendUint32(x.sets, uint32(len(list)))
	x.sets = le.AppendUint32(x.sets, uint32(len(b)))
	_, err := x.meta.Write(b)
	return n, err
}

// pairs returns the metadata of all names and values.
func (x *xattrWriter) pairs() ([]byte, error) {
	err := x.meta.flush()
	return x.out.Bytes(), err
}
