// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// ls is ls: -a, -A, -l, -n, -d, -R, -t, -S, -r, -F, -i, one name per line.
func ls(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "aAlndRtSrF1hCi", "all=a almost-all=A directory=d recursive=R reverse=r")
	if err != nil {
		return p.fail(2, "%v", err)
	}
	names := f.rest
	if len(names) == 0 {
		names = []string{"."}
	}
	var files, dirs []listed
	status := 0
	for _, name := range names {
		info, err := os.Lstat(p.path(name))
		if err == nil && info.Mode()&fs.ModeSymlink != 0 && !f.has("lnd") {
			if target, err := os.Stat(p.path(name)); err == nil {
				info = target
			}
		}
		switch {
		case err != nil:
			status = p.fail(2, "cannot access '%s': %s", name, reason(err))
		case info.IsDir() && !f.has("d"):
			dirs = append(dirs, listed{name, info})
		default:
			files = append(files, listed{name, info})
		}
	}
	p.list(files, "", f)
	for i, d := range dirs {
		if len(names) > 1 || f.has("R") {
			if i > 0 || len(files) > 0 {
				fmt.Fprintln(p.out)
			}
			fmt.Fprintf(p.out, "%s:\n", d.name)
		}
		if err := p.listDir(d.name, f); err != nil {
			status = p.fail(2, "cannot open directory '%s': %s", d.name, reason(err))
		}
	}
	return status
}

// listed is one line of ls.
type listed struct {
	name string
	info fs.FileInfo
}

func (p *proc) listDir(dir string, f flags) error {
	entries, err := os.ReadDir(p.path(dir))
	if err != nil {
		return err
	}
	var files []listed
	if f.has("a") {
		for _, name := range []string{".", ".."} {
			if info, err := os.Lstat(filepath.Join(p.path(dir), name)); err == nil {
				files = append(files, listed{name, info})
			}
		}
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") && !f.has("aA") {
			continue
		}
		if info, err := e.Info(); err == nil {
			files = append(files, listed{e.Name(), info})
		}
	}
	p.list(files, dir, f)
	if !f.has("R") {
		return nil
	}
	for _, l := range files {
		if !l.info.IsDir() || l.name == "." || l.name == ".." {
			continue
		}
		sub := strings.TrimSuffix(dir, "/") + "/" + l.name
		fmt.Fprintf(p.out, "\n%s:\n", sub)
		if err := p.listDir(sub, f); err != nil {
			return err
		}
	}
	return nil
}

func (p *proc) list(files []listed, dir string, f flags) {
	slices.SortStableFunc(files, func(a, b listed) int {
		c := 0
		switch {
		case f.has("t"):
			c = b.info.ModTime().Compare(a.info.ModTime())
		case f.has("S"):
			c = int(min(1, max(-1, b.info.Size()-a.info.Size())))
		}
		if c == 0 {
			c = strings.Compare(a.name, b.name)
		}
		if f.has("r") {
			c = -c
		}
		return c
	})
	for _, l := range files {
		text := l.name
		if f.has("F") {
			text += map[string]string{"d": "/", "l": "@", "p": "|", "s": "="}[fileType(l.info.Mode())]
		}
		if f.has("ln") {
			text = p.longLine(l, dir, text, f.has("n"))
		}
		if f.has("i") {
			text = strconv.FormatUint(l.info.Sys().(*syscall.Stat_t).Ino, 10) + " " + text
		}
		fmt.Fprintln(p.out, text)
	}
}

// longLine is the line of ls -l. Dates are in one form, whatever their age.
func (p *proc) longLine(l listed, dir, text string, numeric bool) string {
	st := l.info.Sys().(*syscall.Stat_t)
	user, group := strconv.Itoa(int(st.Uid)), strconv.Itoa(int(st.Gid))
	if !numeric {
		user = firstNonEmpty(nameOf("/etc/passwd", int(st.Uid)), user)
		group = firstNonEmpty(nameOf("/etc/group", int(st.Gid)), group)
	}
	size := strconv.FormatInt(l.info.Size(), 10)
	if st.Mode&syscall.S_IFMT == syscall.S_IFCHR || st.Mode&syscall.S_IFMT == syscall.S_IFBLK {
		size = fmt.Sprintf("%d, %d", st.Rdev>>8&0xfff, st.Rdev&0xff|st.Rdev>>12&0xfff00)
	}
	if l.info.Mode()&fs.ModeSymlink != 0 {
		if target, err := os.Readlink(filepath.Join(p.path(dir), l.name)); err == nil {
			text += " -> " + target
		}
	}
	return fmt.Sprintf("%s %3d %-8s %-8s %8s %s %s", modeString(st.Mode), st.Nlink, user, group, size,
		l.info.ModTime().Format("2006-01-02 15:04"), text)
}

// modeString is the mode as ls shows it, drwxr-xr-x.
func modeString(mode uint32) string {
	kinds := map[uint32]byte{
		syscall.S_IFDIR: 'd', syscall.S_IFLNK: 'l', syscall.S_IFCHR: 'c', syscall.S_IFBLK: 'b',
		syscall.S_IFIFO: 'p', syscall.S_IFSOCK: 's', syscall.S_IFREG: '-',
	}
	out := []byte{kinds[mode&syscall.S_IFMT]}
	for i := range 9 {
		c := byte('-')
		if mode>>(8-i)&1 != 0 {
			c = "rwxrwxrwx"[i]
		}
		out = append(out, c)
	}
	for i, bit := range []uint32{0o4000, 0o2000, 0o1000} {
		if mode&bit == 0 {
			continue
		}
		at := 3 * (i + 1)
		if lower := "sst"[i]; out[at] == 'x' {
			out[at] = lower
		} else {
			out[at] = lower - 'a' + 'A'
		}
	}
	return string(out)
}

func firstNonEmpty(a, b string) string {
	if a != "" {
		return a
	}
	return b
}
