// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"io"
	"os"
	"strings"

	"golang.org/x/term"
)

// ForTerminal returns the options that fit f, which need not be a terminal.
// getenv is asked for NO_COLOR, TERM and the locale.
func ForTerminal(f *os.File, getenv func(string) string) Options {
	dumb := getenv("TERM") == "" || getenv("TERM") == "dumb"
	o := Options{ASCII: !utf8Locale(getenv), Color: getenv("NO_COLOR") == ""}
	if !term.IsTerminal(int(f.Fd())) {
		return o
	}
	if dumb {
		o.Color = false
		return o
	}
	o.Size = func() (int, int) {
		w, h, err := term.GetSize(int(f.Fd()))
		if err != nil || w <= 0 || h <= 0 {
			return 80, 24 // a serial line does not know
		}
		return w, h
	}
	return o
}

// utf8Locale tells whether the locale's characters are UTF-8: the first of the
// three variables that is set decides.
func utf8Locale(getenv func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if v := strings.ToLower(getenv(name)); v != "" {
			return strings.Contains(v, "utf-8") || strings.Contains(v, "utf8")
		}
	}
	return false
}

// SafeWriter passes on to a terminal what steps print, harmless: printable
// text, newlines, tabs and colours as they are, all else as \x1b. It is not
// safe for use by several goroutines.
type SafeWriter struct {
	out   io.Writer
	color bool
	rest  []byte // the beginning of a character or of a colour sequence
	buf   []byte
}

// NewSafeWriter returns a SafeWriter on out; without color, colours vanish.
func NewSafeWriter(out io.Writer, color bool) *SafeWriter {
	return &SafeWriter{out: out, color: color}
}

// Write writes all of p, but up to 31 bytes at its end that may become a whole
// sequence with the next write.
func (w *SafeWriter) Write(p []byte) (int, error) {
	n := len(p)
	if len(w.rest) > 0 {
		p = append(w.rest, p...)
	}
	k := whole(p)
	err := w.write(p[:k])
	w.rest = append([]byte(nil), p[k:]...)
	if err != nil {
		return 0, err
	}
	return n, nil
}

// Flush writes what Write held back.
func (w *SafeWriter) Flush() error {
	err := w.write(w.rest)
	w.rest = nil
	return err
}

func (w *SafeWriter) write(p []byte) error {
	if len(p) == 0 {
		return nil
	}
	w.buf = appendClean(w.buf[:0], p, w.color)
	_, err := w.out.Write(w.buf)
	return err
}
