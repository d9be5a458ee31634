// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// maxLine is the longest line that line-wise utilities take.
const maxLine = 64 << 20

// eachFile calls use with each named file, standard input for "-" and when there is no name.
func (p *proc) eachFile(names []string, use func(name string, r io.Reader) error) int {
	if len(names) == 0 {
		names = []string{"-"}
	}
	status := 0
	for _, name := range names {
		if err := p.withFile(name, use); err != nil {
			status = p.failPath(name, err)
		}
	}
	return status
}

func (p *proc) withFile(name string, use func(name string, r io.Reader) error) error {
	if name == "-" {
		return use(name, p.in)
	}
	f, err := os.Open(p.path(name))
	if err != nil {
		return err
	}
	defer f.Close()
	return use(name, f)
}

// eachLine calls use with each line of r, without the newline, until it returns false.
func eachLine(r io.Reader, use func(line string) bool) error {
	s := bufio.NewScanner(r)
	s.Buffer(nil, maxLine)
	s.Split(splitLine)
	for s.Scan() {
		if !use(s.Text()) {
			return nil
		}
	}
	return s.Err()
}

// splitLine is bufio.ScanLines that keeps a carriage return.
func splitLine(data []byte, atEOF bool) (int, []byte, error) {
	if i := slices.Index(data, '\n'); i >= 0 {
		return i + 1, data[:i], nil
	}
	if atEOF && len(data) > 0 {
		return len(data), data, nil
	}
	return 0, nil, nil
}

// grep is grep: -E, -F, -q, -v, -i, -c, -l, -n, -o, -w, -x, -h, -H, -s, -r, -e.
// A basic expression is understood as an extended one after its backslashes are swapped.
func grep(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "EFGqviclnowxhHsrRe:a", "extended-regexp=E fixed-strings=F quiet=q invert-match=v ignore-case=i count=c only-matching=o recursive=r regexp=e")
	if err != nil {
		return p.fail(2, "%v", err)
	}
	patterns := f.values['e']
	if len(patterns) == 0 {
		if len(f.rest) == 0 {
			return p.fail(2, "no pattern given")
		}
		patterns, f.rest = f.rest[:1], f.rest[1:]
	}
	re, err := grepPattern(patterns, f)
	if err != nil {
		return p.fail(2, "%v", err)
	}
	names := f.rest
	if f.has("rR") {
		names = p.filesBelow(names)
	}
	label := (len(names) > 1 || f.has("rRH")) && !f.has("h")
	found := false
	status := p.eachGrepFile(names, f, func(name string, r io.Reader) error {
		hit, err := p.grepOne(re, f, name, r, label)
		found = found || hit
		return err
	})
	switch {
	case status != 0 && !(found && f.has("q")):
		return 2
	case found:
		return 0
	}
	return 1
}

// eachGrepFile is eachFile, silent about missing files with -s.
func (p *proc) eachGrepFile(names []string, f flags, use func(string, io.Reader) error) int {
	if !f.has("s") {
		return p.eachFile(names, use)
	}
	quiet := *p
	quiet.err = io.Discard
	return quiet.eachFile(names, use)
}

func grepPattern(patterns []string, f flags) (*regexp.Regexp, error) {
	var parts []string
	for _, text := range patterns {
		for part := range strings.SplitSeq(text, "\n") {
			switch {
			case f.has("F"):
				part = regexp.QuoteMeta(part)
			case !f.has("E"):
				part = extended(part)
			}
			parts = append(parts, part)
		}
	}
	expr := "(?:" + strings.Join(parts, "|") + ")"
	if f.has("w") {
		expr = `\b` + expr + `\b`
	}
	if f.has("x") {
		expr = "^" + expr + "$"
	}
	if f.has("i") {
		expr = "(?i)" + expr
	}
	return regexp.Compile(expr)
}

