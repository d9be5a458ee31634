// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"
)

// maxDepth bounds the nesting of a document. Real ones reach five.
const maxDepth = 32

// shape says which keys a kind of document knows, so that a key in another case is
// noticed: encoding/json would take "Layers" for layers, other parsers do not.
type shape map[string]string

// newShape builds a shape from keys in their exact spelling.
func newShape(keys string) shape {
	s := shape{}
	for _, k := range strings.Fields(keys) {
		s[strings.ToLower(k)] = k
	}
	return s
}

// freeKeys are the members whose value is a map with keys of the user's choice.
func freeKeys(key string) bool {
	switch key {
	case "annotations", "Labels", "ExposedPorts", "Volumes":
		return true
	}
	return false
}

// level is one open object or array while a document is scanned.
type level struct {
	object bool
	free   bool            // keys are data: only exact duplicates matter
	key    string          // last key read, when a value is due
	seen   map[string]bool // keys so far; lower case unless free
}

// checkKeys scans data, which must be one JSON object, and returns its top-level
// keys. It refuses duplicate keys, keys in another case than the known ones,
// excessive nesting, invalid UTF-8 and trailing data.
func checkKeys(data []byte, known shape) (map[string]bool, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("not valid UTF-8")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.UseNumber()
	top := map[string]bool{}
	var stack []*level
	for {
		tok, err := dec.Token()
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return nil, err
		}
		if len(stack) == 0 && tok != json.Delim('{') {
			return nil, errors.New("not a JSON object")
		}
		switch tok {
		case json.Delim('{'), json.Delim('['):
			if len(stack) >= maxDepth {
				return nil, errors.New("nested too deep")
			}
			stack = append(stack, openLevel(stack, tok == json.Delim('{')))
			continue
		case json.Delim('}'), json.Delim(']'):
			stack = stack[:len(stack)-1]
			if len(stack) == 0 {
				return top, checkEnd(dec)
			}
		default:
			cur := stack[len(stack)-1]
			if key, ok := tok.(string); ok && cur.object && cur.key == "" {
				if err := cur.enter(key, known); err != nil {
					return nil, err
				}
				if len(stack) == 1 {
					top[key] = true
				}
				continue
			}
		}
		stack[len(stack)-1].key = "" // the value is complete
	}
}

// openLevel returns the level of an object or array that begins inside stack.
func openLevel(stack []*level, object bool) *level {
	l := &level{object: object, seen: map[string]bool{}}
	if len(stack) > 0 {
		parent := stack[len(stack)-1]
		l.free = parent.object && !parent.free && freeKeys(parent.key)
	}
	return l
}

// enter records a key of an object.
func (l *level) enter(key string, known shape) error {
	if key == "" {
		// No document has one, and "" also marks "no key read yet".
		return errors.New("empty key")
	}
	name := key
	if !l.free {
		name = strings.ToLower(key)
		if exact, ok := known[name]; ok && exact != key {
			return fmt.Errorf("key %s must be spelled %q", quote(key), exact)
		}
	}
	if l.seen[name] {
		return fmt.Errorf("key %s occurs twice", quote(key))
	}
	l.seen[name] = true
	l.key = key
	return nil
}

// checkEnd returns an error unless only white space is left.
func checkEnd(dec *json.Decoder) error {
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the document")
	}
	return nil
}
