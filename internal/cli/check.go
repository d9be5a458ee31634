// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/userns"
)

func (a *app) checkCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "check",
		Short: "say what stacker can use on this machine, and what to do about the rest",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return a.check(cmd.Context()) },
	}
}

func (a *app) check(ctx context.Context) error {
	out := a.std.Out
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("read kernel version: %w", err)
	}
	fmt.Fprintf(out, "os/kernel: %s %s\n", unix.ByteSliceToString(u.Sysname[:]), unix.ByteSliceToString(u.Release[:]))
	fmt.Fprintf(out, "state directory: %s (%s)\n", a.settings.stateDir, fileSystem(a.settings.stateDir))
	fmt.Fprintf(out, "%s %s\n", a.settings.rootsDir, fileSystem(a.settings.rootsDir))
	p, err := a.plan()
	a.printLevels(p, err)
	if err != nil {
		return errors.New("steps cannot run here")
	}
	s, err := a.openState(ctx)
	if err != nil {
		return err
	}
	w, err := s.Worker(ctx)
	if err != nil {
		fmt.Fprintf(out, "worker: no: %v\n", err)
		return errors.New("steps cannot run here")
	}
	r, err := w.Probe(ctx)
	if err != nil {
		return err
	}
	fmt.Fprintf(out, "snapshot driver: %s\n", r.Driver)
	for _, w := range r.Why {
		fmt.Fprintf(out, "  %s\n", w)
	}
	ok := a.printProbe("whiteouts", r.Whiteout) && a.printProbe("containers", r.Exec)
	fmt.Fprintf(out, "git (for git_version annotations): %s\n", gitProgram(ctx))
	if !ok {
		return errors.New("steps cannot run here")
	}
	fmt.Fprintln(out, "everything that a build needs works")
	return nil
}

// printLevels says which way to user ids was chosen, and why not a better one.
func (a *app) printLevels(p userns.Plan, err error) {
	out := a.std.Out
	if err != nil {
		fmt.Fprintf(out, "user namespace: no: %v\n", err)
		return
	}
	names := map[userns.Level]string{
		userns.LevelRoot:   "root, with a range of user ids that are not its own",
		userns.LevelSubID:  "ordinary user with subordinate ids",
		userns.LevelSingle: "ordinary user with one id only: a supervisor plays the others to steps",
		userns.LevelChroot: "root of a container without user namespaces: steps are entered by chroot",
		userns.LevelVroot:  "no user namespaces, and no rights of root: paths and ids are played to steps",
	}
	fmt.Fprintf(out, "level: %s: %s\n", p.Level, names[p.Level])
	for _, m := range p.UIDs {
		fmt.Fprintf(out, "  user ids %d to %d of a step are %d to %d here\n", m.Inside, m.Inside+m.Count-1, m.Outside, m.Outside+m.Count-1)
	}
	for _, l := range userns.Levels() {
		a.printLevel(p, l)
	}
	if p.Level.Bare() {
		fmt.Fprintf(out, "steps are less apart: %s\n", bareLack(p.Level))
	}
	if p.OuterProc {
		fmt.Fprintf(out, "/proc of steps: %s\n    to get one of their own: %s\n", outerProc, unmaskProc)
	}
}

const (
	outerProc  = "that of the container around, because parts of it are covered: steps see its processes, and other numbers for their own"
	unmaskProc = "Kubernetes: hostUsers: false and procMount: Unmasked; podman run --security-opt unmask=ALL; docker run --security-opt systempaths=unconfined"
)

// bareLack says what steps without namespaces share with the container around.
func bareLack(l userns.Level) string {
	const shared = "without namespaces they share the container's network, host name, IPC and process numbers"
	if l == userns.LevelVroot {
		return shared + ", cannot trace processes or have Unix sockets, and are slower (experimental); see docs/unprivileged.md"
	}
	return shared + ", and have no /proc; see docs/unprivileged.md"
}

// noteLevel says at the start of a build what its steps see that is not theirs.
func (a *app) noteLevel(d *progress.Display) {
	// Where nothing can be made, a build of which all is known works, and another one says why not.
	p, err := a.plan()
	if err != nil {
		return
	}
	text := ""
	switch {
	case p.Level.Bare():
		text = fmt.Sprintf("level %s: steps are less apart: %s", p.Level, bareLack(p.Level))
	case p.OuterProc:
		text = "/proc of steps is " + outerProc
	default:
		return
	}
	d.Handle(solve.Event{Kind: solve.Note, Time: a.now(), Text: text})
}

// printLevel says why a level is not the one in use.
func (a *app) printLevel(p userns.Plan, l userns.Level) {
	out := a.std.Out
	told := l == p.Level
	for _, r := range p.Reasons {
		if r.Level != l {
			continue
		}
		told = true
		verb := "not"
		if l == p.Level {
			verb = "less than it could be:"
		}
		fmt.Fprintf(out, "  %s %s: %s\n", verb, r.Level, r.What)
		if r.Remedy != "" {
			fmt.Fprintf(out, "    to get it: %s\n", r.Remedy)
		}
	}
	if told {
		return
	}
	if _, err := a.planOf(l); err != nil {
		text := strings.TrimPrefix(err.Error(), userns.ErrUnavailable.Error()+": ")
		fmt.Fprintf(out, "  not %s: %s\n", l, strings.TrimPrefix(text, fmt.Sprintf("level %s cannot be had: ", l)))
		return
	}
	fmt.Fprintf(out, "  %s works too: --level %s\n", l, l)
}

func (a *app) printProbe(what, problem string) bool {
	if problem == "" {
		problem = "yes"
	} else {
		problem = "no: " + problem
	}
	fmt.Fprintf(a.std.Out, "%s: %s\n", what, problem)
	return problem == "yes"
}

// fileSystem names the file system of a path or of its nearest parent.
func fileSystem(path string) string {
	names := map[int64]string{
		unix.EXT4_SUPER_MAGIC: "ext4", unix.BTRFS_SUPER_MAGIC: "btrfs", unix.XFS_SUPER_MAGIC: "xfs", unix.TMPFS_MAGIC: "tmpfs",
		unix.OVERLAYFS_SUPER_MAGIC: "overlay", unix.NFS_SUPER_MAGIC: "nfs", unix.FUSE_SUPER_MAGIC: "fuse", unix.F2FS_SUPER_MAGIC: "f2fs",
	}
	for ; ; path = filepath.Dir(path) {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) == nil {
			if n, ok := names[int64(st.Type)]; ok {
				return n
			}
			return fmt.Sprintf("file system %#x", st.Type)
		}
		if path == "/" {
			return "unknown file system"
		}
	}
}

func gitProgram(ctx context.Context) string {
	out, err := exec.CommandContext(ctx, "git", "--version").Output()
	if errors.Is(err, exec.ErrNotFound) {
		return "not found: install the package git to have them"
	}
	if err != nil {
		return "does not run: " + err.Error()
	}
	return strings.TrimSpace(string(out))
}
