// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"syscall"
	"unicode/utf8"
)

// MaxFileSize is how large a build file may be.
const MaxFileSize = 10 << 20

// readRegular reads a regular file, which may be reached by symlinks. Anything
// else could block for ever (a FIFO) or act when opened (a device).
func readRegular(path string) ([]byte, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, cause(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file", path)
	}
	// The file may have been exchanged since: O_NONBLOCK opens a FIFO at once.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", path, cause(err))
	}
	defer f.Close()
	if info, err = f.Stat(); err != nil || !info.Mode().IsRegular() {
		return nil, fmt.Errorf("open %s: not a regular file", path)
	}
	data, err := io.ReadAll(io.LimitReader(f, MaxFileSize+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, cause(err))
	}
	if len(data) > MaxFileSize {
		return nil, fmt.Errorf("read %s: larger than %d MB", path, MaxFileSize>>20)
	}
	return data, nil
}

// cause is the system's error without the path, which the caller adds.
func cause(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}

// isLink tells whether the last part of path is a symlink. What it points to is
// not quoted in messages: it may be a file that whoever sent the build file could
// not read, and the messages may be public.
func isLink(path string) bool {
	info, err := os.Lstat(path)
	return err == nil && info.Mode()&os.ModeSymlink != 0
}

// Quote returns line number line of a build file with a caret below the column,
// ending in a newline, or nothing if that cannot be had.
func Quote(file string, line, column int) string {
	data, err := readRegular(file)
	if err != nil || line < 1 || isLink(file) {
		return ""
	}
	s := newDocument(file, data)
	e := Error{Pos: Pos{File: file, Line: line, Column: column}, Quote: s.line(line)}
	_, quote, _ := strings.Cut(e.Detail(), "\n")
	if quote == "" {
		return ""
	}
	return quote + "\n"
}

// document is the text of one build file, and where its places are.
type document struct {
	name  string
	raw   string // as written
	text  string // after substitution
	holes []hole // what was substituted, in order

	rawLines, textLines []int // offsets at which lines start
	inRaw, inText       cursor
	secret              bool // lines are not quoted
}

// hole is one placeholder: raw[from:to] became text[textFrom:textTo].
type hole struct {
	from, to         int
	textFrom, textTo int
	key, value       string
	supplied         bool // not by a default in the file
	dummy            bool // nobody gave a value
}

// unknownLines are the lines with placeholders that nobody gave a value.
func (s *document) unknownLines() map[int]bool {
	lines := map[int]bool{}
	for _, h := range s.holes {
		if h.dummy {
			lines[s.rawPos(h.from).Line] = true
		}
	}
	return lines
}

func newDocument(name string, data []byte) *document {
	raw := string(data)
	s := &document{name: name, raw: raw, text: raw, rawLines: lineStarts(raw)}
	s.textLines = s.rawLines
	return s
}

// lineStarts finds the lines as YAML 1.1 counts them, which knows five kinds of
// line break.
func lineStarts(s string) []int {
	starts := []int{0}
	if strings.HasPrefix(s, "\ufeff") {
		starts[0] = len("\ufeff")
	}
	for i, r := range s {
		if isBreak(r) && !(r == '\r' && strings.HasPrefix(s[i+1:], "\n")) {
			starts = append(starts, i+utf8.RuneLen(r))
		}
	}
	return starts
}

func isBreak(r rune) bool {
	return r == '\n' || r == '\r' || r == 0x85 || r == 0x2028 || r == 0x2029
}

// pos is the place as written of a line and column of the substituted text.
func (s *document) pos(line, column int) Pos {
	line = min(max(line, 1), len(s.textLines))
	offset := s.inText.offset(s.text, s.textLines[line-1], column)
	return s.rawPos(s.rawOffset(offset))
}

// rawOffset is where a byte of the substituted text came from.
func (s *document) rawOffset(offset int) int {
	i := sort.Search(len(s.holes), func(i int) bool { return s.holes[i].textFrom > offset }) - 1
	if i < 0 {
		return min(offset, len(s.raw))
	}
	h := s.holes[i]
	if offset < h.textTo {
		return h.from
	}
	return min(offset-h.textTo+h.to, len(s.raw))
}

// rawPos is the place of a byte of the file as written.
func (s *document) rawPos(offset int) Pos {
	line := max(1, sort.Search(len(s.rawLines), func(i int) bool { return s.rawLines[i] > offset }))
	column := s.inRaw.column(s.raw, s.rawLines[line-1], offset)
	return Pos{File: s.name, Line: line, Column: column}
}

// cursor remembers a place in a line, so that walking along a long line does not
// count its characters from the start each time.
type cursor struct{ start, at, chars int }

func (c *cursor) from(start, at, chars int) {
	if c.start != start || c.at > at || c.chars > chars || c.at < start {
		*c = cursor{start: start, at: start}
	}
}

// offset is where the column of the line that begins at start is.
func (c *cursor) offset(text string, start, column int) int {
	c.from(start, len(text), column-1)
	for c.chars < column-1 && c.at < len(text) {
		_, n := utf8.DecodeRuneInString(text[c.at:])
		c.at, c.chars = c.at+n, c.chars+1
	}
	return c.at
}

// column is the column of the byte at offset in the line that begins at start.
func (c *cursor) column(text string, start, offset int) int {
	c.from(start, offset, len(text))
	for c.at < offset && c.at < len(text) {
		_, n := utf8.DecodeRuneInString(text[c.at:])
		c.at, c.chars = c.at+n, c.chars+1
	}
	return c.chars + 1
}

// line is a line as written, without its end.
func (s *document) line(number int) string {
	if s.secret || number < 1 || number > len(s.rawLines) {
		return ""
	}
	end := len(s.raw)
	if number < len(s.rawLines) {
		end = s.rawLines[number]
	}
	return hidePasswords(strings.TrimRightFunc(s.raw[s.rawLines[number-1]:end], isBreak))
}

// hidePasswords keeps those of URLs out of messages, which end up in logs. The
// length stays, so that marks below the line stand right.
func hidePasswords(line string) string {
	return urlPassword.ReplaceAllStringFunc(line, func(s string) string {
		head := strings.LastIndexByte(s, ':') + 1
		return s[:head] + strings.Repeat("*", len(s)-head-1) + "@"
	})
}

var urlPassword = regexp.MustCompile(`://[^/\s:@"']*:[^/\s@"']+@`)

// fail makes an error of a place.
func (s *document) fail(p Pos, hint, format string, args ...any) *Error {
	return &Error{Pos: p, Msg: fmt.Sprintf(format, args...), Quote: s.line(p.Line), Hint: hint}
}

// absolute is a path as written in a file of directory dir.
func absolute(dir, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(dir, path)
}
