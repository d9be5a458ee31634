// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"fmt"
	"strings"
	"unicode/utf8"
)

// maxErrors is how many errors are told at once, manyErrors how many of a file
// are kept to find the first ones.
const (
	maxErrors  = 10
	manyErrors = 1000
)

// maxQuote is how many characters of a line are quoted.
const maxQuote = 160

// Pos is a place in a build file. Line and Column count from 1, columns in
// characters; a Line of 0 means the file as a whole.
type Pos struct {
	File         string
	Line, Column int
}

// String returns "file:line:column".
func (p Pos) String() string {
	if p.Line == 0 {
		return p.File
	}
	return fmt.Sprintf("%s:%d:%d", p.File, p.Line, p.Column)
}

// Error is something wrong in a build file.
type Error struct {
	Pos   Pos
	Msg   string
	Quote string // the line as written; empty: not to be shown
	Hint  string // what to do; may be empty
	Err   error  // the cause; may be nil

	unknownKey bool
}

// Error returns the position and the message in one line.
func (e *Error) Error() string {
	if e.Pos == (Pos{}) {
		return e.Msg
	}
	return e.Pos.String() + ": " + e.Msg
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Detail returns the message with the line quoted, a caret below the place, and
// the hint.
func (e *Error) Detail() string {
	var b strings.Builder
	b.WriteString(e.Error())
	if e.Quote != "" && e.Pos.Line > 0 {
		line, column := clip(strings.TrimRight(e.Quote, "\r\n"), e.Pos.Column)
		number := fmt.Sprint(e.Pos.Line)
		fmt.Fprintf(&b, "\n  %s | %s", number, printable(line))
		fmt.Fprintf(&b, "\n  %s | %s^", strings.Repeat(" ", len(number)), indentLike(line, column-1))
	}
	if e.Hint != "" {
		b.WriteString("\n  hint: " + e.Hint)
	}
	return b.String()
}

// Errors are all errors found in one go, in the order of the files, at most ten.
type Errors []*Error

// Error returns one line per error.
func (es Errors) Error() string {
	lines := make([]string, len(es))
	for i, e := range es {
		lines[i] = e.Error()
	}
	return strings.Join(lines, "\n")
}

// first returns what is told of es.
func (es Errors) first() Errors { return es[:min(len(es), maxErrors)] }

// Unwrap returns the errors.
func (es Errors) Unwrap() []error {
	list := make([]error, len(es))
	for i, e := range es {
		list[i] = e
	}
	return list
}

// Detail returns Error.Detail of each.
func (es Errors) Detail() string {
	parts := make([]string, len(es))
	for i, e := range es {
		parts[i] = e.Detail()
	}
	return strings.Join(parts, "\n")
}

// clip cuts a long line to a window around the column and returns the column in
// that window.
func clip(line string, column int) (string, int) {
	if utf8.RuneCountInString(line) <= maxQuote {
		return line, column
	}
	runes := []rune(line)
	from := max(0, min(column-1-maxQuote/2, len(runes)-maxQuote))
	return string(runes[from:min(len(runes), from+maxQuote)]), column - from
}

// printable replaces control characters, which a terminal might obey.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || r >= ' ' && r != 0x7f && (r < 0x80 || r > 0x9f) && r != utf8.RuneError {
			return r
		}
		return '?'
	}, s)
}

// indentLike returns n characters of white space that are as wide as the start of
// line.
func indentLike(line string, n int) string {
	var b strings.Builder
	for _, r := range line {
		if n <= 0 {
			break
		}
		n--
		if r == '\t' {
			b.WriteByte('\t')
		} else {
			b.WriteByte(' ')
		}
	}
	return b.String()
}

// short returns s fit for a message: printable, and not longer than a line.
func short(s string) string {
	const most = 60
	if utf8.RuneCountInString(s) > most {
		s = string([]rune(s)[:most]) + "…"
	}
	return printable(strings.NewReplacer("\n", " ", "\t", " ").Replace(s))
}
