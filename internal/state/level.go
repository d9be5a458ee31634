// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package state

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/snapshot/overlay"
	"build.stacker.dev/internal/userns"
)

// levelName holds the level that made the trees, as a word.
const (
	levelName = "level"
	maxLevel  = 16
)

// kind tells levels apart whose trees cannot be read by each other: with one id owners are
// notes, with more they are owners; files of subordinate ids are out of reach for who has
// none; and without a namespace all ids are those of the machine.
func kind(l userns.Level) string {
	switch {
	case l.SingleID():
		return "notes"
	case l.Bare():
		return "machine"
	}
	return "namespace"
}

// checkLevel refuses trees that a worker of this level would read wrongly. Without trees the
// area is this level's.
func (s *State) checkLevel(level userns.Level) error {
	path := filepath.Join(s.Dir, levelName)
	data, err := atomicfile.ReadRegular(path, maxLevel)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("open state directory: %w", err)
	}
	old := userns.Level(strings.TrimSpace(string(data)))
	if old == level {
		return nil
	}
	if old != "" && !s.noTrees() && kind(old) != kind(level) {
		return fmt.Errorf("the state directory %s was filled with level %s, but this is level %s: empty it with "+
			"\"stacker prune --all --level %s\", or choose another one with --state", s.Dir, old, level, old)
	}
	return atomicfile.Write(path, []byte(string(level)+"\n"), 0o600, atomicfile.NoSync)
}

// noTrees tells whether the tree area is empty.
func (s *State) noTrees() bool {
	for _, d := range overlay.Dirs() {
		names, err := os.ReadDir(filepath.Join(s.Dir, treesDir, d))
		if len(names) > 0 || err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false
		}
	}
	return true
}
