// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package rpmdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// ndb (rpm's lib/backend/ndb/rpmpkg.c), in little endian: pages of 4096 bytes with
// slots of 16 bytes {"Slot", package, first block, blocks}. The first two slots are
// the header {"RpmP", version, generation, number of slot pages, …}. A package's
// blob begins at its first block, of 16 bytes, with {"BlbS", package, generation,
// length}, and a header follows.
const (
	ndbMagic    = "RpmP"
	ndbSlot     = "Slot"
	ndbBlob     = "BlbS"
	ndbPage     = 4096
	ndbSlotSize = 16
	ndbBlock    = 16
	ndbHeader   = 32
	maxNDBPages = maxPackages / (ndbPage / ndbSlotSize)
)

var errNDB = errors.New("damaged ndb file")

// readNDB calls f for each package's header.
func readNDB(r io.ReaderAt, size int64, f func([]byte) error) error {
	var head [ndbHeader]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return err
	}
	if v := binary.LittleEndian.Uint32(head[4:]); v != 0 {
		return fmt.Errorf("ndb file has version %d, want 0", v)
	}
	pages := binary.LittleEndian.Uint32(head[12:])
	if pages > maxNDBPages || int64(pages)*ndbPage > size {
		return errNDB
	}
	slots := make([]byte, int(pages)*ndbPage)
	if _, err := r.ReadAt(slots, 0); err != nil {
		return fmt.Errorf("%w: %w", errNDB, err)
	}
	for at := ndbHeader; at+ndbSlotSize <= len(slots); at += ndbSlotSize {
		slot := slots[at : at+ndbSlotSize]
		if string(slot[:4]) != ndbSlot {
			return errNDB
		}
		pkg, block, blocks := binary.LittleEndian.Uint32(slot[4:]), binary.LittleEndian.Uint32(slot[8:]), binary.LittleEndian.Uint32(slot[12:])
		if pkg == 0 {
			continue // a free slot
		}
		blob, err := ndbRead(r, size, pkg, int64(block)*ndbBlock, int64(blocks)*ndbBlock)
		if err != nil {
			return err
		}
		if err := f(blob); err != nil {
			return err
		}
	}
	return nil
}

// ndbRead reads the blob of a package out of its blocks.
func ndbRead(r io.ReaderAt, size int64, pkg uint32, at, room int64) ([]byte, error) {
	var head [16]byte
	if at+room > size || room < int64(len(head)) {
		return nil, errNDB
	}
	if _, err := r.ReadAt(head[:], at); err != nil {
		return nil, err
	}
	length := int64(binary.LittleEndian.Uint32(head[12:]))
	if string(head[:4]) != ndbBlob || binary.LittleEndian.Uint32(head[4:]) != pkg || length > room-int64(len(head)) || length > maxHeader {
		return nil, errNDB
	}
	blob := make([]byte, length)
	if _, err := r.ReadAt(blob, at+int64(len(head))); err != nil {
		return nil, fmt.Errorf("%w: %w", errNDB, err)
	}
	return blob, nil
}
