// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container/initproc"
	"build.stacker.dev/internal/seccomp"
)

// Virtual runs steps where no namespace, no mount and no chroot can be had, as a user
// without any capability: everything that a step sees of files is answered by the step's init (package
// vroot). The zero value is ready for use.
//
// What Spec can ask for is there but for: Lowers and Upper (a Root is needed), Privileged and
// SeccompOff, a host name, sizes of Tmpfs and ShmSize. NetworkNone is a network without any
// interface.
type Virtual struct{}

// Close is there for who can have one or the other runner.
func (Virtual) Close() {}

// ErrVirtual is the error for steps that Virtual cannot run.
var ErrVirtual = errors.New("this step cannot run at the level vroot")

// virtualFilter memoizes the filters, with a network and without.
var virtualFilter = sync.OnceValues(func() (out [2][]byte, err error) {
	for i := range out {
		out[i], err = seccomp.Program(seccomp.Options{Caps: keepCaps, Virtual: true, NoNetwork: i == 1})
		if err != nil {
			return out, err
		}
	}
	return out, nil
})

// Run runs the step s and waits for its end, as Run of the package does.
func (Virtual) Run(ctx context.Context, s Spec) (Exit, error) {
	if err := check(&s); err != nil {
		return Exit{}, fmt.Errorf("run step: %w", err)
	}
	switch {
	case s.Root == "":
		return Exit{}, fmt.Errorf("%w: its root is not one directory", ErrVirtual)
	case powerful():
		return Exit{}, fmt.Errorf("%w: nothing would keep it from being the root that it plays", ErrVirtual)
	case s.Privileged, s.SeccompOff:
		return Exit{}, fmt.Errorf("%w: it asks for privileges", ErrVirtual)
	}
	r := &run{spec: s, end: endVirtual}
	defer r.close()
	if err := r.prepareVirtual(); err != nil {
		return Exit{}, err
	}
	var err error
	if r.init, err = startVirtual(); err != nil {
		return Exit{}, err
	}
	return r.wait(ctx)
}

// powerful tells whether this process has any capability, which its children would have too.
func powerful() bool {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	return unix.Capget(&hdr, &data[0]) != nil || data[0].Permitted|data[1].Permitted != 0
}

// endVirtual asks an init to end its step, and kills it if it does not: then nobody would wait for
// the step's processes.
func endVirtual(p *initProcess) {
	const patience = 5 * time.Second
	_ = p.control.CloseWrite() // gone already is fine
	time.AfterFunc(patience, func() { _ = p.proc.Kill() })
}

// startVirtual starts an init without namespaces.
func startVirtual() (*initProcess, error) {
	return connected(func(files []*os.File) (*os.Process, error) {
		proc, err := os.StartProcess("/proc/self/exe", []string{initproc.Name}, &os.ProcAttr{
			Env:   []string{"GOMAXPROCS=4", "GOGC=400", "GODEBUG=containermaxprocs=0,updatemaxprocs=0"},
			Files: files,
			// A group of its own: what a terminal sends to this one is not for it.
			Sys: &syscall.SysProcAttr{Setpgid: true},
		})
		if err != nil {
			return nil, fmt.Errorf("start step: %w", err)
		}
		return proc, nil
	})
}

// prepareVirtual opens what the step sees, and says what init is to do.
func (r *run) prepareVirtual() error {
	s := &r.spec
	scratch := filepath.Join(s.Scratch, "virtual")
	if s.Scratch == "" {
		dir, err := os.MkdirTemp(filepath.Dir(s.Root), "virtual")
		if err != nil {
			return err
		}
		scratch = dir
	} else if err := os.MkdirAll(scratch, 0o755); err != nil {
		return err
	}
	r.cleanup = func() { _ = os.RemoveAll(scratch) } // else it goes with the snapshot
	sources := make([]source, 0, len(s.Mounts))
	for i, m := range s.Mounts {
		src, err := virtualSource(m, filepath.Join(scratch, "tmpfs"+strconv.Itoa(i)))
		if err != nil {
			return fmt.Errorf("mount on %s: %w", m.Target, err)
		}
		r.own(src.tree)
		sources = append(sources, src)
	}
	targets, err := r.findPlaces(sources)
	if err != nil {
		return err
	}
	root, err := openPath(s.Root)
	if err != nil {
		return err
	}
	streams, err := r.streams()
	if err != nil {
		return err
	}
	r.mounts = append(streams, r.own(root))
	r.describeVirtual()
	if err := r.fixedMounts(scratch); err != nil {
		return err
	}
	for i, src := range sources {
		r.mounts = append(r.mounts, src.tree)
		t := targets[i]
		r.step.Mounts = append(r.step.Mounts, initproc.Mount{Target: t.path, Make: t.nested, File: t.file, ReadOnly: s.Mounts[i].ReadOnly})
	}
	programs, err := virtualFilter()
	if err != nil {
		return err
	}
	r.step.Seccomp = programs[0]
	if s.Network == NetworkNone {
		r.step.Seccomp = programs[1]
	}
	return nil
}

