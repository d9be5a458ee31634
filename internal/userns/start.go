// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/boot/role"
	"build.stacker.dev/internal/mount"
)

// StartOptions say what the worker process is.
type StartOptions struct {
	Exe    *os.File // this program; nil: what this process runs
	Dir    *os.File // becomes the working directory; nil: the current one
	Stderr *os.File // nil: /dev/null
	Driver string   // passed on as Role().Driver
}

// Process is a running worker.
type Process struct {
	Pid  int
	Conn *net.UnixConn // the worker's Control; it ends when this closes

	proc  *os.Process
	level Level
}

// Wait waits for the worker's end. It returns an error when the worker did not
// exit with status 0.
func (p *Process) Wait() error {
	st, err := p.proc.Wait()
	if err != nil {
		return fmt.Errorf("wait for worker: %w", err)
	}
	if !st.Success() {
		return fmt.Errorf("worker process ended with %s", st)
	}
	return nil
}

// Kill ends the worker, and with it everything that it runs, at once. Wait must
// be called afterwards.
func (p *Process) Kill() error { return p.proc.Kill() }

// Start makes the user namespace and starts the worker in it. It returns when
// the worker is ready. ctx is about the start only: the worker's life ends with
// the Conn, with Kill, or with this process.
//
// The worker has a mount and a pid namespace of its own, all capabilities in its
// user namespace, an empty environment, umask 0, and no descriptors but the
// standard streams and Role().Control. At a bare level it has the capabilities of this
// process and no namespace of its own. As a side effect, descriptors of this
// process above 2 are marked close-on-exec. It must not be called from a goroutine
// that is locked to its thread and ends before the worker: the kernel takes the
// thread's end for the process's.
func Start(ctx context.Context, plan Plan, o StartOptions) (*Process, error) {
	l, err := newLaunch(plan, o)
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	defer l.close()
	p, err := l.start(ctx)
	if err != nil {
		return nil, fmt.Errorf("start worker: %w", err)
	}
	return p, nil
}

// launch is a worker that is being started.
type launch struct {
	plan  Plan
	path  string
	args  []string
	attr  os.ProcAttr
	here  *net.UnixConn
	owned []*os.File
}

func (l *launch) close() {
	for _, f := range l.owned {
		_ = f.Close() // nothing was written to them
	}
}

func (l *launch) own(f *os.File) *os.File {
	l.owned = append(l.owned, f)
	return f
}

func newLaunch(plan Plan, o StartOptions) (l *launch, err error) {
	l = &launch{plan: plan, args: []string{role.WorkerName}}
	defer func() {
		if err != nil {
			l.close()
		}
	}()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	stderr := l.own(null)
	if o.Stderr != nil {
		stderr = o.Stderr
	}
	there, err := l.connect()
	if err != nil {
		return nil, err
	}
	l.attr = os.ProcAttr{
		Files: []*os.File{null, stderr, stderr, there},
		Env:   []string{},
		Sys:   &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID},
	}
	switch plan.Level {
	case LevelChroot, LevelVroot:
		l.attr.Sys = &syscall.SysProcAttr{Setsid: true} // a terminal's signals would end steps' inits
		l.args = append(l.args, role.ArgBare)
	case LevelSubID:
		l.args[0] = role.WaitName
	case LevelSingle, LevelRoot:
		l.attr.Sys.UidMappings, l.attr.Sys.GidMappings = sysMap(plan.UIDs), sysMap(plan.GIDs)
		l.attr.Sys.GidMappingsEnableSetgroups = !plan.SetgroupsDeny
		// Before the exec, which would take the capabilities from another user.
		l.attr.Sys.Credential = &syscall.Credential{NoSetGroups: plan.SetgroupsDeny}
	default:
		return nil, fmt.Errorf("level %q is not known", plan.Level)
	}
	if plan.Level.SingleID() {
		l.args = append(l.args, role.ArgSingle)
	}
	if o.Driver != "" {
		l.args = append(l.args, role.ArgDriver+o.Driver)
	}
	if err := l.setDir(o.Dir); err != nil {
		return nil, err
	}
	return l, l.setExe(o.Exe)
}

// connect makes the socket, and returns the worker's end of it.
func (l *launch) connect() (*os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	there := l.own(os.NewFile(uintptr(fds[1]), "worker's socket"))
	f := os.NewFile(uintptr(fds[0]), "socket to worker")
	defer f.Close()
	c, err := net.FileConn(f)
	if err != nil {
		return nil, fmt.Errorf("make socket: %w", err)
	}
	l.here = c.(*net.UnixConn)
	return there, nil
}

func sysMap(maps []IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		out[i] = syscall.SysProcIDMap{ContainerID: int(m.Inside), HostID: int(m.Outside), Size: int(m.Count)}
	}
	return out
}

// fdPath gives a name for an open file that the new process can use before it
// runs the program, whatever the rights on the directories above it are. The
// descriptor is one that it does not use for something else until then: package
// syscall numbers those in attr.Files from 0 up, and uses some above all of them
// while it does that.
func (l *launch) fdPath(f *os.File) (string, error) {
	minimum := len(l.attr.Files)
	for _, other := range l.attr.Files {
		minimum = max(minimum, int(other.Fd()))
	}
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD_CLOEXEC, minimum+len(l.attr.Files)+8)
	if err != nil {
		return "", fmt.Errorf("duplicate descriptor: %w", err)
	}
	l.own(os.NewFile(uintptr(fd), f.Name()))
	return "/proc/self/fd/" + strconv.Itoa(fd), nil
}

