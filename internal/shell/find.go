// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// finding is one find command: its tests and actions are run in their order on each file.
type finding struct {
	p        *proc
	min, max int
	terms    []term
	depth    bool
	acts     bool
	batches  map[int][]string // files for -exec … +, by the index of the term
	status   int
}

// term is a test or an action with its arguments.
type term struct {
	name   string
	args   []string
	negate bool
	index  int // in finding.terms
}

// find is find: -name, -iname, -path, -type, -empty, -newer, -maxdepth, -mindepth, -depth, !,
// -print, -print0, -delete, -exec … ; and … +. There is no -o and there are no parentheses.
func find(ctx context.Context, p *proc, args []string) int {
	f := &finding{p: p, max: 1 << 30, batches: map[int][]string{}}
	var roots []string
	for len(args) > 0 && !strings.HasPrefix(args[0], "-") && args[0] != "!" && args[0] != "(" {
		roots = append(roots, args[0])
		args = args[1:]
	}
	if len(roots) == 0 {
		roots = []string{"."}
	}
	if err := f.parse(args); err != nil {
		return p.fail(1, "%v", err)
	}
	for _, root := range roots {
		info, err := os.Lstat(p.path(root))
		if err != nil {
			f.status = p.fail(1, "'%s': %s", root, reason(err))
			continue
		}
		f.walk(ctx, root, fs.FileInfoToDirEntry(info), 0)
	}
	for _, i := range slices.Sorted(maps.Keys(f.batches)) {
		if n := p.run(ctx, slices.Concat(f.terms[i].args, f.batches[i])); n != 0 {
			f.status = 1
		}
	}
	return f.status
}

func (f *finding) parse(args []string) error {
	negate := false
	for len(args) > 0 {
		name := args[0]
		args = args[1:]
		n := 0
		switch name {
		case "!", "-not":
			negate = !negate
			continue
		case "-a", "-and", "-xdev", "-mount":
			continue
		case "-print", "-print0", "-empty":
		case "-delete", "-depth":
			f.depth = true
		case "-exec":
			n = slices.IndexFunc(args, func(s string) bool { return s == ";" || s == "+" })
			if n < 1 {
				return errors.New("missing argument to `-exec'")
			}
			n++
		case "-name", "-iname", "-path", "-type", "-newer", "-maxdepth", "-mindepth":
			n = 1
		default:
			return fmt.Errorf("unknown predicate `%s'", name)
		}
		if n > len(args) {
			return fmt.Errorf("missing argument to `%s'", name)
		}
		t := term{name: name, args: args[:n], negate: negate}
		args, negate = args[n:], false
		if err := f.add(t); err != nil {
			return err
		}
	}
	if !f.acts {
		f.terms = append(f.terms, term{name: "-print"})
	}
	return nil
}

func (f *finding) add(t term) error {
	var err error
	switch t.name {
	case "-maxdepth":
		f.max, err = strconv.Atoi(t.args[0])
		return err
	case "-mindepth":
		f.min, err = strconv.Atoi(t.args[0])
		return err
	case "-depth":
		return nil
	case "-exec":
		if t.args[len(t.args)-1] == "+" {
			t.name, t.args = "-exec+", t.args[:len(t.args)-1]
			if t.args[len(t.args)-1] == "{}" {
				t.args = t.args[:len(t.args)-1]
			}
		} else {
			t.args = t.args[:len(t.args)-1]
		}
		f.acts = true
	case "-print", "-print0", "-delete":
		f.acts = true
	}
	t.index = len(f.terms)
	f.terms = append(f.terms, t)
	return nil
}

func (f *finding) walk(ctx context.Context, name string, d fs.DirEntry, depth int) {
	if ctx.Err() != nil {
		return
	}
	visit := func() {
		if depth >= f.min {
			f.visit(ctx, name, d)
		}
	}
	if !f.depth {
		visit()
	}
	if d.IsDir() && depth < f.max {
		entries, err := os.ReadDir(f.p.path(name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			f.status = f.p.fail(1, "'%s': %s", name, reason(err))
		}
		for _, e := range entries {
			f.walk(ctx, strings.TrimSuffix(name, "/")+"/"+e.Name(), e, depth+1)
		}
	}
	if f.depth {
		visit()
	}
}

func (f *finding) visit(ctx context.Context, name string, d fs.DirEntry) {
	for _, t := range f.terms {
		if f.holds(ctx, t, name, d) == t.negate {
			return
		}
	}
}

// holds is one test or action on one file.
func (f *finding) holds(ctx context.Context, t term, name string, d fs.DirEntry) bool {
	switch t.name {
	case "-name":
		ok, _ := path.Match(t.args[0], path.Base(name))
		return ok
	case "-iname":
		ok, _ := path.Match(strings.ToLower(t.args[0]), strings.ToLower(path.Base(name)))
		return ok
	case "-path":
		// Here a star crosses slashes.
		flat := strings.NewReplacer("/", "\x01")
		ok, _ := path.Match(flat.Replace(t.args[0]), flat.Replace(name))
		return ok
	case "-type":
		return strings.Contains(t.args[0], fileType(d.Type()))
	case "-empty":
		return f.empty(name, d)
	case "-newer":
		other, err := os.Stat(f.p.path(t.args[0]))
		info, err2 := d.Info()
		return err == nil && err2 == nil && info.ModTime().After(other.ModTime())
	case "-print0":
		fmt.Fprintf(f.p.out, "%s\x00", name)
	case "-delete":
		if err := os.Remove(f.p.path(name)); err != nil && filepath.Clean(name) != "." {
			f.status = f.p.fail(1, "cannot delete '%s': %s", name, reason(err))
			return false
		}
	case "-exec":
		words := slices.Clone(t.args)
		for i := range words {
			words[i] = strings.ReplaceAll(words[i], "{}", name)
		}
		return f.p.run(ctx, words) == 0
	case "-exec+":
		f.batches[t.index] = append(f.batches[t.index], name)
	default:
		fmt.Fprintln(f.p.out, name)
	}
	return true
}

func (f *finding) empty(name string, d fs.DirEntry) bool {
	if d.IsDir() {
		entries, err := os.ReadDir(f.p.path(name))
		return err == nil && len(entries) == 0
	}
	info, err := d.Info()
	return err == nil && info.Mode().IsRegular() && info.Size() == 0
}

func fileType(m fs.FileMode) string {
	switch {
	case m.IsDir():
		return "d"
	case m&fs.ModeSymlink != 0:
		return "l"
	case m&fs.ModeNamedPipe != 0:
		return "p"
	case m&fs.ModeSocket != 0:
		return "s"
	case m&fs.ModeCharDevice != 0:
		return "c"
	case m&fs.ModeDevice != 0:
		return "b"
	}
	return "f"
}
