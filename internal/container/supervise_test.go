// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// ownersScript does to owners and ids what programs do that install others.
const ownersScript = `
set -e
cd /tmp
show() { stat -c "%n %u:%g %a %F" "$@"; }
touch f; chown 5:6 f; show f
chmod 6755 f; chown 7 f; show f
chmod 2644 f; chown :8 f; show f
chown 0:0 f; show f
ln -s nowhere l; chown -h 9:10 l; mv l m; show m
mkfifo p; chown 11:12 p; ln p q; show p q
mkdir d; chown 1:2 d; chmod 2755 d; touch d/x; mkdir d/y; ln -s z d/l; show d d/x d/y d/l
cp -a d e; show e/x e/y e/l
cd d; stat -c "%u:%g" ../m .; cd ..
chown 65536 f 2>&1 || true
chown 5 missing 2>&1 || true
touch g h i; mkdir n; exec 3< . 4< n
chown 1:1 /proc/self/fd/3/g; chown 2:2 /proc/self/cwd/h; chown 3:3 /proc/self/root/tmp/i; chown 4:2000 /dev/fd/4; chmod 2755 n
touch /proc/self/fd/4/a; mkdir /dev/fd/4/b; ln -s x /proc/self/cwd/n/c; show g h i n n/a n/b n/c
stat -L -c %u:%g /proc/self/fd/3/g /dev/fd/3/h /proc/self/root/tmp/i /proc/self/fd/4
`

const ownersOutput = `f 5:6 644 regular empty file
f 7:6 755 regular empty file
f 7:8 2644 regular empty file
f 0:0 2644 regular empty file
m 9:10 777 symbolic link
p 11:12 644 fifo
q 11:12 644 fifo
d 1:2 2755 directory
d/x 0:2 644 regular empty file
d/y 0:2 2755 directory
d/l 0:2 777 symbolic link
e/x 0:2 644 regular empty file
e/y 0:2 2755 directory
e/l 0:2 777 symbolic link
9:10
1:2
chown: f: Invalid argument
chown: missing: No such file or directory
g 1:1 644 regular empty file
h 2:2 644 regular empty file
i 3:3 644 regular empty file
n 4:2000 2755 directory
n/a 0:2000 644 regular empty file
n/b 0:2000 2755 directory
n/c 0:2000 777 symbolic link
1:1
2:2
3:3
4:2000
`

// TestOwners is the same at each level.
func TestOwners(t *testing.T) {
	got := runOK(t, newStep(t, "/bin/sh", "-c", ownersScript))
	if got != ownersOutput {
		t.Errorf("got:\n%s\nwant:\n%s", got, ownersOutput)
	}
}

// TestUser runs a step as a user, whose new files are its own and who may not
// change others'.
func TestUser(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", "id -u; id -g; id -G; umask 027; echo x > /tmp/f; mkdir /tmp/d; ln -s f /tmp/l; mkfifo /tmp/p;"+
		"stat -c '%n %u:%g %a' /tmp/*; chown 0 /tmp/f; chown 1000:7 /tmp/f && stat -c %g /tmp/f; echo > /root/f; mkdir /etc/d; mkdir -p /tmp/d; true")
	s.UID, s.GID, s.Groups = 1000, 1001, []uint32{7, 5}
	if err := os.Chmod("base/tmp", 0o1777); err != nil {
		t.Fatal(err)
	}
	const want = "1000\n1001\n1001 5 7\n/tmp/d 1000:1001 750\n/tmp/f 1000:1001 640\n/tmp/l 1000:1001 777\n/tmp/p 1000:1001 640\n" +
		"chown: /tmp/f: Operation not permitted\n7\n/bin/sh: can't create /root/f: Permission denied\nmkdir: can't create directory '/etc/d': Permission denied\n"
	got := strings.ReplaceAll(runOK(t, s), "nonexistent directory", "Permission denied")
	if got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// hostileRuns are what TestHostileCalls has a program do.
var hostileRuns = map[string]func(){
	"pointers": hostilePointers, "race": hostileRace, "ids": hostileIDs, "flood": hostileFlood, "limit": hostileLimit,
	"names": hostileNames,
}

// hostile is the program; it prints "done" if it lived to its end.
func hostile(run string) {
	hostileRuns[run]()
	fmt.Println("done")
}

func call(nr uintptr, a, b, c, d uintptr) syscall.Errno {
	_, _, e := syscall.Syscall6(nr, a, b, c, d, 0, 0)
	return e
}

