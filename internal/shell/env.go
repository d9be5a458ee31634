// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
)

// env is env: -i, -u NAME, NAME=value, command.
func env(ctx context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "+iu:0", "ignore-environment=i unset=u")
	if err != nil {
		return p.fail(125, "%v", err)
	}
	child := *p
	child.environ = slices.Clone(p.environ)
	if f.has("i") || len(f.rest) > 0 && f.rest[0] == "-" {
		child.environ = nil
	}
	drop := func(name string) {
		child.environ = slices.DeleteFunc(child.environ, func(v string) bool { return strings.HasPrefix(v, name+"=") })
	}
	for _, name := range f.values['u'] {
		drop(name)
	}
	rest := f.rest
	if len(rest) > 0 && rest[0] == "-" {
		rest = rest[1:]
	}
	for len(rest) > 0 && strings.Contains(rest[0], "=") {
		name, _, _ := strings.Cut(rest[0], "=")
		drop(name)
		child.environ = append(child.environ, rest[0])
		rest = rest[1:]
	}
	if len(rest) > 0 {
		return child.run(ctx, rest)
	}
	for _, v := range child.environ {
		fmt.Fprintln(p.out, v)
	}
	return 0
}

// xargs is xargs: -0, -n, -I, -r, -d, -t; -P is taken and ignored.
func xargs(ctx context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "+0n:I:rd:tP:", "null=0 max-args=n no-run-if-empty=r delimiter=d replace=I verbose=t max-procs=P")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	command := f.rest
	if len(command) == 0 {
		command = []string{"echo"}
	}
	limit, err := strconv.Atoi(f.last('n', "1000"))
	if err != nil || limit < 1 {
		return p.fail(1, "invalid number: '%s'", f.last('n', ""))
	}
	items, err := xargsItems(p.in, f)
	if err != nil {
		return p.fail(1, "%v", err)
	}
	child := *p
	child.in = strings.NewReader("")
	status := 0
	call := func(words []string) {
		if f.has("t") {
			fmt.Fprintln(p.err, strings.Join(words, " "))
		}
		switch n := child.run(ctx, words); {
		case n == 126 || n == 127:
			status = n
		case n != 0 && status == 0:
			status = 123
		}
	}
	if mark := f.last('I', ""); mark != "" {
		for _, item := range items {
			words := slices.Clone(command)
			for i := range words {
				words[i] = strings.ReplaceAll(words[i], mark, item)
			}
			call(words)
		}
		return status
	}
	if len(items) == 0 && !f.has("r") {
		call(command)
	}
	for chunk := range slices.Chunk(items, limit) {
		call(slices.Concat(command, chunk))
	}
	return status
}

// xargsItems splits the input: at blanks outside quotes, at lines with -I, at one byte with
// -0 and -d.
func xargsItems(r io.Reader, f flags) ([]string, error) {
	data, err := io.ReadAll(bufio.NewReader(r))
	if err != nil {
		return nil, err
	}
	text := string(data)
	sep := ""
	switch {
	case f.has("0"):
		sep = "\x00"
	case f.has("d"):
		sep = strings.ReplaceAll(f.last('d', ""), `\n`, "\n")
	case f.has("I"):
		sep = "\n"
	}
	if sep == "" {
		return quotedWords(text)
	}
	text = strings.TrimSuffix(text, sep)
	if text == "" {
		return nil, nil
	}
	items := strings.Split(text, sep)
	if f.has("I") && !f.has("0d") {
		items = slices.DeleteFunc(items, func(s string) bool { return strings.TrimSpace(s) == "" })
	}
	return items, nil
}

// quotedWords splits text at blanks; quotes and backslashes protect.
func quotedWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	quote, in := rune(0), false
	escaped := false
	for _, c := range text {
		switch {
		case escaped:
			word.WriteRune(c)
			escaped = false
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteRune(c)
		case c == '\\':
			escaped, in = true, true
		case c == '\'' || c == '"':
			quote, in = c, true
		case c == ' ' || c == '\t' || c == '\n':
			if in {
				words = append(words, word.String())
				word.Reset()
			}
			in = false
		default:
			word.WriteRune(c)
			in = true
		}
	}
	if quote != 0 {
		return nil, errors.New("unmatched quote")
	}
	if in {
		words = append(words, word.String())
	}
	return words, nil
}
