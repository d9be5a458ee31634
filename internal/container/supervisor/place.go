// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import "syscall"

// A path argument is looked at in two ways. named gives a name by which the kernel
// finds the file for this thread too, with one call; it is used to read notes,
// where a wrong file does no harm. handle opens the file safely; it is used where
// something is changed or a note was found.

// errForeign says that a file is not on the step's root mount, or cannot be
// reached but through magic links: there are no notes for it.
const errForeign = syscall.EXDEV

// putProc begins a name with /proc/PID/WHAT and gives its length.
func putProc(buf []byte, pid uint32, what string, fd int) int {
	n := copy(buf, "/proc/")
	n += putNumber(buf[n:], uint64(pid))
	n += copy(buf[n:], what)
	if fd >= 0 {
		n += putNumber(buf[n:], uint64(fd))
	}
	buf[n] = 0
	return n
}

func putNumber(b []byte, v uint64) int {
	n := 1
	for w := v; w >= 10; w /= 10 {
		n++
	}
	for i := n - 1; i >= 0; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
	return n
}

// putStart begins s.name with the directory that relative paths start from.
func (s *supervisor) putStart(dir int32) (int, bool) {
	switch {
	case dir == atFdcwd:
		return putProc(s.name[:], s.numbers.of(s.call.pid), "/cwd", -1), true
	case dir < 0:
		return 0, false
	}
	return putProc(s.name[:], s.numbers.of(s.call.pid), "/fd/", int(dir)), true
}

// named puts a name for the path s.path, seen from dir, into s.name. It is false
// where there is none.
func (s *supervisor) named(dir int32, length int) bool {
	p := s.path[:length]
	if len(p) > 0 && p[0] == '/' {
		if s.special(p) || s.chroots {
			return false
		}
		copy(s.name[:], p)
		s.name[length] = 0
		return true
	}
	if s.chroots {
		return false
	}
	n, ok := s.putStart(dir)
	if ok && length > 0 {
		s.name[n] = '/'
		n += 1 + copy(s.name[n+1:], p)
		s.name[n] = 0
	}
	return ok
}

// special tells whether an absolute path may lead to what is different for each
// process: /proc/self and /dev/fd.
func (s *supervisor) special(p []byte) bool {
	return hasPrefix(p, "/proc/") || hasPrefix(p, "/dev/")
}

// ownFile tells whether an absolute path names an open file of the process, and
// which.
func (s *supervisor) ownFile(p []byte) (int32, bool) {
	switch string(p) {
	case "/dev/stdin":
		return 0, true
	case "/dev/stdout":
		return 1, true
	case "/dev/stderr":
		return 2, true
	}
	if n, ok := s.ownFiles(p); ok && n < len(p) {
		return decimal(p[n:])
	}
	return 0, false
}

// ownPlace tells whether an absolute path goes on behind a magic link of the process: from which
// directory, and where in p the rest begins. A directory's number or AT_FDCWD goes with a rest that is
// relative, and what is behind the root directory's link with one that is absolute.
func (s *supervisor) ownPlace(p []byte) (dir int32, rest int, ok bool) {
	n, ok := s.ownFiles(p)
	if ok {
		end := n
		for end < len(p) && p[end] != '/' {
			end++
		}
		rest = behind(p, end)
		if dir, ok = decimal(p[n:end]); ok && end > n && rest < len(p) {
			return dir, rest, !s.elsewhere()
		}
		return 0, 0, false
	}
	if n, ok = s.ownProc(p); !ok {
		return 0, 0, false
	}
	const cwd, root = "/cwd/", "/root/"
	switch {
	case hasPrefix(p[n:], cwd):
		rest = behind(p, n+len(cwd)-1)
		return atFdcwd, rest, rest < len(p) && !s.elsewhere()
	case hasPrefix(p[n:], root):
		return atFdcwd, n + len(root) - 1, !s.elsewhere()
	}
	return 0, 0, false
}

// elsewhere tells whether the process has a root directory in which no /proc can be.
func (s *supervisor) elsewhere() bool {
	if !s.chroots {
		return false
	}
	in, e := s.otherRoot()
	return in || e != 0
}

// behind skips slashes.
func behind(p []byte, at int) int {
	for at < len(p) && p[at] == '/' {
		at++
	}
	return at
}

// ownFiles gives the length of the name of the directory of the process's open files in p, with the
// slash behind it.
func (s *supervisor) ownFiles(p []byte) (int, bool) {
	const short, long = "/dev/fd/", "/fd/"
	if hasPrefix(p, short) {
		return len(short), true
	}
	n, ok := s.ownProc(p)
	return n + len(long), ok && hasPrefix(p[n:], long)
}

// ownProc gives the length of the name of the process's own directory of /proc in p.
func (s *supervisor) ownProc(p []byte) (int, bool) {
	for _, dir := range [...]string{"/proc/self", "/proc/thread-self"} {
		if hasPrefix(p, dir) {
			return len(dir), true
		}
	}
	const proc = "/proc/"
	if !hasPrefix(p, proc) || len(p) == len(proc) || p[len(proc)] < '1' || p[len(proc)] > '9' {
		return 0, false
	}
	var name [32]byte
	n := putProc(name[:], s.numbers.of(s.call.pid), "", -1)
	return n, hasPrefix(p, string(name[:n])) && n < len(p) && p[n] == '/'
}

