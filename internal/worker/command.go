// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container"
	"build.stacker.dev/internal/fileop"
	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// command puts what a Dockerfile's step has into the container's spec. end frees
// what it holds and is never nil.
func (s *server) command(ctx context.Context, c *call, r ExecRequest, a snapshot.Active, spec *container.Spec) (end func(), err error) {
	k := &commandSetup{s: s, c: c, a: a, spec: spec, r: r}
	cmd := r.Command
	if cmd.Hostname != "" {
		spec.Hostname = cmd.Hostname
	}
	spec.ShmSize = cmd.ShmSize
	for _, l := range cmd.Limits {
		spec.Limits = append(spec.Limits, container.Limit{Resource: l.Resource, Cur: l.Cur, Max: l.Max})
	}
	if err := k.user(cmd.User); err != nil {
		return k.end, err
	}
	if err := k.hosts(cmd.Hosts); err != nil {
		return k.end, err
	}
	// Locks are taken in the order of the caches' names, so that two steps never
	// wait for each other.
	locks := slices.Clone(cmd.Mounts)
	slices.SortStableFunc(locks, func(a, b Mount) int { return strings.Compare(a.Cache, b.Cache) })
	caches := map[string]string{}
	for _, m := range locks {
		if m.Cache != "" && caches[m.Cache] == "" {
			if caches[m.Cache], err = k.cache(ctx, m); err != nil {
				return k.end, fmt.Errorf("cache mount on %s: %w", m.Target, err)
			}
		}
	}
	if s.bare && !s.singleID {
		if err := lend(a, slices.Sorted(maps.Values(caches))); err != nil {
			return k.end, err
		}
	}
	for i, m := range cmd.Mounts {
		if err := k.mount(ctx, i, m, caches); err != nil {
			return k.end, fmt.Errorf("mount on %s: %w", m.Target, err)
		}
	}
	return k.end, nil
}

// commandSetup is the making of one step's spec.
type commandSetup struct {
	s    *server
	c    *call
	a    snapshot.Active
	spec *container.Spec
	r    ExecRequest
	ends []func()
}

func (k *commandSetup) end() {
	for i := len(k.ends) - 1; i >= 0; i-- {
		k.ends[i]()
	}
	k.ends = nil
}

func (k *commandSetup) later(f func()) { k.ends = append(k.ends, f) }

// scratch names a file for this step that is gone with it.
func (k *commandSetup) scratch(name string) string { return filepath.Join(k.a.Extra, "..", name) }

// user looks up who runs the step; without a HOME it gets that of the user.
func (k *commandSetup) user(name string) error {
	u := fileop.User{Home: "/root"}
	if name != "" && len(k.r.Lower) > 0 {
		root, err := k.s.view(k.r.Lower)
		if err != nil {
			return err
		}
		defer root.Close()
		if u, err = fileop.LookupUser(root, name); err != nil {
			return err
		}
	} else if name != "" {
		id, rest, _ := strings.Cut(name, ":")
		uid, err := strconv.ParseUint(id, 10, 31)
		if err != nil {
			return fmt.Errorf("user %s: the root file system is empty: use a number", name)
		}
		gid, _ := strconv.ParseUint(rest, 10, 31)
		u.UID, u.GID, u.Home = uint32(uid), uint32(gid), ""
	}
	k.spec.UID, k.spec.GID, k.spec.Groups = u.UID, u.GID, u.Groups
	if u.Home == "" {
		u.Home = "/"
	}
	if !slices.ContainsFunc(k.spec.Env, func(e string) bool { return strings.HasPrefix(e, "HOME=") }) {
		k.spec.Env = append(k.spec.Env, "HOME="+u.Home)
	}
	return nil
}

// hosts shows an /etc/hosts with this machine's names for itself.
func (k *commandSetup) hosts(extra []string) error {
	names := k.spec.Hostname
	if own, err := os.Hostname(); k.s.bare && err == nil {
		names += " " + own // which steps have, too, whatever was asked for
	}
	text := "127.0.0.1\tlocalhost " + names + "\n::1\tlocalhost ip6-localhost ip6-loopback\n"
	for _, l := range extra {
		text += l + "\n"
	}
	file := k.scratch("hosts")
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		return fmt.Errorf("write hosts: %w", err)
	}
	k.spec.Mounts = append(k.spec.Mounts, container.Mount{Source: file, Own: true, Target: "/etc/hosts", File: true})
	return nil
}

func (k *commandSetup) mount(ctx context.Context, n int, m Mount, caches map[string]string) error {
	out := container.Mount{Target: m.Target, ReadOnly: m.ReadOnly}
	var err error
	switch {
	case m.Cache != "":
		out.Source, out.Own = caches[m.Cache], true
	case m.Tmpfs:
		out.Tmpfs = &container.Tmpfs{Size: m.Size, Mode: 0o1777}
	case m.Secret != 0:
		out.Source, err = k.secret(n, m)
		out.File, out.ReadOnly, out.Own = true, true, true
	case m.SSH:
		out.Source, err = k.agent(n, m)
		out.File, out.Own = true, true
	case k.s.bare:
		out.Source, err = k.ownPart(ctx, m)
		out.Own = true
	default:
		out.FD, err = k.bind(ctx, n, m)
		out.Detached = true
	}
	if err != nil {
		return err
	}
	k.spec.Mounts = append(k.spec.Mounts, out)
	return nil
}

