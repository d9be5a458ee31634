// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// newStep gives a step on the busybox layer with fresh directories.
func newStep(t testing.TB, args ...string) Spec {
	t.Helper()
	dir, err := os.MkdirTemp(".", "step")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	s := Spec{
		Lowers: []string{"base"}, Upper: filepath.Join(dir, "upper"), Work: filepath.Join(dir, "work"), Scratch: filepath.Join(dir, "scratch"),
		Args: args, Env: []string{"PATH=/bin"}, SingleID: single, NoNewPrivs: single,
	}
	for _, d := range []string{s.Upper, s.Work, s.Scratch} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// output runs a step and gives what it wrote.
func output(t testing.TB, s Spec) (string, Exit, error) {
	t.Helper()
	return outputOf(t, s, Run)
}

func outputOf(t testing.TB, s Spec, run func(context.Context, Spec) (Exit, error)) (string, Exit, error) {
	t.Helper()
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stdout, s.Stderr = w, w
	text := make(chan string, 1)
	go func() {
		b, _ := io.ReadAll(r)
		text <- string(b)
	}()
	exit, err := run(context.Background(), s)
	_ = w.Close()
	return <-text, exit, err
}

// run is output of a step that must succeed.
func runOK(t testing.TB, s Spec) string {
	t.Helper()
	out, exit, err := output(t, s)
	if err != nil {
		t.Fatalf("Run: %v", err)
	}
	if exit.Code != 0 {
		t.Fatalf("exit = %d, want 0; output:\n%s", exit.Code, out)
	}
	return out
}

func tree(t testing.TB, dir string) string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(p string, _ fs.DirEntry, err error) error {
		if p != dir {
			names = append(names, strings.TrimPrefix(p, dir+"/"))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return strings.Join(names, " ")
}

func TestExit(t *testing.T) {
	for _, c := range []struct {
		name, script string
		code         int
		signal       syscall.Signal
	}{
		{"success", "true", 0, 0},
		{"failure", "exit 7", 7, 0},
		{"signal", "kill -9 $$", 137, syscall.SIGKILL},
		{"background process stays behind", "sleep 100000 & setsid sleep 100000 & exit 3", 3, 0}, // who waits for them waits for a day
		{"kills all it can", "kill -9 -1; exit 4", 4, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			_, exit, err := output(t, newStep(t, "/bin/sh", "-c", c.script))
			if err != nil {
				t.Fatal(err)
			}
			if exit.Code != c.code || exit.Signal != c.signal {
				t.Errorf("exit = %d, signal %d; want %d, %d", exit.Code, exit.Signal, c.code, c.signal)
			}
		})
	}
}

func TestStartErrors(t *testing.T) {
	script := func(t *testing.T, text string) Spec {
		s := newStep(t, "/script")
		if err := os.WriteFile(filepath.Join(s.Upper, "script"), []byte(text), 0o755); err != nil {
			t.Fatal(err)
		}
		return s
	}
	for _, c := range []struct {
		name string
		spec func(t *testing.T) Spec
		want string
		err  error
	}{
		{"no file", func(t *testing.T) Spec { return newStep(t, "/nonexistent") }, "exec /nonexistent: no such file or directory", fs.ErrNotExist},
		{"not in path", func(t *testing.T) Spec { return newStep(t, "nonexistent") }, "exec nonexistent (looked for in PATH): ", fs.ErrNotExist},
		{"not executable", func(t *testing.T) Spec { return newStep(t, "/etc/passwd") }, "exec /etc/passwd: permission denied", fs.ErrPermission},
		{"no interpreter", func(t *testing.T) Spec { return script(t, "#!/bin/bash\n") }, "the interpreter or loader", fs.ErrNotExist},
		{"no format", func(t *testing.T) Spec { return script(t, "true\n") }, "a script without #! line", syscall.ENOEXEC},
		{"no directory", func(t *testing.T) Spec { s := newStep(t, "true"); s.Dir = "/none"; return s }, "change to directory /none: ", fs.ErrNotExist},
		{"directory is a descriptor", func(t *testing.T) Spec { s := newStep(t, "true"); s.Dir = "/proc/self/fd/4"; return s }, "change to directory /proc/self/fd/4: ", nil},
		{"no layer", func(t *testing.T) Spec { s := newStep(t, "true"); s.Lowers = []string{"none"}; return s }, "mount view of the layers: ", fs.ErrNotExist},
		{"network", func(t *testing.T) Spec { s := newStep(t, "true"); s.Network = "bridge"; return s }, `network "bridge" is not known`, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			out, _, err := output(t, c.spec(t))
			if err == nil {
				t.Fatalf("Run succeeded, output %q; want error %q", out, c.want)
			}
			if !strings.Contains(err.Error(), c.want) {
				t.Errorf("error = %q, want %q in it", err, c.want)
			}
			if c.err != nil && !errors.Is(err, c.err) {
				t.Errorf("error %q is not %v", err, c.err)
			}
		})
	}
}

