// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// view gives the stack of trees as one root file system to look into, mounted
// nowhere: its descriptor is all there is.
func (s *server) view(lower []string) (*rootfs.Root, error) {
	paths := s.paths(lower)
	if len(paths) == 1 {
		return rootfs.Open(paths[0])
	}
	if s.driver.Name() != snapshot.Overlay || len(paths) > mount.MaxLowers {
		dir, err := s.views.get(strings.Join(lower, " "), func() (string, error) { return s.linked(paths) })
		if err != nil {
			return nil, err
		}
		return rootfs.Open(dir)
	}
	f, err := mount.Overlay(mount.OverlayOptions{Lowers: paths})
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return rootfs.OpenAt(int(f.Fd()), ".")
}

func (s *server) stat(r StatRequest) (StatReply, error) {
	out := StatReply{Kinds: make([]FileKind, len(r.Paths))}
	if len(r.Lower) == 0 {
		return out, nil
	}
	stack, err := layer.OpenStack(s.paths(r.Lower))
	if err != nil {
		return out, err
	}
	defer stack.Close()
	for i, p := range r.Paths {
		f, err := stack.Lookup(p, true)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		case err != nil:
			return out, fmt.Errorf("look at %s: %w", p, err)
		case f.Stat.Mode&unix.S_IFMT == unix.S_IFDIR:
			out.Kinds[i] = Directory
		default:
			out.Kinds[i] = OtherFile
		}
	}
	return out, nil
}

// readTar streams a file or a directory out of a stack of trees. A directory's
// tar starts with an entry "./" for itself; a file's tar has one entry.
func (s *server) readTar(ctx context.Context, c *call, r ReadTarRequest) error {
	out, err := c.file(0)
	if err != nil {
		return err
	}
	if len(r.Lower) == 0 {
		return fmt.Errorf("read %s: %w: the stage has no files", r.Path, fs.ErrNotExist)
	}
	root, err := s.view(r.Lower)
	if err != nil {
		return err
	}
	defer root.Close()
	st, err := root.Stat(r.Path)
	if err != nil {
		return err
	}
	stop := closeOnCancel(ctx, out)
	defer stop()
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		d, err := root.OpenDir(r.Path)
		if err != nil {
			return err
		}
		defer d.Close()
		// A mode that no directory has makes Diff write the entry for the root.
		o := layer.DiffOptions{Root: &layer.RootMeta{Mode: ^uint32(0)}}
		_, err = layer.Diff(ctx, out, fmt.Sprintf("/proc/self/fd/%d", d.Fd()), o)
		return err
	case unix.S_IFREG:
		return readFile(root, r.Path, st, out)
	}
	return fmt.Errorf("read %s: it is no file and no directory", r.Path)
}

func readFile(root *rootfs.Root, name string, st unix.Stat_t, out io.Writer) error {
	d, leaf, err := root.OpenParent(name)
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := d.OpenFile(leaf, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) { // a link: opened inside the root by its full path
		f, err = root.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	}
	if err != nil {
		return err
	}
	defer f.Close()
	w := tar.NewWriter(out)
	h := &tar.Header{
		Typeflag: tar.TypeReg, Name: path.Base(name), Size: st.Size, Mode: int64(st.Mode & 0o7777),
		Uid: int(st.Uid), Gid: int(st.Gid), ModTime: time.Unix(st.Mtim.Unix()), Format: tar.FormatPAX,
	}
	if h.PAXRecords, err = userAttributes(int(f.Fd())); err != nil {
		return err
	}
	if err := w.WriteHeader(h); err != nil {
		return fmt.Errorf("write tar: %w", err)
	}
	if _, err := io.CopyN(w, f, st.Size); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	return w.Close()
}

// userAttributes gives the user's own attributes of an open file as records of a tar.
func userAttributes(fd int) (map[string]string, error) {
	names, err := rootfs.Flistxattr(fd)
	if err != nil {
		return nil, fmt.Errorf("list attributes: %w", err)
	}
	var out map[string]string
	for _, n := range names {
		if !strings.HasPrefix(n, "user.") || strings.HasPrefix(n, "user.overlay.") || layer.OwnAttribute(n) {
			continue
		}
		value, err := rootfs.Fgetxattr(fd, n)
		if err != nil {
			return nil, fmt.Errorf("read attribute %s: %w", n, err)
		}
		if out == nil {
			out = map[string]string{}
		}
		out["SCHILY.xattr."+n] = string(value)
	}
	return out, nil
}