// extended turns a basic regular expression into an extended one: there \( \) \{ \} \| \+ \?
// are the operators and the bare characters stand for themselves, here it is the other way round.
func extended(text string) string {
	const swapped = "(){}|+?"
	var out strings.Builder
	inSet := false
	for i := 0; i < len(text); i++ {
		c := text[i]
		switch {
		case inSet:
			inSet = c != ']'
			out.WriteByte(c)
		case c == '\\' && i+1 < len(text):
			i++
			if !strings.ContainsRune(swapped, rune(text[i])) {
				out.WriteByte('\\')
			}
			out.WriteByte(text[i])
		case c == '[':
			inSet = true
			out.WriteByte(c)
		case strings.ContainsRune(swapped, rune(c)), c == '*' && out.Len() == 0:
			out.WriteByte('\\')
			out.WriteByte(c)
		default:
			out.WriteByte(c)
		}
	}
	return out.String()
}

// filesBelow returns the regular files at and below the named directories.
func (p *proc) filesBelow(names []string) []string {
	if len(names) == 0 {
		names = []string{"."}
	}
	var files []string
	for _, name := range names {
		root := p.path(name)
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() {
				files = append(files, name+strings.TrimPrefix(path, root))
			}
			return nil
		})
		if err != nil {
			files = append(files, name)
		}
	}
	return files
}

func (p *proc) grepOne(re *regexp.Regexp, f flags, name string, r io.Reader, label bool) (bool, error) {
	count, number := 0, 0
	prefix := ""
	if label {
		prefix = name + ":"
	}
	err := eachLine(r, func(line string) bool {
		number++
		if re.MatchString(line) == f.has("v") {
			return true
		}
		count++
		if f.has("ql") {
			return false
		}
		if f.has("c") {
			return true
		}
		at := prefix
		if f.has("n") {
			at += strconv.Itoa(number) + ":"
		}
		if !f.has("o") {
			fmt.Fprintf(p.out, "%s%s\n", at, line)
			return true
		}
		for _, m := range re.FindAllString(line, -1) {
			fmt.Fprintf(p.out, "%s%s\n", at, m)
		}
		return true
	})
	switch {
	case f.has("q"):
	case f.has("l") && count > 0:
		fmt.Fprintln(p.out, name)
	case f.has("c"):
		fmt.Fprintf(p.out, "%s%d\n", prefix, count)
	}
	return count > 0, err
}

// sha256sum is sha256sum: -c, --status, -q.
func sha256sum(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "cbtqs", "check=c binary=b text=t quiet=q status=s")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if !f.has("c") {
		return p.eachFile(f.rest, func(name string, r io.Reader) error {
			sum, err := sha256Of(r)
			if err == nil {
				fmt.Fprintf(p.out, "%s  %s\n", sum, name)
			}
			return err
		})
	}
	bad := 0
	status := p.eachFile(f.rest, func(_ string, r io.Reader) error {
		lines := 0
		err := eachLine(r, func(line string) bool {
			want, name, ok := strings.Cut(line, " ")
			if !ok || len(want) != 2*sha256.Size {
				return true
			}
			lines++
			if !p.checkSum(want, strings.TrimPrefix(strings.TrimPrefix(name, " "), "*"), f) {
				bad++
			}
			return true
		})
		if err == nil && lines == 0 {
			err = errors.New("no properly formatted checksum lines found")
		}
		return err
	})
	if bad > 0 {
		if !f.has("s") {
			fmt.Fprintf(p.err, "sha256sum: WARNING: %d computed checksum did NOT match\n", bad)
		}
		return 1
	}
	return status
}

func sha256Of(r io.Reader) (string, error) {
	h := sha256.New()
	_, err := io.Copy(h, r)
	return hex.EncodeToString(h.Sum(nil)), err
}

// checkSum prints and returns whether a file has the sum that a list says.
func (p *proc) checkSum(want, name string, f flags) bool {
	sum := ""
	err := p.withFile(name, func(_ string, r io.Reader) (err error) {
		sum, err = sha256Of(r)
		return err
	})
	ok := err == nil && strings.EqualFold(sum, want)
	switch {
	case f.has("s"):
	case err != nil:
		fmt.Fprintf(p.out, "%s: FAILED open or read\n", name)
	case !ok:
		fmt.Fprintf(p.out, "%s: FAILED\n", name)
	case !f.has("q"):
		fmt.Fprintf(p.out, "%s: OK\n", name)
	}
	return ok
}
