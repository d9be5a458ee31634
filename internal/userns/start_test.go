// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/boot"
	"build.stacker.dev/internal/boot/role"
)

// This test program is the worker that the tests start, and with argument
// "parent" a process that starts one.

func TestMain(m *testing.M) {
	switch {
	case boot.Role().Kind == boot.Worker:
		worker()
	case len(os.Args) > 1 && os.Args[1] == "parent":
		parent()
	default:
		os.Exit(m.Run())
	}
}

// facts is what a worker tells about itself.
type facts struct {
	Status   map[string]string
	Pid      int
	Cwd      string
	Files    []string // open descriptors
	Mounts   int      // mounts that are not private
	Env      []string
	Umask    int
	MountErr string
	SingleID bool
}

func worker() {
	f := facts{Status: map[string]string{}, Pid: os.Getpid(), Env: os.Environ(), Umask: unix.Umask(0), SingleID: boot.Role().SingleID}
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		f.Status[k] = strings.Join(strings.Fields(v), " ")
	}
	f.Cwd, _ = unix.Getwd()
	dir, _ := os.ReadDir("/proc/self/fd")
	for _, e := range dir {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		// The Go runtime has some of its own.
		if err == nil && !strings.HasPrefix(to, "anon_inode:[event") && !strings.HasPrefix(to, "/proc/") && !strings.HasPrefix(to, "/sys/fs/cgroup/") {
			f.Files = append(f.Files, e.Name())
		}
	}
	b, _ = os.ReadFile("/proc/self/mountinfo")
	f.Mounts = strings.Count(string(b), " shared:")
	if err := unix.Mount("x", ".", "tmpfs", 0, ""); err != nil {
		f.MountErr = err.Error()
	}
	control := os.NewFile(role.ControlFd, "control")
	if err := json.NewEncoder(control).Encode(f); err != nil {
		os.Exit(1)
	}
	_, _ = control.Read(make([]byte, 1)) // until the socket ends
}

// parent starts a worker, says so and waits to be killed.
func parent() {
	p, err := start(context.Background(), nil)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(p.Pid)
	_, _ = os.Stdin.Read(make([]byte, 1))
}

func start(ctx context.Context, dir *os.File) (*Process, error) {
	plan, err := Detect(Local(os.Getenv("PATH")))
	if err != nil {
		return nil, err
	}
	return Start(ctx, plan, StartOptions{Dir: dir, Stderr: os.Stderr})
}

func needUserns(t testing.TB) Plan {
	t.Helper()
	plan, err := Detect(Local(os.Getenv("PATH")))
	if err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	return plan
}

func single() Plan {
	return Plan{
		Level: LevelSingle, SetgroupsDeny: true,
		UIDs: []IDMap{{0, uint32(os.Getuid()), 1}}, GIDs: []IDMap{{0, uint32(os.Getgid()), 1}},
	}
}

func TestStart(t *testing.T) {
	plans := map[string]Plan{"best": needUserns(t)}
	if os.Getuid() != 0 {
		plans["single"] = single()
	}
	for name, plan := range plans {
		t.Run(name, func(t *testing.T) {
			dir := ownDir(t, plan)
			d, err := os.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			defer d.Close()
			// What this process was itself given, and is not marked.
			leak, err := unix.FcntlInt(d.Fd(), unix.F_DUPFD, 50)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(leak)
			p, err := Start(context.Background(), plan, StartOptions{Dir: d, Stderr: os.Stderr})
			if err != nil {
				t.Fatal(err)
			}
			var f facts
			if err := json.NewDecoder(p.Conn).Decode(&f); err != nil {
				t.Fatal(err)
			}
			f.check(t, plan)
			if err := p.Conn.Close(); err != nil {
				t.Error(err)
			}
			if err := p.Wait(); err != nil {
				t.Errorf("Wait after Close: %v", err)
			}
		})
	}
}

// ownDir gives a directory of the worker's root in one that the worker cannot
// enter.
func ownDir(t *testing.T, plan Plan) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "trees")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	uid, gid := plan.RootIDs()
	if err := os.Chown(dir, uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(filepath.Dir(dir), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

func (f facts) check(t *testing.T, plan Plan) {
	t.Helper()
	for k, want := range map[string]string{"Uid": "0 0 0 0", "Gid": "0 0 0 0", "CapInh": "0000000000000000", "CapAmb": "0000000000000000"} {
		if got := f.Status[k]; got != want {
			t.Errorf("%s = %q, want %q", k, got, want)
		}
	}
	caps, err := strconv.ParseUint(f.Status["CapEff"], 16, 64)
	if err != nil || caps&(1<<unix.CAP_SYS_ADMIN) == 0 || f.Status["CapEff"] != f.Status["CapBnd"] {
		t.Errorf("CapEff = %q, want all (%q)", f.Status["CapEff"], f.Status["CapBnd"])
	}
	if f.Pid != 1 {
		t.Errorf("pid = %d, want 1", f.Pid)
	}
	if got := strings.Join(f.Files, ","); got != "0,1,2,3" {
		t.Errorf("descriptors = %s, want 0,1,2,3", got)
	}
	if f.Mounts != 0 || f.MountErr != "" {
		t.Errorf("%d mounts are shared, mount on the working directory %s: %q; want none, and no error", f.Mounts, f.Cwd, f.MountErr)
	}
	if !strings.HasPrefix(f.Cwd, "/") || len(f.Env) != 0 || f.Umask != 0 {
		t.Errorf("working directory %q, environment %q, umask %o; want a reachable one, none, 0", f.Cwd, f.Env, f.Umask)
	}
	if f.SingleID != (plan.Level == LevelSingle) {
		t.Errorf("SingleID = %t at level %s", f.SingleID, plan.Level)
	}
}

// A worker does not outlive the process that started it.
func TestParentKilled(t *testing.T) {
	needUserns(t)
	cmd := exec.Command("/proc/self/exe", "parent")
	cmd.Stderr = os.Stderr
	if _, err := cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatal(err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(line)
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	n, err := 0, error(unix.EINTR)
	for errors.Is(err, unix.EINTR) {
		n, err = unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 60_000)
	}
	if n != 1 || err != nil {
		t.Errorf("worker %d lives on after its parent: poll = %d, %v", pid, n, err)
	}
}

func TestStartCancelled(t *testing.T) {
	needUserns(t)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	p, err := start(ctx, nil)
	if err == nil {
		_ = p.Kill()
		_ = p.Wait()
		t.Error("Start with a cancelled context succeeded")
	}
}

func TestKill(t *testing.T) {
	needUserns(t)
	p, err := start(context.Background(), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Conn.Close()
	if err := p.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := p.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("Wait = %v, want the signal", err)
	}
	if err := p.Conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, net.Conn(p.Conn)); err != nil {
		t.Errorf("read from a dead worker: %v, want the end", err)
	}
}

func BenchmarkStart(b *testing.B) {
	needUserns(b)
	for b.Loop() {
		p, err := start(context.Background(), nil)
		if err != nil {
			b.Fatal(err)
		}
		if err := p.Kill(); err != nil {
			b.Fatal(err)
		}
		_ = p.Conn.Close()
		_ = p.Wait()
	}
}
