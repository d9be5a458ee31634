// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package squashfs

import (
	"encoding/binary"
	"io"
)

var le = binary.LittleEndian

// metaWriter writes metadata: a row of compressed blocks.
type metaWriter struct {
	enc     encoder
	w       io.Writer
	open    []byte // the block that is being filled, less than metaSize bytes
	packed  []byte
	written int64 // bytes of finished blocks
}

// at is a reference to what will be written next.
func (m *metaWriter) at() uint64 {
	return uint64(m.written)<<16 | uint64(len(m.open))
}

// Write appends p.
func (m *metaWriter) Write(p []byte) (int, error) {
	n := len(p)
	for len(p) > 0 {
		k := min(len(p), metaSize-len(m.open))
		m.open = append(m.open, p[:k]...)
		p = p[k:]
		if len(m.open) == metaSize {
			if err := m.flush(); err != nil {
				return 0, err
			}
		}
	}
	return n, nil
}

// flush finishes the open block.
func (m *metaWriter) flush() (err error) {
	if len(m.open) == 0 {
		return nil
	}
	if m.packed, err = m.enc.encode(append(m.packed[:0], 0, 0), m.open); err != nil {
		return err
	}
	length := len(m.packed) - 2
	if length >= len(m.open) {
		m.packed = append(m.packed[:2], m.open...)
		length = len(m.open) | metaRaw
	}
	le.PutUint16(m.packed, uint16(length))
	m.open = m.open[:0]
	m.written += int64(len(m.packed))
	_, err = m.w.Write(m.packed)
	return err
}

// appender writes behind what was written before.
type appender struct {
	w   io.WriterAt
	pos int64
}

// Write appends p.
func (a *appender) Write(p []byte) (int, error) {
	n, err := a.w.WriteAt(p, a.pos)
	a.pos += int64(n)
	return n, err
}

// table writes entries, of which a whole number fits a metadata block, and then the
// positions of the metadata blocks. It returns the position of the latter; what
// comes before them is head.
func (w *writer) table(out *appender, entries, head []byte) (uint64, error) {
	m := metaWriter{enc: w.enc, w: out}
	positions := head
	for len(entries) > 0 {
		positions = le.AppendUint64(positions, uint64(out.pos))
		n := min(len(entries), metaSize)
		if _, err := m.Write(entries[:n]); err != nil {
			return 0, err
		}
		if err := m.flush(); err != nil {
			return 0, err
		}
		entries = entries[n:]
	}
	at := uint64(out.pos)
	_, err := out.Write(positions)
	return at, err
}
