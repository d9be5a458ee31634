// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
)

// source is a mount of a step, made and not yet attached.
type source struct {
	tree   *os.File
	target string
	file   bool
}

func closeSources(all []source) {
	for _, s := range all {
		_ = s.tree.Close() // a detached mount: nothing is written
	}
}

// openSources makes the mounts that a step wants.
func openSources(mounts []Mount) (all []source, err error) {
	defer func() {
		if err != nil {
			closeSources(all)
		}
	}()
	for _, m := range mounts {
		s, err := openSource(m)
		if err != nil {
			return all, fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		all = append(all, s)
	}
	return all, nil
}

func openSource(m Mount) (source, error) {
	out := source{target: m.Target, file: m.File}
	if m.Tmpfs != nil {
		t, err := newTmpfs(*m.Tmpfs, m.ReadOnly)
		out.tree = t
		return out, err
	}
	tree, err := bind(m)
	if err != nil {
		return out, err
	}
	out.tree = tree
	var st unix.Stat_t
	if err := unix.Fstat(int(tree.Fd()), &st); err != nil {
		_ = tree.Close()
		return out, err
	}
	attr := mount.NoSuid
	out.file = st.Mode&unix.S_IFMT != unix.S_IFDIR
	if !out.file {
		attr |= mount.NoDev // of a device that is shown by itself, that is wanted
	}
	if m.ReadOnly {
		attr |= mount.ReadOnly
	}
	if err := mount.SetAttr(tree, attr, true); err != nil {
		_ = tree.Close()
		return out, err
	}
	return out, nil
}

func newTmpfs(t Tmpfs, readOnly bool) (*os.File, error) {
	attr := mount.NoSuid | mount.NoDev
	if readOnly {
		attr |= mount.ReadOnly
	}
	mode := t.Mode
	if mode == 0 {
		mode = 0o1777
	}
	options := []mount.Option{{Key: "mode", Value: strconv.FormatUint(uint64(mode), 8)}}
	if t.Size > 0 {
		options = append(options, mount.Option{Key: "size", Value: strconv.FormatInt(t.Size, 10)})
	}
	return mount.New("tmpfs", attr, options...)
}

var errSource = errors.New("a mount needs exactly one of Source, FD and Tmpfs")

// bind gives a detached mount of what m shows.
func bind(m Mount) (*os.File, error) {
	switch {
	case m.FD == nil && m.Source != "":
		return clone(m.Recursive, func(r bool) (*os.File, error) { return mount.ClonePath(m.Source, r) })
	case m.FD == nil || m.Source != "":
		return nil, errSource
	case m.Detached:
		fd, err := unix.FcntlInt(m.FD.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), m.FD.Name()), nil
	}
	return clone(m.Recursive, func(r bool) (*os.File, error) {
		tree, err := mount.Clone(m.FD, r)
		if errors.Is(err, unix.EINVAL) {
			return cloneForeign(m.FD, r)
		}
		return tree, err
	})
}

// clone copies a mount. The kernel refuses to copy one without those below it
// when that would show files that they hide from this user; then all are copied.
func clone(recursive bool, f func(bool) (*os.File, error)) (*os.File, error) {
	tree, err := f(recursive)
	if !recursive && errors.Is(err, unix.EINVAL) {
		return f(true)
	}
	return tree, err
}

// cloneForeign is for a file that was opened in another mount namespace, that of
// the main process, where this one has no right to copy mounts. It is looked for
// by its name, which leads to the same file as long as nobody moved it.
func cloneForeign(f *os.File, recursive bool) (*os.File, error) {
	name, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(f.Fd())))
	if err != nil {
		return nil, err
	}
	tree, err := mount.ClonePath(name, recursive)
	if err != nil {
		return nil, err
	}
	want, err1 := f.Stat()
	got, err2 := tree.Stat()
	if err1 != nil || err2 != nil || !os.SameFile(want, got) {
		_ = tree.Close()
		return nil, fmt.Errorf("%s was moved or replaced", name)
	}
	return tree, nil
}