func TestCancel(t *testing.T) {
	nap := newNap()
	s := newStep(t, "/bin/sh", "-c", nap.script("sleep & sleep & echo up; sleep"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stdout = w
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		_, _ = r.Read(make([]byte, 3))
		cancel()
	}()
	_, err = Run(ctx, s)
	_ = w.Close()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
	if left := nap.sleepers(t); left != "" {
		t.Errorf("processes left: %s", left)
	}
}

// A nap is a number of seconds that nobody else sleeps: where there are no namespaces, a
// worker sees the processes of the whole machine, and other tests are among them.
type nap string

func newNap() nap { return nap(strconv.Itoa(1_000_000_000 + rand.IntN(1_000_000_000))) }

// script has every "sleep" of a text take the nap.
func (n nap) script(text string) string {
	return strings.ReplaceAll(text, "sleep", "sleep "+string(n))
}

// sleepers lists the processes that take the nap.
func (n nap) sleepers(t *testing.T) string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, p := range all {
		b, _ := os.ReadFile(p)
		if string(b) == "sleep\x00"+string(n)+"\x00" {
			out = append(out, p)
		}
	}
	return strings.Join(out, " ")
}

// What a step changes is in Upper; what was made for its mounts is not.
func TestUpper(t *testing.T) {
	for _, c := range []struct {
		name   string
		mounts []Mount
		script string
		want   string
	}{
		{"nothing", nil, "true", ""},
		{"a file", nil, "echo x > /etc/x", "etc etc/x"},
		{"missing mount points", []Mount{
			{Tmpfs: &Tmpfs{}, Target: "/a/b/c"},
			{Source: "base/etc/passwd", Target: "/etc/hosts", ReadOnly: true},
		}, "test -d /a/b/c && cat /etc/hosts && touch /a/b/c/f", ""},
		{"change beside a mount point", []Mount{{Tmpfs: &Tmpfs{}, Target: "/a/b"}}, "touch /a/f", "a a/f"},
		{"nested mounts", []Mount{
			{Tmpfs: &Tmpfs{}, Target: "/a"}, {Tmpfs: &Tmpfs{}, Target: "/a/b/c"}, {Source: "base/etc/passwd", Target: "/a/b/d/e"},
		}, "touch /a/b/c/f && cat /a/b/d/e", ""},
		{"in /dev", []Mount{{Tmpfs: &Tmpfs{}, Target: "/dev/shm"}, {Source: "base/etc/passwd", Target: "/dev/x"}}, "cat /dev/x", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStep(t, "/bin/sh", "-ec", c.script)
			s.Mounts = c.mounts
			runOK(t, s)
			if got := tree(t, s.Upper); got != c.want {
				t.Errorf("upper has %q, want %q", got, c.want)
			}
		})
	}
}

// A file that only the caller may read is the step's root's.
func TestSharedDirectory(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", "cat /o/secret; stat -c %u:%a /o/secret; echo x > /o/x || echo refused")
	outside.Target, outside.ReadOnly = "/o", true
	s.Mounts = []Mount{outside}
	got := runOK(t, s)
	if want := "of the caller\n0:600\n"; !strings.HasPrefix(got, want) || !strings.HasSuffix(got, "refused\n") {
		t.Errorf("output = %q, want %q and a refusal", got, want)
	}
}