func (r *run) describeVirtual() {
	s := &r.spec
	r.step = initproc.Step{
		Args: s.Args, Env: environment(s.Env), Dir: s.Dir,
		UID: s.UID, GID: s.GID, Groups: s.Groups, SingleID: true,
		NoNewPrivs: true, Terminal: s.Terminal, Virtual: true, Scoped: true, Caps: keepCaps,
	}
	for _, l := range s.Limits {
		r.step.Limits = append(r.step.Limits, initproc.Limit{Resource: uint64(l.Resource), Cur: l.Cur, Max: l.Max})
	}
}

func openPath(name string) (*os.File, error) { return os.OpenFile(name, unix.O_PATH|unix.O_CLOEXEC, 0) }

// virtualSource opens what a mount shows; dir is for a tmpfs, which is a directory here.
func virtualSource(m Mount, dir string) (source, error) {
	out := source{target: m.Target}
	switch {
	case m.Tmpfs != nil:
		mode := m.Tmpfs.Mode
		if mode == 0 {
			mode = 0o1777
		}
		if err := os.Mkdir(dir, 0o700); err != nil {
			return out, err
		}
		if err := unix.Chmod(dir, mode); err != nil {
			return out, err
		}
		f, err := openPath(dir)
		out.tree = f
		return out, err
	case (m.FD == nil) == (m.Source == ""):
		return out, errSource
	}
	name := m.Source
	if m.FD != nil {
		name = "/proc/self/fd/" + strconv.Itoa(int(m.FD.Fd()))
	}
	f, err := openPath(name)
	if err != nil {
		return out, err
	}
	out.tree = f
	st, err := f.Stat()
	if err == nil {
		out.file = !st.IsDir()
	}
	return out, err
}

// virtualDevices are what a step's /dev has, all of them those of outside.
var virtualDevices = [...]string{"null", "zero", "full", "random", "urandom"}

// fixedMounts adds /proc, /sys and /dev.
func (r *run) fixedMounts(scratch string) error {
	dev, shm := filepath.Join(scratch, "dev"), filepath.Join(scratch, "shm")
	for _, d := range []string{dev, shm, filepath.Join(dev, "shm")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return err
		}
	}
	if err := unix.Chmod(shm, 0o1777); err != nil {
		return err
	}
	for name, target := range map[string]string{"fd": "/proc/self/fd", "stdin": "/proc/self/fd/0", "stdout": "/proc/self/fd/1", "stderr": "/proc/self/fd/2", "core": "/proc/kcore"} {
		if err := os.Symlink(target, filepath.Join(dev, name)); err != nil {
			return err
		}
	}
	add := func(source string, m initproc.Mount) error {
		f, err := openPath(source)
		if err != nil {
			return err
		}
		r.mounts = append(r.mounts, r.own(f))
		r.step.Mounts = append(r.step.Mounts, m)
		return nil
	}
	if err := add("/proc", initproc.Mount{Target: "proc"}); err != nil {
		return err
	}
	if err := add("/sys", initproc.Mount{Target: "sys", ReadOnly: true}); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if err := add(dev, initproc.Mount{Target: "dev"}); err != nil {
		return err
	}
	for _, name := range append(virtualDevices[:], "tty") {
		if err := add(filepath.Join("/dev", name), initproc.Mount{Target: "dev/" + name, Make: true, File: true}); err != nil {
			if errors.Is(err, os.ErrNotExist) {
				continue // a container that has no such device
			}
			return err
		}
	}
	return add(shm, initproc.Mount{Target: "dev/shm", Make: true})
}