// bind mounts a path of a stack of trees. The stack is mounted over a directory
// for a moment: the kernel copies no part of a mount that is attached nowhere.
func (k *commandSetup) bind(ctx context.Context, n int, m Mount) (*os.File, error) {
	id := k.s.session.newID()
	k.later(func() { k.s.discard(id) })
	a, err := k.s.prepare(ctx, id, m.Lower)
	if err != nil {
		return nil, err
	}
	if a.Root != "" {
		return k.part(a.Root, m.Selector)
	}
	o := mount.OverlayOptions{Lowers: a.Lowers, Upper: a.Upper, Work: a.Work}
	if len(o.Lowers) == 0 {
		o.Lowers = []string{a.Extra}
	}
	whole, err := mount.Overlay(o)
	if err != nil {
		return nil, err
	}
	if rootfs.Clean(m.Selector) == "." {
		k.later(func() { _ = whole.Close() })
		return whole, nil
	}
	defer whole.Close()
	at := k.scratch("bind" + strconv.Itoa(n))
	if err := os.Mkdir(at, 0o700); err != nil {
		return nil, err
	}
	dir, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	if err := mount.Attach(whole, dir); err != nil {
		return nil, err
	}
	defer func() { _ = unix.Unmount(at, unix.MNT_DETACH) }()
	return k.part(at, m.Selector)
}

// ownPart names a path of a stack of trees in a copy for this step. What the step does to it is
// lost with the copy.
func (k *commandSetup) ownPart(ctx context.Context, m Mount) (string, error) {
	id := k.s.session.newID()
	k.later(func() { k.s.discard(id) })
	a, err := k.s.prepare(ctx, id, m.Lower)
	if err != nil {
		return "", err
	}
	root, err := rootfs.Open(a.Root)
	if err != nil {
		return "", err
	}
	defer root.Close()
	part, err := open(root, m.Selector)
	if err != nil {
		return "", err
	}
	defer part.Close()
	// Where links led to. Nobody moves anything there.
	return os.Readlink("/proc/self/fd/" + strconv.Itoa(int(part.Fd())))
}

// part mounts what selector names in the root file system at dir.
func (k *commandSetup) part(dir, selector string) (*os.File, error) {
	root, err := rootfs.Open(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	part, err := open(root, selector)
	if err != nil {
		return nil, err
	}
	defer part.Close()
	tree, err := mount.Clone(part, false)
	if err == nil {
		k.later(func() { _ = tree.Close() })
	}
	return tree, err
}

// open opens a file or directory for mounting, following links inside the root.
func open(root *rootfs.Root, name string) (*os.File, error) {
	st, err := root.Stat(name)
	if err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		d, err := root.Walk(name)
		if err != nil {
			return nil, err
		}
		defer d.Close()
		fd, err := unix.FcntlInt(uintptr(d.Fd()), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		return os.NewFile(uintptr(fd), name), nil
	}
	return root.OpenFile(name, unix.O_RDONLY|unix.O_NONBLOCK, 0)
}

// secret writes a secret into memory for the step to see.
func (k *commandSetup) secret(n int, m Mount) (string, error) {
	if !k.s.inMemory && !k.s.bare { // else it has no better place than the step's own files
		return "", errors.New("secrets need a file system in memory, which cannot be mounted here")
	}
	f, err := k.c.file(m.Secret)
	if err != nil {
		return "", err
	}
	file := k.scratch("secret" + strconv.Itoa(n))
	out, err := os.OpenFile(file, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return "", err
	}
	_, err = io.Copy(out, io.NewSectionReader(f, 0, 1<<30))
	if err = errors.Join(err, k.own(out, m), out.Close()); err != nil {
		return "", fmt.Errorf("show secret: %w", err)
	}
	return file, nil
}

func (k *commandSetup) own(f *os.File, m Mount) error {
	if !k.s.singleID {
		if err := f.Chown(int(m.UID), int(m.GID)); err != nil {
			return err
		}
	}
	return f.Chmod(os.FileMode(m.Mode & 0o777))
}

// agent makes a socket for the step. Who answers on it is the caller, which has
// the user's keys: it gets the listening end.
func (k *commandSetup) agent(n int, m Mount) (string, error) {
	file := k.scratch("agent" + strconv.Itoa(n))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: file, Net: "unix"})
	if err != nil {
		return "", fmt.Errorf("make socket: %w", err)
	}
	l.SetUnlinkOnClose(false)
	defer l.Close()
	if !k.s.singleID {
		if err := os.Lchown(file, int(m.UID), int(m.GID)); err != nil {
			return "", err
		}
	}
	if err := os.Chmod(file, os.FileMode(m.Mode&0o777)); err != nil {
		return "", err
	}
	f, err := l.File()
	if err != nil {
		return "", fmt.Errorf("make socket: %w", err)
	}
	defer f.Close()
	k.c.event(execEvent{Listener: m.ID + 1}, f)
	return file, nil
}

// execEvent comes with a file: the step's terminal, or the listening end of the
// socket of the SSH mount Listener-1.
type execEvent struct{ Listener int }