// Links on the way to a mount point lead to places in the step's root.
func TestTargetLinks(t *testing.T) {
	for _, c := range []struct {
		name, link, to string // link in the root, and what it leads to
		target         string
		see            string // where the step finds the mount
		err            string
	}{
		{"dangling file", "etc/resolv.conf", "../run/systemd/resolve/stub.conf", "/etc/resolv.conf", "/run/systemd/resolve/stub.conf", ""},
		{"absolute directory", "cache", "/var/cache", "/cache/x", "/var/cache/x", ""},
		{"out of the root", "up", "../../../../../../tmp/up", "/up", "/tmp/up", ""},
		{"to proc", "p", "/proc/self", "/p/attr", "", "nothing may be mounted"},
		{"loop", "l", "l", "/l/x", "", "too many levels"},
		{"through a file", "f", "etc/passwd", "/f/x", "", "not a directory"},
		{"root", "r", "/", "/r", "", "nothing may be mounted"},
		{"through another mount", "m", "dev/../etc/x", "/m", "", "leads through another mount"},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStep(t, "/bin/cat", c.see)
			if err := os.MkdirAll(filepath.Dir(filepath.Join(s.Upper, c.link)), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.Symlink(c.to, filepath.Join(s.Upper, c.link)); err != nil {
				t.Fatal(err)
			}
			before := tree(t, s.Upper)
			s.Mounts = []Mount{{Source: "base/etc/passwd", Target: c.target, ReadOnly: true}}
			out, _, err := output(t, s)
			switch {
			case c.err != "" && (err == nil || !strings.Contains(err.Error(), c.err)):
				t.Errorf("error = %v, want %q in it", err, c.err)
			case c.err == "" && err != nil:
				t.Error(err)
			case c.err == "" && !strings.HasPrefix(out, "root:"):
				t.Errorf("step saw %q, want the mounted file", out)
			}
			if got := tree(t, s.Upper); got != before {
				t.Errorf("upper has %q, want %q", got, before)
			}
		})
	}
}

// The places of the fixed mounts must be directories.
func TestHostileFixedPlaces(t *testing.T) {
	for _, name := range []string{"proc", "sys", "dev"} {
		for _, kind := range []string{"link", "file"} {
			t.Run(name+" "+kind, func(t *testing.T) {
				s := newStep(t, "/bin/true")
				s.Lowers = []string{"base/etc"} // has none of the three
				p := filepath.Join(s.Upper, name)
				var err error
				if kind == "link" {
					err = os.Symlink("/tmp", p)
				} else {
					err = os.WriteFile(p, nil, 0o644)
				}
				if err != nil {
					t.Fatal(err)
				}
				_, _, err = output(t, s)
				if err == nil || !strings.Contains(err.Error(), "must be a directory in the image") {
					t.Errorf("error = %v, want a refusal", err)
				}
			})
		}
	}
}

// A directory that the skeleton covers looks the same as without it.
func TestSkeletonAttributes(t *testing.T) {
	s := newStep(t, "/bin/stat", "-c", "%a %u %g %Y %n", "/", "/d", "/d/e")
	lower := filepath.Join(filepath.Dir(s.Upper), "lower")
	if err := os.MkdirAll(lower+"/d/e", 0o755); err != nil {
		t.Fatal(err)
	}
	for _, p := range []string{lower + "/d/e", lower + "/d", lower} {
		if err := os.Chmod(p, 0o1711); err != nil {
			t.Fatal(err)
		}
		old := time.Unix(1_000_000_000, 0)
		if err := os.Chtimes(p, old, old); err != nil {
			t.Fatal(err)
		}
	}
	s.Lowers = append(s.Lowers, lower)
	s.Upper, s.Work = "", ""
	s.Mounts = []Mount{{Tmpfs: &Tmpfs{}, Target: "/d/e/f"}}
	got := runOK(t, s)
	for _, line := range strings.Split(strings.TrimSpace(got), "\n") {
		if !strings.HasPrefix(line, "1711 0 0 1000000000 ") && !strings.HasPrefix(line, "711 0 0 1000000000 ") {
			t.Errorf("got %q, want the attributes of the layer below", line)
		}
	}
}

func TestReadOnlyRoot(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", "touch /x || touch /etc/x || echo refused")
	s.Upper, s.Work = "", ""
	if got := runOK(t, s); !strings.HasSuffix(got, "refused\n") {
		t.Errorf("output = %q, want refusals", got)
	}
}

