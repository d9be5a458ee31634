// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/rootfs"
)

// maxLinks is how many symbolic links the way to a mount point may have; the
// kernel's own limit.
const maxLinks = 40

// target is the place of a mount in a step.
type target struct {
	path   string // clean, relative to the root, without links
	nested bool   // inside an earlier mount
	file   bool
	link   string // what is missing is made as a link with this content
	found  int    // of its elements, how many exist
}

// fixed are the mounts that every step has, in the order in which they are made.
var fixed = [...]string{"proc", "sys", "dev"}

// skeleton is the topmost of a step's lower layers. It has the mount points that
// are missing below, and nothing else, so that these are seen by the step and are
// not among what the step changed.
//
// Its directories hide the attributes of those below, in an overlay; so they get
// the same ones.
type skeleton struct {
	view *rootfs.Root // the step's root, as it is without the skeleton
	dir  *rootfs.Root // the skeleton itself
	made map[string]bool
	// parents are directories that exist in the view too, parents first.
	parents []string
}

// prepare finds the place of each mount and makes what is missing for it. view is
// the step's root as openView gives it.
func prepare(view *rootfs.Root, s *Spec, mounts []source) (targets []target, touched []string, err error) {
	var all []target
	for _, name := range fixed {
		t := target{path: name}
		if _, err := view.Lstat(name); err == nil {
			t.found = 1
		}
		all = append(all, t)
	}
	for _, m := range mounts {
		t, err := locate(view, m.target, all)
		if err != nil {
			return nil, nil, fmt.Errorf("mount on %s: %w", m.target, err)
		}
		t.file = m.file
		all = append(all, t)
	}
	missing := slices.Clip(all)
	for _, l := range s.Links {
		t, err := locate(view, l.Name, all)
		if err != nil {
			return nil, nil, fmt.Errorf("make link %s: %w", l.Name, err)
		}
		t.link = l.Content
		missing = append(missing, t)
	}
	if s.Root != "" {
		touched, err = inPlace(view, missing)
	} else {
		err = fill(view, s, missing)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("make mount points: %w", err)
	}
	return all[len(fixed):], touched, nil
}

// openView mounts what the step will see, read-only and for this process only.
// The empty Scratch is at the bottom because an overlay needs two layers. The mount, which
// is nil where there is none, goes with its file; the kernel takes a fraction of a
// millisecond for that, so it is closed when nobody waits.
func openView(s *Spec) (view *rootfs.Root, m *os.File, err error) {
	if s.Root != "" {
		view, err = rootfs.Open(s.Root)
		return view, nil, err
	}
	lowers := append([]string{s.Scratch}, s.Lowers...)
	if s.Upper != "" {
		lowers = append(lowers, s.Upper)
	}
	if len(lowers) == 1 {
		view, err = rootfs.Open(s.Scratch)
		return view, nil, err
	}
	m, err = mount.Overlay(mount.OverlayOptions{Lowers: lowers})
	if err != nil {
		return nil, nil, fmt.Errorf("mount view of the layers: %w", err)
	}
	view, err = rootfs.OpenAt(int(m.Fd()), ".")
	return view, m, err
}

// locate follows the links on the way to name inside view, up to the first
// element that does not exist or the first that is in an earlier mount.
func locate(view *rootfs.Root, name string, earlier []target) (target, error) {
	var t target
	todo := split(path.Clean("/" + name))
	var here []string
	links := 0
	for len(todo) > 0 {
		elem := todo[0]
		todo = todo[1:]
		if elem == ".." {
			here = here[:max(len(here)-1, 0)]
			t.found = min(t.found, len(here))
			continue
		}
		here = append(here, elem)
		if t.found < len(here)-1 {
			continue // inside what does not exist
		}
		p := strings.Join(here, "/")
		if covered(p, earlier) {
			if slices.Contains(todo, "..") {
				return t, errThrough
			}
			t.nested = true
			here = append(here, todo...)
			break
		}
		st, err := view.Lstat(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return t, err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			if links++; links > maxLinks {
				return t, unix.ELOOP
			}
			link, err := view.Readlink(p)
			if err != nil {
				return t, err
			}
			here = here[:len(here)-1]
			if path.IsAbs(link) {
				here, t.found = nil, 0
			}
			todo = append(split(link), todo...)
		case unix.S_IFDIR:
			t.found = len(here)
		default:
			if len(todo) > 0 {
				return t, unix.ENOTDIR
			}
			t.found = len(here)
		}
	}
	t.path = path.Clean(strings.Join(here, "/"))
	return t, allowed(t)
}

