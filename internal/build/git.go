// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package build

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/url"
	"os"
	"time"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/source/git"
	"build.stacker.dev/internal/source/httpfile"
	"build.stacker.dev/internal/source/localtree"
	"build.stacker.dev/internal/state"
)

// gitOptions says what a source from git is.
func (b *Builder) gitOptions(op graph.Git) (o git.Options, err error) {
	o = b.Git
	o.Dir = b.State.Path(state.GitDir)
	o.Remote, o.Ref, o.Checksum = op.Remote, op.Ref, op.Checksum
	o.KeepDir, o.SkipSubmodules, o.CommitTimes = op.KeepGitDir, op.SkipSubmodules, op.CommitTimes
	o.Authorization, err = b.authorization(op)
	return o, err
}

// git checks a commit out. A branch is asked for in every build.
func (b *Builder) git(ctx context.Context, op graph.Git) (*cache.Result, error) {
	o, err := b.gitOptions(op)
	if err != nil {
		return nil, err
	}
	r, err := git.Fetch(ctx, o)
	if err != nil {
		return nil, err
	}
	dir, err := inside(r.Path, op.Subdir)
	if err != nil {
		return nil, fmt.Errorf("git %s: directory %s: %w", git.Display(op.Remote), op.Subdir, err)
	}
	t, err := b.index.Scan(ctx, dir, localtree.Options{})
	if err != nil {
		return nil, err
	}
	return b.listed(&listing{entries: t.Entries, dir: t.Root}), nil
}

// Modified gives the time of what comes from elsewhere: when a commit was made, what
// the server says of a download. It is zero where nobody knows one.
func (b *Builder) Modified(ctx context.Context, op graph.Op) (time.Time, error) {
	switch op := op.(type) {
	case graph.Git:
		o, err := b.gitOptions(op)
		if err != nil {
			return time.Time{}, err
		}
		return git.Time(ctx, o)
	case graph.Download:
		o := b.HTTP
		o.Hash, o.Index = op.Checksum, b.index
		f, err := httpfile.Fetch(ctx, op.URL, o)
		if err != nil {
			return time.Time{}, err
		}
		return f.Modified, nil
	}
	return time.Time{}, nil
}

// authorization gives the header of the secrets that a source names, where they
// are there: BuildKit's names are GIT_AUTH_TOKEN and GIT_AUTH_HEADER, with the
// host behind a dot for only one host.
func (b *Builder) authorization(op graph.Git) (string, error) {
	if b.Secrets == nil {
		return "", nil
	}
	host := ""
	if u, err := url.Parse(op.Remote); err == nil {
		host = u.Host
	}
	for _, id := range []string{op.HeaderSecret + "." + host, op.HeaderSecret} {
		if v, ok, err := b.Secrets.Secret(id); err != nil || ok {
			return string(v), err
		}
	}
	for _, id := range []string{op.TokenSecret + "." + host, op.TokenSecret} {
		if v, ok, err := b.Secrets.Secret(id); err != nil || ok {
			return "basic " + base64.StdEncoding.EncodeToString(append([]byte("x-access-token:"), v...)), err
		}
	}
	return "", nil
}

// inside gives the path of a directory, whose links cannot lead out of root.
func inside(root, name string) (string, error) {
	if rootfs.Clean(name) == "." {
		return root, nil
	}
	r, err := rootfs.Open(root)
	if err != nil {
		return "", err
	}
	defer r.Close()
	d, err := r.OpenDir(name)
	if err != nil {
		return "", err
	}
	defer d.Close()
	return os.Readlink(fmt.Sprintf("/proc/self/fd/%d", d.Fd()))
}
