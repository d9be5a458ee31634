// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"errors"
	"regexp"
	"slices"
	"sort"
	"strings"
)

// Severity says how much a finding matters.
type Severity string

// The severities, worst first. A build fails for a SeverityError.
const (
	SeverityError   Severity = "error"
	SeverityWarning Severity = "warning"
	SeverityNote    Severity = "note"
)

// Rule is one thing that Lint looks for.
type Rule struct {
	ID       string
	Severity Severity
	About    string // a sentence
}

// The rules, in the order of the documentation.
var (
	ruleDecode       = Rule{"decode-error", SeverityError, "The file is refused by a build."}
	ruleUnknownKey   = Rule{"unknown-key", SeverityError, "A key that the language does not have."}
	ruleMissingFile  = Rule{"missing-file", SeverityError, "A local file or directory that is not there."}
	ruleImport       = Rule{"deprecated-import", SeverityWarning, "The key import is deprecated in favour of imports."}
	ruleLatest       = Rule{"latest-tag", SeverityWarning, "A base image without a tag, or with the tag latest, changes often."}
	ruleUnpinned     = Rule{"unpinned-base", SeverityNote, "A base image without a digest can change under its tag."}
	ruleHash         = Rule{"import-without-hash", SeverityWarning, "A download that is not verified."}
	ruleSecret       = Rule{"secret", SeverityWarning, "Something that looks like a secret in an environment, a label or an annotation."}
	ruleSameName     = Rule{"same-name-import", SeverityWarning, "Two imports with one name in /stacker/imports: the last one wins."}
	ruleUnusedValue  = Rule{"unused-substitution", SeverityWarning, "A value for a placeholder that no file has."}
	ruleUnusedStage  = Rule{"unused-stage", SeverityWarning, "A build_only stage that no stage needs."}
	ruleEnvironment  = Rule{"duplicate-environment", SeverityNote, "A variable that the base stage sets to the same value."}
	ruleRunList      = Rule{"run-list", SeverityNote, "A run that is a list: its texts are one script, which a block text shows better."}
	ruleNoSuchIgnore = Rule{"unknown-ignore", SeverityWarning, "A comment lint:ignore that names no rule."}
)

// Rules returns all rules.
func Rules() []Rule {
	return []Rule{
		ruleDecode, ruleUnknownKey, ruleMissingFile, ruleImport, ruleLatest, ruleUnpinned, ruleHash, ruleSecret, ruleSameName,
		ruleUnusedValue, ruleUnusedStage, ruleEnvironment, ruleRunList, ruleNoSuchIgnore,
	}
}

// Finding is one thing that Lint found.
type Finding struct {
	Rule  Rule
	Error *Error // place, message, hint
}

// Lint reads build files and their prerequisites and tells what is wrong or
// unwise in those named, in the order of their lines. Placeholders need no value;
// what depends on one without is not judged. A comment `lint:ignore RULE…` at the
// end of a line, or alone on the line before, silences rules there. exists tells
// whether a path exists; nil: it is not asked.
//
// The error is one of the options, not of the files.
func Lint(paths []string, o LoadOptions, exists func(path string) bool) ([]Finding, error) {
	o.AllowMissing = true
	if _, err := newSubstitutions(o, nil); err != nil {
		return nil, err
	}
	l := &linter{exists: exists, values: map[string]bool{}, needed: map[string]bool{}}
	known := true
	for _, path := range paths {
		p, err := loadAll([]string{path}, o, true)
		if err == nil {
			_, err = p.Order()
		}
		if err != nil {
			l.refused(err)
			known = false
			continue
		}
		for _, f := range p.Files {
			l.note(p, f)
			if f.Name == path {
				l.files = append(l.files, f)
			}
		}
	}
	for _, f := range l.files {
		l.file(f)
	}
	if known { // else the values may belong to what was not read
		l.unusedValues(o)
	}
	return l.found, nil
}

