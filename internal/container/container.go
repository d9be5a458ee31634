// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package container runs one command confined in a root file system of its own.
//
// Run is called in the worker: it needs all capabilities in a user namespace that
// is not the machine's first. It makes the mounts of the step, detached, and
// starts the container's first process, which attaches them, confines itself and
// starts the command (package initproc); of an ordinary step it has that process
// forked by one that is kept for all of them (forker.go).
//
// A step has its own mount, pid, ipc, uts and cgroup namespaces; a network
// namespace if asked. It sees its root, new /proc and /dev, and a read-only /sys.
// It holds the eleven capabilities of keepCaps and, in them, the means of a
// package manager: no mounts, no tracing of others, no other user's processes. A
// filter of system calls is described in package seccomp. Nothing of the outside
// is inherited: no descriptors but the three streams, no keyring, no environment.
//
// Invariants: when Run returns, every process of the step is dead and no mount of
// it is left, or soon will be where Exit.Gone is set; Upper holds only what the step
// did; nothing is ever mounted in the caller's mount namespace; no path is resolved
// through links of the step's root but scoped to it.
package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container/initproc"
	"build.stacker.dev/internal/mount"
	"build.stacker.dev/internal/rootfs"
	"build.stacker.dev/internal/seccomp"
)

// keepCaps are the capabilities of a step that is not privileged.
const keepCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID |
	1<<unix.CAP_KILL | 1<<unix.CAP_NET_BIND_SERVICE | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SETGID |
	1<<unix.CAP_SETPCAP | 1<<unix.CAP_SETUID | 1<<unix.CAP_SYS_CHROOT

// filter memoizes the system call filters, which depend on nothing but this.
var filter = sync.OnceValues(func() ([4][]byte, error) {
	var out [4][]byte
	for i := range out {
		o := seccomp.Options{Caps: keepCaps, Supervise: i&withSupervisor != 0}
		if i&withNetRaw != 0 {
			o.Caps |= 1 << unix.CAP_NET_RAW
		}
		p, err := seccomp.Program(o)
		if err != nil {
			return out, err
		}
		out[i] = p
	}
	return out, nil
})

// Which of the filters.
const (
	withNetRaw = 1 << iota
	withSupervisor
)

// Run runs the step s and waits for its end. The error says what kept the command
// from starting, and wraps the errno; how the command itself ended is in Exit.
// When ctx is done, every process of the step is killed, and the error is the
// cause.
func Run(ctx context.Context, s Spec) (Exit, error) {
	rn := new(Runner)
	defer rn.Close()
	return rn.runWith(ctx, s, false)
}

// Runner runs steps one after the other, or at once, as Run does, and keeps what their start
// would take longest for: a process that forks the first processes of ordinary containers, and
// for the others, where they come one after the other, the next one's first process. The zero
// value is ready for use.
type Runner struct {
	forks  forker
	mu     sync.Mutex
	spare  *initProcess
	making sync.WaitGroup
	closed bool
}

// Run is Run of the package, with a process that is ready.
func (rn *Runner) Run(ctx context.Context, s Spec) (Exit, error) { return rn.runWith(ctx, s, true) }

func (rn *Runner) runWith(ctx context.Context, s Spec, again bool) (Exit, error) {
	if err := check(&s); err != nil {
		return Exit{}, fmt.Errorf("run step: %w", err)
	}
	r := &run{spec: s}
	defer r.close()
	if forked(&s) {
		return r.runForked(ctx, &rn.forks)
	}
	var err error
	// Init first: it takes longer to come up than the mounts take to be made.
	kind := kindOf(&s)
	if r.init, err = rn.take(kind); err != nil {
		return Exit{}, err
	}
	if err := r.prepare(); err != nil {
		r.init.kill()
		return Exit{}, err
	}
	if again && kind.ahead {
		rn.prepareNext(kind)
	}
	return r.wait(ctx)
}

// take gives the process that is ready, or a new one. Steps that are not ordinary
// are rare: they wait for theirs.
func (rn *Runner) take(k initKind) (*initProcess, error) {
	rn.mu.Lock()
	var p *initProcess
	if rn.spare != nil && rn.spare.kind == k {
		p, rn.spare = rn.spare, nil
	}
	rn.mu.Unlock()
	if p != nil {
		return p, nil
	}
	return startInit(k)
}

// prepareNext starts the process of the next step while this one runs, in the hope
// that it is of the same kind.
func (rn *Runner) prepareNext(k initKind) {
	rn.mu.Lock()
	needed := rn.spare == nil && !rn.closed
	rn.mu.Unlock()
	if !needed {
		return
	}
	rn.making.Go(func() {
		p, err := startInit(k)
		if err != nil {
			return // the next step meets the error itself
		}
		rn.mu.Lock()
		if rn.spare == nil && !rn.closed {
			rn.spare, p = p, nil
		}
		rn.mu.Unlock()
		if p != nil {
			p.kill()
		}
	})
}