// A second step on the same directories sees what the first one did.
func TestUpperAgain(t *testing.T) {
	s := newStep(t, "/bin/touch", "/x")
	runOK(t, s)
	s.Args = []string{"/bin/cat", "/x"}
	runOK(t, s)
}

func TestEmptyRoot(t *testing.T) {
	s := newStep(t, "/bin/true")
	s.Lowers = nil
	_, _, err := output(t, s)
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("error = %v, want %v", err, fs.ErrNotExist)
	}
}

func TestBigMessage(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", "echo ${#A}")
	for i := range 200 {
		s.Env = append(s.Env, "V"+strings.Repeat("x", i)+"="+strings.Repeat("y", 4000))
	}
	s.Env = append(s.Env, "A="+strings.Repeat("z", 120<<10))
	if got, want := runOK(t, s), "122880\n"; got != want {
		t.Errorf("output = %q, want %q", got, want)
	}
}

func TestEnvironmentAndLimits(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", `echo "$A|$SECRET|$(ulimit -n)|$(ulimit -c)|$(ulimit -f)"; env | wc -l`)
	s.Env = append(s.Env, "A=x\ny::0:0", "SECRET", "=bad", "")
	s.Limits = []Limit{{syscall.RLIMIT_FSIZE, 1 << 20, 1 << 20}}
	// PATH, A on two lines, and what the shell adds: PWD, SHLVL.
	if got, want := runOK(t, s), "x\ny::0:0||1024|0|2048\n5\n"; got != want {
		t.Errorf("output = %q, want %q", got, want)
	}
}

// A step may be allowed no descriptor but its three streams: the first process needs none then.
func TestNoMoreFiles(t *testing.T) {
	if single {
		t.Skip("an init that is started anew opens files later")
	}
	s := newStep(t, "/bin/busybox", "true")
	s.Limits = []Limit{{syscall.RLIMIT_NOFILE, 3, 3}}
	var rn Runner
	defer rn.Close()
	for range 2 { // the second one meets what the first one said to the wrong one
		if exit, err := rn.Run(context.Background(), s); err != nil || exit.Code != 0 {
			t.Errorf("got %+v, %v, want success", exit, err)
		}
	}
}

func TestTerminal(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", "tty; echo $(tty) >/dev/console; exit 5")
	s.Terminal = true
	text := make(chan string, 1)
	s.OnConsole = func(f *os.File) {
		go func() {
			b, _ := io.ReadAll(f) // ends with EIO when the other end closes
			_ = f.Close()
			text <- string(b)
		}()
	}
	exit, err := Run(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := <-text, "/dev/pts/0\r\n/dev/pts/0\r\n"; got != want || exit.Code != 5 {
		t.Errorf("terminal = %q, exit %d; want %q, 5", got, exit.Code, want)
	}
}

func TestParallel(t *testing.T) {
	for range 8 {
		t.Run("step", func(t *testing.T) {
			t.Parallel()
			for range 10 {
				if got := runOK(t, newStep(t, "/bin/echo", "x")); got != "x\n" {
					t.Errorf("output = %q", got)
				}
			}
		})
	}
}

// BenchmarkRun is the whole of a step whose command does nothing, and for
// comparison the command alone, by turns: ms/op are medians.
func BenchmarkRun(b *testing.B) {
	for _, network := range []Network{NetworkHost, NetworkNone} {
		b.Run(string(network), func(b *testing.B) {
			s := newStep(b, "/bin/busybox", "true")
			s.Network = network
			var step, alone []time.Duration
			for b.Loop() {
				start := time.Now()
				if _, err := Run(context.Background(), s); err != nil {
					b.Fatal(err)
				}
				middle := time.Now()
				if err := exec.Command("/bin/busybox", "true").Run(); err != nil {
					b.Fatal(err)
				}
				step = append(step, middle.Sub(start))
				alone = append(alone, time.Since(middle))
			}
			for name, d := range map[string][]time.Duration{"step": step, "alone": alone} {
				slices.Sort(d)
				b.ReportMetric(float64(d[len(d)/2].Microseconds())/1000, name+"-p50-ms")
				b.ReportMetric(float64(d[0].Microseconds())/1000, name+"-min-ms")
			}
		})
	}
}
