// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
)

// stage is the root of a step to which nothing can be mounted: what mounts would show is moved
// into it, what was in its place is kept aside, and after the step all is put back. What the
// step did to the root meanwhile stays, and nothing of what was moved in does.
//
// Between enter and leave only the step's processes touch the root; before and after, nobody
// but this one does.
type stage struct {
	dir   string // the root's path, as the kernel gives it
	root  *rootfs.Root
	aside *rootfs.Dir // for what is kept, by number
	all   []*placed
	in    []*entered // directories of the root in which something was placed
}

// placed is a file or directory in a step's root that is not part of it.
type placed struct {
	at     *rootfs.Dir // where it stands
	leaf   string
	object *os.File    // itself, wherever the step moves it
	home   *rootfs.Dir // where it came from and goes back to
	name   string
	kept   string // name in aside of what was there; empty: nothing
	path   string // in the root; empty: inside of something that is placed
}

// entered is a directory of the root whose times and stamp do not change by what is placed in it.
type entered struct {
	path string
	dir  *rootfs.Dir
	was  unix.Stat_t // before; then at the beginning of the step
}

func newStage(dir, aside string) (*stage, error) {
	abs, err := filepath.EvalSymlinks(dir)
	if err == nil {
		abs, err = filepath.Abs(abs)
	}
	if err != nil {
		return nil, err
	}
	s := &stage{dir: abs}
	if s.root, err = rootfs.Open(abs); err != nil {
		return nil, err
	}
	keep, err := rootfs.Open(aside)
	if err == nil {
		s.aside, err = keep.Dir()
		_ = keep.Close() // the directory stays open
	}
	if err != nil {
		_ = s.root.Close()
		return nil, err
	}
	return s, nil
}

func (s *stage) close() {
	for _, p := range s.all {
		_ = p.at.Close()
		_ = p.home.Close()
		_ = p.object.Close()
	}
	for _, e := range s.in {
		_ = e.dir.Close()
	}
	_ = s.aside.Close()
	_ = s.root.Close()
}

// put moves source, a path that the program chose, to the place t of the root.
func (s *stage) put(source string, t target) (err error) {
	p := &placed{kept: strconv.Itoa(len(s.all)), name: filepath.Base(source)}
	if t.nested {
		if err := s.root.MkdirAll(path.Dir(t.path), 0o755, 0, 0); err != nil {
			return err
		}
	} else {
		p.path = t.path
		if err := s.enter(path.Dir(t.path)); err != nil {
			return err
		}
	}
	from, err := rootfs.Open(filepath.Dir(source))
	if err != nil {
		return err
	}
	defer from.Close()
	if p.home, err = from.Dir(); err != nil {
		return err
	}
	if p.at, p.leaf, err = s.root.OpenParent(t.path); err != nil {
		_ = p.home.Close()
		return err
	}
	if err := s.swap(p); err != nil {
		_ = p.home.Close()
		_ = p.at.Close()
		return err
	}
	s.all = append(s.all, p)
	return nil
}

// swap puts p in its place.
func (s *stage) swap(p *placed) error {
	fd, err := p.home.OpenFd(p.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	p.object = os.NewFile(uintptr(fd), p.name)
	err = p.at.Rename(p.leaf, s.aside, p.kept)
	if errors.Is(err, fs.ErrNotExist) {
		p.kept, err = "", nil
	}
	if err == nil {
		if err = p.home.Rename(p.name, p.at, p.leaf); err == nil {
			return nil
		}
		if p.kept != "" {
			err = errors.Join(err, s.aside.Rename(p.kept, p.at, p.leaf))
		}
	}
	return errors.Join(err, p.object.Close())
}

// enter notes the state of a directory before something is placed in it.
func (s *stage) enter(name string) error {
	for _, e := range s.in {
		if e.path == name {
			return nil
		}
	}
	e := &entered{path: name}
	var err error
	if e.dir, err = s.root.OpenDir(name); err != nil {
		return err
	}
	if e.was, err = e.dir.Stat(); err != nil {
		_ = e.dir.Close()
		return err
	}
	s.in = append(s.in, e)
	return nil
}

// settle gives the directories in which something was placed their times back.
func (s *stage) settle() error {
	for _, e := range s.in {
		if err := rootfs.Futimens(e.dir.Fd(), e.was.Atim, e.was.Mtim); err != nil {
			return fmt.Errorf("set times of /%s: %w", e.path, err)
		}
		var err error
		if e.was, err = e.dir.Stat(); err != nil {
			return err
		}
	}
	return nil
}

// leave puts everything back, whatever the step did, and gives the paths of what is as it was
// when the step began.
func (s *stage) leave() (same []string, err error) {
	now := make([]unix.Stat_t, len(s.in))
	for i, e := range s.in {
		st, serr := e.dir.Stat()
		err = errors.Join(err, serr)
		now[i] = st
	}
	for i := len(s.all) - 1; i >= 0; i-- {
		p := s.all[i]
		if perr := s.takeBack(p); perr != nil {
			err = errors.Join(err, fmt.Errorf("put back /%s: %w", p.path, perr))
		}
	}
	for i, e := range s.in {
		err = errors.Join(err, rootfs.Futimens(e.dir.Fd(), now[i].Atim, now[i].Mtim))
		if now[i].Ctim == e.was.Ctim && s.stands(e) {
			same = append(same, e.path)
		}
	}
	for _, p := range s.all {
		if p.path == "" || p.kept == "" {
			continue
		}
		if e := s.parent(p); e != nil && s.stands(e) {
			same = append(same, p.path)
		}
	}
	return same, err
}

func (s *stage) parent(p *placed) *entered {
	for _, e := range s.in {
		if e.path == path.Dir(p.path) {
			return e
		}
	}
	return nil
}

// stands tells whether a directory is still where it was.
func (s *stage) stands(e *entered) bool {
	st, err := s.root.Stat(e.path)
	return err == nil && st.Dev == e.was.Dev && st.Ino == e.was.Ino
}

// takeBack moves p home, and what was in its place there.
func (s *stage) takeBack(p *placed) error {
	if s.is(p.at, p.leaf, p.object) {
		if err := p.at.Rename(p.leaf, p.home, p.name); err != nil {
			return err
		}
	} else if err := s.find(p); err != nil {
		return err
	}
	// What the step put there in its stead had no place there.
	if err := p.at.RemoveAll(p.leaf); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if p.kept == "" {
		return nil
	}
	err := s.aside.Rename(p.kept, p.at, p.leaf)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // the step removed the directory, and with it what was in it
	}
	return err
}

// is tells whether a name is that of an open file.
func (s *stage) is(d *rootfs.Dir, name string, f *os.File) bool {
	st, err := d.Lstat(name)
	var of unix.Stat_t
	return err == nil && unix.Fstat(int(f.Fd()), &of) == nil && st.Dev == of.Dev && st.Ino == of.Ino
}

// find moves p home from where the step moved it. What the step removed is gone.
func (s *stage) find(p *placed) error {
	at, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(p.object.Fd())))
	if err != nil {
		return err
	}
	rel, err := filepath.Rel(s.dir, at)
	if err != nil || !filepath.IsLocal(rel) || rel == "." {
		return nil // with what it was in, it is outside of the root, or gone
	}
	d, leaf, err := s.root.OpenParent(rel)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	if !s.is(d, leaf, p.object) {
		return nil
	}
	return d.Rename(leaf, p.home, p.name)
}
