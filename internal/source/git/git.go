// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package git checks commits of remote repositories out, by the machine's git
// program, and keeps what it fetched.
//
// Repositories are hostile, and so may be the words that name them. Git sees
// nothing of the user's configuration, templates, hooks or environment; it speaks
// http, https and ssh only; words from outside never stand where an option could;
// objects are checked when they arrive. Credentials are in no argument, message
// or file that stays. A host that is not in the user's known_hosts is refused.
//
// The directory holds, for each remote, HEX.git, a bare repository, HEX.lock, and
// below HEX/ one directory for each commit that was checked out, and a file ref-HEX
// with the commit for each branch or tag that was asked for. Any number of
// processes may use it at once. All of it can be fetched again.
package git

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/lockfile"
)

// Options say what to fetch.
type Options struct {
	Dir    string // keeps what was fetched; made when it is missing
	Remote string // http, https or ssh URL, or user@host:path
	Ref    string // branch, tag, full ref or commit; empty: the remote's HEAD
	// Checksum is the commit, or its beginning, that Ref must lead to; empty: any.
	Checksum       string
	KeepDir        bool // with .git
	SkipSubmodules bool
	CommitTimes    bool // files have the commit's time
	// Authorization is the value of that header for http and https; empty: none.
	Authorization string
	// Environ gives PATH, proxies and SSH_AUTH_SOCK; nothing else of it is used.
	Environ []string
	// KnownHosts are files of host keys.
	KnownHosts []string
	// Offline asks nobody: a branch or tag is what it was when it was asked for last.
	Offline bool
}

// Result is a commit that was checked out.
type Result struct {
	Path   string // of the files; nobody may change them
	Commit string // 40 or 64 hexadecimal digits
}

var (
	commitForm = regexp.MustCompile(`^([0-9a-f]{40}|[0-9a-f]{64})$`)
	scpForm    = regexp.MustCompile(`^[A-Za-z0-9_.-]+@[A-Za-z0-9_.\[\]:-]*:[^-].*$`)
	refForm    = regexp.MustCompile(`^[A-Za-z0-9_./@+-]*$`)
)

// check refuses words that mean something else to git, or to ssh.
func check(o Options) error {
	if strings.ContainsAny(o.Remote, "\n\r\x00") || strings.HasPrefix(o.Remote, "-") {
		return fmt.Errorf("git remote %q is no URL", Display(o.Remote))
	}
	if !strings.Contains(o.Remote, "://") {
		if !scpForm.MatchString(o.Remote) || strings.Contains(o.Remote, "::") {
			return fmt.Errorf("git remote %q is no http, https or ssh URL", o.Remote)
		}
	} else {
		u, err := url.Parse(o.Remote)
		if err != nil {
			return fmt.Errorf("git remote: %w", errors.Unwrap(err)) // without the URL, which may have a password
		}
		if !slices.Contains([]string{"http", "https", "ssh"}, u.Scheme) {
			return fmt.Errorf("git remote %s: %s is not spoken, only https, http and ssh", Display(o.Remote), u.Scheme)
		}
		if strings.HasPrefix(u.Host, "-") || u.Host == "" {
			return fmt.Errorf("git remote %s: bad host", Display(o.Remote))
		}
	}
	if !refForm.MatchString(o.Ref) || strings.HasPrefix(o.Ref, "-") || strings.Contains(o.Ref, "..") {
		return fmt.Errorf("git ref %q is not valid", o.Ref)
	}
	return nil
}

// Display is a remote without credentials. A name alone before the host is one too
// where http is spoken: the tokens of most servers stand there.
func Display(remote string) string {
	scheme, rest, ok := strings.Cut(remote, "://")
	if !ok {
		return remote
	}
	// By hand: what url.Parse refuses is shown as well.
	end := strings.IndexAny(rest, "/?#\n\r\x00")
	if end < 0 {
		end = len(rest)
	}
	at := strings.LastIndexByte(rest[:end], '@')
	if at < 0 {
		return remote
	}
	if user, _, _ := strings.Cut(rest[:at], ":"); scheme == "ssh" {
		return scheme + "://" + user + rest[at:]
	}
	return scheme + "://" + rest[at+1:]
}

