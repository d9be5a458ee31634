// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot

import (
	"bytes"
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// smallImage is a program of one segment that asks for a loader.
func smallImage() []byte {
	const interpreter = "/lib/ld.so\x00"
	b := make([]byte, headerSize+2*segmentSize)
	le := binary.LittleEndian
	copy(b, "\x7fELF\x02\x01\x01")
	le.PutUint16(b[16:], typeDyn)
	le.PutUint16(b[18:], machine())
	le.PutUint64(b[24:], headerSize)
	le.PutUint64(b[32:], headerSize)
	le.PutUint16(b[54:], segmentSize)
	le.PutUint16(b[56:], 2)
	load, interp := b[headerSize:], b[headerSize+segmentSize:]
	size := uint64(len(b) + len(interpreter))
	le.PutUint32(load, segLoad)
	le.PutUint64(load[32:], size)
	le.PutUint64(load[40:], size)
	le.PutUint32(interp, segInterp)
	le.PutUint64(interp[8:], uint64(len(b)))
	le.PutUint64(interp[32:], uint64(len(interpreter)))
	return append(b, interpreter...)
}

// FuzzImage reads headers of programs. What comes out can be mapped: its addresses do not wrap, and
// stay below what a process has.
func FuzzImage(f *testing.F) {
	f.Add(smallImage())
	f.Add([]byte("\x7fELF"))
	for _, name := range []string{"/bin/sh", "/proc/self/exe"} {
		if b, err := os.ReadFile(name); err == nil {
			f.Add(b[:min(len(b), 4096)])
		}
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		im, errno := readImage(bytes.NewReader(b).ReadAt)
		if errno != 0 {
			if errno != syscall.ENOEXEC {
				t.Fatalf("error %v, want ENOEXEC", errno)
			}
			return
		}
		low, high, align := im.span()
		if len(im.loads) == 0 || len(im.loads) > maxSegments || low > high || high > 1<<47+1<<20 || align&(align-1) != 0 {
			t.Fatalf("%d segments from %#x to %#x, aligned to %#x", len(im.loads), low, high, align)
		}
		if len(im.loader) >= pathMax || strings.IndexByte(im.loader, 0) >= 0 {
			t.Fatalf("loader %q", im.loader)
		}
		l := &loading{plan: &plan{image: im}}
		for _, c := range l.mapping(3) {
			if c.number == syscall.SYS_MMAP && (c.args[0]+c.args[1] < c.args[0] || c.args[1] == 0) {
				t.Fatalf("mmap of %#x bytes at %#x", c.args[1], c.args[0])
			}
		}
	})
}

// TestImage reads one that is right, so that the fuzzing above begins with it.
func TestImage(t *testing.T) {
	im, errno := readImage(bytes.NewReader(smallImage()).ReadAt)
	if errno != 0 || im.loader != "/lib/ld.so" || im.header != headerSize || len(im.loads) != 1 {
		t.Errorf("got %+v, %v", im, errno)
	}
}

// FuzzScript reads first lines of scripts.
func FuzzScript(f *testing.F) {
	for _, s := range []string{"#!/bin/sh\n", "#! /usr/bin/env  a b \n", "#!\n", "#!", "no", "#!/x\x00y\n", "#!" + strings.Repeat("x", 300), "#!" + strings.Repeat(" ", 300), "#!/a\targ"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		program, arg, script := scriptLine(bytes.NewReader(b).ReadAt)
		if script != bytes.HasPrefix(b, []byte("#!")) {
			t.Fatalf("script %t", script)
		}
		if strings.ContainsAny(program, " \t\n\x00") || strings.ContainsAny(arg, "\n\x00") || len(program)+len(arg) > 254 || program == "" && arg != "" {
			t.Fatalf("program %q, argument %q", program, arg)
		}
		if program == "" {
			return
		}
		line, err := bytes.NewBuffer(b).ReadBytes('\n')
		if err != nil && err != io.EOF || !bytes.Contains(line, []byte(program)) || !bytes.Contains(line, []byte(arg)) {
			t.Fatalf("program %q, argument %q are not in %q", program, arg, line)
		}
	})
}

// FuzzWalk resolves paths through a link of any content. Nothing but the root and the mounts is
// come to.
func FuzzWalk(f *testing.F) {
	dir := f.TempDir()
	root := filepath.Join(dir, "root")
	for _, d := range []string{"root/a/b", "root/m", "root/proc", "shown/sub", "beside"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			f.Fatal(err)
		}
	}
	for _, name := range []string{"root/file", "shown/file", "beside/secret"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o644); err != nil {
			f.Fatal(err)
		}
	}
	e := &engine{names: map[string]bool{}, tasks: map[uint32]*task{}}
	e.root = openedNode(f, root)
	for target, source := range map[string]string{"m": filepath.Join(dir, "shown"), "proc": "/proc"} {
		if err := e.add(Mount{Target: target, FD: openedNode(f, source).fd}); err != nil {
			f.Fatal(err)
		}
	}
	link := filepath.Join(root, "a/link")
	for text, path := range map[string]string{
		"../../../beside/secret": "/a/link", "/m/../../beside": "a/link/secret", "../m/sub": "/a/link/../../../beside/secret", "/proc/self/root": "/a/link/etc", "link": "/a/link",
		"/proc/1/root/": "/a/link/../../x", "..": "/a/link/link/link/m/..", "/proc/sys/../../file": "/./a//link", "/proc/kcore/": "/a/link/.", "/": "/proc/../a/link/proc/net/../../..",
	} {
		f.Add(text, path, true)
		f.Add(text, path, false)
	}
	f.Fuzz(func(t *testing.T, text, path string, follow bool) {
		if path == "" || len(path) > pathMax || strings.IndexByte(path, 0) >= 0 || strings.IndexByte(text, 0) >= 0 {
			return // is refused before
		}
		_ = os.Remove(link)
		_ = os.Symlink(text, link) // a text that is no link's leaves none
		s, errno := (&walk{e: e, root: e.root, dir: e.root.fd, rest: path}).run()
		if errno != 0 {
			return
		}
		fd, st, errno := s.open(follow)
		if errno != 0 {
			return
		}
		defer closeFd(fd)
		host, errno := readlinkat(atFdcwd, procFd(fd))
		if errno != 0 {
			t.Fatal(errno)
		}
		if _, _, ok := e.place(host); !ok {
			t.Fatalf("%q with the link %q leads to %s (%o)", path, text, host, st.Mode)
		}
	})
}

func openedNode(t testing.TB, path string) node {
	t.Helper()
	fd, errno := openat(atFdcwd, path, oPath, 0)
	if errno != 0 {
		t.Fatal(errno)
	}
	n, err := openNode(fd)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
