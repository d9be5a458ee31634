// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package localtree

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// CopyTo makes dst an equal of the tree: what differs in type, size, mode or bytes
// is replaced, each file in one step, and what the tree has not is removed. It
// returns what it changed, sorted by path. Permissions do not depend on the umask;
// owners and attributes are not copied. x (see OpenIndex) saves reading what an
// earlier call wrote.
//
// Nothing outside dst is written: a symlink in dst, also dst itself, is replaced
// and never followed. Two calls for one dst must not run at once.
func (t *Tree) CopyTo(ctx context.Context, x *Index, dst string) ([]Change, error) {
	have, err := x.Scan(ctx, dst, Options{allTypes: true})
	switch {
	case errors.Is(err, os.ErrNotExist):
		have = &Tree{}
	case err != nil:
		return nil, err
	}
	changes := slices.DeleteFunc(Diff(have.Entries, t.Entries), func(c Change) bool {
		return c.What == Owner || c.What == Xattrs
	})
	if len(changes) == 0 {
		return nil, nil
	}
	u, err := t.newUpdate(dst)
	if err != nil {
		return nil, err
	}
	defer u.close()
	if err := u.apply(ctx, have, changes); err != nil {
		return nil, fmt.Errorf("copy %q to %q: %w", t.Root, dst, err)
	}
	return changes, nil
}

// update changes one directory copy.
type update struct {
	copier
	tree    *Tree
	src     *source
	top     directory // dst's parent
	base    string    // dst's name in it
	noClone bool      // this pair of file systems shares no blocks

	// The directory that was used last stays open: neighbours follow each other.
	dirPath string
	dir     directory

	modes map[string]bool // directories of the tree whose mode is to be set
}

func (t *Tree) newUpdate(dst string) (*update, error) {
	abs, err := filepath.Abs(dst)
	if err != nil {
		return nil, fmt.Errorf("find %q: %w", dst, err)
	}
	parent, base := filepath.Split(abs)
	if base == "" {
		return nil, fmt.Errorf("copy to %q: name a directory below it", dst)
	}
	if err := os.MkdirAll(parent, 0o755); err != nil {
		return nil, fmt.Errorf("make parent of copy: %w", err)
	}
	u := &update{tree: t, base: base, dir: directory{-1}, modes: map[string]bool{}}
	u.copier = copier{sum: sha256.New(), buf: make([]byte, 256<<10)}
	if u.src, err = t.open(); err != nil {
		return nil, err
	}
	fd, err := openat(unix.AT_FDCWD, parent, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		u.src.close()
		return nil, fmt.Errorf("open %q: %w", parent, err)
	}
	u.top = directory{fd}
	return u, nil
}

func (u *update) close() {
	u.src.close()
	u.leave()
	u.top.close()
}

func (u *update) apply(ctx context.Context, have *Tree, changes []Change) error {
	// Backwards, so that directories are empty when their turn comes.
	for _, c := range slices.Backward(changes) {
		if c.What == Removed || c.What == Type {
			if err := u.remove(find(have.Entries, c.Path)); err != nil {
				return err
			}
		}
	}
	done := ""
	for i, c := range changes {
		if c.What == Removed || i > 0 && c.Path == done {
			continue
		}
		done = c.Path
		if err := u.put(ctx, find(u.tree.Entries, c.Path), c.What); err != nil {
			return err
		}
	}
	return u.setModes()
}

// find returns the entry with a path that is known to be there.
func find(entries []Entry, p string) *Entry {
	i, _ := slices.BinarySearchFunc(entries, p, func(e Entry, p string) int { return strings.Compare(e.Path, p) })
	return &entries[i]
}

func (u *update) remove(e *Entry) error {
	dir, name, err := u.enter(e.Path)
	if err != nil {
		return err
	}
	flags := 0
	if e.IsDir() {
		flags = unix.AT_REMOVEDIR
	}
	if err := unix.Unlinkat(dir, name, flags); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("remove %q: %w", e.Path, err)
	}
	return nil
}

// put makes or replaces what e says.
func (u *update) put(ctx context.Context, e *Entry, why What) error {
	dir, name, err := u.enter(e.Path)
	if err != nil {
		return err
	}
	switch {
	case e.IsDir():
		u.modes[e.Path] = true
		if why == Added || why == Type {
			err = unix.Mkdirat(dir, name, 0o700)
		}
	case e.IsSymlink():
		err = u.replace(dir, name, func(temp string) error { return unix.Symlinkat(e.Target, dir, temp) })
	default:
		// Also where only the mode differs: a chmod by name could be led elsewhere
		// by a link, and of a file without permissions there is no descriptor.
		err = u.replace(dir, name, func(temp string) error { return u.writeFile(ctx, dir, temp, e) })
	}
	if err != nil {
		return fmt.Errorf("write %q: %w", e.Path, err)
	}
	return nil
}