func split(p string) []string {
	var out []string
	for e := range strings.SplitSeq(p, "/") {
		if e != "" && e != "." {
			out = append(out, e)
		}
	}
	return out
}

func covered(p string, earlier []target) bool {
	return slices.ContainsFunc(earlier, func(t target) bool { return t.path == p })
}

var errThrough = errors.New("a link on the way leads through another mount and back")

var errPlace = errors.New("nothing may be mounted on /, /proc or /sys, or inside the latter two")

// allowed refuses mounts that would take away from the confinement.
func allowed(t target) error {
	first, _, _ := strings.Cut(t.path, "/")
	if first == "." || first == ".." || first == "proc" || first == "sys" || t.path == "dev" {
		return errPlace
	}
	return nil
}

// fill makes the missing mount points in s.Scratch.
func fill(view *rootfs.Root, s *Spec, all []target) error {
	var sk *skeleton
	open := func() (err error) {
		if sk == nil {
			sk = &skeleton{view: view, made: map[string]bool{}}
			if sk.dir, err = rootfs.Open(s.Scratch); err == nil {
				sk.parents = append(sk.parents, ".")
			}
		}
		return err
	}
	defer func() {
		if sk != nil && sk.dir != nil {
			_ = sk.dir.Close() // once: its number may be another file's afterwards
		}
	}()
	for _, t := range all {
		if t.nested || t.found == strings.Count(t.path, "/")+1 {
			continue
		}
		if err := open(); err != nil {
			return err
		}
		if err := sk.add(t); err != nil {
			return err
		}
	}
	if s.Upper == "" {
		// The skeleton's root is then the one that the step sees.
		if err := open(); err != nil {
			return err
		}
	}
	if sk == nil {
		return nil
	}
	return sk.finish()
}

func (sk *skeleton) add(t target) error {
	elems := strings.Split(t.path, "/")
	for i := range elems {
		p := strings.Join(elems[:i+1], "/")
		if sk.made[p] {
			continue
		}
		sk.made[p] = true
		if err := t.make(sk.dir, p, i == len(elems)-1); err != nil {
			return err
		}
		if i < t.found {
			sk.parents = append(sk.parents, p)
		}
	}
	return nil
}

// finish gives the directories that exist below the attributes that they have
// there: children first, since making a child changes the time of its parent.
func (sk *skeleton) finish() error {
	for i := len(sk.parents) - 1; i >= 0; i-- {
		if err := sk.copyAttributes(sk.parents[i]); err != nil {
			return fmt.Errorf("copy attributes of /%s: %w", sk.parents[i], err)
		}
	}
	return nil
}

const (
	overlayXattr = "user.overlay."
	// escapedXattr is how an overlay stores an attribute that it would take for its
	// own (Documentation/filesystems/overlayfs, "Nesting overlayfs mounts"). It
	// shows it without the escape.
	escapedXattr = "user.overlay.overlay."
)

func (sk *skeleton) copyAttributes(p string) error {
	st, err := sk.view.Lstat(p)
	if err != nil {
		return err
	}
	names, err := sk.view.Llistxattr(p)
	if err != nil && !errors.Is(err, unix.ENOTSUP) {
		return err
	}
	if err := sk.dir.Lchown(p, int(st.Uid), int(st.Gid)); err != nil {
		return err
	}
	if err := sk.dir.Chmod(p, st.Mode&0o7777); err != nil {
		return err
	}
	for _, n := range names {
		v, err := sk.view.Lgetxattr(p, n)
		if err != nil {
			return err
		}
		if rest, ok := strings.CutPrefix(n, overlayXattr); ok {
			n = escapedXattr + rest
		}
		err = sk.dir.Lsetxattr(p, n, v)
		// Labels of security modules and the like are not ours to set.
		if err != nil && !(strings.HasPrefix(n, "security.") || strings.HasPrefix(n, "trusted.")) {
			return err
		}
	}
	return sk.dir.Chtimes(p, st.Atim, st.Mtim)
}
