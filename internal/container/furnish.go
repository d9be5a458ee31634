// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container/initproc"
	"build.stacker.dev/internal/layer"
)

// furnish places in the root what the step sees beside it. It tells the owner of the root
// when the root is as the step's changes are measured against.
func (r *run) furnish(ctx context.Context, st *stage) error {
	s := &r.spec
	sources := make([]source, len(s.Mounts))
	for i, m := range s.Mounts {
		var err error
		if sources[i], err = look(m); err != nil {
			return fmt.Errorf("show %s: %w", m.Target, err)
		}
	}
	targets, touched, err := prepare(st.root, s, sources)
	if err != nil {
		return err
	}
	if s.OnReady != nil {
		if err := s.OnReady(touched); err != nil {
			return err
		}
	}
	for _, name := range fixed {
		if err := s.putFixed(st, name); err != nil {
			return fmt.Errorf("show /%s: %w", name, err)
		}
	}
	for i, m := range s.Mounts {
		from, err := m.object(ctx, filepath.Join(s.Scratch, "copy"+strconv.Itoa(i)), sources[i].file)
		if err == nil {
			err = st.put(from, targets[i])
		}
		if err != nil {
			return fmt.Errorf("show %s: %w", m.Target, err)
		}
	}
	if err := st.settle(); err != nil {
		return err
	}
	return layer.Settle(s.Scratch)
}

var errWritable = errors.New("it would be written to, which needs a mount, and nothing can be mounted at level chroot: all other levels show it, level vroot to a user who is not root, " +
	"and stacker check says how to get them (a copy of what is read-only can be shown)")

// look finds out what a mount would show.
func look(m Mount) (source, error) {
	out := source{target: m.Target, file: m.File}
	if m.Tmpfs != nil {
		return out, nil
	}
	if !m.Own && !m.ReadOnly {
		return out, errWritable
	}
	var st unix.Stat_t
	err := errSource
	switch {
	case m.FD != nil && m.Source == "":
		err = unix.Fstat(int(m.FD.Fd()), &st)
	case m.FD == nil && m.Source != "":
		err = unix.Lstat(m.Source, &st)
	}
	if err != nil {
		return out, err
	}
	out.file = st.Mode&unix.S_IFMT != unix.S_IFDIR
	return out, nil
}

// object gives the path of what is to be moved into the root: the mount's source, or the
// new file or directory name.
func (m *Mount) object(ctx context.Context, name string, file bool) (string, error) {
	if m.Own {
		return m.Source, nil
	}
	source := m.Source
	if m.FD != nil {
		source = "/proc/self/fd/" + strconv.Itoa(int(m.FD.Fd()))
	}
	if file {
		return name, copyOne(source, name)
	}
	if err := os.Mkdir(name, 0o755); err != nil {
		return "", err
	}
	if m.Tmpfs != nil {
		mode := m.Tmpfs.Mode
		if mode == 0 {
			mode = 0o1777
		}
		return name, unix.Chmod(name, mode)
	}
	return name, layer.Flatten(ctx, []string{source}, name, layer.FlattenOptions{})
}

// copyOne copies a regular file with its mode and times.
func copyOne(source, name string) error {
	// Not a FIFO's or a device's: those are not waited for.
	fd, err := unix.Open(source, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: source, Err: err}
	}
	in := os.NewFile(uintptr(fd), source)
	defer in.Close()
	info, err := in.Stat()
	if err != nil {
		return err
	}
	if !info.Mode().IsRegular() {
		return errors.New("without mounts only regular files and directories can be shown")
	}
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = layer.CopyContent(int(out.Fd()), fd)
	err = errors.Join(err, out.Chmod(info.Mode().Perm()), out.Close())
	if err != nil {
		return err
	}
	return os.Chtimes(name, info.ModTime(), info.ModTime())
}

// putFixed places /dev with a few devices, and empty directories for /proc and /sys.
func (s *Spec) putFixed(st *stage, name string) error {
	made := filepath.Join(s.Scratch, name)
	if err := os.Mkdir(made, 0o755); err != nil {
		return err
	}
	if name == "dev" {
		if err := makeDevices(made); err != nil {
			return err
		}
	}
	t := target{path: name}
	return st.put(made, t)
}

// makeDevices fills the /dev of a step.
func makeDevices(dir string) error {
	for _, d := range initproc.Devices() {
		name := filepath.Join(dir, d.Name)
		if err := unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(uint32(d.Major), uint32(d.Minor)))); err != nil {
			return fmt.Errorf("make device %s (root needs CAP_MKNOD): %w", d.Name, err)
		}
		if err := unix.Chmod(name, 0o666); err != nil {
			return err
		}
	}
	null, err := os.OpenFile(filepath.Join(dir, "null"), os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("use a device in the state directory (is it mounted with nodev?): %w", err)
	}
	_ = null.Close() // nothing was written
	shm := filepath.Join(dir, "shm")
	if err := os.Mkdir(shm, 0o777); err != nil {
		return err
	}
	return unix.Chmod(shm, 0o1777)
}

// separate gives the directories that outlive the step files of their own, where the step gave
// their files further names in its root: these become part of a layer, which never changes.
func (s *Spec) separate(ctx context.Context) error {
	for _, m := range slices.Backward(s.Mounts) {
		if !m.Own || m.File || m.ReadOnly {
			continue
		}
		if _, err := os.Lstat(m.Source); errors.Is(err, fs.ErrNotExist) {
			continue // the step removed it
		}
		if err := layer.Separate(ctx, m.Source); err != nil {
			return fmt.Errorf("keep what is mounted on %s: %w", m.Target, err)
		}
	}
	return nil
}