// Fetch finds the commit that the options name and checks it out, unless it is
// there. What a commit names is never asked for again.
func Fetch(ctx context.Context, o Options) (out Result, err error) {
	err = with(ctx, o, func(r *repository, commit string) error {
		path, err := r.checkout(ctx, commit)
		if err != nil {
			return fmt.Errorf("git %s: check out %s: %w", Display(o.Remote), commit, err)
		}
		out = Result{Path: path, Commit: commit}
		return nil
	})
	return out, err
}

// Time finds the commit that the options name and tells when it was made. Nothing is
// checked out.
func Time(ctx context.Context, o Options) (out time.Time, err error) {
	err = with(ctx, o, func(r *repository, commit string) error {
		if out, err = r.time(ctx, commit); err != nil {
			return fmt.Errorf("git %s: %w", Display(o.Remote), err)
		}
		return nil
	})
	return out, err
}

// with calls do for the commit that the options name, while nobody else changes what
// is kept of the remote.
func with(ctx context.Context, o Options, do func(r *repository, commit string) error) error {
	if err := check(o); err != nil {
		return err
	}
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return fmt.Errorf("make git directory: %w", err)
	}
	sum := sha256.Sum256([]byte(o.Remote))
	r := &repository{o: o, base: filepath.Join(o.Dir, hex.EncodeToString(sum[:]))}
	unlock, err := lockfile.Lock(ctx, r.base+".lock", nil)
	if err != nil {
		return err
	}
	defer unlock()
	commit, err := r.find(ctx)
	if err != nil {
		return fmt.Errorf("git %s: %w", Display(o.Remote), err)
	}
	if o.Checksum != "" && !strings.HasPrefix(commit, strings.ToLower(o.Checksum)) {
		return fmt.Errorf("git %s: %s is commit %s, but %s is wanted", Display(o.Remote), nameOf(o.Ref), commit, o.Checksum)
	}
	return do(r, commit)
}

func nameOf(ref string) string {
	if ref == "" {
		return "HEAD"
	}
	return ref
}

// repository is one remote.
type repository struct {
	o    Options
	base string
}

func (r *repository) bare() string { return r.base + ".git" }

// remoteName is what git is told; its configuration in the environment says what
// that is, so that no credentials are in arguments.
const remoteName = "stacker-remote"

