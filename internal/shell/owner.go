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

// eachTree calls visit for name and, when all is set, for everything below it, links
// not followed. It prints errors and returns the exit status.
func (p *proc) eachTree(name string, all bool, visit func(path string) error) int {
	root := p.path(name)
	if !all {
		if err := visit(root); err != nil {
			return p.failPath(name, err)
		}
		return 0
	}
	status := 0
	_ = filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil {
			err = visit(path)
		}
		if err != nil {
			status = p.failPath(path, err)
		}
		return nil
	})
	return status
}

// chown is chown and chgrp: -R, -h, and -f, -v, -c which change nothing but what is printed.
func chown(_ context.Context, p *proc, args []string) int {
	f, err := parseFlags(args, "RhfvcHLP", "recursive=R no-dereference=h")
	if err != nil {
		return p.fail(1, "%v", err)
	}
	if len(f.rest) < 2 {
		return p.fail(1, "missing operand")
	}
	owner := f.rest[0]
	if p.name == "chgrp" {
		owner = ":" + owner
	}
	uid, gid, err := p.owner(owner)
	if err != nil {
		return p.fail(1, "%v", err)
	}
	status := 0
	for _, name := range f.rest[1:] {
		status |= p.eachTree(name, f.has("R"), func(path string) error {
			if f.has("hR") {
				return os.Lchown(path, uid, gid)
			}
			return os.Chown(path, uid, gid)
		})
	}
	return status
}

// owner reads USER, USER:GROUP, USER: and :GROUP; -1 is "leave".
func (p *proc) owner(text string) (uid, gid int, err error) {
	user, group, colon := strings.Cut(text, ":")
	if !colon {
		user, group, colon = strings.Cut(text, ".")
	}
	uid, gid = -1, -1
	if user != "" {
		var own int
		if uid, own, err = lookupID("/etc/passwd", user); err != nil {
			return 0, 0, fmt.Errorf("invalid user: '%s'", text)
		}
		if colon && group == "" {
			gid = own
		}
	}
	if group != "" {
		if gid, _, err = lookupID("/etc/group", group); err != nil {
			return 0, 0, fmt.Errorf("invalid group: '%s'", text)
		}
	}
	return uid, gid, nil
}

// lookupID finds a name or number in /etc/passwd or /etc/group: its id, and the field after
// that, which is the group of a user. A number needs no entry.
func lookupID(file, name string) (id, next int, err error) {
	data, _ := os.ReadFile(file) // an image without users has no such file
	number, notNumber := strconv.Atoi(name)
	for line := range strings.Lines(string(data)) {
		f := strings.Split(strings.TrimSpace(line), ":")
		if len(f) < 4 || (f[0] != name && (notNumber != nil || f[2] != name)) {
			continue
		}
		id, err = strconv.Atoi(f[2])
		next, _ = strconv.Atoi(f[3])
		return id, next, err
	}
	if notNumber != nil || number < 0 {
		return 0, 0, errNotFound
	}
	return number, -1, nil
}

// chmod is chmod: -R, octal and symbolic modes.
func chmod(_ context.Context, p *proc, args []string) int {
	// A mode can look like an option: chmod -x file.
	recursive := false
	for len(args) > 0 && strings.HasPrefix(args[0], "-") && strings.Trim(args[0][1:], "Rfvc") == "" {
		recursive = recursive || strings.Contains(args[0], "R")
		args = args[1:]
	}
	if len(args) > 0 && args[0] == "--" {
		args = args[1:]
	}
	if len(args) < 2 {
		return p.fail(1, "missing operand")
	}
	status := 0
	for _, name := range args[1:] {
		status |= p.eachTree(name, recursive, func(path string) error {
			info, err := os.Lstat(path)
			if err == nil && info.Mode()&fs.ModeSymlink != 0 {
				if recursive {
					return nil
				}
				info, err = os.Stat(path)
			}
			if err != nil {
				return err
			}
			mode, err := changeMode(unixMode(info), info.IsDir(), args[0])
			if err != nil {
				return err
			}
			return syscall.Chmod(path, mode)
		})
	}
	return status
}

// unixMode returns the permission bits as chmod(2) takes them.
func unixMode(info fs.FileInfo) uint32 {
	return info.Sys().(*syscall.Stat_t).Mode & 0o7777
}

// changeMode applies a mode of chmod(1), as 0755, u+x,go-w, a=rX, to the bits old.
func changeMode(old uint32, isDir bool, text string) (uint32, error) {
	if n, err := strconv.ParseUint(text, 8, 12); err == nil {
		return uint32(n), nil
	}
	mode := old
	for clause := range strings.SplitSeq(text, ",") {
		ops := strings.IndexAny(clause, "+-=")
		if ops < 0 || strings.Trim(clause[:ops], "ugoa") != "" {
			return 0, fmt.Errorf("invalid mode: '%s'", text)
		}
		who, mask := uint32(0), uint32(0)
		for _, c := range clause[:ops] {
			who |= map[rune]uint32{'u': 0o4700, 'g': 0o2070, 'o': 0o1007, 'a': 0o7777}[c]
		}
		if ops == 0 {
			mask = currentUmask()
			who = 0o7777
		}
		for rest := clause[ops:]; rest != ""; {
			op := rest[0]
			end := strings.IndexAny(rest[1:], "+-=") + 1
			if end == 0 {
				end = len(rest)
			}
			bits, err := modeBits(rest[1:end], mode, isDir)
			if err != nil {
				return 0, fmt.Errorf("invalid mode: '%s'", text)
			}
			bits &= who &^ mask
			switch op {
			case '+':
				mode |= bits
			case '-':
				mode &^= bits
			default:
				cleared := who &^ 0o1000
				if isDir {
					cleared = who & 0o777 // as GNU: set-id bits of a directory go only by name
				}
				mode = mode&^cleared | bits
			}
			rest = rest[end:]
		}
	}
	return mode, nil
}

// modeBits returns the bits of permission letters, for all of user, group and other.
func modeBits(letters string, mode uint32, isDir bool) (uint32, error) {
	bits := uint32(0)
	for _, c := range letters {
		switch c {
		case 'r':
			bits |= 0o444
		case 'w':
			bits |= 0o222
		case 'x':
			bits |= 0o111
		case 'X':
			if isDir || mode&0o111 != 0 {
				bits |= 0o111
			}
		case 's':
			bits |= 0o6000
		case 't':
			bits |= 0o1000
		case 'u':
			bits |= mode >> 6 & 7 * 0o111
		case 'g':
			bits |= mode >> 3 & 7 * 0o111
		case 'o':
			bits |= mode & 7 * 0o111
		default:
			return 0, errors.New("unknown letter")
		}
	}
	return bits, nil
}

// currentUmask reads the umask where it can be read without being set, which would be seen
// by the other utilities of a pipeline.
func currentUmask() uint32 {
	data, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "Umask:"); ok {
			n, err := strconv.ParseUint(strings.TrimSpace(v), 8, 12)
			if err == nil {
				return uint32(n)
			}
		}
	}
	return 0o022
}
