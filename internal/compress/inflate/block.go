// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package inflate

import "io"

// codeLenOrder is the order in which RFC 1951 stores the lengths of the code for code lengths.
const codeLenOrder = "\x10\x11\x12\x00\x08\x07\x09\x06\x0a\x05\x0b\x04\x0c\x03\x0d\x02\x0e\x01\x0f"

// useFixed prepares the tables for the fixed code (RFC 1951, section 3.2.6).
func (d *Decoder) useFixed() {
	if d.fixed {
		return
	}
	var lens [maxLitLen]uint8
	for i := range lens {
		switch {
		case i < 144:
			lens[i] = 8
		case i < 256:
			lens[i] = 9
		case i < 280:
			lens[i] = 7
		default:
			lens[i] = 8
		}
	}
	var dists [maxDist]uint8
	for i := range dists {
		dists[i] = 5
	}
	buildTable(d.lit[:], kindLitLen, litTable, lens[:], d.entries.litLen[:])
	buildTable(d.dist[:], kindDist, distTable, dists[:], d.entries.dist[:])
	d.fixed = true
}

// readTables reads the codes of a block (RFC 1951, section 3.2.7).
func (d *Decoder) readTables() error {
	v, err := d.take(14)
	if err != nil {
		return err
	}
	nlit, ndist, ncode := v&31+257, v>>5&31+1, v>>10+4
	if nlit > numLitLen || ndist > numDist {
		return ErrCorrupt
	}
	var codeLens [numCodeLen]uint8
	for i := range ncode {
		n, err := d.take(3)
		if err != nil {
			return err
		}
		codeLens[codeLenOrder[i]] = uint8(n)
	}
	var table [lenEntries]uint32
	if !buildTable(table[:], kindCodeLen, lenTable, codeLens[:], d.entries.length[:]) {
		return ErrCorrupt
	}
	var lens [numLitLen + numDist]uint8
	if err := d.readLengths(lens[:nlit+ndist], &table); err != nil {
		return err
	}
	d.fixed = false
	if !buildTable(d.lit[:], kindLitLen, litTable, lens[:nlit], d.entries.litLen[:]) ||
		!buildTable(d.dist[:], kindDist, distTable, lens[nlit:nlit+ndist], d.entries.dist[:]) {
		return ErrCorrupt
	}
	return nil
}

// readLengths reads run-length encoded code lengths.
func (d *Decoder) readLengths(lens []uint8, table *[lenEntries]uint32) error {
	for i := 0; i < len(lens); {
		_, s, err := d.symbol(table[:], lenTable, flagDist)
		if err != nil {
			return err
		}
		if s < 16 {
			lens[i] = uint8(s)
			i++
			continue
		}
		var base, extra int
		var value uint8
		switch s {
		case 16:
			if i == 0 {
				return ErrCorrupt
			}
			base, extra, value = 3, 2, lens[i-1]
		case 17:
			base, extra = 3, 3
		case 18:
			base, extra = 11, 7
		default:
			return ErrCorrupt
		}
		n, err := d.take(uint(extra))
		if err != nil {
			return err
		}
		n += base
		if n > len(lens)-i {
			return ErrCorrupt
		}
		for range n {
			lens[i] = value
			i++
		}
	}
	return nil
}

// symbol decodes one symbol and the extra bits that belong to it. It looks at every bit of input before it
// trusts it; special is the flag of entries that are not plain. It returns the entry, and the literal, length or
// distance.
func (d *Decoder) symbol(table []uint32, tableBits uint, special uint32) (e uint32, v int, err error) {
	if err := d.refill(); err != nil {
		return 0, 0, err
	}
	if d.nbits == 0 {
		return 0, 0, io.ErrUnexpectedEOF
	}
	e = table[d.bits&(1<<tableBits-1)]
	if e&special != 0 && e&flagNoLink == 0 {
		if d.nbits < tableBits {
			return 0, 0, io.ErrUnexpectedEOF
		}
		d.bits >>= tableBits
		d.nbits -= tableBits
		index := uint64(e>>valueShift&linkMask) + d.bits&(1<<(e>>codeShift&codeMask)-1)
		e = table[index]
	}
	total := uint(e & totalMask)
	if d.nbits < total {
		return 0, 0, io.ErrUnexpectedEOF
	}
	if e&special != 0 && e&flagBad != 0 {
		return 0, 0, ErrCorrupt
	}
	v = int(e>>valueShift&valueMask) + int(d.bits&(1<<total-1)>>(e>>codeShift&codeMask))
	d.bits >>= total
	d.nbits -= total
	return e, v, nil
}

// block decodes symbols of a block into buf[out:] until the block ends or less than Slack bytes
// are left. No match reaches before buf[oldest].
func (d *Decoder) block(buf []byte, out, oldest int) (int, error) {
	for out < len(buf)-Slack && d.state == stateBlock {
		for d.end-d.pos < fastInput && d.srcErr == nil {
			_ = d.fill() // an error is met again where the input ends
		}
		var err error
		if d.end-d.pos >= fastInput {
			out, err = d.fast(buf, out, oldest)
		} else {
			out, err = d.slow(buf, out, oldest)
		}
		if err != nil {
			return out, err
		}
	}
	return out, nil
}

// slow decodes one literal or match, near the end of the source.
func (d *Decoder) slow(buf []byte, out, oldest int) (int, error) {
	e, v, err := d.symbol(d.lit[:], litTable, flagSpecial)
	switch {
	case err != nil:
		return out, err
	case e&flagLiteral != 0:
		buf[out] = byte(v)
		return out + 1, nil
	case e&flagSpecial != 0:
		d.state = stateHeader
		return out, nil
	}
	length := v
	_, dist, err := d.symbol(d.dist[:], distTable, flagDist)
	if err != nil {
		return out, err
	}
	if dist > out-oldest {
		return out, ErrCorrupt
	}
	for i := range length {
		buf[out+i] = buf[out+i-dist]
	}
	return out + length, nil
}