type linter struct {
	exists func(string) bool
	files  []*File         // those that were named
	values map[string]bool // keys of placeholders
	needed map[string]bool // stages that others need: files are read one by one, so they are known by stageID
	found  []Finding

	src    *document // of the file at hand
	lines  map[int]bool
	stages map[string]*Stage
}

func stageID(s *Stage) string { return s.File.Path + "\x00" + s.Name }

// refused turns errors of the decoder into findings.
func (l *linter) refused(err error) {
	var list Errors
	var one *Error
	switch {
	case errors.As(err, &list):
	case errors.As(err, &one):
		list = Errors{one}
	default:
		list = Errors{{Msg: err.Error(), Err: err}}
	}
	for _, e := range list {
		rule := ruleDecode
		if e.unknownKey {
			rule = ruleUnknownKey
		}
		l.found = append(l.found, Finding{rule, e})
	}
}

// note remembers what a file uses of others.
func (l *linter) note(p *Project, f *File) {
	for key := range f.SubstitutionsUsed {
		l.values[key] = true
	}
	for _, s := range f.Stages {
		for _, name := range s.Needs() {
			if n := p.Stage(name); n != nil {
				l.needed[stageID(n)] = true
			}
		}
	}
}

// file judges one file.
func (l *linter) file(f *File) {
	l.src = newDocument(f.Name, f.Raw)
	l.src.secret = isLink(f.Path)
	l.lines = f.unknownLines
	l.stages = map[string]*Stage{}
	first := len(l.found)
	for _, s := range f.Stages {
		l.stages[s.Name] = s
	}
	for _, s := range f.Stages {
		l.stage(s)
	}
	ignored := l.ignores()
	mine := slices.DeleteFunc(slices.Clone(l.found[first:]), func(x Finding) bool {
		return slices.Contains(ignored[x.Error.Pos.Line], x.Rule.ID)
	})
	sort.SliceStable(mine, func(i, j int) bool { return before(mine[i].Error.Pos, mine[j].Error.Pos) })
	l.found = append(l.found[:first], mine...)
}

// add notes a finding, unless it depends on a value that is not known.
func (l *linter) add(r Rule, at Pos, hint, format string, args ...any) {
	if !l.lines[at.Line] {
		l.found = append(l.found, Finding{r, l.src.fail(at, hint, format, args...)})
	}
}

var ignoreComment = regexp.MustCompile(`(?:^|\s)#\s*lint:ignore\s+(.*)$`)

// ignores lists the rules that comments silence, by line.
func (l *linter) ignores() map[int][]string {
	all := map[int][]string{}
	for number, text := range strings.Split(l.src.raw, "\n") {
		number++
		m := ignoreComment.FindStringSubmatch(strings.TrimRight(text, "\r"))
		if m == nil {
			continue
		}
		line := number
		if strings.HasPrefix(strings.TrimSpace(text), "#") {
			line++
		}
		for _, id := range strings.FieldsFunc(m[1], func(r rune) bool { return r == ' ' || r == ',' || r == '\t' }) {
			if !slices.ContainsFunc(Rules(), func(r Rule) bool { return r.ID == id }) {
				// Without the line: it may be one that was to be kept quiet.
				l.found = append(l.found, Finding{ruleNoSuchIgnore, &Error{
					Pos: Pos{File: l.src.name, Line: number, Column: 1}, Msg: "there is no rule " + short(id), Hint: "docs/lint.md has the rules",
				}})
			}
			all[line] = append(all[line], id)
		}
	}
	return all
}

// unusedValues judges what was given on the command line.
func (l *linter) unusedValues(o LoadOptions) {
	for _, v := range o.Substitutions {
		inValue := func(other Substitution) bool { return strings.Contains(other.Value, "${{"+v.Key) }
		if !l.values[v.Key] && !slices.ContainsFunc(o.Substitutions, inValue) {
			l.found = append(l.found, Finding{ruleUnusedValue, &Error{
				Msg: "no file has a placeholder ${{" + short(v.Key) + "}}", Hint: "it was given a value by --substitute",
			}})
		}
	}
}