// Close ends the processes that were kept ready.
func (rn *Runner) Close() {
	rn.forks.close()
	rn.mu.Lock()
	rn.closed = true
	p := rn.spare
	rn.spare = nil
	rn.mu.Unlock()
	rn.making.Wait()
	if p != nil {
		p.kill()
	}
}

func check(s *Spec) error {
	switch {
	case len(s.Args) == 0:
		return errors.New("there is no command")
	case s.Root != "" && (s.Upper != "" || len(s.Lowers) > 0):
		return errors.New("a root directory takes the place of layers")
	case s.Scratch == "" && s.Root == "":
		return errors.New("there is no scratch directory")
	case (s.Upper == "") != (s.Work == ""):
		return errors.New("an upper directory needs a work directory, and the other way round")
	case s.Network != "" && s.Network != NetworkHost && s.Network != NetworkNone:
		return fmt.Errorf("network %q is not known: use %q or %q", string(s.Network), NetworkHost, NetworkNone)
	case s.Terminal && s.OnConsole == nil:
		return errors.New("a terminal needs somebody to take its other end")
	case s.SingleID && !s.Supervised() && (s.UID != 0 || s.GID != 0):
		return fmt.Errorf("user %d:%d cannot be used: only one id is available here; give this user subordinate ids (/etc/subuid)", s.UID, s.GID)
	}
	return nil
}

// run is one step under way.
type run struct {
	spec   Spec
	step   initproc.Step
	mounts []*os.File // what init gets: the three streams, the root and the mounts of the spec
	opened []*os.File // what is closed at the end
	view   *rootfs.Root
	init   *initProcess
	begin  func() (initproc.Outcome, error) // waits until the command runs; nil: init is told what to do
	leave  func() <-chan struct{}           // of an init that ends all others itself: waits for its end beside the work, see Exit.Gone
	end    func(*initProcess)               // ends the step; nil: by killing init

	cleanup func() // removes what was made for the step; nil: nothing was
}

func (r *run) own(f *os.File) *os.File {
	r.opened = append(r.opened, f)
	return f
}

func (r *run) closeFiles() {
	for _, f := range r.opened {
		_ = f.Close() // mounts and ends of sockets: nothing to lose
	}
	r.opened = nil
	if r.view != nil {
		_ = r.view.Close()
		r.view = nil
	}
}

func (r *run) close() {
	r.closeFiles()
	if r.init != nil {
		_ = r.init.control.Close()
	}
	if r.cleanup != nil {
		r.cleanup()
	}
}

// findPlaces finds where the mounts go, makes what is missing for them, and tells who
// wants to know that the root is ready.
func (r *run) findPlaces(sources []source) ([]target, error) {
	view, m, err := openView(&r.spec)
	if m != nil {
		r.own(m)
	}
	if err != nil {
		return nil, err
	}
	r.view = view
	targets, touched, err := prepare(view, &r.spec, sources)
	if err != nil {
		return nil, err
	}
	if r.spec.OnReady != nil {
		err = r.spec.OnReady(touched)
	}
	return targets, err
}

// prepare makes the mounts and says what init is to do.
func (r *run) prepare() error {
	s := &r.spec
	sources, err := openSources(s.Mounts)
	if err != nil {
		return err
	}
	for _, src := range sources {
		r.own(src.tree)
	}
	targets, err := r.findPlaces(sources)
	if err != nil {
		return err
	}
	root, err := mountRoot(s)
	if err != nil {
		return err
	}
	streams, err := r.streams()
	if err != nil {
		return err
	}
	r.mounts = append(streams, r.own(root))
	for _, src := range sources {
		r.mounts = append(r.mounts, src.tree)
	}
	r.describe(targets)
	return r.addFilter()
}

// mountRoot mounts the step's root, detached.
func mountRoot(s *Spec) (*os.File, error) {
	if s.Root != "" {
		return mount.ClonePath(s.Root, false)
	}
	if s.Upper != "" {
		// Left by an earlier step on the same directories; the kernel takes it for
		// the sign of a crash (Documentation/filesystems/overlayfs, "Volatile mount").
		if err := os.RemoveAll(filepath.Join(s.Work, "work", "incompat")); err != nil {
			return nil, fmt.Errorf("mount overlay: %w", err)
		}
	}
	lowers := append(append(make([]string, 0, len(s.Lowers)+2), s.Lowers...), s.Scratch)
	if len(lowers) == 1 && s.Upper == "" {
		return mount.ClonePath(s.Scratch, false)
	}
	m, err := mount.Overlay(mount.OverlayOptions{Lowers: lowers, Upper: s.Upper, Work: s.Work})
	if err != nil {
		return nil, fmt.Errorf("mount overlay: %w", err)
	}
	return m, nil
}

