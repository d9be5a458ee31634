// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/btrfs"
	"build.stacker.dev/internal/snapshot/fuse"
	"build.stacker.dev/internal/snapshot/native"
	"build.stacker.dev/internal/snapshot/overlay"
)

// choice is a snapshot driver and why it was chosen.
type choice struct {
	driver snapshot.Driver
	deep   snapshot.Driver // for stacks of more trees than an overlay can have; nil: driver does them too
	why    []string        // what speaks against better ones
	err    error           // the driver that the user wants cannot be used
}

// choose finds the driver to use. trees lies in the working directory; probe is the
// name of a directory below it for trying things out, which is removed.
func choose(name, probe string, trees *overlay.Driver) choice {
	defer os.RemoveAll(probe) // a left-over is removed with the session
	switch name {
	case snapshot.Overlay:
		return choice{driver: trees, deep: native.New(trees), err: forced(name, canOverlay(probe))}
	case snapshot.Native:
		return choice{driver: native.New(trees), err: forced(name, canNative(probe))}
	case snapshot.Btrfs:
		return choice{driver: btrfs.New(trees), err: forced(name, canBtrfs(probe))}
	case snapshot.Fuse:
		return choice{driver: fuse.New(trees), err: forced(name, canFuse(probe))}
	case snapshot.Auto, "":
	default:
		return choice{driver: trees, err: fmt.Errorf("snapshot driver %q is not known", name)}
	}
	err := canOverlay(probe)
	if err == nil {
		return choice{driver: trees, deep: native.New(trees)}
	}
	why := []string{"not overlay: " + err.Error()}
	if err = canBtrfs(probe); err == nil {
		return choice{driver: btrfs.New(trees), why: why}
	}
	out := choice{driver: native.New(trees), why: append(why, "not btrfs: "+err.Error())}
	if err := canNative(probe); err != nil {
		out.err = fmt.Errorf("no snapshot driver works in this state directory: %w", err)
	}
	return out
}

func forced(name string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("the snapshot driver %s cannot be used here: %w; leave the choice to the program (--storage-type auto), "+
		"or choose a state directory on another file system (--state)", name, err)
}

// canOverlay tries an overlay as steps have it.
func canOverlay(probe string) error {
	dir := filepath.Join(probe, snapshot.Overlay)
	o := mount.OverlayOptions{Lowers: []string{filepath.Join(dir, "lower")}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work")}
	for _, p := range []string{o.Lowers[0], o.Upper, o.Work} {
		if err := os.MkdirAll(p, 0o700); err != nil {
			return fmt.Errorf("try an overlay: %w", err)
		}
	}
	if err := unix.Mknod(filepath.Join(dir, "whiteout"), unix.S_IFCHR, 0); err != nil {
		return fmt.Errorf("make a whiteout: %w", err)
	}
	// An upper directory without attributes is not refused, but loses deletions (tmpfs
	// before Linux 6.6).
	if err := canTrees(probe); err != nil {
		return err
	}
	m, err := mount.Overlay(o)
	if err != nil {
		return err
	}
	return m.Close()
}

func canBtrfs(probe string) error {
	if err := os.MkdirAll(probe, 0o700); err != nil {
		return fmt.Errorf("try btrfs: %w", err)
	}
	return btrfs.Probe(probe)
}

func canFuse(probe string) error {
	if err := os.MkdirAll(probe, 0o700); err != nil {
		return fmt.Errorf("try fuse-overlayfs: %w", err)
	}
	return fuse.Probe(probe)
}

// canTrees tries what trees need in any case.
func canTrees(probe string) error {
	if err := os.MkdirAll(probe, 0o700); err != nil {
		return fmt.Errorf("try extended attributes: %w", err)
	}
	err := unix.Setxattr(probe, "user.stacker.probe", []byte("y"), 0)
	if errors.Is(err, unix.ENOTSUP) {
		return fmt.Errorf("the file system of the state directory has no extended attributes (user.*), which layers need; "+
			"choose another one with --state: %w", err)
	}
	if err != nil {
		return fmt.Errorf("try extended attributes: %w", err)
	}
	return nil
}

// canNative tries what the driver native needs beside trees: that the names of a file show the same
// file. Some file systems in user space (FUSE) cache what they know of a file by its name, so that a
// change by one name is not seen by the other one, and is not in the layer.
func canNative(probe string) error {
	if err := canTrees(probe); err != nil {
		return err
	}
	const before, after = 0o600, 0o640
	one, two := filepath.Join(probe, "one"), filepath.Join(probe, "two")
	err := os.WriteFile(one, nil, before)
	if err == nil {
		err = os.Link(one, two)
	}
	var a, b unix.Stat_t
	if err == nil {
		err = unix.Lstat(one, &a) // so that it is cached
	}
	if err == nil {
		err = os.Chmod(two, after)
	}
	if err == nil {
		err = errors.Join(unix.Lstat(one, &a), unix.Lstat(two, &b))
	}
	if err != nil {
		return fmt.Errorf("the file system of the state directory cannot give a file two names, as layers need; choose another one with --state: %w", err)
	}
	if a.Ino != b.Ino || a.Mode&0o777 != after {
		return errors.New("the file system of the state directory does not keep the names of a file together (hard links), " +
			"so that changes would be lost; choose another one with --state")
	}
	return keepsOwners(one)
}

// keepsOwners finds out whether a file can be given away, where this process has other ids to give it
// to (else that is an error, and owners are noted): some file systems say so and do nothing.
func keepsOwners(file string) error {
	const other = 1
	var st unix.Stat_t
	if unix.Lchown(file, other, other) != nil || unix.Lstat(file, &st) == nil && st.Uid == other && st.Gid == other {
		return nil
	}
	return errors.New("the file system of the state directory does not keep owners of files, though it says so; choose another one with --state")
}

// prepare makes an active snapshot by the driver that was chosen.
func (s *server) prepare(ctx context.Context, id string, lower []string) (snapshot.Active, error) {
	if s.choice.err != nil {
		return snapshot.Active{}, s.choice.err
	}
	s.leaving.wait(lower)
	if s.deep != nil && len(lower) > maxOverlaid {
		return s.deep.Prepare(ctx, id, lower)
	}
	return s.driver.Prepare(ctx, id, lower)
}

// maxOverlaid is how many trees an overlay of a step can have: beside them it has
// the missing mount points and, while these are looked for, the upper directory.
const maxOverlaid = mount.MaxLowers - 2

// of gives the driver that made an active snapshot.
func (s *server) of(a snapshot.Active) snapshot.Driver {
	if s.deep != nil && a.Root != "" {
		return s.deep
	}
	return s.driver
}