// replace has create make a file under a temporary name and moves it to name. What a
// crash leaves is removed by the next call, since no tree has it.
func (u *update) replace(dir int, name string, create func(temp string) error) error {
	temp := fmt.Sprintf(".stacker-tmp-%016x", rand.Uint64())
	err := create(temp)
	if err == nil {
		err = unix.Renameat(dir, temp, dir, name)
	}
	if err != nil && !errors.Is(err, unix.EEXIST) {
		_ = unix.Unlinkat(dir, temp, 0)
	}
	return err
}

func (u *update) writeFile(ctx context.Context, dir int, temp string, e *Entry) error {
	in, err := u.src.file(e)
	if err != nil {
		return err
	}
	defer unix.Close(in)
	out, err := openat(dir, temp, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	defer unix.Close(out)
	if err := u.fill(ctx, out, in, e); err != nil {
		return err
	}
	// The time is the source's, so that tools which compare times see no change.
	times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, unix.NsecToTimespec(e.MTime)}
	if err := unix.UtimesNanoAt(dir, temp, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	return unix.Fchmod(out, e.Perm())
}

// fill gives out the bytes of in and checks them.
func (u *update) fill(ctx context.Context, out, in int, e *Entry) error {
	if !u.noClone {
		if err := unix.IoctlFileClone(out, in); err == nil {
			return u.bytes(ctx, u.src, e, out, io.Discard)
		}
		u.noClone = true
	}
	st, err := inspect(in)
	if err != nil {
		return err
	}
	w := &fileWriter{fd: out, sparse: st.blocks*512 < e.Size}
	if err := u.bytes(ctx, u.src, e, in, w); err != nil {
		return err
	}
	return unix.Ftruncate(out, e.Size)
}

// enter opens the directory that p lies in, so that it can be changed there.
func (u *update) enter(p string) (dir int, name string, err error) {
	if p == "" {
		return u.top.fd, u.base, nil
	}
	in := path.Dir(p)
	if in == "." {
		in = ""
	}
	if u.dir.fd >= 0 && u.dirPath == in {
		return u.dir.fd, path.Base(p), nil
	}
	u.leave()
	fd, err := u.top.open(path.Join(u.base, in), unix.O_DIRECTORY)
	if err != nil {
		return -1, "", fmt.Errorf("open %q in the copy: %w", in, err)
	}
	u.dirPath, u.dir = in, directory{fd}
	st, err := inspect(fd)
	if err == nil && st.mode&0o300 != 0o300 {
		// A read-only directory is opened for its owner until setModes.
		u.modes[in] = true
		err = unix.Fchmod(fd, st.mode&permBits|0o700)
	}
	if err != nil {
		return -1, "", fmt.Errorf("open %q in the copy: %w", in, err)
	}
	return fd, path.Base(p), nil
}

func (u *update) leave() {
	if u.dir.fd >= 0 {
		u.dir.close()
		u.dir.fd = -1
	}
}

// setModes gives directories their permissions, the inner ones first.
func (u *update) setModes() error {
	for _, e := range slices.Backward(u.tree.Entries) {
		if !e.IsDir() || !u.modes[e.Path] {
			continue
		}
		fd, err := u.top.open(path.Join(u.base, e.Path), unix.O_DIRECTORY)
		if err == nil {
			err = unix.Fchmod(fd, e.Perm())
			_ = unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("set mode of %q: %w", e.Path, err)
		}
	}
	return nil
}

// fileWriter writes to a descriptor; where the source has holes it makes holes.
type fileWriter struct {
	fd     int
	at     int64
	sparse bool
}

func (w *fileWriter) Write(p []byte) (int, error) {
	if w.sparse && isZero(p) {
		w.at += int64(len(p))
		return len(p), nil
	}
	for done := 0; done < len(p); {
		var n int
		err := retry(func() (err error) { n, err = unix.Pwrite(w.fd, p[done:], w.at); return err })
		if err != nil {
			return done, err
		}
		done += n
		w.at += int64(n)
	}
	return len(p), nil
}

func isZero(p []byte) bool {
	for _, b := range p {
		if b != 0 {
			return false
		}
	}
	return true
}
