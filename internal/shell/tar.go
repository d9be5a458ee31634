// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shell

import (
	"archive/tar"
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"github.com/klauspost/compress/gzip"
)

// tarArchive is tar: -c, -x, -t with -f, -C, -z, -v, -O, -h, --strip-components, and the old
// form without a dash. A gzip archive is recognised when read; other compressions are not.
func tarArchive(_ context.Context, p *proc, args []string) int {
	if len(args) > 0 && !strings.HasPrefix(args[0], "-") {
		args = append([]string{"-" + args[0]}, args[1:]...)
	}
	f, err := parseFlags(args, "cxtf:C:zvpkmOhaS:o", "create=c extract=x list=t file=f directory=C gzip=z verbose=v to-stdout=O strip-components=S no-same-owner=o preserve-permissions=p")
	if err != nil {
		return p.fail(2, "%v", err)
	}
	a := &archiver{p: p, f: f, dir: *p}
	a.dir.dir = p.path(f.last('C', "."))
	if a.strip, err = strconv.Atoi(f.last('S', "0")); err != nil {
		return p.fail(2, "invalid number: '%s'", f.last('S', ""))
	}
	switch {
	case f.has("c"):
		err = a.create()
	case f.has("xt"):
		err = p.withFile(f.last('f', "-"), func(_ string, r io.Reader) error { return a.read(r) })
	default:
		return p.fail(2, "you must give one of -c, -x, -t")
	}
	if err != nil {
		return p.fail(2, "%s", reason(err))
	}
	return 0
}

// archiver is one tar command.
type archiver struct {
	p     *proc
	f     flags
	dir   proc // as p, in the directory of -C
	strip int
	late  []*tar.Header // directories, whose mode and time are set last
}

func (a *archiver) create() error {
	if len(a.f.rest) == 0 {
		return errors.New("cowardly refusing to create an empty archive")
	}
	out := a.p.out
	if name := a.f.last('f', "-"); name != "-" {
		file, err := os.Create(a.p.path(name))
		if err != nil {
			return err
		}
		defer file.Close()
		out = file
	}
	name := a.f.last('f', "")
	pack := a.f.has("z") || a.f.has("a") && (strings.HasSuffix(name, ".gz") || strings.HasSuffix(name, ".tgz"))
	if !pack {
		return a.write(out)
	}
	z := gzip.NewWriter(out)
	return errors.Join(a.write(z), z.Close())
}

func (a *archiver) write(out io.Writer) error {
	w := tar.NewWriter(out)
	for _, name := range a.f.rest {
		root := a.dir.path(name)
		err := filepath.WalkDir(root, func(file string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			return a.add(w, file, name+strings.TrimPrefix(file, root))
		})
		if err != nil {
			return err
		}
	}
	return w.Close()
}

func (a *archiver) add(w *tar.Writer, file, name string) error {
	stat := os.Lstat
	if a.f.has("h") {
		stat = os.Stat
	}
	info, err := stat(file)
	if err != nil {
		return err
	}
	if info.Mode()&fs.ModeSocket != 0 {
		return nil
	}
	target := ""
	if info.Mode()&fs.ModeSymlink != 0 {
		if target, err = os.Readlink(file); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(info, target)
	if err != nil {
		return err
	}
	h.Name = strings.TrimLeft(name, "/")
	if info.IsDir() {
		h.Name = strings.TrimSuffix(h.Name, "/") + "/"
	}
	if a.f.has("v") {
		fmt.Fprintln(a.p.err, h.Name)
	}
	if err := w.WriteHeader(h); err != nil || !info.Mode().IsRegular() {
		return err
	}
	in, err := os.Open(file)
	if err != nil {
		return err
	}
	defer in.Close()
	_, err = io.Copy(w, in)
	return err
}

func (a *archiver) read(r io.Reader) error {
	b := bufio.NewReader(r)
	var in io.Reader = b
	if magic, _ := b.Peek(2); string(magic) == "\x1f\x8b" {
		z, err := gzip.NewReader(b)
		if err != nil {
			return err
		}
		in = z
	}
	root, err := os.OpenRoot(a.dir.workDir())
	if err != nil {
		return err
	}
	defer root.Close()
	t := tar.NewReader(in)
	for {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return a.finish(root)
		}
		if err != nil {
			return err
		}
		if !a.wanted(h.Name) {
			continue
		}
		if a.f.has("tv") {
			fmt.Fprintln(a.p.out, h.Name)
		}
		if a.f.has("t") {
			continue
		}
		if err := a.extract(root, h, t); err != nil {
			return fmt.Errorf("%s: %w", h.Name, err)
		}
	}
}

// wanted reports whether a member is at or below one of the names given, if any.
func (a *archiver) wanted(name string) bool {
	for _, want := range a.f.rest {
		want = strings.TrimSuffix(want, "/")
		if strings.TrimSuffix(name, "/") == want || strings.HasPrefix(name, want+"/") {
			return true
		}
	}
	return len(a.f.rest) == 0
}

// local makes a member's name relative to the target; "" when nothing is left of it. The root
// refuses what would still lead out, by ".." or by a link of the archive.
func (a *archiver) local(name string) string {
	name = strings.TrimPrefix(path.Clean("/"+name), "/")
	for range a.strip {
		_, name, _ = strings.Cut(name, "/")
	}
	return name
}

func (a *archiver) extract(root *os.Root, h *tar.Header, in io.Reader) error {
	if a.f.has("O") {
		_, err := io.Copy(a.p.out, in)
		return err
	}
	name := a.local(h.Name)
	if name == "" {
		return nil
	}
	if err := root.MkdirAll(path.Dir(name), 0o777); err != nil {
		return err
	}
	if h.Typeflag == tar.TypeDir {
		late := *h
		late.Name = name
		a.late = append(a.late, &late)
		return root.MkdirAll(name, 0o777)
	}
	if err := root.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch h.Typeflag {
	case tar.TypeSymlink:
		if err := root.Symlink(h.Linkname, name); err != nil {
			return err
		}
		return a.own(root, name, h)
	case tar.TypeLink:
		return root.Link(a.local(h.Linkname), name)
	case tar.TypeReg:
	default:
		return errors.New("a device or pipe is not supported")
	}
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, in)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return a.metadata(root, name, h)
}

// finish sets what was put off for directories, the innermost first.
func (a *archiver) finish(root *os.Root) error {
	for i := len(a.late) - 1; i >= 0; i-- {
		if err := a.metadata(root, a.late[i].Name, a.late[i]); err != nil {
			return err
		}
	}
	return nil
}

func (a *archiver) own(root *os.Root, name string, h *tar.Header) error {
	if os.Geteuid() != 0 || a.f.has("o") {
		return nil
	}
	err := root.Lchown(name, h.Uid, h.Gid)
	if errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("owner %d:%d is not mapped here, use --no-same-owner: %w", h.Uid, h.Gid, err)
	}
	return err
}

func (a *archiver) metadata(root *os.Root, name string, h *tar.Header) error {
	if err := a.own(root, name, h); err != nil {
		return err
	}
	mode := h.FileInfo().Mode()
	if os.Geteuid() != 0 && !a.f.has("p") {
		mode &^= fs.FileMode(currentUmask()) | fs.ModeSetuid | fs.ModeSetgid
	}
	if err := root.Chmod(name, mode); err != nil {
		return err
	}
	return root.Chtimes(name, h.ModTime, h.ModTime)
}
