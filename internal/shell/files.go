// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// mkdir is mkdir: -p, -m, -v.
func mkdir(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "pm:v", "parents=p mode=m verbose=v")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if len(f.rest) == 0 {
		return p.fail(1, "missing operand")
	}
	status := 0
	for _, name := range f.rest {
		if err := p.makeDir(name, f); err != nil {
			status = p.fail(1, "cannot create directory '%s': %s", name, reason(err))
		}
	}
	return status
}

func (p *proc) makeDir(name string, f flags) error {
	path := p.path(name)
	if f.has("p") {
		if info, err := os.Stat(path); err == nil && info.IsDir() {
			return nil
		}
		if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
			return err
		}
	}
	err := os.Mkdir(path, 0o777)
	if f.has("p") && errors.Is(err, fs.ErrExist) {
		// Somebody else made it just now.
		if info, statErr := os.Stat(path); statErr == nil && info.IsDir() {
			return nil
		}
	}
	if err != nil || !f.has("m") {
		return err
	}
	mode, err := changeMode(0o777, true, f.last('m', ""))
	if err != nil {
		return err
	}
	return syscall.Chmod(path, mode)
}

// rm is rm: -r, -f, -d, -v.
func rm(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "rRfdvi", "recursive=r force=f dir=d")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if len(f.rest) == 0 && !f.has("f") {
		return p.fail(1, "missing operand")
	}
	status := 0
	for _, name := range f.rest {
		path := p.path(name)
		if base := filepath.Base(name); base == "." || base == ".." || filepath.Clean(path) == "/" {
			status = p.fail(1, "refusing to remove '%s'", name)
			continue
		}
		info, err := os.Lstat(path)
		switch {
		case err != nil:
		case f.has("rR"):
			err = os.RemoveAll(path)
		case info.IsDir() && !f.has("d"):
			err = syscall.EISDIR
		default:
			err = os.Remove(path)
		}
		if err != nil && !(f.has("f") && errors.Is(err, fs.ErrNotExist)) {
			status = p.fail(1, "cannot remove '%s': %s", name, reason(err))
		}
	}
	return status
}

// rmdir is rmdir: -p.
func rmdir(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "p", "parents=p ignore-fail-on-non-empty=i")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	status := 0
	for _, name := range f.rest {
		for dir := filepath.Clean(name); ; dir = filepath.Dir(dir) {
			if err := syscall.Rmdir(p.path(dir)); err != nil {
				status = p.fail(1, "failed to remove '%s': %s", dir, reason(err))
				break
			}
			if up := filepath.Dir(dir); !f.has("p") || up == "." || up == "/" {
				break
			}
		}
	}
	return status
}

// ln is ln: -s, -f, -n, -T, -r.
func ln(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "sfnTrvh", "symbolic=s force=f no-dereference=n no-target-directory=T relative=r")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if len(f.rest) == 0 {
		return p.fail(1, "missing operand")
	}
	sources, target := f.rest, "."
	if len(sources) > 1 {
		sources, target = f.rest[:len(f.rest)-1], f.rest[len(f.rest)-1]
	}
	into := !f.has("T") && p.isDir(target, f.has("nh"))
	if !into && len(sources) > 1 {
		return p.fail(1, "target '%s' is not a directory", target)
	}
	status := 0
	for _, source := range sources {
		name := target
		if into {
			name = filepath.Join(target, filepath.Base(source))
		}
		if err := p.link(source, name, f); err != nil {
			status = p.fail(1, "failed to create link '%s': %s", name, reason(err))
		}
	}
	return status
}

