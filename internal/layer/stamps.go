// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layer

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"build.stacker.dev/internal/rootfs"
	"golang.org/x/sys/unix"
)

// Stamps say which files were in a directory tree, and when each was changed last.
// The kernel sets a change time (ctime), and no process of a step can set it: so
// what has the stamp that it had is what it was.
type Stamps struct {
	of    stamp
	names map[string]*Stamps // of a directory
}

// stamp identifies a file in one state of its life. The birth time tells it from
// a later file with the same number; it is 0 where the file system keeps none.
type stamp struct {
	ino          uint64
	birth, ctime int64 // nanoseconds since 1970
	dir          bool
}

// same tells whether the two are of one file, which may have changed.
func (s stamp) same(o stamp) bool { return s.ino == o.ino && s.birth == o.birth && s.dir == o.dir }

func stampAt(dirfd int, name string) (stamp, error) {
	var st unix.Statx_t
	flags := unix.AT_SYMLINK_NOFOLLOW | unix.AT_NO_AUTOMOUNT
	if name == "" {
		flags |= unix.AT_EMPTY_PATH
	}
	err := rootfs.Statx(dirfd, name, flags, unix.STATX_INO|unix.STATX_TYPE|unix.STATX_CTIME|unix.STATX_BTIME, &st)
	if err != nil {
		return stamp{}, &fs.PathError{Op: "stat", Path: name, Err: err}
	}
	s := stamp{ino: st.Ino, ctime: nanoseconds(st.Ctime), dir: st.Mode&unix.S_IFMT == unix.S_IFDIR}
	if st.Mask&unix.STATX_BTIME != 0 {
		s.birth = nanoseconds(st.Btime)
	}
	return s, nil
}

func nanoseconds(t unix.StatxTimestamp) int64 { return t.Sec*int64(time.Second) + int64(t.Nsec) }

// ReadStamps stamps all that is in dir, which nothing changes meanwhile.
func ReadStamps(ctx context.Context, dir string) (*Stamps, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	defer root.Close()
	d, err := root.Dir()
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	defer d.Close()
	s := &Stamps{}
	if s.of, err = stampAt(d.Fd(), ""); err == nil {
		err = s.read(ctx, d)
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", dir, err)
	}
	return s, nil
}

func (s *Stamps) read(ctx context.Context, d *rootfs.Dir) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	list, err := d.ReadDir()
	if err != nil {
		return err
	}
	s.names = make(map[string]*Stamps, len(list))
	for _, e := range list {
		child := &Stamps{}
		if child.of, err = stampAt(d.Fd(), e.Name); err != nil {
			return err
		}
		s.names[e.Name] = child
		if !child.of.dir {
			continue
		}
		sub, err := d.OpenDir(e.Name)
		if err != nil {
			return err
		}
		err = child.read(ctx, sub)
		_ = sub.Close() // opened for reading only
		if err != nil {
			return err
		}
	}
	return nil
}

// Notes are the stamps of some files, by path.
type Notes map[string]stamp

// Note stamps the files paths, relative to dir; "." is dir.
func Note(dir string, paths []string) (Notes, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	out := Notes{}
	for _, p := range paths {
		p = rootfs.Clean(p)
		if out[p], err = note(root, p); err != nil {
			return nil, fmt.Errorf("look at /%s: %w", p, err)
		}
	}
	return out, nil
}

func note(root *rootfs.Root, p string) (stamp, error) {
	if p == "." {
		d, err := root.Dir()
		if err != nil {
			return stamp{}, err
		}
		defer d.Close()
		return stampAt(d.Fd(), "")
	}
	d, leaf, err := root.OpenParent(p)
	if err != nil {
		return stamp{}, err
	}
	defer d.Close()
	return stampAt(d.Fd(), leaf)
}

// Add puts notes in the place of what the stamps know of the same files.
func (s *Stamps) Add(n Notes) {
	for p, of := range n {
		at := s
		for elem := range strings.SplitSeq(p, "/") {
			if elem == "." {
				continue
			}
			if at.names == nil {
				at.names = map[string]*Stamps{}
			}
			if at.names[elem] == nil {
				at.names[elem] = &Stamps{}
			}
			at = at.names[elem]
		}
		at.of = of
	}
}

// settleLimit is how long Settle waits for a clock at most; some network file
// systems count in seconds.
const settleLimit = 3 * time.Second

// Settle waits until a file that is changed next in the directory gets a later
// change time than all that were changed before: the kernel's clock for files
// ticks every 10 ms at most, and until then a change could not be told from what
// was there. Linux 6.13 has finer times where somebody looks.
func Settle(dir string) error {
	f, err := os.CreateTemp(dir, ".settle-")
	if err != nil {
		return fmt.Errorf("wait for the clock of the file system: %w", err)
	}
	defer f.Close()
	defer os.Remove(f.Name())
	first, err := stampAt(int(f.Fd()), "")
	for start := time.Now(); err == nil; time.Sleep(500 * time.Microsecond) {
		if err = unix.Fchmod(int(f.Fd()), 0o600); err != nil {
			break
		}
		var now stamp
		if now, err = stampAt(int(f.Fd()), ""); err == nil && now.ctime > first.ctime {
			return nil
		}
		if time.Since(start) > settleLimit {
			err = errors.New("it stands still")
		}
	}
	return fmt.Errorf("wait for the clock of the file system: %w", err)
}
