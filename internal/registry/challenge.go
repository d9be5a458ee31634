// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"net/http"
	"strings"
)

// maxChallenge bounds one WWW-Authenticate header in bytes.
const maxChallenge = 16 << 10

// challenge is one way to authenticate that a registry offers (RFC 9110, 11.6.1).
type challenge struct {
	scheme string            // lower case
	params map[string]string // names in lower case; without repetitions
}

// parseChallenges parses a WWW-Authenticate header, which may offer several.
func parseChallenges(s string) ([]challenge, error) {
	if len(s) > maxChallenge {
		return nil, errors.New("WWW-Authenticate is too long")
	}
	var out []challenge
	p := &headerParser{rest: s}
	for {
		p.skip(" \t,")
		if p.rest == "" {
			return out, nil
		}
		word := p.token()
		if word == "" {
			return nil, errors.New("WWW-Authenticate is malformed")
		}
		p.skip(" \t")
		// token "=" begins a parameter of the challenge at hand, unless it is
		// followed by what only a token68 has; those schemes are not used here.
		if !strings.HasPrefix(p.rest, "=") {
			out = append(out, challenge{scheme: strings.ToLower(word), params: map[string]string{}})
			continue
		}
		if len(out) == 0 {
			return nil, errors.New("WWW-Authenticate begins with a parameter")
		}
		p.rest = p.rest[1:]
		p.skip(" \t")
		value, ok := p.value()
		name := strings.ToLower(word)
		params := out[len(out)-1].params
		if _, twice := params[name]; twice || !ok {
			return nil, errors.New("WWW-Authenticate is malformed")
		}
		params[name] = value
	}
}

// headerParser cuts words off the front of a header.
type headerParser struct{ rest string }

// skip drops leading characters of the set.
func (p *headerParser) skip(set string) { p.rest = strings.TrimLeft(p.rest, set) }

// token takes a token, which may be empty.
func (p *headerParser) token() string {
	end := strings.IndexFunc(p.rest, func(r rune) bool {
		return r <= ' ' || r > '~' || strings.ContainsRune("()<>@,;:\\\"/[]?={}", r)
	})
	if end < 0 {
		end = len(p.rest)
	}
	word := p.rest[:end]
	p.rest = p.rest[end:]
	return word
}

// value takes a token or a quoted string.
func (p *headerParser) value() (string, bool) {
	if !strings.HasPrefix(p.rest, "\"") {
		// Some registries do not quote URLs.
		end := strings.IndexAny(p.rest, " \t,")
		if end < 0 {
			end = len(p.rest)
		}
		word := p.rest[:end]
		p.rest = p.rest[end:]
		return word, word != "" && !strings.Contains(word, "\"")
	}
	var b strings.Builder
	for i := 1; i < len(p.rest); i++ {
		switch c := p.rest[i]; c {
		case '"':
			p.rest = p.rest[i+1:]
			return b.String(), true
		case '\\':
			if i++; i < len(p.rest) {
				b.WriteByte(p.rest[i])
			}
		default:
			b.WriteByte(c)
		}
	}
	return "", false
}

// chooseChallenge returns the challenge of a response to answer: bearer if there
// is one, else basic.
func chooseChallenge(h http.Header) (challenge, error) {
	var best challenge
	for _, line := range h.Values("WWW-Authenticate") {
		list, err := parseChallenges(line)
		if err != nil {
			return challenge{}, err
		}
		for _, c := range list {
			if (c.scheme == "bearer" && best.scheme != "bearer") || (c.scheme == "basic" && best.scheme == "") {
				best = c
			}
		}
	}
	if best.scheme == "" {
		return challenge{}, errors.New("registry asks for authentication and offers no way that is known (bearer, basic)")
	}
	return best, nil
}
