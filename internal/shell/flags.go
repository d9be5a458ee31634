// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"fmt"
	"strings"
)

// flags are the parsed options of a utility.
type flags struct {
	values map[rune][]string // by letter; "" for an option without argument
	rest   []string
}

// has reports whether any of the letters was given.
func (f flags) has(letters string) bool {
	for _, c := range letters {
		if len(f.values[c]) > 0 {
			return true
		}
	}
	return false
}

// last returns the argument of the last use of an option, or def.
func (f flags) last(c rune, def string) string {
	if v := f.values[c]; len(v) > 0 {
		return v[len(v)-1]
	}
	return def
}

// parseFlags parses args as getopt(3) does by spec: letters, a colon behind those that take an
// argument, a plus in front when the options end at the first operand. long gives names to
// letters, as "name=n name2=m".
func parseFlags(args []string, spec, long string) (flags, error) {
	f := flags{values: map[rune][]string{}}
	stop := strings.HasPrefix(spec, "+")
	for len(args) > 0 {
		word := args[0]
		args = args[1:]
		var err error
		switch {
		case word == "--":
			f.rest = append(f.rest, args...)
			return f, nil
		case strings.HasPrefix(word, "--"):
			args, err = f.long(word, args, spec, long)
		case len(word) > 1 && word[0] == '-':
			args, err = f.short(word[1:], args, spec)
		case stop:
			f.rest = append([]string{word}, args...)
			return f, nil
		default:
			f.rest = append(f.rest, word)
		}
		if err != nil {
			return f, err
		}
	}
	return f, nil
}

// long takes "--name" or "--name=value" and returns the remaining words.
func (f flags) long(word string, args []string, spec, long string) ([]string, error) {
	name, value, given := strings.Cut(word[2:], "=")
	for pair := range strings.FieldsSeq(long) {
		n, letter, _ := strings.Cut(pair, "=")
		if n != name {
			continue
		}
		takes := strings.Contains(spec, letter+":")
		if takes && !given {
			if len(args) == 0 {
				return nil, fmt.Errorf("option --%s requires an argument", name)
			}
			value, args = args[0], args[1:]
		}
		f.values[rune(letter[0])] = append(f.values[rune(letter[0])], value)
		return args, nil
	}
	return nil, fmt.Errorf("unrecognized option '%s'", word)
}

// short takes the letters of one word and returns the remaining words.
func (f flags) short(letters string, args []string, spec string) ([]string, error) {
	for i, c := range letters {
		at := strings.IndexRune(spec, c)
		if at < 0 || c == ':' || c == '+' {
			return nil, fmt.Errorf("invalid option -- '%c'", c)
		}
		if at+1 == len(spec) || spec[at+1] != ':' {
			f.values[c] = append(f.values[c], "")
			continue
		}
		value := letters[i+len(string(c)):]
		if value == "" {
			if len(args) == 0 {
				return nil, fmt.Errorf("option requires an argument -- '%c'", c)
			}
			value, args = args[0], args[1:]
		}
		f.values[c] = append(f.values[c], value)
		return args, nil
	}
	return args, nil
}
