// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAppendClean(t *testing.T) {
	for _, c := range []struct{ in, want, color string }{
		{in: "a\tb\nc é 日本 ✔", want: "a\tb\nc é 日本 ✔"},
		{in: "\x1b[1;31mred\x1b[0m", want: "red", color: "\x1b[1;31mred\x1b[0m"},
		{in: "\x1b[38:2::1:2:3mx", want: "x", color: "\x1b[38:2::1:2:3mx"},
		{in: "\x1b[2J", want: `\x1b[2J`},
		{in: "\x1b[?25l", want: `\x1b[?25l`},
		{in: "\x1b]52;c;QQ==\a", want: `\x1b]52;c;QQ==\x07`},
		{in: "\x1b]8;;http://x\x1b\\y", want: `\x1b]8;;http://x\x1b\y`},
		{in: "\x1b[" + strings.Repeat("1;", 40) + "m", want: `\x1b[` + strings.Repeat("1;", 40) + "m"},
		{in: "\x9b31m", want: `\x9b31m`},
		{in: "\u009b31m", want: `\x9b31m`},
		{in: "\u0085", want: `\x85`},
		{in: "a\rb\r\nc\b\x00\x7f", want: "a\\x0db\nc\\x08\\x00\\x7f"},
		{in: "\xff\xc3", want: `\xff\xc3`},
		{in: "\ufffd", want: "\ufffd"},
		{in: "user\u202egnp.exe \u2066x\u2069 \u200e", want: `user\u202egnp.exe \u2066x\u2069 \u200e`},
		{in: "\u2028", want: `\u2028`},
	} {
		if got := string(appendClean(nil, []byte(c.in), false)); got != c.want {
			t.Errorf("appendClean(%q, no color) = %q, want %q", c.in, got, c.want)
		}
		if c.color == "" {
			c.color = c.want
		}
		if got := string(appendClean(nil, []byte(c.in), true)); got != c.color {
			t.Errorf("appendClean(%q, color) = %q, want %q", c.in, got, c.color)
		}
	}
}

func TestCleanText(t *testing.T) {
	if got, want := cleanText(" a\n\tb\x1b[2J\x1b[31mc "), `a b\x1b[2Jc`; got != want {
		t.Errorf("cleanText = %q, want %q", got, want)
	}
}

func TestFit(t *testing.T) {
	for _, c := range []struct {
		in   string
		n    int
		want string
	}{
		{"abc", 3, "abc"}, {"abcd", 3, "ab…"}, {"日本語", 6, "日本語"}, {"日本語", 5, "日本…"}, {"日本語", 4, "日…"},
		{"abc", 1, "…"}, {"abc", 0, ""}, {"e\u0301e\u0301", 2, "e\u0301e\u0301"},
	} {
		if got := fit(c.in, c.n, "…"); got != c.want {
			t.Errorf("fit(%q, %d) = %q, want %q", c.in, c.n, got, c.want)
		}
	}
	if got := columns("\x1b[1;31m日x\x1b[0m"); got != 3 {
		t.Errorf("columns with colours = %d, want 3", got)
	}
	if got, want := expandTabs("a\t日本語字\tb\tc"), "a       日本語字        b       c"; got != want {
		t.Errorf("expandTabs = %q, want %q", got, want)
	}
}

// commands returns the first thing in clean text that a terminal would obey.
func commands(text []byte) string {
	for i := 0; i < len(text); {
		if n := sgr(text[i:]); n > 0 {
			i += n
			continue
		}
		r, n := utf8.DecodeRune(text[i:])
		if r == utf8.RuneError && n == 1 || r < ' ' && r != '\n' && r != '\t' || r >= 0x7f && r < 0xa0 || steers(r) {
			return string(text[i:min(len(text), i+10)])
		}
		i += n
	}
	return ""
}

// However the bytes are cut, a SafeWriter writes the same, and nothing of it
// commands a terminal.
func FuzzSafeWriter(f *testing.F) {
	for _, s := range []string{"plain\n", "\x1b[31mred\x1b[0m", "\x1b[2J\x1b]0;t\a", "é日\xff\xe6\x97", "a\r\nb\rc\r", "\x1b[1\x1b[2m\u009b"} {
		f.Add([]byte(s), uint8(3))
	}
	f.Fuzz(func(t *testing.T, data []byte, step uint8) {
		for _, color := range []bool{false, true} {
			want := appendClean(nil, data, color)
			if bad := commands(want); bad != "" {
				t.Errorf("appendClean(%q) lets %q through", data, bad)
			}
			var out bytes.Buffer
			w := NewSafeWriter(&out, color)
			for rest := data; len(rest) > 0; {
				n := min(len(rest), int(step%40)+1)
				if k, err := w.Write(rest[:n]); k != n || err != nil {
					t.Fatalf("Write = %d, %v, want %d", k, err, n)
				}
				rest = rest[n:]
			}
			if err := w.Flush(); err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(out.Bytes(), want) {
				t.Errorf("in pieces of %d: %q becomes %q, want %q", step%40+1, data, out.Bytes(), want)
			}
		}
	})
}