func decimal(b []byte) (v int32, ok bool) {
	if len(b) > 7 { // no process has as many
		return 0, false
	}
	for _, c := range b {
		if c < '0' || c > '9' {
			return 0, false
		}
		v = v*10 + int32(c-'0')
	}
	return v, true
}

func hasPrefix(p []byte, prefix string) bool {
	return len(p) >= len(prefix) && string(p[:len(prefix)]) == prefix
}

// handle opens, only to name it, the file that the first length bytes of s.path
// lead to from dir; none of them: the directory itself. It is in s.statx, and on
// the step's root mount; else the error is errForeign.
func (s *supervisor) handle(dir int32, length int, follow bool) (int, syscall.Errno) {
	flags := oPath
	if !follow {
		flags |= syscall.O_NOFOLLOW
	}
	end := s.path[length]
	s.path[length] = 0
	fd, e := s.open(dir, length, flags)
	s.path[length] = end
	if e == syscall.ELOOP {
		e = errForeign
	}
	if e != 0 {
		return -1, e
	}
	if e = s.statxOf(fd); e == 0 && s.statx.mountID != s.mount {
		e = errForeign
	}
	if e != 0 {
		closeFd(fd)
		return -1, e
	}
	putProc(s.handleName[:], s.numbers.self, "/fd/", fd)
	return fd, 0
}

// handleOf is handle for an open file of the process.
func (s *supervisor) handleOf(fd int32) (int, syscall.Errno) {
	if fd < 0 && fd != atFdcwd {
		return -1, syscall.EBADF
	}
	return s.handle(fd, 0, true)
}

// open is handle without the look at what was opened. s.path ends at length.
func (s *supervisor) open(dir int32, length int, flags int) (int, syscall.Errno) {
	absolute := length > 0 && s.path[0] == '/'
	if s.chroots && length > 0 {
		in, e := s.otherRoot()
		if e != 0 {
			return -1, e
		}
		if in {
			return s.openInRoot(dir, absolute, flags)
		}
	}
	if absolute {
		return openat2(s.root, &s.path[0], flags, 0)
	}
	if _, ok := s.putStart(dir); !ok {
		return -1, syscall.EBADF
	}
	start, e := openat(atFdcwd, &s.name[0], oPath, 0)
	if e != 0 || length == 0 {
		return start, e
	}
	fd, e := openat2(start, &s.path[0], flags, 0)
	closeFd(start)
	return fd, e
}

// otherRoot tells whether the process has another root directory, which is then
// in s.list.
func (s *supervisor) otherRoot() (bool, syscall.Errno) {
	putProc(s.name[:], s.numbers.of(s.call.pid), "/root", -1)
	n, e := readlink(&s.name[0], s.list[:pathMax])
	s.list[max(n, 0)] = 0
	return n > 1, e
}

// openInRoot is open for a process with the root directory that is in s.list.
// Relative paths are made absolute, because only those are resolved inside it.
func (s *supervisor) openInRoot(dir int32, absolute bool, flags int) (int, syscall.Errno) {
	putProc(s.name[:], s.numbers.of(s.call.pid), "/root", -1)
	rootLen := 0
	for rootLen < pathMax && s.list[rootLen] != 0 {
		rootLen++
	}
	root, e := openat(atFdcwd, &s.name[0], oPath|syscall.O_DIRECTORY, 0)
	if e != 0 {
		return -1, e
	}
	defer closeFd(root)
	if absolute {
		return openat2(root, &s.path[0], flags, resolveInRoot)
	}
	if _, ok := s.putStart(dir); !ok {
		return -1, syscall.EBADF
	}
	from := s.list[pathMax+1 : 4*pathMax]
	n, e := readlink(&s.name[0], from[:pathMax])
	if e != 0 {
		return -1, e
	}
	if !hasPrefix(from[:n], string(s.list[:rootLen])) {
		return -1, errForeign // opened before the change of root
	}
	from[n] = '/'
	n += 1 + copy(from[n+1:], s.path[:s.pathEnd()])
	from[n] = 0
	if from[rootLen] == 0 {
		return -1, errForeign
	}
	return openat2(root, &from[rootLen], flags, resolveInRoot)
}

func (s *supervisor) pathEnd() int {
	for i, b := range s.path {
		if b == 0 {
			return i
		}
	}
	return pathMax
}

// split gives the length of the directory part of s.path and the last element, in
// s.leaf. It is false where a path has no last element that could be made.
func (s *supervisor) split() (parent int, leaf *byte, ok bool) {
	n := s.pathLen
	for n > 0 && s.path[n-1] == '/' {
		n--
	}
	s.path[n] = 0
	start := n
	for start > 0 && s.path[start-1] != '/' {
		start--
	}
	switch string(s.path[start:n]) {
	case "", ".", "..":
		return 0, nil, false
	}
	parent = start
	for parent > 1 && s.path[parent-1] == '/' {
		parent--
	}
	copy(s.leaf[:], s.path[start:n])
	if n-start > nameMax {
		return 0, nil, false
	}
	s.leaf[n-start] = 0
	return parent, &s.leaf[0], true
}
