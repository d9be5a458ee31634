// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package fileop

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	mode "github.com/tonistiigi/dchapes-mode"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/localtree"
)

// defaultDirMode is that of directories that a copy makes on its way.
const defaultDirMode = 0o755

// inode is a file with several names.
type inode struct{ dev, ino uint64 }

// copier is one copy under way.
type copier struct {
	*doer
	a       *action.Copy
	src     *Tree
	owner   *owner
	modes   *mode.Set
	linked  map[inode]string // where a file with several names was put first
	placed  map[string]inode // the inverse of linked
	pending []stamp          // directories whose time is set when all is in them
}

// stamp is the time that a directory is to have.
type stamp struct {
	path         string
	atime, mtime unix.Timespec
}

func (d *doer) copy(ctx context.Context, a *action.Copy) error {
	src := d.Inputs[a.Input]
	if src == nil {
		return fmt.Errorf("copy %s: there is no input %d", a.Src, a.Input)
	}
	sources, err := choose(src, a)
	if err != nil {
		return err
	}
	o, err := d.owner(a.Owner)
	if err != nil {
		return err
	}
	k := &copier{doer: d, a: a, src: src, owner: o, linked: map[inode]string{}, placed: map[string]inode{}}
	if a.ModeText != "" {
		set, err := mode.ParseWithUmask(a.ModeText, 0)
		if err != nil {
			return fmt.Errorf("mode %q: %w", a.ModeText, err)
		}
		k.modes = &set
	}
	if err := k.checkParent(); err != nil {
		return err
	}
	for _, s := range sources {
		if a.Unpack {
			done, err := k.unpack(ctx, s)
			if err != nil {
				return err
			}
			if done {
				continue
			}
		}
		if err := k.one(ctx, s); err != nil {
			return err
		}
	}
	return k.stampAll()
}

// checkParent refuses a destination whose directory is missing, where it may not
// be made.
func (k *copier) checkParent() error {
	if k.a.MakeDest {
		return nil
	}
	p, err := k.dest.resolve(k.a.Dest, true)
	if err != nil {
		return err
	}
	if _, err := k.Root.Lstat(path.Dir(p)); err != nil {
		return fmt.Errorf("copy to %s: %w", k.a.Dest, err)
	}
	return nil
}

// one copies a source.
func (k *copier) one(ctx context.Context, s source) error {
	// A destination with a slash at its end is a directory, made if need be.
	parent := k.a.Dest
	if !strings.HasSuffix(parent, "/") && !strings.HasSuffix(parent, "/.") {
		parent = path.Dir(rootfs.Clean(parent))
	}
	if err := k.parents(parent); err != nil {
		return err
	}
	dest, err := k.dest.resolve(k.a.Dest, true)
	if err != nil {
		return err
	}
	top, err := k.src.stat(s.top)
	if err != nil {
		return err
	}
	if dest, err = k.place(dest, s, top); err != nil {
		return err
	}
	for _, i := range s.items {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err := k.item(ctx, i, path.Join(dest, i.rel)); err != nil {
			return err
		}
	}
	return nil
}

// parents makes a directory of the destination, following links.
func (k *copier) parents(name string) error {
	p, err := k.dest.resolve(name, true)
	if err != nil {
		return err
	}
	return k.makeDirs(p)
}

func (k *copier) makeDirs(p string) error {
	m := uint32(defaultDirMode)
	if k.a.Mode != nil {
		m = *k.a.Mode
	}
	made, err := k.mkdirs(p, m, k.owner, k.a.Time)
	if err != nil {
		return err
	}
	if k.a.Time != nil {
		for _, m := range made {
			ts := unix.NsecToTimespec(*k.a.Time)
			k.pending = append(k.pending, stamp{m, ts, ts})
		}
	}
	return nil
}

// place decides what a source becomes: dest itself, or something in it.
func (k *copier) place(dest string, s source, top info) (string, error) {
	st, err := k.look(dest)
	if err != nil {
		return "", err
	}
	there := st.Mode != 0
	if !k.a.ContentsOnly && top.isDir() && there || !top.isDir() && there && isDir(st) {
		dest = path.Join(dest, path.Base(s.name))
	}
	target := path.Dir(dest)
	if k.a.ContentsOnly && top.isDir() && !there {
		target = dest
	}
	return dest, k.makeDirs(target)
}

