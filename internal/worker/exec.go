// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/binfmt"
	"build.stacker.dev/internal/container"
	"build.stacker.dev/internal/layer"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/snapshot"
)

// exec runs a step. Where its command is for another machine, it does so again as
// soon as the kernel knows an emulator.
func (s *server) exec(ctx context.Context, c *call, r ExecRequest) (ExecReply, error) {
	out, err := s.execOnce(ctx, c, r)
	var start *container.StartError
	if !errors.As(err, &start) || start.Machine == 0 {
		return out, err
	}
	if eerr := s.emulate(start.Machine, r.Path); eerr != nil {
		arch := binfmt.Architecture(start.Machine)
		return out, fmt.Errorf("%w: it is for %s, this machine is %s, and %w: install an emulator (Debian: apt-get install qemu-user-static), "+
			"or let the step run on this machine's platform (FROM --platform=$BUILDPLATFORM)", err, arch, runtime.GOARCH, eerr)
	}
	return s.execOnce(ctx, c, r)
}

// emulate gets programs for another machine to run.
func (s *server) emulate(machine uint16, path string) error {
	id := s.session.newID()
	defer s.discard(id)
	dir, err := s.driver.Dir(id)
	if err != nil {
		return err
	}
	return s.emulators.Ensure(dir, binfmt.Architecture(machine), path)
}

// execOnce runs a step in a container over the stack of trees and, if asked,
// keeps what it changed as a layer.
func (s *server) execOnce(ctx context.Context, c *call, r ExecRequest) (out ExecReply, err error) {
	start := time.Now()
	out.Start = start.UnixNano()
	id := s.session.newID()
	var exit container.Exit
	defer func() { s.discardAfter(exit.Gone, id) }()
	a, err := s.prepare(ctx, id, r.Lower)
	if err != nil {
		return out, err
	}
	spec, err := s.spec(ctx, c, r, a, 0)
	if err != nil {
		return out, err
	}
	if r.Command != nil {
		end, err := s.command(ctx, c, r, a, &spec)
		defer end()
		if err != nil {
			return out, err
		}
	}
	exit, err = s.steps.Run(ctx, spec)
	if err != nil {
		return out, explainStart(r, err)
	}
	out.Exit = ExitStatus{Code: exit.Code, Signal: exit.Signal}
	if r.Command != nil && exit.Signal == 0 && slices.Contains(r.Command.ExitCodes, exit.Code) {
		out.Exit = ExitStatus{}
	}
	out.User, out.Sys = exit.User, exit.System
	out.Full = out.Exit != (ExitStatus{}) && full(a.Upper)
	if out.Exit != (ExitStatus{}) && len(r.OnFailure) > 0 {
		return out, s.onFailure(ctx, c, r, a)
	}
	if out.Exit != (ExitStatus{}) {
		return out, nil
	}
	if r.Collect != "" {
		out.Files, err = collect(collectDir(a))
	}
	if err != nil || !r.Commit {
		return out, err
	}
	if err := s.of(a).Capture(ctx, a); err != nil {
		return out, err
	}
	if err := hide(a.Upper, r.Hidden); err != nil {
		return out, err
	}
	if !spec.Supervised() {
		if err := layer.DropForged(ctx, a.Upper, a.Lowers); err != nil {
			return out, err
		}
	}
	if err := layer.DropUnchanged(ctx, a.Upper, a.Lowers); err != nil {
		return out, err
	}
	describe := s.describe
	if r.Command != nil {
		describe = s.describeKept
	}
	out.Layer, err = describe(ctx, a.Upper, a.Lowers, r.Clamp, start.UnixNano())
	if err != nil || out.Layer.Empty {
		return out, err
	}
	tree := layerTree(r.Chain, out.Layer.DiffID)
	s.leaving.add(tree, exit.Gone)
	return out, s.driver.Adopt(a.Upper, tree)
}

// full tells whether next to nothing is left in the file system of a path.
func full(path string) bool {
	var st unix.Statfs_t
	return unix.Statfs(path, &st) == nil && (int64(st.Bavail)*st.Bsize < 1<<20 || st.Files > 0 && st.Ffree < 16)
}

// hide drops what a step left in places that belong to the build environment.
func hide(upper string, names []string) error {
	root, err := rootfs.Open(upper)
	if err != nil {
		return fmt.Errorf("open what the step changed: %w", err)
	}
	defer root.Close()
	for _, n := range names {
		if _, err := root.Lstat(n); errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err := root.RemoveAll(n); err != nil {
			return fmt.Errorf("drop changes of /%s: %w", n, err)
		}
	}
	return nil
}

// explainStart names the interpreter that a script asks for and that is not there.
func explainStart(r ExecRequest, err error) error {
	line, _, _ := strings.Cut(r.Script, "\n")
	words := strings.Fields(strings.TrimPrefix(line, "#!"))
	if !errors.Is(err, os.ErrNotExist) || !strings.HasPrefix(line, "#!") || len(words) == 0 {
		return err
	}
	return fmt.Errorf("interpreter %s is not in the image: %w", words[0], err)
}

