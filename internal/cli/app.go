// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"build.stacker.dev/internal/build"
	"build.stacker.dev/internal/frontend/dockerfile"
	"build.stacker.dev/internal/frontend/stackerfile"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/progress"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/source/git"
	"build.stacker.dev/internal/source/httpfile"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/userns"
)

// app is what commands share: settings, and what is opened at the first need.
type app struct {
	std      Streams
	settings settings
	state    *state.State
	offline  bool              // build --offline: nothing is asked of the network
	log      *os.File          // --log-file
	lines    bool              // progress is told in lines
	trace    func(text string) // --debug: where details are told; nil: nowhere
	// stdoutTaken: the command's result goes to the standard output.
	stdoutTaken bool
	// stepsQuiet: what steps print is shown only where one fails.
	stepsQuiet bool

	planning sync.Once // of plan
	planned  userns.Plan
	planErr  error

	// The build file that was read, and its name, where that may be no file.
	buildFile     string
	buildFileData []byte
}

// messages is where words go that are no errors.
func (a *app) messages() *os.File {
	if a.stdoutTaken {
		return a.std.Err
	}
	return a.std.Out
}

// stderr is where messages go.
func (a *app) stderr() (*os.File, error) {
	if a.settings.logFile == "" || a.log != nil {
		if a.log != nil {
			return a.log, nil
		}
		return a.std.Err, nil
	}
	f, err := os.Create(a.settings.logFile)
	if err != nil {
		return nil, fmt.Errorf("open log file: %w", err)
	}
	a.log = f
	return f, nil
}

// openState opens the state directory.
func (a *app) openState(ctx context.Context) (*state.State, error) {
	if a.state != nil {
		return a.state, nil
	}
	s, err := state.Open(ctx, state.Options{
		Dir:    a.settings.stateDir,
		Plan:   a.plan,
		Driver: a.settings.storageType,
		OnWait: func() { fmt.Fprintln(a.std.Err, "waiting for stacker prune to end") },
	})
	a.state = s
	return s, err
}

// plan finds out, once, how steps are kept apart and get their user ids.
func (a *app) plan() (userns.Plan, error) {
	a.planning.Do(func() { a.planned, a.planErr = a.planOf(userns.Level(a.settings.level)) })
	return a.planned, a.planErr
}

// planOf is plan for one level; empty: the best that there is.
func (a *app) planOf(l userns.Level) (userns.Plan, error) {
	h := userns.Local(os.Getenv("PATH"))
	h.Want = l
	return userns.Detect(h)
}

// close ends what was opened.
func (a *app) close() error {
	if a.state != nil {
		a.state.Close()
		a.state = nil
	}
	if a.log != nil {
		return a.log.Close()
	}
	return nil
}

// images finds base images.
func (a *app) images(s *state.State) *source.Images {
	var mu sync.Mutex // stages ask for their images at the same time
	clients := map[bool]source.Registry{}
	return &source.Images{Blobs: s.Blobs, Local: s.Images, Short: userShortNames(), Registry: func(insecure bool) (source.Registry, error) {
		if a.offline {
			return &offline{s}, nil
		}
		mu.Lock()
		defer mu.Unlock()
		if c, ok := clients[insecure]; ok {
			return c, nil
		}
		c := &remembering{&puller{registry.New(registryOptions(insecure))}, a, s}
		clients[insecure] = c
		return c, nil
	}}
}

func (a *app) builder(ctx context.Context, s *state.State) *build.Builder {
	return build.New(build.Options{
		State: s, Images: a.images(s), HTTP: httpfile.Options{Credentials: fileCredentials(ctx, a.trace), Offline: a.offline}, Now: a.now,
		Git:        git.Options{Environ: os.Environ(), KnownHosts: knownHosts(), Offline: a.offline},
		StackerDir: a.settings.stackerDir, StackerDirGiven: a.settings.stackerDirGiven,
		Path: os.Getenv("PATH"),
		SingleID: sync.OnceValue(func() bool {
			p, err := a.plan()
			return err == nil && p.Level.SingleID()
		}),
	})
}

// knownHosts are the files in which ssh keeps the keys of hosts.
func knownHosts() []string {
	files := []string{"/etc/ssh/ssh_known_hosts"}
	if home, err := os.UserHomeDir(); err == nil {
		files = append([]string{filepath.Join(home, ".ssh", "known_hosts")}, files...)
	}
	return files
}

// now is the clock. Nothing below this package reads another.
func (a *app) now() time.Time { return time.Now() }

// workingDir is where the user stands. Where that cannot be found, causes of steps
// are looked for under relative names.
func workingDir() string {
	dir, err := os.Getwd()
	if err != nil {
		return ""
	}
	return dir
}

