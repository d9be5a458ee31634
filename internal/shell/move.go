// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// mv is mv: -f, -n, -T, -t; between file systems it copies and removes.
func mv(ctx context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "fnvTt:i", "force=f no-clobber=n no-target-directory=T target-directory=t")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	names, target := f.rest, f.last('t', "")
	if target == "" {
		if len(names) < 2 {
			return p.fail(1, "missing file operand")
		}
		names, target = names[:len(names)-1], names[len(names)-1]
	}
	into := !f.has("T") && p.isDir(target, false)
	if !into && len(names) > 1 {
		return p.fail(1, "target '%s': No such directory", target)
	}
	status := 0
	for _, name := range names {
		to := p.path(target)
		if into {
			to = filepath.Join(to, filepath.Base(name))
		}
		if _, err := os.Lstat(to); err == nil && f.has("n") {
			continue
		}
		err := os.Rename(p.path(name), to)
		if errors.Is(err, syscall.EXDEV) {
			c := &copier{recursive: true, preserve: true, keepLinks: true}
			if err = c.copy(ctx, p.path(name), to); err == nil {
				err = os.RemoveAll(p.path(name))
			}
		}
		if err != nil {
			status = p.fail(1, "cannot move '%s' to '%s': %s", name, target, reason(err))
		}
	}
	return status
}

// touch is touch: -c, -a, -m, -r FILE, -d DATE, -h.
func touch(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "camr:d:h", "no-create=c reference=r date=d")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	when := time.Now()
	if d := f.last('d', ""); d != "" {
		if when, err = parseDate(d); err != nil {
			return p.fail(1, "invalid date format '%s'", d)
		}
	}
	if name := f.last('r', ""); name != "" {
		info, err := os.Stat(p.path(name))
		if err != nil {
			return p.failPath(name, err)
		}
		when = info.ModTime()
	}
	atime, mtime := when, when
	if f.has("a") != f.has("m") {
		// The zero time is left as it was.
		if f.has("a") {
			mtime = time.Time{}
		} else {
			atime = time.Time{}
		}
	}
	status := 0
	for _, name := range f.rest {
		if err := p.touch(name, atime, mtime, f.has("c")); err != nil {
			status = p.fail(1, "cannot touch '%s': %s", name, reason(err))
		}
	}
	return status
}

func (p *proc) touch(name string, atime, mtime time.Time, onlyExisting bool) error {
	path := p.path(name)
	if !onlyExisting {
		file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE, 0o666)
		if err == nil {
			err = file.Close()
		}
		if err != nil && !errors.Is(err, syscall.EISDIR) {
			return err
		}
	}
	err := os.Chtimes(path, atime, mtime)
	if onlyExisting && errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}
