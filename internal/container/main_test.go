// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/boot"
	"build.stacker.dev/internal/boot/role"
	"build.stacker.dev/internal/userns"
)

// The tests of this package run in a worker: TestMain starts one, of this test
// program, and tells it the arguments; and a second one that has one id only. The
// program is also what probes the confinement from inside a step.

var level = flag.String("level", "", "only this level: single, chroot, or the best")

// single says that there is only one id, bare that there are no namespaces.
var single, bare bool

type hello struct {
	Args   []string
	CI     string
	Single bool
	Bare   bool

	Detached bool
}

// outside is a directory that the process outside shared.
var outside Mount

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "probe" {
		probe()
		return
	}
	if len(os.Args) > 1 && os.Args[1] == "hostile" {
		hostile(os.Args[2])
		return
	}
	if boot.Role().Kind == boot.Worker {
		os.Exit(worker(m))
	}
	flag.Parse()
	code := 0
	for _, l := range []string{"best", "single", string(userns.LevelChroot)} {
		if *level != "" && *level != l {
			continue
		}
		c, err := inWorker(l)
		if err != nil {
			fmt.Println(err)
			if os.Getenv("CI") == "true" {
				c = 1
			}
		}
		code = max(code, c)
	}
	os.Exit(code)
}

// oneID is a plan with one id, for root one that belongs to nobody.
func oneID() userns.Plan {
	p := userns.Plan{Level: userns.LevelSingle, SetgroupsDeny: true}
	uid, gid := os.Getuid(), os.Getgid()
	if uid == 0 {
		p.Level = userns.LevelRoot // who hands over files otherwise
		uid, gid = 0x70000000, 0x70000000
	}
	p.UIDs = []userns.IDMap{{Inside: 0, Outside: uint32(uid), Count: 1}}
	p.GIDs = []userns.IDMap{{Inside: 0, Outside: uint32(gid), Count: 1}}
	return p
}

func inWorker(level string) (int, error) {
	host := userns.Local(os.Getenv("PATH"))
	if level == string(userns.LevelChroot) {
		if host.UID != 0 {
			return 0, nil // root's CI sees to that
		}
		host.Want = userns.LevelChroot
	}
	plan, err := userns.Detect(host)
	if err != nil {
		return 0, fmt.Errorf("SKIP: %w", err)
	}
	if level == "single" {
		plan = oneID()
	}
	dir, err := os.MkdirTemp("", "container")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(dir)
	uid, gid := plan.RootIDs()
	if err := os.Chown(dir, uid, gid); err != nil {
		return 1, err
	}
	d, err := os.Open(dir)
	if err != nil {
		return 1, err
	}
	defer d.Close()
	p, err := userns.Start(context.Background(), plan, userns.StartOptions{Dir: d, Stderr: os.Stdout})
	if err != nil {
		return 1, err
	}
	defer p.Conn.Close()
	// Files that "go test" names are not reachable for the worker.
	args := slices.DeleteFunc(slices.Clone(os.Args), func(a string) bool { return strings.HasPrefix(a, "-test.testlogfile") })
	if plan.Level.Bare() {
		args = append(slices.DeleteFunc(args, func(a string) bool { return strings.HasPrefix(a, "-test.run") }), "-test.run", bareTests(args))
	}
	outside, err := os.MkdirTemp("", "outside")
	if err != nil {
		return 1, err
	}
	defer os.RemoveAll(outside)
	if err := os.WriteFile(filepath.Join(outside, "secret"), []byte("of the caller\n"), 0o600); err != nil {
		return 1, err
	}
	o, err := os.Open(outside)
	if err != nil {
		return 1, err
	}
	defer o.Close()
	m, detached, err := p.Share(o, false)
	if err != nil {
		return 1, err
	}
	defer m.Close()
	b, err := json.Marshal(hello{args, os.Getenv("CI"), level == "single", plan.Level.Bare(), detached})
	if err != nil {
		return 1, err
	}
	if _, _, err := p.Conn.WriteMsgUnix(b, unix.UnixRights(int(m.Fd())), nil); err != nil {
		return 1, err
	}
	if err := p.Wait(); err != nil {
		return 1, err
	}
	return 0, nil
}

// bareTests is the pattern of the tests that can run without namespaces: what was asked for, of
// those whose name begins with Bare.
func bareTests(args []string) string {
	for _, a := range args {
		if v, ok := strings.CutPrefix(a, "-test.run="); ok && strings.Contains(v, "Bare") {
			return v
		}
	}
	return "^TestBare"
}

func worker(m *testing.M) int {
	f := os.NewFile(role.ControlFd, "control")
	c, err := net.FileConn(f)
	if err != nil {
		fmt.Println(err)
		return 1
	}
	_ = f.Close()
	var h hello
	if err := receive(c.(*net.UnixConn), &h); err != nil {
		fmt.Println(err)
		return 1
	}
	go func() {
		_, _ = c.Read(make([]byte, 1)) // its end is ours
		os.Exit(1)
	}()
	os.Args = h.Args
	single, bare = h.Single, h.Bare
	if err := os.Setenv("CI", h.CI); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := os.Setenv("TMPDIR", "."); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := makeBusybox("base"); err != nil {
		fmt.Println("SKIP: these tests need a static /bin/busybox:", err)
		if h.CI == "true" {
			return 1
		}
		return 0
	}
	if err := copyFile("probe", "/proc/self/exe"); err != nil {
		fmt.Println(err)
		return 1
	}
	code := m.Run()
	// The files here have owners that only we can remove.
	all, _ := filepath.Glob("*")
	for _, name := range all {
		_ = os.RemoveAll(name)
	}
	return code
}

func receive(c *net.UnixConn, h *hello) error {
	b, oob := make([]byte, 64<<10), make([]byte, 64)
	n, oobn, _, _, err := c.ReadMsgUnix(b, oob)
	if err != nil {
		return err
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:oobn])
	if err != nil || len(msgs) != 1 {
		return fmt.Errorf("%d control messages, %v", len(msgs), err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		return err
	}
	if err := json.Unmarshal(b[:n], h); err != nil {
		return err
	}
	outside = Mount{FD: os.NewFile(uintptr(fds[0]), "outside"), Detached: h.Detached}
	return nil
}

var applets = []string{"sh", "cat", "ls", "true", "sleep", "id", "mkdir", "rm", "chmod", "echo", "touch", "stat", "ln", "kill", "setsid", "pwd", "mount", "seq", "tty", "env", "wc", "chown", "mkfifo", "mv", "cp", "find", "sort", "setpriv", "grep", "sed"}

// makeBusybox makes a layer with a shell.
func makeBusybox(dir string) error {
	for _, d := range []string{"bin", "etc", "proc", "sys", "dev", "tmp", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	if err := copyFile(filepath.Join(dir, "bin/busybox"), "/bin/busybox"); err != nil {
		return err
	}
	for _, a := range applets {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", a)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\n"), 0o644)
}

func copyFile(to, from string) error {
	b, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return os.WriteFile(to, b, 0o755)
}
