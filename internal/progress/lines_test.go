// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"slices"
	"strings"
	"testing"
)

func TestSplitter(t *testing.T) {
	long := strings.Repeat("x", maxLine)
	for _, c := range []struct {
		name string
		in   []string
		want []string
	}{
		{"lines", []string{"a\nb\n"}, []string{"a", "b"}},
		{"pieces", []string{"a", "b\n", "\nc"}, []string{"ab", "", "c"}},
		{"carriage return", []string{"10%\r20%\r", "30%\r\nend\r\n"}, []string{"30%", "end"}},
		{"no end", []string{long + long + "yy\n"}, []string{long, long, "yy"}},
		{"character not cut", []string{long[1:] + "é" + "z\n"}, []string{long[1:], "éz"}},
		{"colour not cut", []string{long[3:] + "\x1b[31mz\n"}, []string{long[3:], "\x1b[31mz"}},
		{"long bar", []string{strings.Repeat("bar\r", maxLine) + "last"}, []string{"last"}},
	} {
		var got []string
		add := func(line []byte) { got = append(got, string(line)) }
		var s splitter
		for _, in := range c.in {
			s.write([]byte(in), add)
			if len(s.rest) >= maxLine {
				t.Errorf("%s: keeps %d bytes, want less than %d", c.name, len(s.rest), maxLine)
			}
		}
		s.flush(add)
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: got %.60q, want %.60q", c.name, got, c.want)
		}
	}
}

func TestTail(t *testing.T) {
	var l tail
	for i := range 100 {
		l.add([]byte{byte(i)})
	}
	if got := l.last(3); len(got) != 3 || got[0][0] != 97 || got[2][0] != 99 {
		t.Errorf("last(3) = %v, want 97 98 99", got)
	}
	if got := l.last(1000); len(got) != tailLines || got[0][0] != 100-tailLines {
		t.Errorf("last(1000) has %d lines from %v, want %d from %d", len(got), got[0], tailLines, 100-tailLines)
	}
}

func TestSkip(t *testing.T) {
	in := strings.Repeat("line\n", 1000) + "rest"
	rest, dropped := skip([]byte(in))
	if want := strings.Repeat("line\n", tailLines) + "rest"; string(rest) != want || dropped != 1000-tailLines {
		t.Errorf("skip keeps %d bytes and drops %d lines, want %d and %d", len(rest), dropped, len(want), 1000-tailLines)
	}
	few := strings.Repeat("\n", tailLines)
	if rest, dropped := skip([]byte(few)); string(rest) != few || dropped != 0 {
		t.Errorf("skip of %d lines drops %d and keeps %d bytes", tailLines, dropped, len(rest))
	}
}
