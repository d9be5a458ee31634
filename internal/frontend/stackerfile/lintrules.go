// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"path"
	"regexp"
	"strings"
)

// stage judges one stage.
func (l *linter) stage(s *Stage) {
	if s.LegacyImport {
		l.add(ruleImport, s.Pos, "write imports, and find the files in /stacker/imports", "import is deprecated, in layer %s", short(s.Name))
	}
	l.base(s.From)
	l.imports(s)
	for _, d := range s.OverlayDirs {
		l.present(d.Pos, d.Abs, d.Source)
	}
	for _, b := range s.Binds {
		l.present(b.Pos, b.Source, strings.TrimPrefix(b.Source, s.File.Dir+"/"))
	}
	if s.Run != nil && s.Run.list {
		l.add(ruleRunList, s.Run.Pos, "write run: | and the lines below it", "run of %s is a list, of which one script is made", short(s.Name))
	}
	l.secrets(s.Environment, "environment")
	l.secrets(s.BuildEnv, "build_env")
	l.secrets(s.Labels, "labels")
	l.secrets(s.Annotations, "annotations")
	l.environment(s)
	if s.BuildOnly && !l.needed[stageID(s)] {
		l.add(ruleUnusedStage, s.Pos, "remove it, or name the files that need it to lint, too", "no layer needs %s, which is build_only", short(s.Name))
	}
}

// base judges what a stage starts from.
func (l *linter) base(f From) {
	switch {
	case f.Type == "tar" && path.IsAbs(f.URL): // others are relative to where the program runs
		l.present(f.refPos, f.URL, f.URL)
		return
	case f.Type != "docker" || strings.Contains(f.URL, "@") || !strings.HasPrefix(f.URL, "docker://"):
		return
	}
	_, tag, _ := strings.Cut(f.URL[strings.LastIndexByte(f.URL, '/')+1:], ":")
	if tag == "" || tag == "latest" {
		l.add(ruleLatest, f.refPos, "name a version, or a digest: @sha256:…", "base %s has no tag of a version", short(f.URL))
		return
	}
	l.add(ruleUnpinned, f.refPos, "add the digest: @sha256:…", "base %s has no digest", short(f.URL))
}

func (l *linter) imports(s *Stage) {
	names := map[string]Pos{}
	for _, i := range s.Imports {
		switch {
		case i.Kind == Local:
			l.present(i.Pos, i.Abs, i.Path)
		case i.Kind == HTTP && i.Hash == "":
			l.add(ruleHash, i.Pos, "add hash: with the sha256 of the file", "%s is not verified", short(i.Path))
		}
		if i.Dest != "" || strings.HasSuffix(i.Path, "/") {
			continue
		}
		name := baseName(i)
		if first, twice := names[name]; twice {
			l.add(ruleSameName, i.Pos, "give one of them a dest, or import the directory that it is in",
				"%s is already imported in line %d", short(name), first.Line)
		}
		names[name] = i.Pos
	}
}

// present wants a local path to exist.
func (l *linter) present(at Pos, abs, written string) {
	if l.exists != nil && !l.exists(abs) {
		l.add(ruleMissingFile, at, "paths are relative to the build file", "%s does not exist", short(written))
	}
}

var (
	secretName = regexp.MustCompile(`(?i)(^|[_.-])(pass|passwd|password|passphrase|secret|token|credentials?|api_?key|access_?key|private_?key)($|[_.-])`)
	// Keys in PEM, of AWS, GitHub, GitLab and Slack, and passwords in URLs.
	secretValue = regexp.MustCompile(`-----BEGIN [A-Z ]*PRIVATE KEY|\b(AKIA|ASIA)[0-9A-Z]{16}\b|\bgh[pousr]_[0-9A-Za-z]{36}|` +
		`\bglpat-[0-9A-Za-z_-]{20}|\bxox[abprs]-[0-9A-Za-z-]{10}|://[^/\s:@]+:[^/\s@]+@`)
)

// secrets judges a map of texts. A path or a truth value is no secret, whatever
// it is called.
func (l *linter) secrets(list []KV, where string) {
	for _, kv := range list {
		plain := len(kv.Value) < 4 || strings.HasPrefix(kv.Value, "/") || strings.EqualFold(kv.Value, "true") || strings.EqualFold(kv.Value, "false")
		if (plain || !secretName.MatchString(kv.Key)) && !secretValue.MatchString(kv.Value) {
			continue
		}
		hint := "whoever gets the image can read it"
		if where == "build_env" {
			hint = "the records of the build keep it; they do not keep a file that a bind shows"
		}
		first := len(l.found)
		l.add(ruleSecret, kv.Pos, hint, "%s in %s looks like a secret", short(kv.Key), where)
		for _, f := range l.found[first:] {
			f.Error.Quote = "" // the line has it
		}
	}
}

// environment finds variables that are set to what they are anyway.
func (l *linter) environment(s *Stage) {
	for _, kv := range s.Environment {
		for base := l.below(s); base != nil; base = l.below(base) {
			value, set := lookup(base.Environment, kv.Key)
			if set && value == kv.Value {
				l.add(ruleEnvironment, kv.Pos, "remove it", "%s is set to the same value by %s", short(kv.Key), short(base.Name))
			}
			if set {
				break
			}
		}
	}
}

// below is the stage of the same file that s starts from, or nil.
func (l *linter) below(s *Stage) *Stage {
	if s.From.Type != "built" {
		return nil
	}
	return l.stages[s.From.Tag]
}

func lookup(list []KV, key string) (string, bool) {
	for _, kv := range list {
		if kv.Key == key {
			return kv.Value, true
		}
	}
	return "", false
}
