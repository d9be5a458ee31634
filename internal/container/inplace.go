// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
)

// inPlace makes what is missing for mounts in the step's root itself. The times
// of the directories that it is in stay what they were. It returns the paths of
// all that it made or touched, the root among them.
func inPlace(root *rootfs.Root, all []target) ([]string, error) {
	touched := map[string]bool{".": true}
	times := map[string]unix.Stat_t{}
	for _, t := range all {
		elems := strings.Split(t.path, "/")
		if t.nested || t.found == len(elems) || touched[t.path] {
			continue
		}
		parent := "."
		if t.found > 0 {
			parent = strings.Join(elems[:t.found], "/")
		}
		if _, ok := times[parent]; !ok {
			st, err := root.Lstat(parent)
			if err != nil {
				return nil, err
			}
			times[parent] = st
		}
		touched[parent] = true
		for i := t.found; i < len(elems); i++ {
			p := strings.Join(elems[:i+1], "/")
			if touched[p] {
				continue
			}
			touched[p] = true
			if err := t.make(root, p, i == len(elems)-1); err != nil {
				return nil, err
			}
		}
	}
	for p, st := range times {
		if err := root.Chtimes(p, st.Atim, st.Mtim); err != nil {
			return nil, err
		}
	}
	out := make([]string, 0, len(touched))
	for p := range touched {
		out = append(out, p)
	}
	slices.Sort(out) // a directory comes before what is in it
	return out, nil
}

// make makes the element p of the target's path.
func (t *target) make(root *rootfs.Root, p string, last bool) error {
	switch {
	case last && t.link != "":
		return root.Symlink(t.link, p)
	case last && t.file:
		return root.Mknod(p, unix.S_IFREG|0o644, 0)
	}
	return root.Mkdir(p, 0o755)
}