func cstring(s string) uintptr {
	b := append([]byte(s), 0)
	return uintptr(unsafe.Pointer(&b[0]))
}

// hostilePointers gives addresses that lead nowhere, and strings without an end.
func hostilePointers() {
	const pages = 4
	m, err := unix.Mmap(-1, 0, pages<<12, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON)
	if err != nil {
		panic(err)
	}
	if err := unix.Mprotect(m[2<<12:], unix.PROT_NONE); err != nil {
		panic(err)
	}
	for i := range m[:2<<12] {
		m[i] = 'a'
	}
	at := func(i int) uintptr { return uintptr(unsafe.Pointer(&m[0])) + uintptr(i) }
	addresses := []uintptr{0, 1, ^uintptr(0), 1 << 63, at(0), at(1<<12 - 1), at(2<<12 - 1), at(2 << 12), at(2<<12 - 8)}
	calls := []uintptr{
		unix.SYS_FCHOWNAT, unix.SYS_MKDIRAT, unix.SYS_OPENAT, unix.SYS_STATX, unix.SYS_SYMLINKAT, unix.SYS_MKNODAT,
		unix.SYS_SETXATTR, unix.SYS_LGETXATTR, unix.SYS_LISTXATTR, unix.SYS_REMOVEXATTR, unix.SYS_GETGROUPS, unix.SYS_GETRESUID,
		unix.SYS_CAPGET, unix.SYS_CAPSET, unix.SYS_OPENAT2, unix.SYS_EXECVE, unix.SYS_PRLIMIT64, unix.SYS_FSTAT, unix.SYS_SETGROUPS, unix.SYS_CHROOT,
	}
	for _, nr := range calls {
		for _, a := range addresses {
			for _, b := range addresses {
				call(nr, a, b, unix.O_CREAT, a)
				call(nr, ^uintptr(99), b, a, b) // AT_FDCWD
			}
		}
	}
	for i := range m[:2<<12] {
		m[i] = 'a' // some calls wrote there
	}
	if e := call(unix.SYS_MKDIRAT, ^uintptr(99), at(1<<12), 0, 0); e != unix.ENAMETOOLONG && e != unix.EFAULT {
		panic(e)
	}
}

// hostileRace changes a path while calls with it are under way.
func hostileRace() {
	path := []byte("/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00")
	other := []string{"/proc/1/root/../../etc/passwd", "/stacker-outside/secret", "/proc/self/fd/../../1/cwd", "/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaa"}
	stop := time.Now().Add(2 * time.Second)
	var wg sync.WaitGroup
	var writing sync.Mutex // the race is with who reads the path to answer a call
	for i := range 4 {
		wg.Go(func() {
			for n := 0; time.Now().Before(stop); n++ {
				writing.Lock()
				copy(path, other[n%len(other)])
				writing.Unlock()
				if i == 0 {
					_ = os.Symlink(other[n%2], "/tmp/link"+strconv.Itoa(n%8))
					_ = os.Remove("/tmp/link" + strconv.Itoa(n%8))
				}
			}
		})
		wg.Go(func() {
			p := uintptr(unsafe.Pointer(&path[0]))
			for time.Now().Before(stop) {
				call(unix.SYS_FCHOWNAT, ^uintptr(99), p, 7, 8)
				if fd, _, e := syscall.Syscall6(unix.SYS_OPENAT, ^uintptr(99), p, unix.O_CREAT|unix.O_EXCL|unix.O_RDWR, 0o600, 0, 0); e == 0 {
					_ = unix.Close(int(fd))
				}
				call(unix.SYS_MKDIRAT, ^uintptr(99), p, 0o700, 0)
				call(unix.SYS_FCHOWNAT, ^uintptr(99), cstring("/tmp/link1"), 7, 8)
			}
		})
	}
	wg.Wait()
}

// hostileIDs asks for more ids than are kept, and then wants to be root again.
func hostileIDs() {
	refused := 0
	for i := range 6000 {
		if call(unix.SYS_SETRESUID, uintptr(i+1), 0, 0, 0) != 0 {
			refused++
		}
	}
	if refused == 0 {
		panic("nothing was refused")
	}
	if e := call(unix.SYS_SETRESUID, 1, 1, 1, 0); e != 0 && e != unix.EAGAIN {
		panic(e)
	}
}