// item makes one file.
func (k *copier) item(ctx context.Context, i item, to string) error {
	was, err := k.look(to)
	if err != nil {
		return err
	}
	if k.a.Replace && was.Mode != 0 && !(i.info.isDir() && isDir(was)) {
		if err := k.Root.RemoveAll(to); err != nil {
			return err
		}
		k.forget(to, isDir(was))
		was = unix.Stat_t{}
	}
	if i.info.isDir() {
		return k.directory(i, to, was)
	}
	if isDir(was) {
		return fmt.Errorf("cannot replace directory /%s with a file", to)
	}
	if was.Mode != 0 {
		if err := k.Root.Remove(to); err != nil {
			return err
		}
		k.forget(to, false)
	}
	return k.leaf(ctx, i, to)
}

// forget is for what was removed: an earlier source may have put it there ("COPY
// */* /"), and further names of its file are not those of what comes in its place.
func (k *copier) forget(p string, below bool) {
	if id, ok := k.placed[p]; ok {
		delete(k.placed, p)
		delete(k.linked, id)
	}
	if !below {
		return
	}
	for q, id := range k.placed {
		if strings.HasPrefix(q, p+"/") {
			delete(k.placed, q)
			delete(k.linked, id)
		}
	}
}

// directory makes a directory, or gives one that is there the attributes of the
// source's; not so the top, which is the user's to name.
func (k *copier) directory(i item, to string, was unix.Stat_t) error {
	if was.Mode == 0 {
		if err := k.Root.Mkdir(to, 0o700); err != nil {
			return err
		}
		return k.attributes(i, to)
	}
	if !isDir(was) {
		return fmt.Errorf("cannot copy to /%s: it is no directory", to)
	}
	if i.rel == "" {
		k.stampLater(i, to)
		return nil
	}
	if !i.asked {
		return k.Root.Chmod(to, i.info.st.Mode&0o7777)
	}
	return k.attributes(i, to)
}

// leaf makes what is no directory.
func (k *copier) leaf(ctx context.Context, i item, to string) error {
	switch i.info.kind() {
	case unix.S_IFREG:
		done, err := k.regular(ctx, i, to)
		if err != nil || done {
			return err
		}
	case unix.S_IFLNK:
		target, err := k.src.readlink(i.path)
		if err != nil {
			return err
		}
		if err := k.Root.Symlink(target, to); err != nil {
			return err
		}
	case unix.S_IFIFO, unix.S_IFSOCK:
		if err := k.Root.Mknod(to, i.info.kind()|0o600, 0); err != nil {
			return err
		}
	default:
		return fmt.Errorf("copy /%s: devices cannot be made here", i.path)
	}
	return k.attributes(i, to)
}

// regular copies a file's bytes; done: it is another name of one that was copied.
func (k *copier) regular(ctx context.Context, i item, to string) (done bool, err error) {
	in, err := k.src.open(i.path)
	if err != nil {
		return false, err
	}
	defer in.Close()
	if i.info.st.Nlink > 1 {
		id := inode{i.info.st.Dev, i.info.st.Ino}
		if first, ok := k.linked[id]; ok {
			return true, k.Root.Link(first, to)
		}
		k.linked[id], k.placed[to] = to, id
	}
	out, err := k.Root.OpenFile(to, unix.O_CREAT|unix.O_EXCL|unix.O_WRONLY|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return false, err
	}
	st := &i.info.st
	switch {
	case i.info.digest != "":
		err = k.verified(ctx, out, in, i)
	case st.Blocks*statBlock < st.Size:
		err = k.sparse(ctx, out, in)
	default:
		_, err = io.Copy(out, in) // copy_file_range(2), where it can
	}
	return false, errors.Join(err, out.Close())
}

// statBlock is the unit of Stat_t.Blocks, in bytes (stat(2)).
const statBlock = 512

// verified copies the bytes of a listed file: they must be those that were listed.
func (k *copier) verified(ctx context.Context, out, in *os.File, i item) error {
	h := sha256.New()
	if err := k.sparse(ctx, out, io.TeeReader(in, h)); err != nil {
		return err
	}
	if hex.EncodeToString(h.Sum(nil)) != i.info.digest.Encoded() {
		return fmt.Errorf("/%s %w: run it again", i.path, localtree.ErrChanged)
	}
	return nil
}

