// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package inflate

import "encoding/binary"

// fast decodes symbols while there is plenty of input and of room: that is nearly always. One
// round is at most three literals or two literals and a match. It loads input eight bytes at a time and
// copies in words, past the end of a match, so that nothing in it depends on how much is left: fastInput and
// Slack are what one round may need at most.
//
// The bit buffer is filled so that it holds 56 to 63 bits, and bits above those are the ones that
// the next filling puts there again.
func (d *Decoder) fast(buf []byte, out, oldest int) (int, error) {
	in, pos, inLimit := d.in[:d.end], d.pos, d.end-fastInput
	bits, nbits := d.bits, d.nbits
	lit, dist := &d.lit, &d.dist
	outLimit := len(buf) - Slack
	var err error

	for out < outLimit && pos <= inLimit {
		bits |= binary.LittleEndian.Uint64(in[pos:]) << (nbits & 63)
		pos += int((63 - nbits) >> 3)
		nbits |= 56

		e := lit[bits&(1<<litTable-1)]
		if e&flagLiteral != 0 {
			bits >>= e & totalMask
			nbits -= uint(e & totalMask)
			buf[out] = byte(e >> valueShift)
			out++
			e = lit[bits&(1<<litTable-1)]
			if e&flagLiteral != 0 {
				bits >>= e & totalMask
				nbits -= uint(e & totalMask)
				buf[out] = byte(e >> valueShift)
				out++
				e = lit[bits&(1<<litTable-1)]
				if e&flagLiteral != 0 {
					bits >>= e & totalMask
					nbits -= uint(e & totalMask)
					buf[out] = byte(e >> valueShift)
					out++
					continue
				}
			}
		}
		if e&flagSpecial != 0 {
			if e&flagNoLink == 0 {
				bits >>= litTable
				nbits -= litTable
				e = lit[(uint64(e>>valueShift)+bits&(1<<(e>>codeShift&codeMask)-1))&(litEntries-1)]
			}
			if e&flagBad != 0 {
				err = ErrCorrupt
				break
			}
			if e&(flagLiteral|flagSpecial) != 0 {
				bits >>= e & totalMask
				nbits -= uint(e & totalMask)
				if e&flagLiteral == 0 {
					d.state = stateHeader
					break
				}
				buf[out] = byte(e >> valueShift)
				out++
				continue
			}
		}
		length := int(e>>valueShift) + int(bits&(1<<(e&totalMask)-1)>>(e>>codeShift&codeMask))
		bits >>= e & totalMask
		nbits -= uint(e & totalMask)

		if nbits < maxDistBits {
			bits |= binary.LittleEndian.Uint64(in[pos:]) << (nbits & 63)
			pos += int((63 - nbits) >> 3)
			nbits |= 56
		}

		e = dist[bits&(1<<distTable-1)]
		if e&flagDist != 0 {
			if e&flagBad != 0 {
				err = ErrCorrupt
				break
			}
			bits >>= distTable
			nbits -= distTable
			e = dist[(uint64(e>>valueShift)+bits&(1<<(e>>codeShift&codeMask)-1))&(distEntries-1)]
			if e&flagDist != 0 {
				err = ErrCorrupt
				break
			}
		}
		distance := int(e>>valueShift) + int(bits&(1<<(e&totalMask)-1)>>(e>>codeShift&codeMask))
		bits >>= e & totalMask
		nbits -= uint(e & totalMask)
		from := out - distance
		if from < oldest {
			err = ErrCorrupt
			break
		}
		if distance < 16 {
			copyNear(buf, out, from, length)
			out += length
			continue
		}
		end := out + length
		for out < end {
			*(*[16]byte)(buf[out:]) = *(*[16]byte)(buf[from:])
			out += 16
			from += 16
		}
		out = end
	}
	d.pos, d.bits, d.nbits = pos, bits, nbits
	return out, err
}

// copyNear repeats length bytes from a distance of less than 16. It may write 7 bytes more.
func copyNear(buf []byte, out, from, length int) {
	end := out + length
	switch distance := out - from; {
	case distance >= 8:
		for out < end {
			*(*[8]byte)(buf[out:]) = *(*[8]byte)(buf[from:])
			out += 8
			from += 8
		}
	case distance == 1:
		v := uint64(buf[from]) * 0x0101010101010101
		for out < end {
			binary.LittleEndian.PutUint64(buf[out:], v)
			out += 8
		}
	default:
		for out < end {
			buf[out] = buf[from]
			out++
			from++
		}
	}
}
