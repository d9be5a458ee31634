// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"build.stacker.dev/internal/fileop/action"
	"build.stacker.dev/internal/nearest"
	"build.stacker.dev/internal/rootfs"
)

// explainMissing says what is usually wrong when a copy finds nothing: the file is
// excluded, or its name has a fault.
func (l *listing) explainMissing(c *action.Copy, err error) error {
	if ignoreMissing(err) != nil {
		return err
	}
	name := rootfs.Clean(c.Src)
	var at *fs.PathError
	if errors.As(err, &at) {
		name = rootfs.Clean(at.Path)
	}
	root, rerr := rootfs.Open(l.dir)
	if rerr != nil {
		return err
	}
	defer root.Close()
	if _, rerr = root.Lstat(name); rerr == nil {
		return fmt.Errorf("%q is excluded from the build context by .dockerignore", name)
	}
	text := fmt.Sprintf("%q is not in the build context", name)
	dir, base := path.Split(name)
	var names []string
	all, _ := root.ReadDir(rootfs.Clean(dir)) // only to help
	for _, e := range all {
		names = append(names, e.Name)
	}
	if near := nearest.Word(base, names); near != "" {
		text += fmt.Sprintf(": did you mean %q?", dir+near)
	}
	return errors.New(text)
}

// check refuses a path that is not listed. Where a link is on the way the worker
// looks for it.
func (l *listing) check(name string) error {
	name = rootfs.Clean(name)
	if name == "." || l.name != "" {
		return nil
	}
	for i := range len(name) + 1 {
		if i < len(name) && name[i] != '/' {
			continue
		}
		at, ok := l.find(name[:i])
		if !ok {
			return l.explainMissing(&action.Copy{Src: name}, fs.ErrNotExist)
		}
		if l.entries[at].IsSymlink() {
			return nil
		}
	}
	return nil
}
