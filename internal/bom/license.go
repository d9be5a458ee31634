// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package bom

import (
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"slices"
	"strings"
	"sync"
)

// licenseIDs are the identifiers of the SPDX licence list 3.17, licences and
// exceptions, one a line: those that the schema of CycloneDX 1.6 knows.
//
//go:embed licenses.txt
var licenseIDs string

// knownLicenses gives the right spelling of an identifier in lower case.
var knownLicenses = sync.OnceValue(func() map[string]string {
	known := map[string]string{}
	for id := range strings.FieldsSeq(licenseIDs) {
		known[strings.ToLower(id)] = id
	}
	for family, name := range map[string]string{"gpl": "GPL", "lgpl": "LGPL", "agpl": "AGPL"} {
		for _, v := range []string{"1", "2", "2.1", "3"} {
			full := v
			if !strings.Contains(v, ".") {
				full += ".0"
			}
			if _, ok := known[strings.ToLower(name+"-"+full+"-only")]; !ok {
				continue
			}
			for _, form := range []string{family + "-" + v, family + "-" + full, family + "v" + v, family + v} {
				known[form], known[form+"+"] = name+"-"+full+"-only", name+"-"+full+"-or-later"
			}
		}
	}
	for alias, id := range map[string]string{
		"expat": "MIT", "asl2.0": "Apache-2.0", "apache-2": "Apache-2.0", "apache2": "Apache-2.0", "mplv2.0": "MPL-2.0", "mpl-2": "MPL-2.0",
		"gfdl-1.2+": "GFDL-1.2-or-later", "gfdl-1.3+": "GFDL-1.3-or-later", "cc0": "CC0-1.0",
	} {
		known[alias] = id
	}
	return known
})

// license is what a package says about its licence, as documents need it.
type license struct {
	expression string            // SPDX expression; empty: nothing is known
	id         bool              // the expression is one identifier of the list
	refs       map[string]string // LicenseRef-… in it, and what they stand for
}

// licenseOf joins all texts about a package's licence.
func licenseOf(texts []string) license {
	l := license{refs: map[string]string{}}
	var terms []string
	for _, text := range texts {
		text = strings.Join(strings.Fields(text), " ")
		if text == "" {
			continue
		}
		p := licenseParser{words: licenseWords(text), refs: map[string]string{}}
		term, err := p.parse()
		if err != nil { // the name of something, in words
			term = licenseRef(text)
			p.refs = map[string]string{term: text}
		}
		for _, t := range operands(term, len(texts) > 1) {
			if !slices.Contains(terms, t) {
				terms = append(terms, t)
			}
		}
		for k, v := range p.refs {
			l.refs[k] = v
		}
	}
	slices.Sort(terms)
	l.expression = strings.Join(terms, " AND ")
	_, l.id = knownLicenses()[strings.ToLower(l.expression)]
	return l
}

// operands gives what an expression joins by AND, so that nothing is said twice. One
// with a choice stays whole, in parentheses where it is not alone.
func operands(term string, joined bool) []string {
	switch choice := strings.Contains(term, " OR "); {
	case choice && joined:
		return []string{"(" + term + ")"}
	case choice:
		return []string{term}
	}
	return strings.Split(strings.NewReplacer("(", "", ")", "").Replace(term), " AND ")
}

// licenseWords takes an expression apart: words and parentheses.
func licenseWords(s string) []string {
	return strings.Fields(strings.NewReplacer("(", " ( ", ")", " ) ").Replace(s))
}

// licenseParser reads the expressions of SPDX 2.3 annex D, with words in any case
// and with the names that Debian and Fedora use.
type licenseParser struct {
	words []string
	depth int
	refs  map[string]string
}

// Bounds of an expression; a longer text is a name.
const (
	maxLicenseWords = 200
	maxLicenseDepth = 20
)

var errLicense = errors.New("no licence expression")

func (p *licenseParser) parse() (string, error) {
	if len(p.words) > maxLicenseWords {
		return "", errLicense
	}
	s, err := p.chain(" OR ", func() (string, error) { return p.chain(" AND ", p.term) })
	if err == nil && len(p.words) > 0 {
		err = errLicense
	}
	return s, err
}

// next takes the next word away if it is the operator.
func (p *licenseParser) next(operator string) bool {
	if len(p.words) > 0 && strings.EqualFold(p.words[0], operator) {
		p.words = p.words[1:]
		return true
	}
	return false
}

func (p *licenseParser) chain(operator string, operand func() (string, error)) (string, error) {
	s, err := operand()
	for err == nil && p.next(strings.TrimSpace(operator)) {
		var more string
		more, err = operand()
		s += operator + more
	}
	return s, err
}

func (p *licenseParser) term() (string, error) {
	if p.next("(") {
		if p.depth++; p.depth > maxLicenseDepth {
			return "", errLicense
		}
		s, err := p.chain(" OR ", func() (string, error) { return p.chain(" AND ", p.term) })
		if err == nil && !p.next(")") {
			err = errLicense
		}
		p.depth--
		return "(" + s + ")", err
	}
	id, known, err := p.identifier()
	if err != nil || !p.next("WITH") {
		return id, err
	}
	exception, ok, err := p.identifier()
	if err == nil && (!known || !ok) {
		err = errLicense
	}
	return id + " WITH " + exception, err
}

// identifier is one licence or exception. One that is not in the list becomes a
// LicenseRef.
func (p *licenseParser) identifier() (id string, known bool, err error) {
	if len(p.words) == 0 {
		return "", false, errLicense
	}
	word := p.words[0]
	p.words = p.words[1:]
	lower := strings.ToLower(word)
	if slices.Contains([]string{"and", "or", "with", "(", ")"}, lower) {
		return "", false, errLicense
	}
	if id, ok := knownLicenses()[lower]; ok {
		return id, true, nil
	}
	if id, ok := knownLicenses()[strings.TrimSuffix(lower, "+")]; ok {
		return id + "+", true, nil
	}
	ref := licenseRef(word)
	p.refs[ref] = word
	return ref, false, nil
}

// licenseRef is a name for a licence that is not in the list. Different texts have
// different names.
func licenseRef(text string) string {
	const most = 60
	if rest, ok := strings.CutPrefix(text, "LicenseRef-"); ok && idString(rest) == rest && len(rest) < most {
		return text
	}
	name := idString(text)
	if name != text || len(name) > most {
		sum := sha256.Sum256([]byte(text))
		name = strings.Trim(name[:min(len(name), most)]+"-"+hex.EncodeToString(sum[:4]), "-")
	}
	return "LicenseRef-" + name
}

// idString keeps letters, digits, dots and hyphens: what an SPDX identifier has.
func idString(s string) string {
	var b strings.Builder
	for _, r := range s {
		switch {
		case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '.', r == '-':
			b.WriteRune(r)
		default:
			if !strings.HasSuffix(b.String(), "-") {
				b.WriteByte('-')
			}
		}
	}
	return strings.Trim(b.String(), "-")
}