// git runs git. dir is its working directory.
func (r *repository) git(ctx context.Context, dir string, extra []string, args ...string) (string, error) {
	config := [][2]string{
		{"core.hooksPath", os.DevNull}, {"core.fsmonitor", "false"}, {"core.symlinks", "true"}, {"core.protectHFS", "true"},
		{"core.protectNTFS", "true"}, {"fetch.fsckObjects", "true"}, {"transfer.fsckObjects", "true"}, {"gc.auto", "0"},
		{"maintenance.auto", "false"}, {"init.defaultBranch", "main"}, {"advice.detachedHead", "false"}, {"credential.helper", ""},
		{"url." + r.o.Remote + ".insteadOf", remoteName}, {"safe.directory", "*"},
	}
	if r.o.Authorization != "" {
		// Git sends the header on to where it is redirected, to other hosts too
		// (http.c: what is set for the first URL is set for the process).
		config = append(config, [2]string{"http." + origin(r.o.Remote) + ".extraHeader", "Authorization: " + r.o.Authorization},
			[2]string{"http." + origin(r.o.Remote) + ".followRedirects", "false"})
	}
	env := append([]string{
		"HOME=" + r.o.Dir, "GIT_CONFIG_NOSYSTEM=1", "GIT_CONFIG_GLOBAL=" + os.DevNull, "GIT_TERMINAL_PROMPT=0", "GIT_ASKPASS=true",
		"GIT_ALLOW_PROTOCOL=" + r.protocols(), "GIT_TEMPLATE_DIR=", "LC_ALL=C", "GIT_SSH_COMMAND=" + r.ssh(),
	}, extra...)
	env = append(env, fmt.Sprintf("GIT_CONFIG_COUNT=%d", len(config)))
	for i, kv := range config {
		env = append(env, fmt.Sprintf("GIT_CONFIG_KEY_%d=%s", i, kv[0]), fmt.Sprintf("GIT_CONFIG_VALUE_%d=%s", i, kv[1]))
	}
	for _, e := range r.o.Environ {
		name, _, _ := strings.Cut(e, "=")
		switch strings.ToLower(name) {
		case "path", "http_proxy", "https_proxy", "no_proxy", "all_proxy", "ssh_auth_sock", "ssl_cert_file", "ssl_cert_dir":
			env = append(env, e)
		}
	}
	cmd := exec.CommandContext(ctx, "git", args...)
	cmd.Dir, cmd.Env = dir, env
	var out, msg bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &msg
	cmd.WaitDelay = 5 * time.Second
	err := cmd.Run()
	if ctx.Err() != nil {
		return "", context.Cause(ctx)
	}
	if errors.Is(err, exec.ErrNotFound) {
		return "", errors.New("sources from git need the program git, which is not in PATH")
	}
	if err != nil {
		said := r.clean(msg.String())
		if r.o.Authorization != "" && strings.Contains(said, "returned error: 30") {
			said += ": the server redirects, and the token is for this server only: name the place to which it redirects"
		}
		return "", fmt.Errorf("%s: %w: %s", args[0], err, said)
	}
	return out.String(), nil
}

// protocols are what git may speak.
func (r *repository) protocols() string {
	if r.o.Offline {
		return "none"
	}
	return "http:https:ssh"
}

// ssh asks nobody and trusts only hosts that are known.
func (r *repository) ssh() string {
	return "ssh -F /dev/null -o BatchMode=yes -o StrictHostKeyChecking=yes -o UserKnownHostsFile='" + strings.Join(r.o.KnownHosts, "' '") + "'"
}

// clean takes credentials and all but the last lines out of what git says.
func (r *repository) clean(s string) string {
	if u, err := url.Parse(r.o.Remote); err == nil && u.User != nil {
		s = strings.ReplaceAll(s, r.o.Remote, Display(r.o.Remote))
		if u.Scheme != "ssh" {
			s = strings.ReplaceAll(s, u.User.String()+"@", "")
			s = strings.ReplaceAll(s, u.User.Username()+"@", "") // git leaves the password out by itself
		}
		if p, ok := u.User.Password(); ok && p != "" {
			s = strings.ReplaceAll(s, p, "xxxxx")
		}
	}
	lines := strings.Split(strings.TrimSpace(s), "\n")
	if len(lines) > 3 {
		lines = lines[len(lines)-3:]
	}
	return strings.Join(lines, "; ")
}

// origin is the part of a URL for which a header is meant.
func origin(remote string) string {
	u, err := url.Parse(remote)
	if err != nil {
		return remote
	}
	return u.Scheme + "://" + u.Host + "/"
}

// find resolves the ref and fetches the commit.
func (r *repository) find(ctx context.Context) (string, error) {
	if _, err := os.Stat(filepath.Join(r.bare(), "HEAD")); errors.Is(err, fs.ErrNotExist) {
		if _, err := r.git(ctx, r.o.Dir, nil, "init", "--quiet", "--bare", "--template=", r.bare()); err != nil {
			return "", err
		}
	}
	if r.o.Offline {
		return r.kept(ctx)
	}
	if commitForm.MatchString(r.o.Ref) {
		if r.has(ctx, r.o.Ref) {
			return r.o.Ref, nil
		}
		return r.o.Ref, r.fetch(ctx, r.o.Ref, r.o.Ref)
	}
	ref, commit, err := r.resolve(ctx)
	if err != nil {
		return "", err
	}
	if !r.has(ctx, commit) {
		if err := r.fetch(ctx, ref, commit); err != nil {
			return "", err
		}
	}
	return commit, r.remember(commit)
}

