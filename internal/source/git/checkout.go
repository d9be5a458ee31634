// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package git

import (
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// checkout gives the directory with a commit's files, making it where it is missing.
func (r *repository) checkout(ctx context.Context, commit string) (string, error) {
	name := commit
	for _, f := range []struct {
		set    bool
		suffix string
	}{{r.o.KeepDir, "-git"}, {r.o.SkipSubmodules, "-nosub"}, {r.o.CommitTimes, "-times"}} {
		if f.set {
			name += f.suffix
		}
	}
	to := filepath.Join(r.base, name)
	if _, err := os.Lstat(to); err == nil {
		return to, nil
	}
	if err := os.MkdirAll(r.base, 0o700); err != nil {
		return "", err
	}
	tmp, err := os.MkdirTemp(r.base, "tmp-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(tmp)
	dir := filepath.Join(tmp, "files")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	if err := r.fill(ctx, commit, dir, filepath.Join(tmp, "index")); err != nil {
		return "", err
	}
	if err := os.Rename(dir, to); err != nil {
		return "", fmt.Errorf("keep checkout: %w", err)
	}
	return to, nil
}

func (r *repository) fill(ctx context.Context, commit, dir, index string) error {
	env := []string{"GIT_INDEX_FILE=" + index}
	if _, err := r.git(ctx, r.bare(), env, "read-tree", "refs/stacker/"+commit); err != nil {
		return err
	}
	modules, err := r.git(ctx, r.bare(), env, "ls-files", "--", ".gitmodules")
	if err != nil {
		return err
	}
	whole := r.o.KeepDir || modules != "" && !r.o.SkipSubmodules
	if whole {
		err = r.clone(ctx, commit, dir, modules != "" && !r.o.SkipSubmodules)
	} else {
		env = append(env, "GIT_DIR="+r.bare(), "GIT_WORK_TREE="+dir)
		_, err = r.git(ctx, dir, env, "checkout-index", "--all")
	}
	if err != nil {
		return err
	}
	if r.o.CommitTimes {
		return r.setTimes(ctx, commit, dir)
	}
	return nil
}

// clone makes a repository of its own for one commit.
func (r *repository) clone(ctx context.Context, commit, dir string, submodules bool) error {
	local := []string{"GIT_ALLOW_PROTOCOL=file"}
	steps := [][]string{
		{"init", "--quiet", "--template=", "."},
		{"fetch", "--quiet", "--no-tags", "--depth=1", "--", r.bare(), "refs/stacker/" + commit},
		{"checkout", "--quiet", "--detach", "FETCH_HEAD"},
	}
	for _, s := range steps {
		if _, err := r.git(ctx, dir, local, s...); err != nil {
			return err
		}
	}
	// Relative submodules are relative to this; the password stays out of it.
	if _, err := r.git(ctx, dir, nil, "remote", "add", "origin", "--", Display(r.o.Remote)); err != nil {
		if _, err := r.git(ctx, dir, nil, "config", "remote.origin.url", Display(r.o.Remote)); err != nil {
			return err
		}
	}
	if submodules {
		if _, err := r.git(ctx, dir, nil, "submodule", "--quiet", "update", "--init", "--recursive", "--depth=1"); err != nil {
			return err
		}
	}
	_ = os.Remove(filepath.Join(dir, ".git", "FETCH_HEAD")) // names the state directory
	if r.o.KeepDir {
		return nil
	}
	return filepath.WalkDir(dir, func(p string, e fs.DirEntry, err error) error {
		if err != nil || e.Name() != ".git" {
			return err
		}
		if err := os.RemoveAll(p); err != nil || !e.IsDir() {
			return err
		}
		return fs.SkipDir
	})
}

// time is when a commit was made.
func (r *repository) time(ctx context.Context, commit string) (time.Time, error) {
	out, err := r.git(ctx, r.bare(), nil, "show", "--no-patch", "--format=%ct", "refs/stacker/"+commit)
	if err != nil {
		return time.Time{}, err
	}
	sec, err := strconv.ParseInt(strings.TrimSpace(out), 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("read time of commit: %w", err)
	}
	return time.Unix(sec, 0), nil
}

// setTimes gives all files the time of the commit.
func (r *repository) setTimes(ctx context.Context, commit, dir string) error {
	at, err := r.time(ctx, commit)
	if err != nil {
		return err
	}
	ts, err := unix.TimeToTimespec(at)
	if err != nil {
		return err
	}
	return filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return unix.UtimesNanoAt(unix.AT_FDCWD, p, []unix.Timespec{ts, ts}, unix.AT_SYMLINK_NOFOLLOW)
	})
}
