// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/seccomp/install"
)

// childEnv tells the test binary, started again, what to do behind a filter.
const childEnv = "STACKER_TEST_SECCOMP"

func TestMain(m *testing.M) {
	switch job, arg, _ := strings.Cut(os.Getenv(childEnv), " "); job {
	case "":
		os.Exit(m.Run())
	case "probe":
		confine()
		probe()
	case "exec":
		confine()
		fmt.Println(unix.Exec(arg, []string{arg}, nil))
	case "speed":
		speed()
	}
}

func confine() {
	runtime.LockOSThread()
	prog, err := Program(Options{Caps: defaultCaps})
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		err = install.Install(prog)
	}
	if err != nil {
		fmt.Println("confine:", err)
		os.Exit(1)
	}
}

// probe makes calls behind the filter and prints each one's result.
func probe() {
	call := func(name string, nr uintptr, args ...uintptr) {
		var a [6]uintptr
		copy(a[:], args)
		_, _, err := unix.RawSyscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
		fmt.Printf("%s=%s\n", name, unix.ErrnoName(err))
	}
	bad := ^uintptr(0)
	call("getpid", unix.SYS_GETPID)
	call("ioctl-tiocsti", unix.SYS_IOCTL, bad, tiocsti)
	call("ioctl-tioclinux", unix.SYS_IOCTL, bad, tioclinux)
	call("ioctl-tcgets", unix.SYS_IOCTL, bad, unix.TCGETS)
	call("socket-alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET)
	call("socket-vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM)
	call("socket-packet", unix.SYS_SOCKET, unix.AF_PACKET, unix.SOCK_RAW)
	call("socket-unix", unix.SYS_SOCKET, unix.AF_UNIX, unix.SOCK_STREAM)
	call("socket-inet", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_STREAM)
	call("socket-netlink", unix.SYS_SOCKET, unix.AF_NETLINK, unix.SOCK_RAW)
	call("clone-newuser", unix.SYS_CLONE, unix.CLONE_NEWUSER|uintptr(unix.SIGCHLD))
	call("clone3", unix.SYS_CLONE3)
	call("unshare", unix.SYS_UNSHARE, unix.CLONE_NEWUSER)
	call("setns", unix.SYS_SETNS, bad)
	call("mount", unix.SYS_MOUNT)
	call("fsopen", unix.SYS_FSOPEN)
	call("bpf", unix.SYS_BPF)
	call("keyctl", unix.SYS_KEYCTL)
	call("io_uring_setup", unix.SYS_IO_URING_SETUP)
	call("userfaultfd", unix.SYS_USERFAULTFD)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN)
	call("open_by_handle_at", unix.SYS_OPEN_BY_HANDLE_AT)
	call("personality-query", unix.SYS_PERSONALITY, 0xffffffff)
	call("personality-norandom", unix.SYS_PERSONALITY, 0x40000)
	call("listmount", unix.SYS_LISTMOUNT)
	call("unknown", 2000)
	call("x32-getpid", 1<<30|39)
}

func TestProbe(t *testing.T) {
	want := map[string]string{
		"getpid": "", "ioctl-tiocsti": "EPERM", "ioctl-tioclinux": "EPERM", "ioctl-tcgets": "EBADF",
		"socket-alg": "EPERM", "socket-vsock": "EPERM", "socket-packet": "EPERM",
		"socket-unix": "", "socket-inet": "", "socket-netlink": "",
		"clone-newuser": "EPERM", "clone3": "ENOSYS", "unshare": "EPERM", "setns": "EPERM", "mount": "EPERM",
		"fsopen": "EPERM", "bpf": "EPERM", "keyctl": "EPERM", "io_uring_setup": "EPERM", "userfaultfd": "EPERM",
		"perf_event_open": "EPERM", "open_by_handle_at": "EPERM", "personality-query": "",
		"personality-norandom": "EPERM", "listmount": "ENOSYS", "unknown": "ENOSYS", "x32-getpid": "ENOSYS",
	}
	out := child(t, "probe")
	got := map[string]string{}
	for l := range strings.Lines(out) {
		name, value, _ := strings.Cut(strings.TrimSpace(l), "=")
		got[name] = value
	}
	if len(got) != len(want) {
		t.Errorf("got %d results, want %d:\n%s", len(got), len(want), out)
	}
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%s: got %q, want %q", name, got[name], w)
		}
	}
}

// TestI386 runs a 32-bit program on amd64 whose exit status is the errno of socket(AF_ALG).
func TestI386(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("an i386 program runs only on amd64")
	}
	text, err := os.ReadFile("testdata/socket-i386.hex")
	if err != nil {
		t.Fatal(err)
	}
	elf, err := hex.DecodeString(strings.Join(strings.Fields(string(text)), ""))
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "socket-i386")
	if err := os.WriteFile(path, elf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := exec.Command(path).Run(); errors.Is(err, unix.ENOEXEC) || exitStatus(err) < 0 {
		if os.Getenv("CI") == "true" {
			t.Fatalf("this kernel runs no i386 program: %v", err)
		}
		t.Skipf("this kernel runs no i386 program: %v", err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"=exec "+path)
	out, err := cmd.CombinedOutput()
	if got := exitStatus(err); got != int(unix.EPERM) {
		t.Errorf("socket(AF_ALG) of i386: got status %d (%v, %s), want %d", got, err, out, unix.EPERM)
	}
}

func exitStatus(err error) int {
	if err == nil {
		return 0
	}
	var exit *exec.ExitError
	if errors.As(err, &exit) {
		return exit.ExitCode()
	}
	return -1
}

// speed prints what the filter costs.
func speed() {
	runtime.LockOSThread()
	loop := func(name string, nr uintptr) {
		const n = 500_000
		start := time.Now()
		for range n {
			_, _, _ = unix.RawSyscall(nr, ^uintptr(0), 0, 0)
		}
		fmt.Printf("%s: %.1f ns\n", name, float64(time.Since(start).Nanoseconds())/n)
	}
	loop("getppid without filter", unix.SYS_GETPPID)
	loop("ioctl without filter", unix.SYS_IOCTL)
	start := time.Now()
	prog, err := Program(Options{Caps: defaultCaps})
	made := time.Now()
	if err == nil {
		err = unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
	}
	if err == nil {
		err = install.Install(prog)
	}
	fmt.Printf("compile %v, install %v, %d instructions, %v\n", made.Sub(start), time.Since(made), len(prog)/8, err)
	loop("getppid with filter", unix.SYS_GETPPID)
	loop("ioctl with filter (looks at an argument)", unix.SYS_IOCTL)
}

// BenchmarkFilter compares calls without and with the filter in one run.
func BenchmarkFilter(b *testing.B) {
	for b.Loop() {
		b.Log("\n" + child(b, "speed"))
	}
}

func child(t testing.TB, job string) string {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), childEnv+"="+job)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("child %s: %v\n%s", job, err, out)
	}
	return string(out)
}

func TestInstallRefusesGarbage(t *testing.T) {
	for _, n := range []int{0, 7, 8 * 4097} {
		if err := install.Install(make([]byte, n)); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%d bytes: got %v, want EINVAL", n, err)
		}
	}
}