// setExe finds the way to run this program in the namespace. What runs there
// shall be on a read-only mount, which only root can make beforehand; else the
// program is run by its path, so that its mount is one of the worker's own.
func (l *launch) setExe(exe *os.File) error {
	if exe == nil {
		f, err := os.Open("/proc/self/exe")
		if err != nil {
			return err
		}
		exe = l.own(f)
	}
	if l.plan.Level != LevelRoot {
		p, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(exe.Fd())))
		if err == nil && sameFile(exe, p) {
			l.path = p
			return nil
		}
	} else if m, err := mount.Clone(exe, false); err == nil {
		exe = l.own(m)
		if err := mount.SetAttr(m, mount.ReadOnly, false); err != nil {
			return err
		}
	}
	var err error
	l.path, err = l.fdPath(exe)
	return err
}

func sameFile(f *os.File, path string) bool {
	a, err := f.Stat()
	if err != nil {
		return false
	}
	b, err := os.Stat(path)
	return err == nil && os.SameFile(a, b)
}

// setDir hands over the working directory: for root as a mount, since the ids in
// the namespace have no rights on root's directories; else by its path.
func (l *launch) setDir(dir *os.File) error {
	if dir == nil {
		d, err := os.Open(".")
		if err != nil {
			return err
		}
		dir = l.own(d)
	}
	if l.plan.Level == LevelRoot {
		if m, err := mount.Clone(dir, true); err == nil {
			l.attr.Files = append(l.attr.Files, l.own(m))
			l.args = append(l.args, role.ArgTree)
			return nil
		}
	}
	p, err := os.Readlink("/proc/self/fd/" + strconv.Itoa(int(dir.Fd())))
	if err != nil {
		return err
	}
	if !sameFile(dir, p) {
		return fmt.Errorf("directory %s was moved or removed", p)
	}
	l.attr.Dir = p
	return nil
}

func (l *launch) start(ctx context.Context) (*Process, error) {
	// What this process inherited from its own parent goes no further. All that Go
	// opens is marked already.
	if err := unix.CloseRange(3, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return nil, fmt.Errorf("mark descriptors: %w", err)
	}
	proc, err := os.StartProcess(l.path, l.args, &l.attr)
	if err != nil {
		_ = l.here.Close()
		return nil, explain(err)
	}
	l.close() // so that the socket ends when the worker does
	l.owned = nil
	p := &Process{Pid: proc.Pid, Conn: l.here, proc: proc, level: l.plan.Level}
	stop := context.AfterFunc(ctx, func() { _ = p.Kill() })
	defer stop()
	err = l.mapIDs(ctx, p)
	if err == nil {
		err = waitReady(p.Conn)
	}
	if err == nil && ctx.Err() == nil {
		return p, nil
	}
	_ = p.Kill()
	_ = p.Conn.Close()
	_, _ = proc.Wait()
	if ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return nil, err
}

// waitReady reads the line with which the worker says that it is up.
func waitReady(c *net.UnixConn) error {
	var line []byte
	// Byte by byte: what follows the line, if it follows, is for the caller.
	for b := [1]byte{}; b[0] != '\n'; line = append(line, b[0]) {
		if _, err := c.Read(b[:]); err != nil {
			return fmt.Errorf("the worker process ended at once: %w", err)
		}
	}
	if len(line) > 1 {
		return errors.New(strings.TrimSpace(string(line)))
	}
	return nil
}

// mapIDs has the ids of the new namespace mapped where only a helper may do that.
func (l *launch) mapIDs(ctx context.Context, p *Process) error {
	if l.plan.Level != LevelSubID {
		return nil
	}
	gids := make(chan error, 1)
	go func() { gids <- runMapper(ctx, l.plan.Helpers[1], p.Pid, l.plan.GIDs) }()
	err := runMapper(ctx, l.plan.Helpers[0], p.Pid, l.plan.UIDs)
	if gerr := <-gids; err == nil {
		err = gerr
	}
	if err != nil {
		return err
	}
	if _, err := p.Conn.Write([]byte{0}); err != nil {
		return fmt.Errorf("reach worker: %w", err)
	}
	return nil
}

func runMapper(ctx context.Context, helper string, pid int, maps []IDMap) error {
	args := []string{strconv.Itoa(pid)}
	for _, m := range maps {
		for _, n := range []uint32{m.Inside, m.Outside, m.Count} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	cmd := exec.CommandContext(ctx, helper, args...)
	cmd.Env = []string{}
	out, err := cmd.CombinedOutput()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		return fmt.Errorf("%s: %w (%s): are the ids in /etc/subuid and /etc/subgid still those of this user?", helper, err, first)
	}
	return nil
}

// explain adds to an error of the clone call what it means.
func explain(err error) error {
	switch {
	case errors.Is(err, syscall.ENOSPC):
		return fmt.Errorf("%w: %w: a limit of this machine or of the container around is reached; "+
			"as root: sysctl -w user.max_user_namespaces=15000", ErrUnavailable, err)
	case errors.Is(err, syscall.EPERM):
		return filtered(err)
	case errors.Is(err, syscall.EACCES):
		return fmt.Errorf("%w: this program must be executable, and its working directory reachable, for everybody", err)
	}
	return err
}
