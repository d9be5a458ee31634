// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container/initproc"
	"build.stacker.dev/internal/seccomp"
)

// Bare runs steps where there are no namespaces: in a container of docker or Kubernetes with
// their default filter of system calls, as its root. The zero value is ready for use. It is
// for processes that are their descendants' reaper (PR_SET_CHILD_SUBREAPER).
//
// A step's root is entered by chroot(2), which the step has not the right to call again (where it
// would change nothing, it is told that it has happened); a
// landlock domain keeps it to the files of its root, and its signals and tracing to its own
// processes; the rest is as in Run: eleven capabilities less one, a filter of system calls, no
// descriptors of outside. What Mounts name is moved or copied into the root while the step runs
// (place.go), and so are a few devices.
//
// What the container around has stays in sight: its network, its host name, its SysV IPC and
// the numbers of its processes. There is no /proc and no /sys. On kernels before 6.12 a
// step can send signals to other processes of the container, before 5.19 it is kept to its
// root by chroot alone.
//
// The spec's Root must be set. Privileged steps, which are to have what there is, cannot be had.
type Bare struct {
	mu      sync.RWMutex // held for reading while a child is started and not in running
	kids    sync.Mutex
	running map[int]bool // first processes of steps
}

// bareCaps are the capabilities of a step: with CAP_SYS_CHROOT it could leave its root.
const bareCaps = keepCaps &^ (1 << unix.CAP_SYS_CHROOT)

// bareFilters memoizes the filters, with a network and without.
var bareFilters = sync.OnceValues(func() (out [2][]byte, err error) {
	for i := range out {
		out[i], err = seccomp.Program(seccomp.Options{Caps: bareCaps, NoNetwork: i == 1, OwnLimits: true, AskRoot: true})
		if err != nil {
			return out, err
		}
	}
	return out, nil
})

// Close does nothing: no process is kept ready.
func (b *Bare) Close() {}

// Run runs the step as Run of the package does.
func (b *Bare) Run(ctx context.Context, s Spec) (exit Exit, err error) {
	if err := checkBare(&s); err != nil {
		return Exit{}, fmt.Errorf("run step: %w", err)
	}
	r := &run{spec: s}
	defer r.close()
	st, err := newStage(s.Root, s.Scratch)
	if err != nil {
		return Exit{}, fmt.Errorf("open root of step: %w", err)
	}
	defer st.close()
	err = r.furnish(ctx, st)
	if err == nil {
		err = r.bareStep(st)
	}
	if err == nil {
		exit, err = b.run(ctx, r)
	}
	same, lerr := st.leave()
	if lerr == nil {
		lerr = s.separate(context.WithoutCancel(ctx))
	}
	if lerr == nil && s.OnRestored != nil {
		lerr = s.OnRestored(same)
	}
	if err == nil {
		err = lerr
	}
	return exit, err
}

func checkBare(s *Spec) error {
	if err := check(s); err != nil {
		return err
	}
	switch {
	case s.Root == "":
		return errors.New("without mounts a step needs its root as one directory")
	case s.Privileged:
		return errors.New("a privileged step needs namespaces, which cannot be made here: see stacker check")
	}
	return nil
}

// bareStep says what the first process is to do, and opens what it gets.
func (r *run) bareStep(st *stage) error {
	s := &r.spec
	r.describe(nil)
	r.step.Bare, r.step.NoNewPrivs, r.step.Scoped, r.step.OwnNetwork, r.step.Caps = true, true, true, false, bareCaps
	filters, err := bareFilters()
	if err != nil {
		return err
	}
	if !s.SeccompOff {
		n := 0
		if s.Network == NetworkNone {
			n = 1
		}
		r.step.Seccomp = filters[n]
	}
	var streams []*os.File
	if s.Terminal {
		streams, err = r.terminal()
	} else {
		streams, err = r.streams()
	}
	if err != nil {
		return err
	}
	root, err := os.OpenFile(st.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	r.mounts = append(streams, r.own(root))
	return nil
}

// terminal makes a terminal of the container around for the step.
func (r *run) terminal() ([]*os.File, error) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make terminal: %w", err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		_ = master.Close()
		return nil, fmt.Errorf("make terminal: %w", err)
	}
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		_ = master.Close()
		return nil, fmt.Errorf("make terminal: %w", e)
	}
	slave := r.own(os.NewFile(fd, "terminal"))
	if err := slave.Chown(int(r.spec.UID), -1); err != nil {
		_ = master.Close()
		return nil, fmt.Errorf("make terminal: %w", err)
	}
	r.spec.OnConsole(master)
	return []*os.File{slave, slave, slave}, nil
}

// run starts the first process of the step, which is prepared, and waits.
func (b *Bare) run(ctx context.Context, r *run) (Exit, error) {
	var err error
	if r.init, err = b.start(); err != nil {
		return Exit{}, err
	}
	// It ends the step before itself: killed, it could not.
	r.end = func(p *initProcess) { _ = p.control.CloseWrite() }
	exit, err := r.wait(ctx)
	b.kids.Lock()
	delete(b.running, r.init.proc.Pid)
	b.kids.Unlock()
	if err != nil {
		b.sweep()
	}
	return exit, err
}

func (b *Bare) start() (*initProcess, error) {
	b.mu.RLock()
	defer b.mu.RUnlock()
	return connected(b.spawn)
}

func (b *Bare) spawn(files []*os.File) (*os.Process, error) {
	proc, err := os.StartProcess("/proc/self/exe", []string{initproc.Name}, &os.ProcAttr{Env: initEnv(), Files: files})
	if err != nil {
		return nil, fmt.Errorf("start step: %w", err)
	}
	b.kids.Lock()
	defer b.kids.Unlock()
	if b.running == nil {
		b.running = map[int]bool{}
	}
	b.running[proc.Pid] = true
	return proc, nil
}
