// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package stackerfile

import (
	"fmt"
	"path/filepath"
	"sort"
	"strings"
)

// maxFiles is how many files a project may have.
const maxFiles = 1000

// Load reads the build file at path and all its prerequisites. An error of what
// the user wrote is Errors or *Error.
func Load(path string, o LoadOptions) (*Project, error) {
	return LoadAll([]string{path}, o)
}

// LoadAll reads several build files and all their prerequisites as one project.
func LoadAll(paths []string, o LoadOptions) (*Project, error) { return loadAll(paths, o, false) }

func loadAll(paths []string, o LoadOptions, lenient bool) (*Project, error) {
	l := &loader{opts: o, lenient: lenient, read: o.ReadFile, files: map[string]*File{}, active: map[string]bool{}}
	if l.read == nil {
		l.read = readRegular
	}
	values, err := l.substituteFile()
	if err != nil {
		return nil, err
	}
	if l.subs, err = newSubstitutions(o, values); err != nil {
		return nil, err
	}
	for _, path := range paths {
		abs, err := filepath.Abs(path)
		if err != nil {
			return nil, fmt.Errorf("couldn't read stacker file: %w", err)
		}
		if _, err := l.load(abs, path, Pos{File: path}, nil); err != nil {
			l.errs = append(l.errs, err)
			break
		}
	}
	if len(l.errs) > 0 {
		return nil, l.errs.first()
	}
	return l.project()
}

// loader reads files and those that they need.
type loader struct {
	opts   LoadOptions
	read   func(string) ([]byte, error)
	subs   *substitutions
	files  map[string]*File // by identity
	active map[string]bool  // by identity: being loaded
	errs   Errors
	// lenient lets errors be in lines with placeholders that nobody gave a value.
	lenient bool
}

// identity is the same for two paths of one file where that can be seen.
func (l *loader) identity(path string) string {
	if l.opts.ReadFile == nil {
		if real, err := filepath.EvalSymlinks(path); err == nil {
			return real
		}
	}
	return path
}

// link is one step on the way from a file to its prerequisites.
type link struct {
	file *File
	id   string
	up   *link
}

// load reads one file and what it needs. at is where the file is named.
func (l *loader) load(path, name string, at Pos, up *link) (*File, *Error) {
	id := l.identity(path)
	if l.active[id] {
		return nil, l.cycle(id, at, up)
	}
	if f := l.files[id]; f != nil {
		return f, nil
	}
	if len(l.files) >= maxFiles {
		return nil, l.fail(at, up, "", "a project has at most %d files", maxFiles)
	}
	data, err := l.read(path)
	if err == nil && len(data) > MaxFileSize {
		err = fmt.Errorf("read %s: larger than %d MB", path, MaxFileSize>>20)
	}
	if err != nil {
		e := l.fail(at, up, "", "couldn't read stacker file: %v", err)
		e.Err = err
		return nil, e
	}
	f := &File{Path: path, Name: name, Dir: filepath.Dir(path), Raw: data}
	l.files[id] = f
	l.active[id] = true
	defer delete(l.active, id)
	l.decode(f)
	here := &link{file: f, id: id, up: up}
	for i := range f.Prerequisites {
		p := &f.Prerequisites[i]
		child := p.Text
		if !filepath.IsAbs(child) {
			child = filepath.Join(filepath.Dir(name), child)
		}
		got, err := l.load(p.Path, child, p.Pos, here)
		if err != nil {
			return nil, err
		}
		p.Path = got.Path
	}
	return f, nil
}

