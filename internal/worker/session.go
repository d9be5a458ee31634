// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/snapshot"
)

// What a worker has under way carries the name of its session, whose file is
// locked while the worker lives: so a later one finds what was left behind by a
// worker that was killed, and removes it.
const (
	activeDir   = "tmp" // of the tree area; package overlay keeps active snapshots there
	sessionFile = "session-"
)

// session is this worker's.
type session struct {
	name string
	file *os.File
}

func newSession() (*session, error) {
	for {
		s := &session{name: snapshot.NewID()}
		f, err := os.OpenFile(filepath.Join(activeDir, sessionFile+s.name), os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
		if err != nil {
			// Among others a file system in user space that looks at the rights of the process itself.
			return nil, fmt.Errorf("begin session: the worker cannot write to its own directory of the state directory; "+
				"if that is on a network or in user space (FUSE), choose another one with --state: %w", err)
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, errors.Join(fmt.Errorf("begin session: %w", err), f.Close())
		}
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return nil, errors.Join(fmt.Errorf("begin session: %w", err), f.Close())
		}
		if st.Nlink > 0 {
			s.file = f
			return s, nil
		}
		// Another worker came between: it took the file for that of an ended session.
		_ = f.Close()
	}
}

// newID names something under way.
func (s *session) newID() string { return s.name + "." + snapshot.NewID() }

func (s *session) end() {
	_ = os.Remove(s.file.Name())
	_ = s.file.Close()
}

// collect drops what ended sessions left. rescue is called first for each of their snapshots: should
// this worker be killed before it is through, another one begins again.
func (s *session) collect(rescue, discard func(id string)) {
	entries, err := os.ReadDir(activeDir)
	if err != nil {
		return
	}
	ended := map[string]bool{}
	for _, e := range entries {
		name, ok := strings.CutPrefix(e.Name(), sessionFile)
		if !ok || name == s.name {
			continue
		}
		p := filepath.Join(activeDir, e.Name())
		f, err := os.OpenFile(p, os.O_RDWR|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			ended[name] = true
			for _, e := range entries {
				if owner, _, ok := strings.Cut(e.Name(), "."); ok && owner == name {
					rescue(e.Name())
				}
			}
			_ = os.Remove(p)
		}
		_ = f.Close()
	}
	for _, e := range entries {
		if owner, _, ok := strings.Cut(e.Name(), "."); ok && ended[owner] {
			discard(e.Name())
		}
	}
}