// hostileFlood makes many calls from many threads and processes that are killed.
func hostileFlood() {
	var wg sync.WaitGroup
	stop := time.Now().Add(2 * time.Second)
	for range 32 {
		wg.Go(func() {
			runtime.LockOSThread()
			var st unix.Stat_t
			for time.Now().Before(stop) {
				_ = unix.Lstat("/tmp", &st)
				_ = unix.Chown("/tmp", 3, 4)
				unix.Getuid()
			}
		})
	}
	for range 30 {
		p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "while :; do touch /tmp/k; chown 1 /tmp/k; stat /tmp/k; done"}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
		if err != nil {
			panic(err)
		}
		time.Sleep(20 * time.Millisecond)
		_ = p.Kill()
		_, _ = p.Wait()
	}
	wg.Wait()
}

// hostileLimit sets the limit that the number of its ids is kept in.
func hostileLimit() {
	if e := call(unix.SYS_SETRESUID, 5, 5, 5, 0); e != 0 {
		panic(e)
	}
	l := [2]uint64{1 << 40, 1 << 41}
	const locks = 10
	if e := call(unix.SYS_PRLIMIT64, 0, locks, uintptr(unsafe.Pointer(&l)), 0); e != 0 {
		panic(e)
	}
	var now [2]uint64
	if e := call(unix.SYS_PRLIMIT64, 0, locks, 0, uintptr(unsafe.Pointer(&now))); e != 0 || now[0] != ^uint64(0) {
		panic(fmt.Sprint(e, now))
	}
	if unix.Getuid() != 5 {
		panic(unix.Getuid())
	}
}

// hostileNames opens files only to name them, with flags that would make files if the
// kernel looked at them.
func hostileNames() {
	if err := unix.Chmod("/tmp", 0o1777); err != nil {
		panic(err)
	}
	if e := call(unix.SYS_SETRESUID, 5, 5, 5, 0); e != 0 {
		panic(e)
	}
	const tmpfile = 0x400000
	for _, flags := range []uintptr{unix.O_CREAT, tmpfile | unix.O_DIRECTORY, unix.O_CREAT | tmpfile | unix.O_DIRECTORY} {
		call(unix.SYS_OPENAT, ^uintptr(99), cstring("/tmp"), unix.O_PATH|flags, 0o600)
		if e := call(unix.SYS_OPENAT, ^uintptr(99), cstring("/tmp/missing"), unix.O_PATH|flags, 0o600); e != unix.ENOENT {
			panic(e)
		}
	}
	var st unix.Stat_t
	if err := unix.Stat("/tmp", &st); err != nil || st.Uid != 0 {
		panic(fmt.Sprint("/tmp belongs to ", st.Uid, err))
	}
}

// TestHostileCalls has programs work against whoever answers their calls. The step
// ends as it should, and nothing outside its root was touched.
func TestHostileCalls(t *testing.T) {
	if !single {
		t.Skip("nobody answers calls where there are many ids")
	}
	for run := range hostileRuns {
		t.Run(run, func(t *testing.T) {
			dir := t.TempDir()
			secret := filepath.Join(dir, "secret")
			if err := os.WriteFile(secret, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			s := newStep(t, "/probe", "hostile", run)
			s.Mounts = append(s.Mounts, Mount{Source: "probe", Target: "/probe", ReadOnly: true, File: true}, Mount{Source: dir, Target: "/stacker-outside"})
			if got := runOK(t, s); got != "done\n" {
				t.Errorf("output = %q", got)
			}
			// It may write there, as the directory is shown to it; but nobody makes notes.
			names, err := filepath.Glob(filepath.Join(dir, "*"))
			if err != nil || !slices.Contains(names, secret) {
				t.Errorf("outside has %v, %v", names, err)
			}
			for _, n := range names {
				if size, err := unix.Llistxattr(n, nil); size != 0 || err != nil {
					t.Errorf("%s has %d bytes of attributes, %v", n, size, err)
				}
			}
		})
	}
}

// TestSupervisorEnds kills the process that answers calls, while calls wait.
func TestSupervisorEnds(t *testing.T) {
	nap := newNap()
	s := newStep(t, "/bin/sh", "-c", nap.script("sleep & while :; do stat /tmp; touch /tmp/x; chown 5 /tmp/x; done"))
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	go func() {
		for ctx.Err() == nil {
			if _, err := os.Lstat(filepath.Join(s.Upper, "tmp/x")); err == nil {
				cancel()
			}
			time.Sleep(5 * time.Millisecond)
		}
	}()
	if _, err := Run(ctx, s); !errors.Is(err, context.Canceled) {
		t.Errorf("error = %v, want %v", err, context.Canceled)
	}
	if left := nap.sleepers(t); left != "" {
		t.Errorf("processes left: %s", left)
	}
}
