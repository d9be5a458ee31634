// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"fmt"
)

// maxLine is the length in bytes at which a line without an end is broken, so
// that a step that prints no newline costs no memory.
const maxLine = 4096

// splitter makes lines of a stream of bytes that arrives in pieces.
type splitter struct {
	rest []byte // the line that has no end yet, ≤ maxLine
}

// write calls line for each line that ends in data. The slice is valid during
// the call, holds raw bytes and no newline. A carriage return takes back what
// stands before it in its line, as on a terminal: of a progress bar only the
// last state becomes a line.
func (s *splitter) write(data []byte, line func([]byte)) {
	for len(data) > 0 {
		end := bytes.IndexByte(data[:min(len(data), maxLine-len(s.rest))], '\n')
		if end >= 0 {
			if len(s.rest) == 0 {
				line(afterCR(data[:end]))
			} else {
				s.rest = append(s.rest, data[:end]...)
				line(afterCR(s.rest))
				s.rest = s.rest[:0]
			}
			data = data[end+1:]
			continue
		}
		n := min(len(data), maxLine-len(s.rest))
		s.rest = append(s.rest, data[:n]...)
		data = data[n:]
		if len(s.rest) == maxLine {
			s.shorten(line)
		}
	}
}

// shorten makes room in a full rest.
func (s *splitter) shorten(line func([]byte)) {
	if i := bytes.LastIndexByte(s.rest[:maxLine-1], '\r'); i >= 0 {
		s.rest = append(s.rest[:0], s.rest[i+1:]...)
		return
	}
	n := whole(s.rest)
	if n == 0 {
		n = maxLine
	}
	line(s.rest[:n])
	s.rest = append(s.rest[:0], s.rest[n:]...)
}

// flush ends the last line.
func (s *splitter) flush(line func([]byte)) {
	if len(s.rest) > 0 {
		line(afterCR(s.rest))
	}
	s.rest = nil
}

// partial returns the line that has no end yet.
func (s *splitter) partial() []byte { return afterCR(s.rest) }

func afterCR(line []byte) []byte {
	line = bytes.TrimRight(line, "\r")
	return line[bytes.LastIndexByte(line, '\r')+1:]
}

// tail keeps the last lines of a step, raw.
type tail struct {
	lines [][]byte // at most tailLines; a ring once it is full
	next  int      // the oldest line of a full ring
	total int      // lines ever added
}

// tailLines is how many lines of a failed step are shown.
const tailLines = 40

func (t *tail) add(line []byte) {
	t.total++
	if len(t.lines) < tailLines {
		t.lines = append(t.lines, bytes.Clone(line))
		return
	}
	t.lines[t.next] = append(t.lines[t.next][:0], line...)
	t.next = (t.next + 1) % tailLines
}

// last returns up to n lines, the oldest first.
func (t *tail) last(n int) [][]byte {
	n = min(n, len(t.lines))
	out := make([][]byte, 0, n)
	for i := len(t.lines) - n; i < len(t.lines); i++ {
		out = append(out, t.lines[(t.next+i)%len(t.lines)])
	}
	return out
}

// skip drops all but the last lines of data that a tail could keep, and says
// how many lines it dropped: a flood need not be cleaned line by line.
func skip(data []byte) (rest []byte, dropped int) {
	i := len(data)
	for range tailLines + 1 {
		if i = bytes.LastIndexByte(data[:i], '\n'); i < 0 {
			return data, 0
		}
	}
	return data[i+1:], bytes.Count(data[:i+1], []byte("\n"))
}

// appendTail appends a step's last lines, each with prefix, under a line that
// says how many are not shown, if any.
func (s *step) appendTail(dst []byte, prefix string, color bool) []byte {
	lines := s.tail.last(tailLines)
	if len(lines) < s.tail.total {
		dst = fmt.Appendf(dst, "%s(the last %d of %d lines)\n", prefix, len(lines), s.tail.total)
	}
	for _, line := range lines {
		dst = appendLine(append(dst, prefix...), line, color)
	}
	return dst
}