// onFailure opens a command in the place where the step failed.
func (s *server) onFailure(ctx context.Context, c *call, r ExecRequest, a snapshot.Active) error {
	// The kernel refuses an upper directory of a volatile mount unless this
	// mark of the first mount is taken away (Documentation/filesystems/overlayfs).
	if err := os.RemoveAll(filepath.Join(a.Work, "work", "incompat")); err != nil {
		return fmt.Errorf("prepare --on-run-failure: %w", err)
	}
	if err := os.RemoveAll(a.Extra); err != nil {
		return fmt.Errorf("prepare --on-run-failure: %w", err)
	}
	if err := os.Mkdir(a.Extra, 0o755); err != nil {
		return fmt.Errorf("prepare --on-run-failure: %w", err)
	}
	r.Args, r.Script = r.OnFailure, ""
	if r.Console != 0 {
		if len(c.files) < r.Console+3 {
			return errors.New("the console needs three streams")
		}
		r.Terminal = isTerminal(c.files[r.Console])
	}
	spec, err := s.spec(ctx, c, r, a, r.Console)
	if err != nil {
		return err
	}
	_, err = s.steps.Run(ctx, spec)
	return err
}

// spec says what the container is made of. Its standard streams are the three
// files from number streams on.
func (s *server) spec(ctx context.Context, c *call, r ExecRequest, a snapshot.Active, streams int) (container.Spec, error) {
	points, err := s.pointsDir(a)
	if err != nil {
		return container.Spec{}, err
	}
	spec := container.Spec{
		Lowers: a.Lowers, Upper: a.Upper, Work: a.Work, Scratch: points,
		Args: r.Args, Env: r.Env, Dir: r.Dir, UID: r.UID, GID: r.GID,
		Hostname: "stacker", Network: container.Network(r.Network), Privileged: r.Privileged,
		NoNewPrivs: s.singleID || s.bare, SingleID: s.singleID, Terminal: r.Terminal,
	}
	if a.Root != "" {
		spec.Lowers, spec.Upper, spec.Work, spec.Root = nil, "", "", a.Root
		spec.OnReady = func(touched []string) error { return s.of(a).Begin(ctx, a, touched) }
		spec.OnRestored = func(paths []string) error { return s.restored(a, paths) }
	}
	if r.Terminal {
		spec.OnConsole = func(f *os.File) { c.event(struct{}{}, f) }
	}
	if len(c.files) < streams+3 {
		return spec, errors.New("a step needs three standard streams")
	}
	spec.Stdin, spec.Stdout, spec.Stderr = c.files[streams], c.files[streams+1], c.files[streams+2]
	if err := s.mounts(c, r, a, &spec); err != nil {
		return spec, err
	}
	return spec, nil
}

// mounts adds the imports, the script, this program and the user's binds.
func (s *server) mounts(c *call, r ExecRequest, a snapshot.Active, spec *container.Spec) error {
	add := func(m container.Mount) { spec.Mounts = append(spec.Mounts, m) }
	if r.Imports != "" {
		add(container.Mount{Source: s.driver.Path(r.Imports), Target: r.ImportPath, ReadOnly: true})
	}
	if r.Network != string(container.NetworkNone) {
		if err := resolver(a, add); err != nil {
			return err
		}
	}
	own, err := s.ownShell(r)
	if err != nil {
		return err
	}
	if r.Tools != "" {
		if err := s.tools(r, own, spec); err != nil {
			return err
		}
	}
	if r.Script != "" {
		file := filepath.Join(a.Extra, "..", "run.sh")
		if err := os.WriteFile(file, []byte(r.Script), 0o755); err != nil {
			return fmt.Errorf("write script: %w", err)
		}
		if err := os.Chmod(file, 0o755); err != nil {
			return fmt.Errorf("write script: %w", err)
		}
		add(container.Mount{Source: file, Own: true, Target: r.ScriptPath, ReadOnly: true, File: true})
		if len(spec.Args) == 0 {
			spec.Args = []string{r.ScriptPath}
		}
	}
	if own {
		addToPath(spec, r.Tools)
		spec.Links = append(spec.Links, container.Link{Name: "/bin/sh", Content: r.Tools + "/sh"})
	}
	if r.Collect != "" {
		dir := collectDir(a)
		if err := os.Mkdir(dir, 0o755); err != nil {
			return fmt.Errorf("make %s: %w", r.Collect, err)
		}
		add(container.Mount{Source: dir, Own: true, Target: r.Collect})
	}
	for _, b := range r.Binds {
		f, err := c.file(b.File)
		if err != nil {
			return err
		}
		add(container.Mount{FD: f, Detached: b.Detached, Target: b.Target, ReadOnly: b.ReadOnly, Recursive: true})
	}
	return nil
}

