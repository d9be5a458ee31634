// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// Where nothing can be mounted, the directories of cache mounts are moved into the root of the step
// that uses them. A worker that is killed meanwhile cannot move them back. So it writes down first
// which they are, beside the root, in the file lent:
//
//	[{"Cache":"e3b0…b855.0","Ino":1234}]
//
// Who finds the snapshot of an ended session moves them back before it drops the rest.
const lentFile = "lent"

// lent is a directory of mountsDir that is in a step's root.
type lent struct {
	Cache string // its name
	Ino   uint64 // by which it is found, wherever the step moved it
}

// lend notes that the directories go into the root of a.
func lend(a snapshot.Active, dirs []string) error {
	if len(dirs) == 0 {
		return nil
	}
	all := make([]lent, len(dirs))
	for i, d := range dirs {
		var st unix.Stat_t
		if err := unix.Lstat(d, &st); err != nil {
			return fmt.Errorf("note use of cache: %w", err)
		}
		all[i] = lent{filepath.Base(d), st.Ino}
	}
	data, err := json.Marshal(all)
	if err != nil {
		return fmt.Errorf("note use of cache: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(filepath.Dir(a.Root), lentFile), os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("note use of cache: %w", err)
	}
	_, err = f.Write(data)
	// Nothing is moved before it is written: half a note is about nothing.
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("note use of cache: %w", err)
	}
	return nil
}

// takeBack moves home what the active snapshot id of an ended session was lent. What cannot be
// moved is lost with the snapshot, as all that is in it: a cache is made again.
func takeBack(id string) {
	const most = 1 << 20
	dir := filepath.Join(activeDir, id)
	data, err := os.ReadFile(filepath.Join(dir, lentFile))
	if err != nil || len(data) > most {
		return // nothing was lent
	}
	var all []lent
	if json.Unmarshal(data, &all) != nil {
		return
	}
	for _, l := range all {
		_ = l.takeBack(filepath.Join(dir, "root"))
	}
}

// takeBack moves the directory home, which is in root if it is not there. A cache that came to be
// in its place meanwhile, and that has something in it or is in use, stays.
func (l lent) takeBack(root string) error {
	name, number, _ := strings.Cut(l.Cache, ".")
	n, err := strconv.Atoi(number)
	if err != nil {
		return err
	}
	home, err := cachePath(name, n)
	if err != nil {
		return err
	}
	lock, err := lockCache(context.Background(), home+".lock", unix.LOCK_EX, false)
	if lock == nil || err != nil {
		return err
	}
	defer lock.Close()
	var st unix.Stat_t
	if unix.Lstat(home, &st) == nil && st.Ino == l.Ino {
		return nil
	}
	mounts, err := rootfs.Open(mountsDir)
	if err != nil {
		return err
	}
	defer mounts.Close()
	to, err := mounts.Dir()
	if err != nil {
		return err
	}
	defer to.Close()
	in, err := rootfs.Open(root)
	if err != nil {
		return err
	}
	defer in.Close()
	from, err := in.Dir()
	if err != nil {
		return err
	}
	defer from.Close()
	const deepest = 100
	return l.search(from, to, deepest)
}

// search moves the directory to the place with its name in to, from wherever below d it is, down to
// a depth.
func (l lent) search(d, to *rootfs.Dir, depth int) error {
	entries, err := d.ReadDir()
	if err != nil {
		return err
	}
	for _, e := range entries {
		st, err := d.Lstat(e.Name)
		if err != nil || st.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		if st.Ino == l.Ino {
			return d.Rename(e.Name, to, filepath.Base(l.Cache)) // over an empty one
		}
		if depth == 0 {
			continue
		}
		below, err := d.OpenDir(e.Name)
		if err != nil {
			continue
		}
		err = l.search(below, to, depth-1)
		_ = below.Close()
		if err == nil {
			return nil
		}
	}
	return fs.ErrNotExist
}
