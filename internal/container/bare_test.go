// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/layer"
)

// The tests of steps without namespaces run in a worker of their own, which is real root.

// newBareStep gives a step on a copy of the busybox layer.
func newBareStep(t testing.TB, args ...string) Spec {
	t.Helper()
	if !bare {
		t.Skip("is run where there are no namespaces")
	}
	s := newStep(t, args...)
	s.Root = filepath.Join(filepath.Dir(s.Scratch), "root")
	if err := os.Mkdir(s.Root, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := layer.Flatten(t.Context(), s.Lowers, s.Root, layer.FlattenOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Lowers, s.Upper, s.Work = nil, "", ""
	return s
}

// bareOutput runs a step that must end with status 0, and gives what it wrote.
func bareOutput(t testing.TB, s Spec) string {
	t.Helper()
	out, exit, err := outputOf(t, s, new(Bare).Run)
	if err != nil || exit.Code != 0 {
		t.Fatalf("exit %d, %v; output:\n%s", exit.Code, err, out)
	}
	return out
}

func TestBarePosture(t *testing.T) {
	abstract := listen(t, "unix", "@stacker-bare-"+strconv.Itoa(os.Getpid()))
	port := listen(t, "tcp", "127.0.0.1:0")
	common := findings{
		"limit-nofile": "", "limit-core": "ok 0", "session": "0", "cwd": "/", "processes": "0", "dev": "full,null,random,shm,tty,urandom,zero",
		"read /proc/1/environ": "ENOENT", "open /proc/1/exe": "ENOENT", "open /proc/1/root": "ENOENT",
		"call unshare user": "EPERM", "call unshare mount": "EPERM", "call mount": "EPERM", "call umount": "EPERM", "call bpf": "EPERM", "call keyctl": "EPERM",
		"call io_uring": "EPERM", "call userfaultfd": "EPERM", "call perf_event_open": "EPERM", "call open_tree": "EPERM", "call setns": "EPERM",
		"call TIOCSTI": "EPERM", "call ptrace init": "EPERM", "call mknod": "EPERM", "call sethostname": "EPERM", "call reboot": "EPERM",
		"call socket raw": "EPERM", "call chroot": "EPERM", "call kill 1": "EPERM", "call ptrace parent": "EPERM", "call kill parent": "EPERM", "call limit by number": "EPERM",
		"call chown": "ok", "abstract socket": "EPERM", "port": "ok", "own port": "ok",
	}
	for _, c := range []struct {
		name   string
		change func(s *Spec)
		want   findings
	}{
		{"default", func(s *Spec) {}, nil},
		{"no network", func(s *Spec) { s.Network = NetworkNone }, findings{"port": "EPERM", "own port": "EPERM"}},
		{"other user", func(s *Spec) { s.UID, s.GID = 1000, 1001 }, findings{"call chown": "", "call mknod": "EACCES"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newBareStep(t, "/probe", "probe", abstract[1:], port)
			c.change(&s)
			s.Mounts = append(s.Mounts, Mount{Source: "probe", Target: "/probe", ReadOnly: true, File: true})
			got := parse(bareOutput(t, s))
			want := maps.Clone(common)
			maps.Copy(want, c.want)
			for _, k := range slices.Sorted(maps.Keys(want)) {
				scope := k == "abstract socket" || strings.HasPrefix(k, "call kill") // Linux 6.12
				if want[k] != "" && got[k] != want[k] && !(scope && !scopes()) {
					t.Errorf("%s: got %q, want %q", k, got[k], want[k])
				}
			}
		})
	}
}

// TestBareEscape tries what leads out of a root directory.
func TestBareEscape(t *testing.T) {
	s := newBareStep(t, "/bin/sh", "-c", `
		cd /..; pwd; ls -d /base 2>/dev/null
		ls ../../../.. | grep -c scratch
		mkdir /jail; chroot /jail / 2>/dev/null && echo chroot
		ln -s ../../../../../../etc/hostname out; cat out 2>/dev/null && echo read
		exit 0`)
	if got := bareOutput(t, s); got != "/\n0\n" {
		t.Errorf("output = %q, want only that / is the top", got)
	}
}

// TestBareSameRoot calls chroot(2), as package managers do before each script: to the root that the
// step is in it succeeds, to others not.
func TestBareSameRoot(t *testing.T) {
	s := newBareStep(t, "/bin/sh", "-c", `exec 2>&1
		mkdir /jail; cp /bin/busybox /jail/sh; ln -s / /jail/top
		for d in / // /. . ./; do cd /; chroot $d /bin/sh -c "echo in $d" || exit 1; done
		for d in /jail .. /jail/.. /jail/top /../ '' ./..; do cd /; chroot "$d" /sh -c 'echo out' && exit 1; done
		cd /jail; chroot . /sh -c 'echo out' && exit 1
		(trap 'exit 3' TERM; chroot / sleep 0) & wait $!; echo $?`)
	out := bareOutput(t, s)
	if want := "in /\nin //\nin /.\nin .\nin ./\n"; !strings.HasPrefix(out, want) || strings.Contains(out, "\nout") || !strings.HasSuffix(out, "\n0\n") {
		t.Errorf("output = %q, want %q, then refusals and 0", out, want)
	}
}

func TestBareLeftovers(t *testing.T) {
	nap := newNap()
	s := newBareStep(t, "/bin/sh", "-c", nap.script("sleep & setsid sleep & (setsid sleep &) ; (trap '' TERM HUP INT; while true; do sleep; done) & exit 3"))
	_, exit, err := outputOf(t, s, new(Bare).Run)
	if err != nil || exit.Code != 3 {
		t.Errorf("exit %d, %v; want 3", exit.Code, err)
	}
	if left := nap.sleepers(t); left != "" {
		t.Errorf("processes left: %s", left)
	}
}

func TestBareCancel(t *testing.T) {
	nap := newNap()
	s := newBareStep(t, "/bin/sh", "-c", nap.script("sleep & setsid sleep & echo up; sleep"))
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
	_, err = new(Bare).Run(ctx, s)
	_ = w.Close()
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
	if left := nap.sleepers(t); left != "" {
		t.Errorf("processes left: %s", left)
	}
}

// TestBareKilled kills the first process of a step, as the kernel does for want of memory.
func TestBareKilled(t *testing.T) {
	nap := newNap()
	s := newBareStep(t, "/bin/sh", "-c", nap.script("sleep & setsid sleep & echo up; sleep"))
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	s.Stdout = w
	b := new(Bare)
	go func() {
		_, _ = r.Read(make([]byte, 3))
		b.kids.Lock()
		defer b.kids.Unlock()
		for pid := range b.running {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
	}()
	_, err = b.Run(t.Context(), s)
	_ = w.Close()
	if err == nil {
		t.Error("no error, though the step was killed")
	}
	if left := nap.sleepers(t); left != "" {
		t.Errorf("processes left: %s", left)
	}
}

// TestBareMounts shows things in the root, does bad things to them, and wants the root as it
// would be with mounts.
func TestBareMounts(t *testing.T) {
	s := newBareStep(t, "/bin/sh", "-ec", `
		cat /etc/given /shown/file /nested/in/file /run/made; ls -a /hidden
		stat -c %a /memory; ls /dev/null /proc /sys
		echo spoilt > /shown/file; echo kept > /cache/new
		rm /etc/given; echo mine > /etc/given
		mv /run/made /moved; rm -r /memory; mv /hidden /elsewhere
		echo new > /etc/new; rm -r /gone; echo x > /proc/x; ln /cache/new /linked`)
	at := func(name string) string { return filepath.Join(filepath.Dir(s.Scratch), name) }
	for name, text := range map[string]string{
		"given": "given\n", "made": "made\n", "shown/file": "shown\n", "nested/file": "nested\n", "cache/old": "", "empty/.keep": "",
		"root/etc/given": "original\n", "root/hidden/secret": "", "root/gone/sub/x": "", "root/cache/below": "",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(at(name)), 0o755), os.WriteFile(at(name), []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	s.Mounts = []Mount{
		{Source: at("given"), Own: true, Target: "/etc/given", File: true},
		{Source: at("made"), Own: true, Target: "/run/made", File: true},
		{Source: at("shown"), Target: "/shown", ReadOnly: true},
		{Source: at("nested"), Target: "/shown/../nested/in", ReadOnly: true},
		{Source: at("empty"), Own: true, Target: "/hidden", ReadOnly: true},
		{Source: at("cache"), Own: true, Target: "/cache"},
		{Tmpfs: &Tmpfs{Mode: 0o700}, Target: "/memory"},
		{Source: at("nested"), Target: "/gone/sub", ReadOnly: true},
	}
	var begun *layer.Stamps
	s.OnReady = func([]string) (err error) {
		begun, err = layer.ReadStamps(t.Context(), s.Root)
		return errors.Join(err, layer.Settle(s.Scratch))
	}
	s.OnRestored = func(same []string) error {
		notes, err := layer.Note(s.Root, same)
		begun.Add(notes)
		return err
	}
	got := bareOutput(t, s)
	if want := "given\nshown\nnested\nmade\n.\n..\n.keep\n700\n/dev/null\n\n/proc:\n\n/sys:\n"; got != want {
		t.Errorf("output = %q, want %q", got, want)
	}
	upper := at("upper")
	if err := layer.Changes(t.Context(), begun, s.Root, upper); err != nil {
		t.Fatal(err)
	}
	// The step changed /run itself.
	if got, want := tree(t, upper), "etc etc/new gone linked run"; got != want {
		t.Errorf("changes = %s, want %s", got, want)
	}
	for name, want := range map[string]string{"root/etc/given": "original\n", "shown/file": "shown\n", "cache/new": "kept\n", "root/hidden/secret": ""} {
		if b, err := os.ReadFile(at(name)); err != nil || string(b) != want {
			t.Errorf("%s: %q, %v; want %q", name, b, err, want)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat(at("cache/new"), &st); err != nil || st.Nlink != 1 {
		t.Errorf("the file in the cache has %d names, %v; want that it is apart from the layer's", st.Nlink, err)
	}
}

func TestBareRefused(t *testing.T) {
	for name, change := range map[string]func(*Spec){
		"writable":   func(s *Spec) { s.Mounts = []Mount{{Source: "/etc", Target: "/x"}} },
		"device":     func(s *Spec) { s.Mounts = []Mount{{Source: "/dev/null", Target: "/x", ReadOnly: true}} },
		"privileged": func(s *Spec) { s.Privileged = true },
		"no root":    func(s *Spec) { s.Root = "" },
		"no command": func(s *Spec) { s.Args = []string{"/none"} },
		"proc":       func(s *Spec) { s.Mounts = []Mount{{Source: "/etc", Target: "/proc/x", ReadOnly: true}} },
	} {
		s := newBareStep(t, "/bin/true")
		change(&s)
		before := tree(t, filepath.Dir(s.Scratch)+"/root/etc")
		if _, _, err := outputOf(t, s, new(Bare).Run); err == nil {
			t.Errorf("%s: no error", name)
		}
		if after := tree(t, filepath.Dir(s.Scratch)+"/root/etc"); after != before {
			t.Errorf("%s: /etc was %q and is %q", name, before, after)
		}
	}
}

func TestBareTerminal(t *testing.T) {
	s := newBareStep(t, "/bin/sh", "-c", "echo out; echo console > /dev/tty; exit 5")
	s.Terminal = true
	text := make(chan string, 1)
	s.OnConsole = func(f *os.File) {
		go func() {
			b, _ := io.ReadAll(f) // ends with EIO when the other end closes
			_ = f.Close()
			text <- string(b)
		}()
	}
	exit, err := new(Bare).Run(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := <-text, "out\r\nconsole\r\n"; got != want || exit.Code != 5 {
		t.Errorf("terminal = %q, exit %d; want %q, 5", got, exit.Code, want)
	}
}

func TestBareParallel(t *testing.T) {
	b := new(Bare)
	for range 6 {
		t.Run("", func(t *testing.T) {
			// Before the others run: a process that is started while a program is written holds it open for writing.
			s := newBareStep(t, "/bin/sh", "-c", "setsid sleep 100 & echo x > /file; sleep 0.1; cat /file")
			t.Parallel()
			if out, exit, err := outputOf(t, s, b.Run); err != nil || exit.Code != 0 || out != "x\n" {
				t.Errorf("%q, exit %d, %v", out, exit.Code, err)
			}
		})
	}
}
