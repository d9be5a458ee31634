// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "build.stacker.dev/internal/boot" // acts as the step's init
	"build.stacker.dev/internal/container"
)

// The tests of this package run as a user that is not root, with no privileges: TestMain
// starts this program once more if need be.

const plainUser = 54321

func TestMain(m *testing.M) {
	if len(os.Args) > 2 && os.Args[1] == "hostile" {
		hostile(os.Args[2])
		return
	}
	if os.Getuid() != 0 {
		os.Exit(m.Run())
	}
	code, err := asUser()
	if err != nil {
		fmt.Println(err)
		code = 1
	}
	os.Exit(code)
}

// asUser runs this program as a user without privileges.
func asUser() (int, error) {
	dir, err := os.MkdirTemp("", "vroot")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chown(dir, plainUser, plainUser); err != nil {
		return 0, err
	}
	program := filepath.Join(dir, "test")
	if err := copyFile(program, "/proc/self/exe"); err != nil {
		return 0, err
	}
	var args []string
	for _, a := range os.Args[1:] {
		if !strings.HasPrefix(a, "-test.testlogfile") { // not reachable there
			args = append(args, a)
		}
	}
	cmd := exec.Command(program, args...)
	cmd.Env = append(os.Environ(), "TMPDIR="+dir, "HOME="+dir)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: plainUser, Gid: plainUser}}
	if err := cmd.Run(); cmd.ProcessState == nil {
		return 0, err
	}
	return cmd.ProcessState.ExitCode(), nil
}

func copyFile(to, from string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o755)
	if err != nil {
		return err
	}
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	return out.Close()
}

// newRoot makes a root file system with busybox.
func newRoot(t *testing.T) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	for _, d := range []string{"bin", "etc", "tmp", "root", "usr/bin"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(filepath.Join(dir, "tmp"), os.ModeSticky|0o777); err != nil {
		t.Fatal(err)
	}
	if err := copyFile(filepath.Join(dir, "bin/busybox"), "/bin/busybox"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("needs a static busybox: ", err)
	}
	out, err := exec.Command("/bin/busybox", "--list").Output()
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range strings.Fields(string(out)) {
		if a == "busybox" {
			continue
		}
		if err := os.Symlink("/bin/busybox", filepath.Join(dir, "bin", a)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0:root:/root:/bin/sh\nbuilder:x:1000:1000::/tmp:/bin/sh\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	return dir
}

// step is a command in a root.
func step(root string, args ...string) container.Spec {
	return container.Spec{Root: root, Scratch: filepath.Dir(root), Args: args, Env: []string{"PATH=/bin:/usr/bin", "HOME=/root"}}
}

// run runs a step and gives its output and how it ended.
func run(t *testing.T, s container.Spec) (string, container.Exit, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stdout, s.Stderr = w, w
	var out bytes.Buffer
	read := make(chan struct{})
	go func() { _, _ = io.Copy(&out, r); close(read) }()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	exit, err := container.Virtual{}.Run(ctx, s)
	_ = w.Close()
	<-read
	return out.String(), exit, err
}

func runOK(t *testing.T, s container.Spec) string {
	t.Helper()
	out, exit, err := run(t, s)
	if err != nil || exit.Code != 0 {
		t.Fatalf("%v, exit %+v, output:\n%s", err, exit, out)
	}
	return out
}