// sparse copies bytes to a new file, in which zeros become holes: a file of a few
// bytes may say that it has terabytes of them.
func (d *doer) sparse(ctx context.Context, out *os.File, in io.Reader) error {
	if d.buf == nil {
		d.buf = make([]byte, 256<<10)
	}
	var off int64
	hole := false
	for {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		n, err := fill(in, d.buf)
		if n > 0 {
			var werr error
			if hole, werr = layer.WriteSparse(int(out.Fd()), d.buf[:n], off); werr != nil {
				return fmt.Errorf("write: %w", werr)
			}
			off += int64(n)
		}
		if errors.Is(err, io.EOF) && hole {
			return out.Truncate(off)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// fill is io.ReadFull that tells the end of the input, io.EOF, from an error of its
// reader: an archive that is cut off has io.ErrUnexpectedEOF.
func fill(in io.Reader, b []byte) (n int, err error) {
	for n < len(b) && err == nil {
		var m int
		m, err = in.Read(b[n:])
		n += m
	}
	return n, err
}

// attributes gives a copy owner, mode, extended attributes and time.
func (k *copier) attributes(i item, to string) error {
	kind := i.info.kind()
	o := owner{i.info.st.Uid, i.info.st.Gid}
	if k.owner != nil {
		o = *k.owner
	}
	if err := k.chown(to, o, kind); err != nil {
		return err
	}
	if k.src.entries == nil && kind != unix.S_IFLNK {
		if err := k.xattrs(i, to); err != nil {
			return err
		}
	}
	if kind != unix.S_IFLNK {
		if err := k.Root.Chmod(to, k.mode(i.info.st.Mode)); err != nil {
			return err
		}
	}
	if kind == unix.S_IFDIR {
		k.stampLater(i, to)
		return nil
	}
	if k.a.Time != nil {
		return k.settime(to, k.a.Time)
	}
	return k.Root.Chtimes(to, i.info.st.Atim, i.info.st.Mtim)
}

// mode gives the permission bits of a copy.
func (k *copier) mode(was uint32) uint32 {
	switch {
	case k.modes != nil:
		return unixMode(k.modes.Apply(goMode(was)))
	case k.a.Mode != nil:
		return *k.a.Mode & 0o7777
	}
	return was & 0o7777
}

func goMode(m uint32) fs.FileMode {
	out := fs.FileMode(m & 0o777)
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&bit != 0 {
			out |= flag
		}
	}
	if m&unix.S_IFMT == unix.S_IFDIR {
		out |= fs.ModeDir
	}
	return out
}

func unixMode(m fs.FileMode) uint32 {
	out := uint32(m.Perm())
	for bit, flag := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid, unix.S_ISVTX: fs.ModeSticky} {
		if m&flag != 0 {
			out |= bit
		}
	}
	return out
}

// xattrs copies extended attributes. Labels of security modules are the
// machine's; other ones that cannot be set here are left out, as in BuildKit.
func (k *copier) xattrs(i item, to string) error {
	names, err := k.src.root.Llistxattr(i.path)
	if errors.Is(err, unix.ENOTSUP) || len(names) == 0 {
		return nil
	}
	if err != nil {
		return err
	}
	for _, n := range names {
		if strings.HasPrefix(n, "trusted.") || n == "security.selinux" {
			continue
		}
		if name, _ := ownerAttribute(0, 0); n == name && k.owner != nil {
			continue
		}
		shown, ok := n, true
		if k.src.marked {
			shown, ok = layer.UnescapeAttribute(n)
		}
		if !ok {
			continue
		}
		v, err := k.src.root.Lgetxattr(i.path, n)
		if err != nil {
			return err
		}
		_ = k.Root.Lsetxattr(to, k.keptAttribute(shown), v)
	}
	return nil
}

// keptAttribute gives the name under which an attribute is kept in the root. A mark
// of overlays would hide files from steps that the layer has.
func (d *doer) keptAttribute(name string) string {
	if d.Tree {
		return layer.EscapeAttribute(name)
	}
	return name
}

func (k *copier) stampLater(i item, to string) {
	s := stamp{to, i.info.st.Atim, i.info.st.Mtim}
	if k.a.Time != nil {
		s.atime = unix.NsecToTimespec(*k.a.Time)
		s.mtime = s.atime
	}
	k.pending = append(k.pending, s)
}

// stampAll sets the times of directories, now that nothing is added to them.
func (k *copier) stampAll() error {
	for i := len(k.pending) - 1; i >= 0; i-- {
		s := k.pending[i]
		if err := k.Root.Chtimes(s.path, s.atime, s.mtime); err != nil {
			return err
		}
	}
	return nil
}
