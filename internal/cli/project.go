// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/lockfile"
)

// lockName is the file that is locked in the stacker and the roots directory.
const lockName = ".lock"

// lockProject locks the project's directories until release is called. Builds
// share the lock: they may run at the same time. clean, and earlier versions of
// the program, take it alone. A directory in which nothing can be written, or
// that is a link which the user did not name, has no lock: a build that needs it
// says so later.
func (a *app) lockProject(shared bool) (release func(), err error) {
	var held []func()
	release = func() {
		for _, unlock := range held {
			unlock()
		}
	}
	s := a.settings
	for _, d := range []struct {
		path  string
		given bool
	}{{s.stackerDir, s.stackerDirGiven}, {s.rootsDir, s.rootsDirGiven}} {
		unlock, err := lockDir(d.path, d.given, shared)
		if err != nil {
			release()
			return nil, err
		}
		held = append(held, unlock)
	}
	return release, nil
}

func lockDir(dir string, given, shared bool) (func(), error) {
	none := func() {}
	if shared {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return none, nil
		}
	}
	stat := os.Lstat
	if given {
		stat = os.Stat
	}
	if info, err := stat(dir); err != nil || !info.IsDir() {
		return none, nil
	}
	path := filepath.Join(dir, lockName)
	if _, err := os.Lstat(path); !shared && errors.Is(err, fs.ErrNotExist) {
		return none, nil
	}
	unlock, err := lockfile.Try(path, shared)
	switch {
	case errors.Is(err, unix.EWOULDBLOCK):
		return nil, fmt.Errorf("couldn't acquire lock on %s: %s: %w", path, owner(path), unix.EWOULDBLOCK)
	case errors.Is(err, fs.ErrPermission):
		if err := otherUser(path); err != nil {
			return nil, err
		}
		return none, nil
	case err != nil:
		return none, nil
	}
	return unlock, nil
}

// owner says who holds a lock. Arguments stay out of it: they may be secret.
func owner(path string) string {
	pid := lockfile.Owner(path)
	if pid == 0 {
		return "couldn't find who owns the lock"
	}
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	name, _, _ := bytes.Cut(line, []byte{0})
	return fmt.Sprintf("lock owned by pid %d (%s)", pid, strings.ToValidUTF8(string(name), "?"))
}

// otherUser refuses a project in which another user built: what that user's
// builds left could not be changed.
func otherUser(path string) error {
	var st unix.Stat_t
	if unix.Lstat(path, &st) != nil || int(st.Uid) == os.Geteuid() {
		return nil
	}
	return fmt.Errorf("previous run of stacker found with uid %d: %s belongs to that user (was it sudo?): "+
		"give the project's directories back with chown, remove them, or choose others with --work-dir", st.Uid, path)
}

// checkUser is otherUser for what earlier versions of the program left.
func (a *app) checkUser() error {
	return otherUser(filepath.Join(a.settings.stackerDir, "build.cache"))
}