func (p *proc) link(source, name string, f flags) error {
	path := p.path(name)
	if f.has("f") {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	if !f.has("s") {
		return os.Link(p.path(source), path)
	}
	if f.has("r") {
		var err error
		if source, err = filepath.Rel(filepath.Dir(path), p.path(source)); err != nil {
			return err
		}
	}
	return os.Symlink(source, path)
}

// isDir reports whether name is a directory; a link to one counts unless noFollow.
func (p *proc) isDir(name string, noFollow bool) bool {
	stat := os.Stat
	if noFollow {
		stat = os.Lstat
	}
	info, err := stat(p.path(name))
	return err == nil && info.IsDir()
}

// readlink is readlink and realpath: -f, -e, -m resolve everything, -n leaves out the newline.
func readlink(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "femnqsv", "canonicalize=f canonicalize-existing=e canonicalize-missing=m no-newline=n")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	status := 0
	for _, name := range f.rest {
		var text string
		if p.name == "realpath" || f.has("fem") {
			text, err = p.resolve(name, f)
		} else {
			text, err = os.Readlink(p.path(name))
		}
		switch {
		case err != nil && p.name == "readlink":
			status = 1 // silent, as everywhere
		case err != nil:
			status = p.failPath(name, err)
		case f.has("n"):
			fmt.Fprint(p.out, text)
		default:
			fmt.Fprintln(p.out, text)
		}
	}
	return status
}

// resolve returns the absolute name without links; the last part need not exist without -e.
func (p *proc) resolve(name string, f flags) (string, error) {
	path := p.path(name)
	if !filepath.IsAbs(path) {
		path = filepath.Join(p.workDir(), path)
	}
	real, err := filepath.EvalSymlinks(path)
	if err == nil || f.has("e") {
		return real, err
	}
	if f.has("m") {
		return filepath.Clean(path), nil
	}
	dir, err := filepath.EvalSymlinks(filepath.Dir(path))
	return filepath.Join(dir, filepath.Base(path)), err
}

// install is install: -d, -D, -m, -o, -g, -t.
func install(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "dDm:o:g:t:vpcsT", "directory=d mode=m owner=o group=g target-directory=t")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	mode, err := strconv.ParseUint(f.last('m', "755"), 8, 12)
	if err != nil {
		return p.fail(1, "invalid mode '%s'", f.last('m', ""))
	}
	owner := f.last('o', "") + ":" + f.last('g', "")
	uid, gid, err := p.owner(strings.TrimSuffix(owner, ":"))
	if err != nil {
		return p.fail(1, "%v", err)
	}
	finish := func(name string) error {
		if uid >= 0 || gid >= 0 {
			if err := os.Chown(p.path(name), uid, gid); err != nil {
				return err
			}
		}
		return syscall.Chmod(p.path(name), uint32(mode))
	}
	pairs, err := p.installPairs(f)
	if err != nil {
		return p.fail(1, "%v", err)
	}
	status := 0
	for _, pair := range pairs {
		from, to := pair[0], pair[1]
		switch {
		case f.has("d"):
			err = os.MkdirAll(p.path(to), 0o755)
		default:
			if f.has("D") {
				err = os.MkdirAll(filepath.Dir(p.path(to)), 0o755)
			}
			if err == nil {
				// A program that runs now keeps its file.
				_ = os.Remove(p.path(to))
				err = (&copier{}).file(p.path(from), p.path(to), 0o600)
			}
		}
		if err == nil {
			err = finish(to)
		}
		if err != nil {
			status = p.failPath(to, err)
		}
	}
	return status
}

// installPairs returns source and target of each file, or directories with no source.
func (p *proc) installPairs(f flags) ([][2]string, error) {
	names := f.rest
	var pairs [][2]string
	if f.has("d") {
		for _, n := range names {
			pairs = append(pairs, [2]string{"", n})
		}
		return pairs, nil
	}
	dir := f.last('t', "")
	if dir == "" {
		if len(names) < 2 {
			return nil, errors.New("missing operand")
		}
		last := names[len(names)-1]
		names = names[:len(names)-1]
		if !p.isDir(last, false) || f.has("T") {
			if len(names) > 1 {
				return nil, fmt.Errorf("target '%s' is not a directory", last)
			}
			return [][2]string{{names[0], last}}, nil
		}
		dir = last
	}
	for _, n := range names {
		pairs = append(pairs, [2]string{n, filepath.Join(dir, filepath.Base(n))})
	}
	return pairs, nil
}
