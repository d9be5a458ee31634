// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// vt is as much of a terminal as the view needs. What it does not know is an
// error: the view must not use it.
type vt struct {
	width, height int
	rows          []string // the whole scrollback; the screen is its end
	x, y          int      // y counts from the top of rows
	hidden, fixed bool     // cursor hidden, wrapping off
	err           error
}

var csi = regexp.MustCompile(`^\x1b\[(\??)([0-9;]*)([A-Za-z])`)

func newVT(width, height int) *vt { return &vt{width: width, height: height, rows: []string{""}} }

func (v *vt) Write(p []byte) (int, error) {
	for s := string(p); s != ""; {
		if m := csi.FindStringSubmatch(s); m != nil {
			v.control(m[1]+m[3], m[2])
			s = s[len(m[0]):]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		s = s[n:]
		switch {
		case r == '\r':
			v.x = 0
		case r == '\n':
			v.down()
		case r < ' ' || r == 0x7f || r == utf8.RuneError:
			v.err = fmt.Errorf("byte %q", r)
		default:
			v.put(r)
		}
	}
	return len(p), v.err
}

func (v *vt) control(what, arg string) {
	switch what {
	case "A":
		n, _ := strconv.Atoi(arg)
		if top := max(0, len(v.rows)-v.height); v.y-n < top {
			v.err = fmt.Errorf("cursor goes up %d, beyond the screen", n)
		}
		v.y = max(0, v.y-n)
	case "J":
		v.rows = v.rows[:v.y+1]
		v.rows[v.y] = v.rows[v.y][:min(len(v.rows[v.y]), v.x)]
	case "K":
		r := []rune(v.rows[v.y])
		v.rows[v.y] = string(r[:min(len(r), v.x)])
	case "m":
	case "?l", "?h":
		switch arg {
		case "25":
			v.hidden = what == "?l"
		case "7":
			v.fixed = what == "?l"
		default:
			v.err = fmt.Errorf("mode %s", arg)
		}
	default:
		v.err = fmt.Errorf("sequence %s%s", arg, what)
	}
}

func (v *vt) down() {
	v.y++
	for len(v.rows) <= v.y {
		v.rows = append(v.rows, "")
	}
}

// put writes a character; all here are one column wide.
func (v *vt) put(r rune) {
	if v.x == v.width {
		if v.fixed {
			v.err = fmt.Errorf("a live line is wider than %d", v.width)
		}
		v.x = 0
		v.down()
	}
	row := []rune(v.rows[v.y])
	for len(row) <= v.x {
		row = append(row, ' ')
	}
	row[v.x] = r
	v.rows[v.y] = string(row)
	v.x++
}

// text returns everything that can be seen by scrolling back.
func (v *vt) text() string {
	rows := make([]string, len(v.rows))
	for i, r := range v.rows {
		rows[i] = strings.TrimRight(r, " ")
	}
	return strings.Join(rows, "\n")
}

// atRest tells whether a shell could go on.
func (v *vt) atRest(t *testing.T) {
	t.Helper()
	if v.err != nil {
		t.Error(v.err)
	}
	if v.hidden || v.fixed || v.x != 0 || v.y != len(v.rows)-1 || v.rows[v.y] != "" {
		t.Errorf("terminal is left with cursor hidden %t, wrapping off %t, at %d,%d of %d rows", v.hidden, v.fixed, v.x, v.y, len(v.rows))
	}
}