func (r *run) describe(targets []target) {
	s := &r.spec
	r.step = initproc.Step{
		Args: s.Args, Env: environment(s.Env), Dir: s.Dir, Hostname: s.Hostname,
		UID: s.UID, GID: s.GID, Groups: s.Groups, SingleID: s.SingleID,
		Privileged: s.Privileged, NoNewPrivs: s.NoNewPrivs, Terminal: s.Terminal,
		OwnNetwork: s.Network == NetworkNone, Caps: keepCaps, ShmSize: initproc.DefaultShm, Supervised: s.Supervised(),
	}
	if s.Hostname == "" {
		r.step.Hostname = "stacker"
	}
	if s.ShmSize > 0 {
		r.step.ShmSize = uint64(s.ShmSize)
	}
	if r.step.OwnNetwork {
		r.step.Caps |= 1 << unix.CAP_NET_RAW
	}
	r.step.Scoped = !s.Privileged && !r.step.OwnNetwork
	for _, t := range targets {
		r.step.Mounts = append(r.step.Mounts, initproc.Mount{Target: t.path, Make: t.nested, File: t.file})
	}
	for _, l := range s.Limits {
		r.step.Limits = append(r.step.Limits, initproc.Limit{Resource: uint64(l.Resource), Cur: l.Cur, Max: l.Max})
	}
}

// addFilter chooses the filter of system calls.
func (r *run) addFilter() error {
	if r.spec.Privileged || r.spec.SeccompOff {
		return nil
	}
	programs, err := filter()
	if err != nil {
		return err
	}
	n := 0
	if r.step.OwnNetwork {
		n |= withNetRaw
	}
	if r.step.Supervised {
		n |= withSupervisor
	}
	r.step.Seccomp = programs[n]
	return nil
}

// environment leaves out what is not a variable: an image can bring a mere name,
// which some programs would take for a wish to have it from outside.
func environment(env []string) []string {
	out := make([]string, 0, len(env))
	for _, e := range env {
		if strings.IndexByte(e, '=') > 0 {
			out = append(out, e)
		}
	}
	return out
}

// streams gives the command's standard streams.
func (r *run) streams() ([]*os.File, error) {
	out := []*os.File{r.spec.Stdin, r.spec.Stdout, r.spec.Stderr}
	var null *os.File
	for i, f := range out {
		if f != nil && !r.spec.Terminal {
			continue
		}
		if null == nil {
			n, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
			if err != nil {
				return nil, err
			}
			null = r.own(n)
		}
		out[i] = null
	}
	return out, nil
}

// wait hands init its message, and listens to it until it ends.
func (r *run) wait(ctx context.Context) (Exit, error) {
	if r.end == nil {
		r.end = func(p *initProcess) { _ = p.proc.Kill() } // gone already is fine
	}
	stop := context.AfterFunc(ctx, func() { r.end(r.init) })
	defer stop()
	out, err := r.talk()
	if err != nil {
		r.end(r.init)
	}
	well := err == nil && out.Alone && out.Code == 0 && out.Signal == 0
	if well && r.leave != nil && ctx.Err() == nil {
		return exitOf(out, r.leave()), nil
	}
	// Init is the first of its pid namespace: the kernel reports its end when
	// everything else there is dead. Without one it sees to that before it ends.
	state, werr := r.init.proc.Wait()
	switch {
	case ctx.Err() != nil:
		return Exit{}, context.Cause(ctx)
	case werr != nil:
		return Exit{}, fmt.Errorf("wait for container: %w", werr)
	case err != nil:
		return Exit{}, fmt.Errorf("%w (container's init: %s)", err, state)
	case out.Err != "":
		return Exit{}, startError(out)
	}
	return exitOf(out, nil), nil
}

func exitOf(out initproc.Outcome, gone <-chan struct{}) Exit {
	return Exit{
		Code:   out.Code,
		Signal: syscall.Signal(out.Signal),
		User:   time.Duration(out.User) * time.Microsecond,
		System: time.Duration(out.System) * time.Microsecond,
		MaxRSS: out.MaxRSS << 10,
		Gone:   gone,
	}
}

// StartError says why a command could not be started, as "operation: error".
type StartError struct {
	Text    string
	Errno   syscall.Errno
	Machine uint16 // set where the command is for another machine: its e_machine (elf.h)
}

func startError(out initproc.Outcome) error {
	return &StartError{Text: out.Err, Errno: out.Errno, Machine: out.Machine}
}

// Error implements error.
func (e *StartError) Error() string { return e.Text }

// Unwrap gives the errno.
func (e *StartError) Unwrap() error {
	if e.Errno == 0 {
		return nil
	}
	return e.Errno
}
