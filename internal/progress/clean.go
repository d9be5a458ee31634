// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// maxSGR is the length up to which an escape sequence may be one that sets
// colours. Real ones have at most 20 bytes.
const maxSGR = 32

// appendClean appends text to dst so that no byte of it commands a terminal.
// Printable characters, newline and tab stay; sequences that set colours (SGR)
// stay where color is set and vanish elsewhere; everything else is shown as
// \x1b or \u202e. A step, an image's label or a registry's error could
// otherwise set the clipboard, rename the window or forge other lines.
func appendClean(dst, text []byte, color bool) []byte {
	for i := 0; i < len(text); {
		n := 0
		for n < len(text)-i && harmless(text[i+n]) {
			n++
		}
		dst = append(dst, text[i:i+n]...)
		if i += n; i == len(text) {
			break
		}
		c := text[i]
		if c == '\r' && i+1 < len(text) && text[i+1] == '\n' {
			i++
			continue
		}
		if n := sgr(text[i:]); n > 0 {
			if color {
				dst = append(dst, text[i:i+n]...)
			}
			i += n
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			dst = fmt.Appendf(dst, `\x%02x`, text[i])
		case r < ' ', r >= 0x7f && r < 0xa0:
			dst = fmt.Appendf(dst, `\x%02x`, r)
		case steers(r):
			dst = fmt.Appendf(dst, `\u%04x`, r)
		default:
			dst = append(dst, text[i:i+n]...)
		}
		i += n
	}
	return dst
}

func harmless(c byte) bool { return c >= ' ' && c < 0x7f || c == '\n' || c == '\t' }

// sgrReset ends all colours.
const sgrReset = "\x1b[0m"

// appendLine appends a line of a step's output, harmless and with its end; a
// colour ends with it.
func appendLine(dst, line []byte, color bool) []byte {
	dst = appendClean(dst, line, color)
	if color && bytes.IndexByte(line, 0x1b) >= 0 {
		dst = append(dst, sgrReset...)
	}
	return append(dst, '\n')
}

// steers tells whether a printable rune changes where others appear: direction
// marks and overrides, line and paragraph separators, tags.
func steers(r rune) bool {
	switch {
	case r == 0x061c, r == 0x200e, r == 0x200f, r == 0xfeff,
		r >= 0x2028 && r <= 0x202e, r >= 0x2066 && r <= 0x2069,
		r >= 0xe0000 && r <= 0xe007f:
		return true
	}
	return false
}

// sgr returns the length of the colour-setting sequence that text starts with.
func sgr(text []byte) int {
	if len(text) < 3 || text[0] != 0x1b || text[1] != '[' {
		return 0
	}
	for i, c := range text[2:min(len(text), maxSGR)] {
		switch {
		case c == 'm':
			return i + 3
		case c != ';' && c != ':' && (c < '0' || c > '9'):
			return 0
		}
	}
	return 0
}

// whole returns how much of text can be shown now: an incomplete character,
// line end or colour sequence at its end may become whole with the next bytes.
func whole(text []byte) int {
	end := len(text)
	if end > 0 && text[end-1] == '\r' {
		return end - 1
	}
	if i := bytes.LastIndexByte(text[max(0, end-maxSGR):], 0x1b); i >= 0 {
		i += max(0, end-maxSGR)
		if sgr(text[i:]) == 0 && !bytes.ContainsFunc(text[i+1:], func(r rune) bool {
			return !strings.ContainsRune("[0123456789;:", r)
		}) {
			return i
		}
	}
	for i := end - 1; i >= 0 && i >= end-utf8.UTFMax; i-- {
		if utf8.RuneStart(text[i]) {
			if !utf8.FullRune(text[i:]) {
				return i
			}
			break
		}
	}
	return end
}

// cleanText makes a text from outside a single harmless line without colours:
// a name, a cause, an error.
func cleanText(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	return string(appendClean(nil, []byte(s), false))
}

// columns returns how many cells of a terminal s takes. Colours take none;
// s must be clean and without tabs.
func columns(s string) int {
	n := 0
	for i := 0; i < len(s); {
		if k := sgrString(s[i:]); k > 0 {
			i += k
			continue
		}
		r, k := utf8.DecodeRuneInString(s[i:])
		n += cells(r)
		i += k
	}
	return n
}

func sgrString(s string) int {
	if s[0] != 0x1b {
		return 0
	}
	return sgr([]byte(s[:min(len(s), maxSGR)]))
}

func cells(r rune) int {
	if r < 0x7f {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me) || r >= 0x200b && r <= 0x200d {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	}
	return 1
}

// fit cuts s to at most n columns. s must be clean and without colours.
func fit(s string, n int, ellipsis string) string {
	if len(s) <= n || columns(s) <= n {
		return s
	}
	room := n - columns(ellipsis)
	if room < 0 {
		return ""
	}
	used := 0
	for i, r := range s {
		if used += cells(r); used > room {
			return s[:i] + ellipsis
		}
	}
	return s
}

// expandTabs replaces tabs by the spaces up to the next multiple of eight.
func expandTabs(s string) string {
	if !strings.Contains(s, "\t") {
		return s
	}
	var b strings.Builder
	col := 0
	for _, r := range s {
		if r == '\t' {
			n := 8 - col%8
			b.WriteString("        "[:n])
			col += n
			continue
		}
		b.WriteRune(r)
		col += cells(r)
	}
	return b.String()
}
