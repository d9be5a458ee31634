// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container"
)

// scripts are run by busybox's shell in a root of their own. What they print is what they
// print as root in a container.
var scripts = []struct{ name, script, want string }{
	{"ids", `id -u; id -G; su builder -c 'id -u; id -g; umask; echo > /root/x || echo refused'; id -u`,
		"0\n0\n1000\n1000\n0022\nsh: can't create /root/x: Permission denied\nrefused\n0\n"},
	{"owners", `cd /tmp; touch f; chown 5:6 f; chmod 6755 f; stat -c '%u:%g %a' f; chown 7 f; stat -c '%u:%g %a' f
mkdir d; chown 1:2 d; chmod 2755 d; touch d/x; mkdir d/y; stat -c '%n %u:%g %a' d/x d/y
touch n; chown 8:9 n; chmod 0 n; stat -c '%u:%g %a' n; chmod 600 n; chown 1:1 n; chmod 111 n; stat -c '%u:%g %a' n
cp -a d e; stat -c '%n %u:%g' e e/x; mv e g; ln d/x h; stat -c '%u:%g %h' h; mkfifo p; chown 3:4 p; stat -c '%u:%g %F' p
ln -s f l; chown -h 9:10 l; stat -c %u:%g l; chown 65536 f || true`,
		"5:6 6755\n7:6 755\nd/x 0:2 644\nd/y 0:2 2755\n8:9 0\n1:1 111\ne 1:2\ne/x 0:2\n0:2 2\n3:4 fifo\n9:10\nchown: f: Invalid argument\n"},
	{"files", `cd /tmp; mkdir -p a/b/c; echo one > a/b/c/f; ln -s b/c a/l; ln -s /tmp/a/l/f top; cat top a/l/f a/../a/l/../c/f
sed -i s/one/two/ top; cat a/b/c/f; find a | sort; tar -cf t.tar a; mkdir x; tar -xf t.tar -C x; cat x/a/l/f; rm -r x; ls
cd a/l; pwd -P; cd ..; pwd -P; cd /; rmdir /tmp/a 2>&1; rm /tmp/a/b/ 2>&1; cat /tmp/a/b/c/f/ 2>&1; ln -s loop /tmp/loop; cat /tmp/loop 2>&1; true`,
		"one\none\none\none\na\na/b\na/b/c\na/b/c/f\na/l\none\na\nt.tar\ntop\n/tmp/a/b/c\n/tmp/a\n" +
			"rmdir: '/tmp/a': Directory not empty\nrm: '/tmp/a/b' is a directory\ncat: can't open '/tmp/a/b/c/f/': Not a directory\ncat: can't open '/tmp/loop': Too many levels of symbolic links\n"},
	{"modes", `cd /tmp; umask 077; touch f; mkdir d; stat -c %a f d; chmod 0 f; echo x > f; cat f; chmod 555 d; touch d/in; rm d/in; stat -c %a f d; chmod 000 d; ls d; rmdir d`,
		"600\n700\nx\n0\n555\n"},
	{"programs", `cd /tmp; printf '#!/bin/sh -e\necho "$0 $1"; false; echo no\n' > s; printf '#!/tmp/s arg\n' > t; printf 'echo plain "$1"\n' > u; printf '#!/missing\n' > v; chmod +x s t u v
./s one; ./t two; ./u three; ./v 2>&1; ./none 2>&1; ./f 2>&1; touch f; ./f 2>&1; chmod +x f; ./f; exec -a sh /bin/busybox -c 'echo ok'`,
		"./s one\n/tmp/s arg\nplain three\n/bin/sh: ./v: not found\n/bin/sh: ./none: not found\n/bin/sh: ./f: not found\n/bin/sh: ./f: Permission denied\nok\n"},
	{"unreadable", `cd /tmp; for m in 111 4111 11 1 700 0; do cp /bin/busybox p; chmod $m p; (exec -a sh ./p -c 'readlink /proc/self/exe; stat -c %a p') 2>&1; rm p; done
cp /bin/busybox sh; printf '#!/tmp/sh\necho script\n' > s; chmod 111 s sh; ./s; su builder -c '/tmp/sh -c "echo user"'`,
		"/tmp/p\n111\n/tmp/p\n4111\n/tmp/p\n11\n/tmp/p\n1\n/tmp/p\n700\n/bin/sh: exec: line 0: ./p: Permission denied\nscript\nuser\n"},
	{"roots", `mkdir -p /tmp/r/bin /tmp/r/etc; cp /bin/busybox /tmp/r/bin/sh; ln -s /etc /tmp/r/link; echo in > /tmp/r/etc/f
chroot /tmp/r /bin/sh -c 'pwd; cd ..; cd ../..; pwd; read l < /link/f; echo $l; read l < ../../../../etc/passwd || echo none; cd /etc; exec sh -c pwd' 2>&1; head -c 4 /etc/passwd; echo`,
		"/\n/\nin\n/bin/sh: can't open ../../../../etc/passwd: no such file\nnone\n/etc\nroot\n"},
	{"pipes", `cd /tmp; mkfifo p; (cat p > q) & echo through > p; wait; cat q; echo a | sh -c 'cat /dev/stdin; echo b > /dev/stderr'; echo c > /dev/null; head -c 3 /dev/zero | od -An -c | tr -d ' '; readlink /proc/self/fd/1 | grep -c pipe`,
		"through\na\nb\n\\0\\0\\0\n1\n"},
	{"devices", `touch /dev/null; chmod 600 /dev/full 2>&1; chmod 600 /dev/stdin 2>&1 </dev/full; touch -d 2001-01-01 /dev/zero 2>&1; stat -c %a /dev/full`,
		"chmod: /dev/full: Operation not permitted\nchmod: /dev/stdin: Operation not permitted\ntouch: /dev/zero: Operation not permitted\n666\n"},
	{"proc", `readlink /proc/self/exe; cd /etc; readlink /proc/self/cwd; cat /proc/self/cwd/passwd | head -c 4; echo; readlink /proc/$$/root; ls -d /proc/1 2>&1; cat /proc/self/comm; exec 3< /etc/passwd; head -c 4 /proc/self/fd/3; echo; readlink /proc/self/fd/3; ls /proc/self/root/etc; test -e /proc/mounts && echo mounts`,
		"/bin/busybox\n/etc\nroot\n/\nls: /proc/1: No such file or directory\ncat\nroot\n/etc/passwd\npasswd\nmounts\n"},
	{"signals", `kill -0 $PPID 2>/dev/null || echo not ours; sleep 100 & kill $!; wait $! 2>/dev/null; echo $?; trap 'echo term' TERM; kill -TERM $$; (sleep 100 & sleep 100 &) ; echo end`,
		"not ours\n143\nterm\nend\n"},
}

