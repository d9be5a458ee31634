// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// sortLines is sort: -r, -n, -u, -f, -b, -k N, -t C, -o FILE. The order is that of the C locale.
func sortLines(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "rnufbsk:t:o:c", "reverse=r numeric-sort=n unique=u key=k field-separator=t output=o")
	if err != nil {
		return p.fail(2, "%v", err)
	}
	var lines []string
	status := p.eachFile(f.rest, func(_ string, r io.Reader) error {
		return eachLine(r, func(line string) bool {
			lines = append(lines, line)
			return true
		})
	})
	compare, err := lineOrder(f)
	if err != nil {
		return p.fail(2, "%v", err)
	}
	slices.SortStableFunc(lines, compare)
	if f.has("u") {
		lines = slices.CompactFunc(lines, func(a, b string) bool { return compare(a, b) == 0 })
	}
	out := p.out
	if name := f.last('o', ""); name != "" {
		file, err := os.Create(p.path(name))
		if err != nil {
			return p.failPath(name, err)
		}
		defer file.Close()
		out = file
	}
	for _, l := range lines {
		fmt.Fprintln(out, l)
	}
	return status
}

// lineOrder returns the comparison that the options of sort ask for.
func lineOrder(f flags) (func(a, b string) int, error) {
	field := 0
	numeric, reverse := f.has("n"), f.has("r")
	if k := f.last('k', ""); k != "" {
		digits := strings.TrimRightFunc(k, unicode.IsLetter)
		numeric = numeric || strings.Contains(k, "n")
		reverse = reverse || strings.Contains(k, "r")
		first, _, _ := strings.Cut(digits, ",")
		var err error
		if field, err = strconv.Atoi(strings.TrimRightFunc(first, unicode.IsLetter)); err != nil || field < 1 {
			return nil, fmt.Errorf("invalid key: '%s'", k)
		}
	}
	key := func(line string) string {
		if field > 0 {
			parts := strings.Fields(line)
			if t := f.last('t', ""); t != "" {
				parts = strings.Split(line, t)
			}
			line = strings.Join(parts[min(field-1, len(parts)):], " ")
		}
		if f.has("f") {
			line = strings.ToUpper(line)
		}
		return line
	}
	return func(a, b string) int {
		ka, kb := key(a), key(b)
		c := 0
		if numeric {
			c = compareNumbers(ka, kb)
		} else {
			c = strings.Compare(ka, kb)
		}
		if c == 0 && !f.has("us") {
			c = strings.Compare(a, b)
		}
		if reverse {
			c = -c
		}
		return c
	}, nil
}

func compareNumbers(a, b string) int {
	x, y := leadingNumber(a), leadingNumber(b)
	switch {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

func leadingNumber(s string) float64 {
	s = strings.TrimLeft(s, " \t")
	end := 0
	for end < len(s) && (s[end] >= '0' && s[end] <= '9' || s[end] == '.' || end == 0 && s[end] == '-') {
		end++
	}
	n, _ := strconv.ParseFloat(s[:end], 64)
	return n
}

// uniq is uniq: -c, -d, -u.
func uniq(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "cdu", "count=c repeated=d unique=u")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	last, n := "", 0
	flush := func() {
		if n == 0 || f.has("d") && n == 1 || f.has("u") && n > 1 {
			return
		}
		if f.has("c") {
			fmt.Fprintf(p.out, "%7d ", n)
		}
		fmt.Fprintln(p.out, last)
	}
	status := p.eachFile(f.rest, func(_ string, r io.Reader) error {
		return eachLine(r, func(line string) bool {
			if n > 0 && line == last {
				n++
				return true
			}
			flush()
			last, n = line, 1
			return true
		})
	})
	flush()
	return status
}

// tr is tr: -d, -s, -c; ranges, classes and backslash escapes. Bytes, not characters.
func tr(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "+dscC", "delete=d squeeze-repeats=s complement=c")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if want := 2; len(f.rest) == 0 || len(f.rest) > want || len(f.rest) < want && !f.has("ds") {
		return p.fail(1, "missing operand")
	}
	from := trSet(f.rest[0])
	if f.has("cC") {
		all := make([]byte, 0, 256)
		for c := range 256 {
			if !slices.Contains(from, byte(c)) {
				all = append(all, byte(c))
			}
		}
		from = all
	}
	var to []byte
	if len(f.rest) == 2 {
		to = trSet(f.rest[1])
	}
	if err := p.translate(from, to, f.has("d"), f.has("s")); err != nil {
		return p.fail(1, "%v", err)
	}
	return 0
}

func (p *proc) translate(from, to []byte, remove, squeeze bool) error {
	var table [256]int // what becomes of a byte; -1: removed
	for i := range table {
		table[i] = i
	}
	squeezed := to
	if len(to) == 0 {
		squeezed = from
	}
	for i, c := range from {
		switch {
		case remove:
			table[c] = -1
		case len(to) > 0:
			table[c] = int(to[min(i, len(to)-1)])
		}
	}
	in, out := bufio.NewReader(p.in), bufio.NewWriter(p.out)
	last := -1
	for {
		c, err := in.ReadByte()
		if err == io.EOF {
			return out.Flush()
		}
		if err != nil {
			return err
		}
		n := table[c]
		if n < 0 || squeeze && n == last && slices.Contains(squeezed, byte(n)) {
			continue
		}
		last = n
		if err := out.WriteByte(byte(n)); err != nil {
			return err
		}
	}
}

// trSet expands a set of tr.
func trSet(text string) []byte {
	classes := map[string]func(rune) bool{
		"alpha": unicode.IsLetter, "digit": unicode.IsDigit, "upper": unicode.IsUpper, "lower": unicode.IsLower,
		"space": unicode.IsSpace, "punct": func(c rune) bool { return unicode.IsPunct(c) || unicode.IsSymbol(c) },
		"alnum": func(c rune) bool { return unicode.IsLetter(c) || unicode.IsDigit(c) },
		"print": unicode.IsPrint, "cntrl": unicode.IsControl, "blank": func(c rune) bool { return c == ' ' || c == '\t' },
	}
	var set []byte
	for len(text) > 0 {
		if name, after, ok := strings.Cut(strings.TrimPrefix(text, "[:"), ":]"); ok && strings.HasPrefix(text, "[:") && classes[name] != nil {
			for c := range 128 {
				if classes[name](rune(c)) {
					set = append(set, byte(c))
				}
			}
			text = after
			continue
		}
		var first, last byte
		first, text = trByte(text)
		last = first
		if len(text) > 1 && text[0] == '-' {
			last, text = trByte(text[1:])
		}
		for c := int(first); c <= int(last); c++ {
			set = append(set, byte(c))
		}
	}
	return set
}

// trByte takes one byte, maybe written with a backslash, and returns the rest.
func trByte(text string) (byte, string) {
	if text[0] != '\\' || len(text) == 1 {
		return text[0], text[1:]
	}
	end := 1
	for end < len(text) && end < 4 && text[end] >= '0' && text[end] <= '7' {
		end++
	}
	if end > 1 {
		n, _ := strconv.ParseUint(text[1:end], 8, 16)
		return byte(n), text[end:]
	}
	if i := strings.IndexByte("ntrabfv", text[1]); i >= 0 {
		return "\n\t\r\a\b\f\v"[i], text[2:]
	}
	return text[1], text[2:]
}