// decode fills in f from f.Raw.
func (l *loader) decode(f *File) {
	src := newDocument(f.Name, f.Raw)
	src.secret = l.opts.ReadFile == nil && isLink(f.Path)
	var errs Errors
	f.SubstitutionsUsed, errs = l.subs.substitute(src)
	if len(errs) > 0 {
		l.errs = append(l.errs, errs...)
		return
	}
	if err := checkStructure(src); err != nil {
		l.errs = append(l.errs, err)
		return
	}
	root, errs := parse(src)
	d := &decoder{src: src, file: f, opts: l.opts, errs: errs}
	if len(errs) == 0 {
		d.decode(root)
	}
	sort.SliceStable(d.errs, func(i, j int) bool { return before(d.errs[i].Pos, d.errs[j].Pos) })
	f.unknownLines = src.unknownLines()
	for _, err := range d.errs {
		if !l.lenient || !f.unknownLines[err.Pos.Line] {
			l.errs = append(l.errs, err)
		}
	}
}

// fail makes an error at a place in the file that up tells.
func (l *loader) fail(at Pos, up *link, hint, format string, args ...any) *Error {
	e := &Error{Pos: at, Hint: hint, Msg: fmt.Sprintf(format, args...)}
	if up != nil {
		src := newDocument(up.file.Name, up.file.Raw)
		src.secret = l.opts.ReadFile == nil && isLink(up.file.Path)
		e.Quote = src.line(at.Line)
	}
	return e
}

// cycle is the error that file id, which up leads to, needs itself.
func (l *loader) cycle(id string, at Pos, up *link) *Error {
	names := []string{l.files[id].Name}
	for s := up; s != nil; s = s.up {
		names = append([]string{s.file.Name}, names...)
		if s.id == id {
			break
		}
	}
	return l.fail(at, up, "the files need each other: "+strings.Join(names, " -> "),
		"edge from %s to %s makes a cycle: %s", up.file.Name, l.files[id].Name, strings.Join(names, " -> "))
}

// substituteFile reads the flat map of values.
func (l *loader) substituteFile() ([]KV, error) {
	name := l.opts.SubstituteFile
	if name == "" {
		return nil, nil
	}
	abs, err := filepath.Abs(name)
	if err != nil {
		return nil, fmt.Errorf("read substitute file: %w", err)
	}
	data, err := l.read(abs)
	if err != nil {
		return nil, &Error{Pos: Pos{File: name}, Msg: fmt.Sprintf("couldn't read substitute file: %v", err), Err: err}
	}
	src := newDocument(name, data)
	src.secret = true // the values may be
	d := &decoder{src: src}
	root, errs := parse(src)
	d.errs = errs
	var values []KV
	if root != nil && len(errs) == 0 {
		values = d.kvs(root, "a substitute file")
	}
	if len(d.errs) > 0 {
		return nil, d.errs.first()
	}
	return values, nil
}

// project puts the files in order and finds stages with the same name.
func (l *loader) project() (*Project, error) {
	var all []*File
	for _, f := range l.files {
		all = append(all, f)
	}
	sort.Slice(all, func(i, j int) bool { return all[i].Path < all[j].Path })
	byPath := map[string]*File{}
	for _, f := range all {
		byPath[f.Path] = f
	}
	p := &Project{stages: map[string]*Stage{}}
	done := map[*File]bool{}
	var visit func(f *File)
	visit = func(f *File) {
		if done[f] {
			return
		}
		done[f] = true
		var needs []string
		for _, n := range f.Prerequisites {
			needs = append(needs, n.Path)
		}
		sort.Strings(needs)
		for _, path := range needs {
			visit(byPath[path])
		}
		p.Files = append(p.Files, f)
	}
	for _, f := range all {
		visit(f)
	}
	if err := l.unique(p); err != nil {
		return nil, err
	}
	return p, nil
}

// unique refuses two stages with the same name.
func (l *loader) unique(p *Project) error {
	var errs Errors
	for _, f := range p.Files {
		for _, s := range f.Stages {
			first := p.stages[s.Name]
			if first != nil && len(errs) < maxErrors {
				errs = append(errs, l.fail(s.Pos, &link{file: f}, "the other is at "+first.Pos.String(),
					"duplicate layer name: both %s and %s have %s", first.File.Name, f.Name, short(s.Name)))
			}
			if first == nil {
				p.stages[s.Name] = s
			}
		}
	}
	if len(errs) > 0 {
		return errs.first()
	}
	return nil
}
