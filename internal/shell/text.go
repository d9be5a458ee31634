// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"unicode"
)

// headOrTail parses -n N, -N and -c N; lines is false for -c.
func headOrTail(args []string) (f flags, text string, lines bool, err error) {
	if len(args) > 0 && len(args[0]) > 1 && args[0][0] == '-' && unicode.IsDigit(rune(args[0][1])) {
		args = append([]string{"-n", args[0][1:]}, args[1:]...)
	}
	f, err = parseFlags(args, "n:c:qvf", "lines=n bytes=c quiet=q")
	if f.has("c") {
		return f, f.last('c', ""), false, err
	}
	return f, f.last('n', "10"), true, err
}

// head is head: -n, -c. A negative count is not supported.
func head(_ context.Context, p *proc, args []string) int {
	f, text, lines, err := headOrTail(args)
	if err != nil {
		return p.fail(1, "%v", err)
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 {
		return p.fail(1, "invalid count: '%s'", text)
	}
	return p.eachFile(f.rest, func(_ string, r io.Reader) error {
		if !lines {
			_, err := io.Copy(p.out, io.LimitReader(r, n))
			return err
		}
		b := bufio.NewReader(r)
		for range n {
			line, err := b.ReadString('\n')
			if _, werr := io.WriteString(p.out, line); werr != nil {
				return werr
			}
			if errors.Is(err, io.EOF) {
				return nil
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// tail is tail: -n N, -n +N, -c N. It does not follow.
func tail(_ context.Context, p *proc, args []string) int {
	f, text, lines, err := headOrTail(args)
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if f.has("f") {
		return p.fail(1, "-f is not supported")
	}
	n, err := strconv.Atoi(strings.TrimLeft(text, "+-"))
	if err != nil {
		return p.fail(1, "invalid count: '%s'", text)
	}
	return p.eachFile(f.rest, func(_ string, r io.Reader) error {
		data, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		var parts []string
		if lines {
			parts = slices.Collect(strings.Lines(string(data)))
		} else {
			parts = strings.Split(string(data), "")
		}
		from := max(0, len(parts)-n)
		if strings.HasPrefix(text, "+") {
			from = min(len(parts), max(0, n-1))
		}
		_, err = io.WriteString(p.out, strings.Join(parts[from:], ""))
		return err
	})
}

// tee is tee: -a.
func tee(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "ai", "append=a")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	mode := os.O_WRONLY | os.O_CREATE | os.O_TRUNC
	if f.has("a") {
		mode = os.O_WRONLY | os.O_CREATE | os.O_APPEND
	}
	status := 0
	outs := []io.Writer{p.out}
	for _, name := range f.rest {
		file, err := os.OpenFile(p.path(name), mode, 0o666)
		if err != nil {
			status = p.failPath(name, err)
			continue
		}
		defer file.Close()
		outs = append(outs, file)
	}
	if _, err := io.Copy(io.MultiWriter(outs...), p.in); err != nil {
		return p.fail(1, "%v", err)
	}
	return status
}

// wc is wc: -l, -w, -c, -m.
func wc(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "lwcm", "lines=l words=w bytes=c chars=m")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	var total [3]int64
	show := func(n [3]int64, name string) {
		var cols []string
		for i, letters := range []string{"l", "w", "cm"} {
			if f.has(letters) || !f.has("lwcm") {
				cols = append(cols, strconv.FormatInt(n[i], 10))
			}
		}
		if name != "-" || len(f.rest) > 0 {
			cols = append(cols, name)
		}
		fmt.Fprintln(p.out, strings.Join(cols, " "))
	}
	status := p.eachFile(f.rest, func(name string, r io.Reader) error {
		n, err := count(r, f.has("m"))
		for i := range n {
			total[i] += n[i]
		}
		show(n, name)
		return err
	})
	if len(f.rest) > 1 {
		show(total, "total")
	}
	return status
}

// count returns lines, words and bytes (or characters) of r.
func count(r io.Reader, chars bool) (n [3]int64, err error) {
	b := bufio.NewReader(r)
	inWord := false
	for {
		c, size, err := b.ReadRune()
		if errors.Is(err, io.EOF) {
			return n, nil
		}
		if err != nil {
			return n, err
		}
		if chars {
			size = 1
		}
		n[2] += int64(size)
		if c == '\n' {
			n[0]++
		}
		space := unicode.IsSpace(c)
		if !space && !inWord {
			n[1]++
		}
		inWord = !space
	}
}

// cut is cut: -d and -f, -c, -b, -s.
func cut(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "d:f:c:b:sn", "delimiter=d fields=f characters=c bytes=b only-delimited=s")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	list, delim := f.last('f', ""), f.last('d', "\t")
	if !f.has("f") {
		list, delim = f.last('c', f.last('b', "")), ""
	}
	ranges, err := cutRanges(list)
	if err != nil {
		return p.fail(1, "%v", err)
	}
	return p.eachFile(f.rest, func(_ string, r io.Reader) error {
		return eachLine(r, func(line string) bool {
			if delim != "" && !strings.Contains(line, delim) {
				if !f.has("s") {
					fmt.Fprintln(p.out, line)
				}
				return true
			}
			var kept []string
			for i, part := range strings.Split(line, delim) {
				if slices.ContainsFunc(ranges, func(r [2]int) bool { return i+1 >= r[0] && i+1 <= r[1] }) {
					kept = append(kept, part)
				}
			}
			fmt.Fprintln(p.out, strings.Join(kept, delim))
			return true
		})
	})
}

// cutRanges reads a list as "1,3-5,7-".
func cutRanges(text string) ([][2]int, error) {
	var ranges [][2]int
	for item := range strings.SplitSeq(text, ",") {
		from, to, dash := strings.Cut(item, "-")
		r := [2]int{1, 1 << 30}
		var err, err2 error
		if from != "" {
			r[0], err = strconv.Atoi(from)
		}
		if !dash {
			r[1] = r[0]
		} else if to != "" {
			r[1], err2 = strconv.Atoi(to)
		}
		if err != nil || err2 != nil || r[0] < 1 || item == "-" || item == "" {
			return nil, fmt.Errorf("invalid list: '%s'", text)
		}
		ranges = append(ranges, r)
	}
	return ranges, nil
}