// refFile is where it is kept what the ref was.
func (r *repository) refFile() string {
	sum := sha256.Sum256([]byte(nameOf(r.o.Ref)))
	return filepath.Join(r.base, "ref-"+hex.EncodeToString(sum[:]))
}

// maxCommit bounds the name of a commit, in bytes.
const maxCommit = 64

// remember keeps what the ref is, for when nobody can be asked.
func (r *repository) remember(commit string) error {
	if was, err := atomicfile.ReadRegular(r.refFile(), maxCommit); err == nil && string(was) == commit {
		return nil
	}
	if err := os.MkdirAll(r.base, 0o700); err != nil {
		return err
	}
	return atomicfile.Write(r.refFile(), []byte(commit), 0o600, atomicfile.NoSync) // one that is empty is none
}

// kept finds the commit without asking anybody.
func (r *repository) kept(ctx context.Context) (string, error) {
	commit := r.o.Ref
	if !commitForm.MatchString(commit) {
		was, err := atomicfile.ReadRegular(r.refFile(), maxCommit)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		commit = string(was)
	}
	if !commitForm.MatchString(commit) || !r.has(ctx, commit) {
		return "", fmt.Errorf("%s is not on this machine, and the network is not to be used", nameOf(r.o.Ref))
	}
	return commit, nil
}

func (r *repository) has(ctx context.Context, commit string) bool {
	_, err := r.git(ctx, r.bare(), nil, "rev-parse", "--quiet", "--verify", "refs/stacker/"+commit+"^{commit}")
	return err == nil
}

// resolve asks the remote what the ref is: a branch before a tag.
func (r *repository) resolve(ctx context.Context) (ref, commit string, err error) {
	name := nameOf(r.o.Ref)
	out, err := r.git(ctx, r.bare(), nil, "ls-remote", "--", remoteName, name, name+"^{}")
	if err != nil {
		return "", "", err
	}
	found := map[string]string{}
	for line := range strings.Lines(out) {
		id, full, ok := strings.Cut(strings.TrimSpace(line), "\t")
		if ok && commitForm.MatchString(id) {
			found[full] = id
		}
	}
	for _, full := range []string{name, "refs/heads/" + name, "refs/tags/" + name, "refs/" + name} {
		id, ok := found[full]
		if !ok {
			continue
		}
		if peeled, ok := found[full+"^{}"]; ok {
			id = peeled
		}
		return full, id, nil
	}
	return "", "", fmt.Errorf("there is no branch or tag %s", name)
}

// fetch brings a commit, alone where the remote can do that.
func (r *repository) fetch(ctx context.Context, ref, commit string) error {
	to := "+" + ref + ":refs/stacker/" + commit
	_, err := r.git(ctx, r.bare(), nil, "fetch", "--quiet", "--no-tags", "--depth=1", "--", remoteName, to)
	if err != nil && ctx.Err() == nil { // a server of plain files, or one that gives out no single commits
		_, second := r.git(ctx, r.bare(), nil, "fetch", "--quiet", "--no-tags", "--", remoteName, "+refs/heads/*:refs/heads/*", "+refs/tags/*:refs/tags/*")
		if second != nil {
			return err
		}
		_, err = r.git(ctx, r.bare(), nil, "update-ref", "refs/stacker/"+commit, commit)
	}
	if err != nil {
		return err
	}
	got, err := r.git(ctx, r.bare(), nil, "rev-parse", "refs/stacker/"+commit+"^{commit}")
	if err == nil && strings.TrimSpace(got) != commit {
		err = fmt.Errorf("%s changed while it was fetched: run the build again", ref)
	}
	return err
}