// TestScripts runs the scripts.
func TestScripts(t *testing.T) {
	for _, tc := range scripts {
		t.Run(tc.name, func(t *testing.T) {
			s := step(newRoot(t), "/bin/sh", "-c", tc.script)
			if got := runOK(t, s); got != tc.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tc.want)
			}
		})
	}
}

// TestMounts looks at what the table of mounts shows, and that the step cannot change what
// is read-only, nor move things between mounts.
func TestMounts(t *testing.T) {
	root, out := newRoot(t), t.TempDir()
	for name, text := range map[string]string{"ro/f": "read", "rw/f": "write", "file": "one"} {
		if err := os.MkdirAll(filepath.Dir(filepath.Join(out, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(out, name), []byte(text+"\n"), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	s := step(root, "/bin/sh", "-c", `exec 2>&1
cat /in/ro/f /in/rw/f /etc/conf; ln -s /in /tmp/in; cat /tmp/in/ro/../rw/f; cd /tmp/in/ro; pwd -P; cat ../rw/f; cd ../..; pwd -P
echo x > /in/ro/f; rm /in/ro/f; touch /in/ro/g; chmod 777 /in/ro/f; chown 5 /in/ro; mkdir /in/ro/d; ln /in/ro/f /tmp/f
exec 3< /in/ro/f; echo x > /proc/self/fd/3; mv /in/rw /in/moved; rmdir /in/rw; ln /in/rw/f /tmp/f; mv /in/rw/f /tmp/f; cat /tmp/f; ls /in/rw; ls /in
echo y > /in/rw/g; stat -c %u /in/rw/g; echo z > /in/tmp/z; ls /in/tmp; echo new > /etc/conf; ls /dev/shm; stat -c %F /dev/null`)
	s.Mounts = []container.Mount{
		{Source: filepath.Join(out, "ro"), Target: "/in/ro", ReadOnly: true},
		{Source: filepath.Join(out, "rw"), Target: "/in/rw"},
		{Tmpfs: &container.Tmpfs{}, Target: "/in/tmp"},
		{Source: filepath.Join(out, "file"), Target: "/etc/conf", File: true},
	}
	const want = "read\nwrite\none\nwrite\n/in/ro\nwrite\n/tmp\n" +
		"/bin/sh: can't create /in/ro/f: Read-only file system\nrm: can't remove '/in/ro/f': Read-only file system\n" +
		"touch: /in/ro/g: Read-only file system\nchmod: /in/ro/f: Read-only file system\nchown: /in/ro: Read-only file system\n" +
		"mkdir: can't create directory '/in/ro/d': Read-only file system\nln: /tmp/f: Invalid cross-device link\n" +
		"/bin/sh: can't create /proc/self/fd/3: Read-only file system\nmv: can't rename '/in/rw': Device or resource busy\n" +
		"rmdir: '/in/rw': Device or resource busy\nln: /tmp/f: Invalid cross-device link\nwrite\nro\nrw\ntmp\n0\nz\ncharacter special file\n"
	if got := runOK(t, s); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
	if b, err := os.ReadFile(filepath.Join(out, "file")); string(b) != "new\n" {
		t.Errorf("the file that is shown has %q, %v", b, err)
	}
}

// TestErrors wants to be told why a command does not start.
func TestErrors(t *testing.T) {
	root := newRoot(t)
	const prog32 = "\x7fELF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\x03\x00" // elf(5): EM_386
	if err := os.WriteFile(filepath.Join(root, "bin/prog32"), []byte(prog32), 0o755); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		s     func(*container.Spec)
		want  string
		errno syscall.Errno
	}{
		{func(s *container.Spec) { s.Args = []string{"/missing"} }, "exec /missing", unix.ENOENT},
		{func(s *container.Spec) { s.Args = []string{"missing"} }, "looked for in PATH", unix.ENOENT},
		{func(s *container.Spec) { s.Args = []string{"/etc/passwd"} }, "exec /etc/passwd", unix.EACCES},
		{func(s *container.Spec) { s.Dir = "/nowhere" }, "change to directory /nowhere", unix.ENOENT},
		{func(s *container.Spec) { s.Args = []string{"/bin/prog32"} }, "a program of 32 bits", unix.ENOEXEC},
		{func(s *container.Spec) { s.Dir = "/etc/passwd" }, "change to directory /etc/passwd", unix.ENOTDIR},
	} {
		s := step(root, "/bin/true")
		tc.s(&s)
		_, _, err := run(t, s)
		if !errors.Is(err, tc.errno) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%v, want %q with %v", err, tc.want, tc.errno)
		}
	}
	s := step(root, "/bin/true")
	s.Privileged = true
	if _, _, err := run(t, s); !errors.Is(err, container.ErrVirtual) {
		t.Errorf("a privileged step: %v", err)
	}
	if _, exit, err := run(t, step(root, "/bin/sh", "-c", "kill -9 $$")); exit.Signal != unix.SIGKILL || exit.Code != 137 || err != nil {
		t.Errorf("killed: %+v, %v", exit, err)
	}
	if _, exit, err := run(t, step(root, "/bin/sh", "-c", "exit 3")); exit.Code != 3 || err != nil {
		t.Errorf("status 3: %+v, %v", exit, err)
	}
}

// TestUser runs a step as another user from its first process on.
func TestUser(t *testing.T) {
	s := step(newRoot(t), "/bin/sh", "-c", "id -u; id -g; id -G; touch /tmp/mine; stat -c %u:%g /tmp/mine; chown 0 /tmp/mine 2>&1; kill -0 1")
	s.UID, s.GID, s.Groups = 1000, 1001, []uint32{5}
	const want = "1000\n1001\n1001 5\n1000:1001\nchown: /tmp/mine: Operation not permitted\n"
	if got := runOK(t, s); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// TestEnd cancels a step that has processes of every kind: none is left.
func TestEnd(t *testing.T) {
	root := newRoot(t)
	s := step(root, "/bin/sh", "-c", `trap '' TERM HUP; setsid sh -c 'trap "" TERM; echo $$ > /tmp/one; sleep 300' & (sleep 300 &) ; while :; do sleep 300; done`)
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if b, err := os.ReadFile(filepath.Join(root, "tmp/one")); err == nil && len(b) > 1 {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := (container.Virtual{}).Run(ctx, s); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	checkGone(t, root)
	// The same where the command ends by itself.
	runOK(t, step(root, "/bin/sh", "-c", `(sleep 300 &); setsid sleep 300 & true`))
	checkGone(t, root)
}

// checkGone looks for processes that run what is in root.
func checkGone(t *testing.T, root string) {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*/exe")
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range all {
		if exe, err := os.Readlink(p); err == nil && strings.HasPrefix(exe, root) {
			t.Errorf("%s is %s", p, exe)
		}
	}
}
