// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"strings"
)

var (
	errQuote  = errors.New("a quote is not closed")
	errEscape = errors.New("nothing follows the last backslash")
)

// splitWords splits text into words as a POSIX shell does, without expanding
// anything: white space separates, '…' is literal, in "…" a backslash escapes
// $ ` " \ and line ends, elsewhere it escapes the next character, and # at the
// start of a word begins a comment.
func splitWords(text string) ([]string, error) {
	var words []string
	var word strings.Builder
	inWord := false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case strings.IndexByte(" \t\r\n", c) >= 0:
			if inWord {
				words = append(words, word.String())
			}
			word.Reset()
			inWord = false
		case c == '#' && !inWord:
			end := strings.IndexByte(text[i:], '\n')
			if end < 0 {
				return words, nil
			}
			i += end
		case c == '\'':
			inWord = true
			end := strings.IndexByte(text[i+1:], '\'')
			if end < 0 {
				return nil, errQuote
			}
			word.WriteString(text[i+1 : i+1+end])
			i += 1 + end
		case c == '"':
			inWord = true
			n, err := doubleQuoted(text[i+1:], &word)
			if err != nil {
				return nil, err
			}
			i += 1 + n
		case c == '\\':
			if i++; i == len(text) {
				return nil, errEscape
			}
			if text[i] != '\n' {
				inWord = true
				word.WriteByte(text[i])
			}
		default:
			inWord = true
			word.WriteByte(c)
		}
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// doubleQuoted writes what is before the closing quote, and returns where that is.
func doubleQuoted(text string, word *strings.Builder) (int, error) {
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			return i, nil
		case c == '\\' && i+1 < len(text) && strings.IndexByte("$`\"\\\n", text[i+1]) >= 0:
			i++
			if text[i] != '\n' {
				word.WriteByte(text[i])
			}
		default:
			word.WriteByte(c)
		}
	}
	return 0, errQuote
}
