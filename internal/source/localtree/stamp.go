// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"
)

// Stamp is how fstat(2) saw a regular file when its digest was found, where that is
// enough to know that the file still has these bytes (see the package comment): who
// finds the stamp unchanged before and after reading it need not hash it again. The
// zero Stamp says nothing.
type Stamp struct {
	Dev, Ino     uint64
	MTime, CTime int64 // nanoseconds since 1970
}

// Is tells whether st is of the same file in the same state; never for the zero Stamp.
func (s Stamp) Is(st *unix.Stat_t) bool {
	return s != Stamp{} && s == Stamp{
		Dev: st.Dev, Ino: st.Ino, MTime: nanoseconds(st.Mtim.Sec, st.Mtim.Nsec), CTime: nanoseconds(st.Ctim.Sec, st.Ctim.Nsec),
	}
}

// stamp is that of a node, if its digest may be trusted. Attributes that another
// machine makes can be older than the bytes that are read.
func (s *scan) stamp(n *node) Stamp {
	if !n.IsRegular() || n.state != remembered && n.state != hashed || s.volumes.margin(n.stat.dev) == foreignMargin {
		return Stamp{}
	}
	return Stamp{Dev: n.stat.dev, Ino: n.stat.ino, MTime: n.stat.mtime, CTime: n.stat.ctime}
}

// stampSize is that of a stamp in bytes: four numbers, little endian.
const stampSize = 32

// MarshalStamps gives the stamps of the regular files among entries, for SetStamps in
// another process. They are no part of a listing: that is the same wherever a tree lies.
func MarshalStamps(entries []Entry) []byte {
	out := make([]byte, 0, stampSize*len(entries))
	for i := range entries {
		if e := &entries[i]; e.IsRegular() {
			for _, n := range []uint64{e.Stamp.Dev, e.Stamp.Ino, uint64(e.Stamp.MTime), uint64(e.Stamp.CTime)} {
				out = binary.LittleEndian.AppendUint64(out, n)
			}
		}
	}
	return out
}

// SetStamps sets the stamps of entries to what MarshalStamps gave for equal ones.
func SetStamps(entries []Entry, data []byte) error {
	next := func() (n uint64) {
		n, data = binary.LittleEndian.Uint64(data), data[8:]
		return n
	}
	for i := range entries {
		if !entries[i].IsRegular() {
			continue
		}
		if len(data) < stampSize {
			return errors.New("stamps are not those of the listing")
		}
		entries[i].Stamp = Stamp{Dev: next(), Ino: next(), MTime: int64(next()), CTime: int64(next())}
	}
	if len(data) > 0 {
		return errors.New("stamps are not those of the listing")
	}
	return nil
}
