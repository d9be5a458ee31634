// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// gitVersion describes the revision of a build file's directory: its nearest tag,
// or its commit; "-dirty" after it where tracked files were changed. It is empty
// outside of a repository and where there is no git.
func gitVersion(ctx context.Context, dir string) string {
	if !inRepository(dir) {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	git := func(args ...string) (string, error) {
		cmd := exec.CommandContext(ctx, "git", append([]string{"-c", "core.fsmonitor=false", "-C", dir}, args...)...)
		cmd.Env = append(os.Environ(), "GIT_OPTIONAL_LOCKS=0")
		out, err := cmd.Output()
		return strings.TrimSpace(string(out)), err
	}
	v, err := git("describe", "--tags", "--dirty")
	if err == nil {
		return v
	}
	if v, err = git("rev-parse", "HEAD"); err != nil {
		return ""
	}
	if changes, err := git("status", "--porcelain", "--untracked-files=no"); err == nil && changes != "" {
		v += "-dirty"
	}
	return v
}

// inRepository looks for .git, so that outside of repositories no program is started.
func inRepository(dir string) bool {
	for {
		if _, err := os.Lstat(filepath.Join(dir, ".git")); err == nil {
			return true
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return false
		}
		dir = parent
	}
}