// resolver shows a copy of this machine's resolver configuration in the step, so
// that names resolve there. What the step writes to it is lost with it.
func resolver(a snapshot.Active, add func(container.Mount)) error {
	const path = "/etc/resolv.conf"
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // a machine without name resolution
	}
	if err != nil {
		return fmt.Errorf("read resolver configuration: %w", err)
	}
	file := filepath.Join(a.Extra, "..", "resolv.conf")
	if err := os.WriteFile(file, data, 0o644); err != nil {
		return fmt.Errorf("copy resolver configuration: %w", err)
	}
	add(container.Mount{Source: file, Own: true, Target: path, File: true})
	return nil
}

// ownShell tells whether the step gets the shell of this program: its root file
// system has none.
func (s *server) ownShell(r ExecRequest) (bool, error) {
	if r.Tools == "" {
		return false, nil
	}
	reply, err := s.stat(StatRequest{Lower: r.Lower, Paths: []string{"/bin/sh"}})
	if err != nil {
		return false, err
	}
	return reply.Kinds[0] != OtherFile, nil
}

// tools shows this program at its place in the step; with links by which it
// acts as a shell and the core utilities, where the step has none of its own.
func (s *server) tools(r ExecRequest, own bool, spec *container.Spec) error {
	exe, err := s.exe()
	if err != nil {
		return fmt.Errorf("make %s: %w", r.Tools, err)
	}
	makeDir := s.plainTools
	if own {
		makeDir = s.shellTools
	}
	dir, err := makeDir()
	if err != nil {
		return fmt.Errorf("make %s: %w", r.Tools, err)
	}
	spec.Mounts = append(spec.Mounts,
		container.Mount{Source: dir, Target: r.Tools, ReadOnly: true},
		container.Mount{FD: exe, Target: r.Tools + "/stacker", ReadOnly: true, File: true})
	return nil
}

// toolsDir makes a directory for tools: a file for this program to be mounted
// over, and links to it. All steps of the worker share it.
func (s *server) toolsDir(links []string) (string, error) {
	id := s.session.newID()
	dir, err := s.driver.Dir(id)
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	s.atEnd = append(s.atEnd, id)
	s.mu.Unlock()
	if err := os.WriteFile(filepath.Join(dir, "stacker"), nil, 0o755); err != nil {
		return "", err
	}
	for _, n := range links {
		if err := os.Symlink("stacker", filepath.Join(dir, n)); err != nil {
			return "", err
		}
	}
	return dir, nil
}

func addToPath(spec *container.Spec, dir string) {
	for i, e := range spec.Env {
		if v, ok := strings.CutPrefix(e, "PATH="); ok {
			spec.Env[i] = "PATH=" + v + ":" + dir
			return
		}
	}
	spec.Env = append(spec.Env, "PATH="+dir)
}

// pointsDir gives the empty directory for missing mount points. What is above these
// gets the attributes that it has in the step, among them notes of owners, so before
// Linux 6.6, which gave files in memory attributes, it lies beside the snapshot.
func (s *server) pointsDir(a snapshot.Active) (string, error) {
	if !s.plain || a.Root != "" {
		return a.Extra, nil
	}
	dir := filepath.Join(a.Upper, "..", "extra")
	if err := os.RemoveAll(dir); err != nil {
		return "", fmt.Errorf("make directory for mount points: %w", err)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", fmt.Errorf("make directory for mount points: %w", err)
	}
	return dir, nil
}

// probe tries what steps need.
func (s *server) probe(ctx context.Context) (ProbeReply, error) {
	out := ProbeReply{Driver: s.driver.Name(), Why: s.choice.why}
	id := s.session.newID()
	defer func() { _ = s.driver.Discard(id) }()
	a, err := s.prepare(ctx, id, nil)
	if err != nil {
		return out, err
	}
	lower, scratch := filepath.Join(a.Extra, "lower"), filepath.Join(a.Extra, "scratch")
	for _, d := range []string{lower, scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return out, fmt.Errorf("probe: %w", err)
		}
	}
	err = unix.Mknod(filepath.Join(a.Extra, "whiteout"), unix.S_IFCHR, 0)
	if err != nil && a.Root == "" { // the others have a second form of whiteouts
		out.Whiteout = err.Error()
	}
	spec := container.Spec{
		Lowers: []string{lower}, Upper: a.Upper, Work: a.Work, Scratch: scratch,
		Args: []string{"/nonexistent"}, Network: container.NetworkHost, SingleID: s.singleID,
	}
	if a.Root != "" {
		spec.Lowers, spec.Upper, spec.Work, spec.Root = nil, "", "", a.Root
	}
	_, err = s.steps.Run(ctx, spec)
	// The command does not exist: getting as far as that is what is asked for.
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		out.Exec = err.Error()
	}
	return out, nil
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}