func cores() int { return runtime.GOMAXPROCS(0) }

// display draws the progress of a build.
func (a *app) display() (*progress.Display, error) {
	out, err := a.stderr()
	if err != nil {
		return nil, err
	}
	mode := a.settings.progress
	switch {
	case a.settings.logTimestamp && (mode == "auto" || mode == "tty"):
		mode = "plain" // a line that moves has no time
	}
	switch {
	case a.settings.quiet:
		mode = "quiet"
	case mode == "none":
		mode = "quiet"
	case a.settings.noProgress && mode == "auto":
		mode = "plain"
	}
	m, err := progress.ParseMode(mode)
	if err != nil {
		return nil, err
	}
	o := progress.ForTerminal(out, os.Getenv)
	if !a.stepsQuiet && (m == progress.Plain || m == progress.Quiet || o.Size == nil && m != progress.RawJSON) {
		// What steps print goes to stdout as it is, for whoever reads it there.
		to := a.messages()
		o.RunOutput = to
		if term.IsTerminal(int(to.Fd())) { // also one that is called dumb
			o.RunOutput = progress.NewSafeWriter(to, progress.ForTerminal(to, os.Getenv).Color)
		}
	}
	a.lines = m == progress.Plain || o.Size == nil && m != progress.RawJSON && m != progress.Quiet
	if a.settings.logTimestamp && a.lines {
		return progress.New(m, &stamper{out: out, now: a.now}, o), nil
	}
	return progress.New(m, out, o), nil
}

// explainError says what went wrong, where, and what to do.
func (a *app) explainError(err error) string {
	var file interface{ Detail() string }
	if errors.As(err, &file) {
		return file.Detail()
	}
	var mistake *dockerfile.Mistake
	if errors.As(err, &mistake) {
		return (&stackerfile.Error{Pos: stackerfile.Pos(mistake.Pos), Msg: mistake.Text, Quote: mistake.Quote, Hint: mistake.Hint}).Detail()
	}
	text := err.Error()
	var step *solve.StepError
	if errors.As(err, &step) && step.Pos.Line > 0 {
		text = fmt.Sprintf("%s: %s", step.Pos, text)
		if q := a.quote(step.Pos); q != "" {
			text += "\n" + strings.TrimRight(q, "\n")
		}
	}
	return text + a.hint(err)
}

// quote gives a line of the build file. That may be no file of this machine.
func (a *app) quote(at graph.Pos) string {
	if a.buildFileData == nil || at.File != a.buildFile {
		return stackerfile.Quote(at.File, at.Line, at.Column)
	}
	lines := strings.Split(string(a.buildFileData), "\n")
	if at.Line > len(lines) {
		return ""
	}
	_, quote, _ := strings.Cut((&stackerfile.Error{Pos: stackerfile.Pos(at), Quote: lines[at.Line-1]}).Detail(), "\n")
	return quote
}

// hint says what to do about faults of the machine.
func (a *app) hint(err error) string {
	var exit *build.ExitError
	if errors.As(err, &exit) && exit.Full {
		err = unix.ENOSPC // what the step said about it is in its output
	}
	switch {
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		return "\nhint: " + free(a.settings.stateDir) + "; stacker prune makes room, --state DIRECTORY uses another file system"
	case errors.Is(err, unix.EROFS):
		return "\nhint: the file system is read-only: choose other directories with --state, --oci-dir and --stacker-dir"
	}
	if exit == nil && errors.Is(err, fs.ErrPermission) && a.names(err) {
		return "\nhint: --oci-dir, --stacker-dir and --state choose directories that you may write to"
	}
	return ""
}

// names tells whether an error is about one of the directories that may be chosen, and
// not about files of the user's.
func (a *app) names(err error) bool {
	var at *fs.PathError
	errors.As(err, &at)
	for _, dir := range []string{a.settings.stateDir, a.settings.ociDir, a.settings.stackerDir} {
		abs, aerr := filepath.Abs(dir)
		if aerr != nil || dir == "" {
			continue
		}
		if strings.Contains(err.Error(), abs) {
			return true
		}
		if at == nil {
			continue
		}
		if p, perr := filepath.Abs(at.Path); perr == nil && strings.HasPrefix(p+"/", abs+"/") {
			return true
		}
	}
	return false
}

// free tells how full the file system of a path is.
func free(path string) string {
	for ; path != "/"; path = filepath.Dir(path) {
		var st unix.Statfs_t
		if unix.Statfs(path, &st) != nil {
			continue
		}
		left := progress.Bytes(int64(st.Bavail) * st.Bsize)
		return fmt.Sprintf("%s left in the file system of %s (%d free inodes)", left, path, st.Ffree)
	}
	return "the file system is full"
}
