// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package vroot_test

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/container"
)

// hostile is a program that works against whoever answers its calls, as this test program
// does in a step when its first argument is "hostile". It prints "done" if it lived to its end.
func hostile(run string) {
	map[string]func(){"calls": hostileCalls, "pointers": hostilePointers, "race": hostileRace, "exec": hostileExec, "become": hostileBecome, "threads": hostileThreads}[run]()
	fmt.Println("done")
}

func call(nr uintptr, args ...uintptr) (uintptr, syscall.Errno) {
	var a [6]uintptr
	copy(a[:], args)
	v, _, e := syscall.Syscall6(nr, a[0], a[1], a[2], a[3], a[4], a[5])
	return v, e
}

func cstring(s string) uintptr {
	b := append([]byte(s), 0)
	return uintptr(unsafe.Pointer(&b[0]))
}

// refuse wants a call to fail with one of errors.
func refuse(name string, nr uintptr, args []uintptr, want ...syscall.Errno) {
	_, e := call(nr, args...)
	for _, w := range want {
		if e == w {
			return
		}
	}
	panic(fmt.Sprintf("%s: %v, want %v", name, e, want))
}

const cwd = ^uintptr(99) // AT_FDCWD

// hostileCalls tries what leads out.
func hostileCalls() {
	parent, outside := uintptr(os.Getppid()), os.Args[3]
	buf := make([]byte, 256)
	at := uintptr(unsafe.Pointer(&buf[0]))
	iov := [2]uintptr{at, 8}
	v := uintptr(unsafe.Pointer(&iov))
	const cloneUntraced = 0x00800000
	for _, c := range []struct {
		name string
		nr   uintptr
		args []uintptr
		want []syscall.Errno
	}{
		{"ptrace", unix.SYS_PTRACE, []uintptr{16, parent}, []syscall.Errno{unix.EPERM}},
		{"process_vm_readv", unix.SYS_PROCESS_VM_READV, []uintptr{parent, v, 1, v, 1}, []syscall.Errno{unix.EPERM}},
		{"kill", unix.SYS_KILL, []uintptr{parent, 0}, []syscall.Errno{unix.ESRCH}},
		{"thread of process 1", unix.SYS_TGKILL, []uintptr{1, 1, 0}, []syscall.Errno{unix.ESRCH}},
		{"kill group", unix.SYS_KILL, []uintptr{-parent, 0}, []syscall.Errno{unix.ESRCH}},
		{"pidfd", unix.SYS_PIDFD_OPEN, []uintptr{parent}, []syscall.Errno{unix.ESRCH}},
		{"owner of a file", unix.SYS_FCNTL, []uintptr{0, unix.F_SETOWN, parent}, []syscall.Errno{unix.ESRCH}},
		{"owner of a file by group", unix.SYS_FCNTL, []uintptr{0, unix.F_SETOWN, -parent}, []syscall.Errno{unix.ESRCH}},
		{"owner of a file by pointer", unix.SYS_FCNTL, []uintptr{0, unix.F_SETOWN_EX, at}, []syscall.Errno{unix.EPERM}},
		{"owner of a socket", unix.SYS_IOCTL, []uintptr{0, 0x8902, at}, []syscall.Errno{unix.EPERM}},
		{"own file", unix.SYS_FCNTL, []uintptr{0, unix.F_SETOWN, uintptr(os.Getpid())}, []syscall.Errno{0}},
		{"limits", unix.SYS_PRLIMIT64, []uintptr{parent, unix.RLIMIT_NOFILE, 0, at}, []syscall.Errno{unix.ESRCH}},
		{"priority", unix.SYS_SETPRIORITY, []uintptr{2, uintptr(os.Getuid()), 19}, []syscall.Errno{unix.EPERM}},
		{"untraced child", unix.SYS_CLONE, []uintptr{cloneUntraced | 17}, []syscall.Errno{unix.EPERM}},
		{"clone3", unix.SYS_CLONE3, []uintptr{at, 64}, []syscall.Errno{unix.ENOSYS}},
		{"io_uring", unix.SYS_IO_URING_SETUP, []uintptr{8, at}, []syscall.Errno{unix.EPERM}},
		{"mount", unix.SYS_MOUNT, []uintptr{cstring("none"), cstring("/tmp"), cstring("tmpfs")}, []syscall.Errno{unix.EPERM}},
		{"unshare", unix.SYS_UNSHARE, []uintptr{unix.CLONE_NEWUSER}, []syscall.Errno{unix.EPERM}},
		{"handle", unix.SYS_NAME_TO_HANDLE_AT, []uintptr{cwd, cstring("/"), at, at, 0}, []syscall.Errno{unix.EPERM}},
		{"execveat", unix.SYS_EXECVEAT, []uintptr{1023, cstring(""), 0, 0, unix.AT_EMPTY_PATH}, []syscall.Errno{unix.ENOSYS}},
		{"execveat of a path", unix.SYS_EXECVEAT, []uintptr{cwd, cstring("/bin/sh"), 0, 0, 0}, []syscall.Errno{unix.ENOSYS}},
		{"openat2", unix.SYS_OPENAT2, []uintptr{cwd, cstring("/"), at, 24}, []syscall.Errno{0, unix.EINVAL}},
		{"new attributes", unix.SYS_SETXATTRAT, []uintptr{cwd, cstring("/"), 0, cstring("user.x"), at, 16}, []syscall.Errno{unix.ENOSYS}},
		{"unix socket", unix.SYS_SOCKET, []uintptr{unix.AF_UNIX, unix.SOCK_STREAM}, []syscall.Errno{unix.EAFNOSUPPORT}},
		{"unix socket with high bits", unix.SYS_SOCKET, []uintptr{7<<32 | unix.AF_UNIX, unix.SOCK_SEQPACKET}, []syscall.Errno{unix.EAFNOSUPPORT}},
		{"pair of streams", unix.SYS_SOCKETPAIR, []uintptr{unix.AF_UNIX, unix.SOCK_STREAM, 0, at}, []syscall.Errno{0}},
		{"pair of datagrams", unix.SYS_SOCKETPAIR, []uintptr{unix.AF_UNIX, unix.SOCK_DGRAM, 0, at}, []syscall.Errno{unix.ESOCKTNOSUPPORT}},
		{"ambient capability", unix.SYS_PRCTL, []uintptr{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, 1}, []syscall.Errno{0}},
		{"ambient capability that is none", unix.SYS_PRCTL, []uintptr{unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_IS_SET, 64}, []syscall.Errno{unix.EINVAL}},
		{"note", unix.SYS_SETXATTR, []uintptr{cstring("/tmp"), cstring("user.rootlesscontainers"), at, 1}, []syscall.Errno{unix.EPERM}},
	} {
		refuse(c.name, c.nr, c.args, c.want...)
	}
	for _, p := range []string{
		outside, "/proc/self/cwd/../../../.." + outside, "/proc/self/root/../../.." + outside, "/proc/" + strconv.Itoa(os.Getppid()) + "/root" + outside,
		"/proc/" + strconv.Itoa(os.Getppid()) + "/environ", "/proc/" + strconv.Itoa(os.Getppid()) + "/task/1/environ", "/proc/self/task/../../" + strconv.Itoa(os.Getppid()) + "/environ",
		"/proc/self/map_files/x", "/tmp/out", "/tmp/updir/../../../../.." + outside, "/dev/fd/../../.." + outside, "/proc/self/fd/0/../../.." + outside,
	} {
		_ = os.Symlink(outside, "/tmp/out")
		_ = os.Symlink("/../../../../..", "/tmp/updir")
		if b, err := os.ReadFile(p); err == nil {
			panic(fmt.Sprintf("%s has %q", p, b))
		}
	}
	hostileFiles(at)
	proc, err := os.Open("/proc")
	if err != nil {
		panic(err)
	}
	if fd, err := unix.Openat(int(proc.Fd()), strconv.Itoa(os.Getppid())+"/environ", unix.O_RDONLY, 0); err == nil {
		panic(fmt.Sprint("the environment of the parent is open: ", fd))
	}
}

// hostileFiles tries to change what is shown read-only, and to read what is hidden.
func hostileFiles(at uintptr) {
	f, err := os.Open("/probe")
	if err != nil {
		panic(err)
	}
	defer f.Close()
	for name, c := range map[string]struct {
		request uintptr
		want    syscall.Errno
	}{
		"flags": {0x40086602, unix.EROFS}, "attributes": {0x401c5820, unix.EROFS}, "version": {0x40087602, unix.EPERM},
		"verity": {0x40806685, unix.EPERM}, "subvolume": {0x5000940e, unix.EPERM}, "flags with high bits": {1<<32 | 0x40086602, unix.EROFS},
		"clone to what is not for writing": {0x40049409, unix.EBADF},
	} {
		refuse("ioctl: "+name, unix.SYS_IOCTL, []uintptr{f.Fd(), c.request, at}, c.want)
	}
	for _, name := range []string{"/proc/sys/kernel/panic", "/proc/version"} {
		refuse("write "+name, unix.SYS_OPENAT, []uintptr{cwd, cstring(name), unix.O_WRONLY}, unix.EROFS)
		refuse("chmod "+name, unix.SYS_FCHMODAT, []uintptr{cwd, cstring(name), 0o777}, unix.EROFS)
	}
	if b, err := os.ReadFile("/proc/interrupts"); err != nil || len(b) > 0 {
		panic(fmt.Sprintf("/proc/interrupts has %d bytes, %v", len(b), err))
	}
	refuse("below what is hidden", unix.SYS_OPENAT, []uintptr{cwd, cstring("/proc/acpi/x"), 0}, unix.ENOTDIR)
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
	at := func(i int) uintptr { return uintptr(unsafe.Pointer(&m[0])) + uintptr(i) }
	addresses := []uintptr{0, 1, ^uintptr(0), 1 << 63, at(0), at(1<<12 - 1), at(2<<12 - 1), at(2 << 12), at(2<<12 - 8)}
	for nr := range uintptr(460) {
		switch nr { // what ends or blocks this program, or is not handed over anyhow
		case unix.SYS_OPENAT, unix.SYS_NEWFSTATAT, unix.SYS_STATX, unix.SYS_MKDIRAT, unix.SYS_MKNODAT, unix.SYS_SYMLINKAT, unix.SYS_LINKAT, unix.SYS_UNLINKAT,
			unix.SYS_RENAMEAT2, unix.SYS_FCHMODAT, unix.SYS_FCHOWNAT, unix.SYS_UTIMENSAT, unix.SYS_READLINKAT, unix.SYS_FACCESSAT, unix.SYS_TRUNCATE, unix.SYS_STATFS,
			unix.SYS_SETXATTR, unix.SYS_GETXATTR, unix.SYS_LISTXATTR, unix.SYS_REMOVEXATTR, unix.SYS_GETCWD, unix.SYS_CHDIR, unix.SYS_CHROOT, unix.SYS_EXECVE,
			unix.SYS_CONNECT, unix.SYS_BIND, unix.SYS_OPENAT2, unix.SYS_FACCESSAT2, unix.SYS_CAPGET, unix.SYS_SETGROUPS, unix.SYS_GETRESUID, unix.SYS_PRLIMIT64:
		default:
			continue
		}
		for i := range m[:2<<12] {
			m[i] = 'a'
		}
		for _, a := range addresses {
			for _, b := range addresses {
				call(nr, a, b, a, b)
				call(nr, cwd, b, a, b)
			}
		}
	}
}

// hostileRace changes a path, and the names that it goes through, while calls with it are
// under way. Whatever was opened must be the step's.
func hostileRace() {
	outside := os.Args[3]
	path := []byte("/tmp/aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\x00")
	other := []string{"/tmp/d/../.." + outside, "/tmp/l/secret\x00", "/proc/self/fd/../../1/cwd\x00", "/tmp/d/secret\x00"}
	stop := time.Now().Add(time.Second)
	var wg sync.WaitGroup
	wg.Go(func() {
		for n := 0; time.Now().Before(stop); n++ {
			copy(path, other[n%len(other)])
			_ = os.Remove("/tmp/l")
			_ = os.Symlink([]string{filepath.Dir(outside), "/tmp/d", ".."}[n%3], "/tmp/l")
			_ = os.Mkdir("/tmp/d", 0o755)
			_ = os.Rename("/tmp/d", "/tmp/e")
			_ = os.Rename("/tmp/e", "/tmp/d")
		}
	})
	for range 3 {
		wg.Go(func() {
			p := uintptr(unsafe.Pointer(&path[0]))
			for time.Now().Before(stop) {
				if fd, e := call(unix.SYS_OPENAT, cwd, p, unix.O_RDONLY); e == 0 {
					b := make([]byte, 64)
					n, _ := unix.Read(int(fd), b)
					if strings.Contains(string(b[:max(n, 0)]), "of the caller") {
						panic("the secret was read")
					}
					_ = unix.Close(int(fd))
				}
				call(unix.SYS_MKDIRAT, cwd, p, 0o700)
				call(unix.SYS_UNLINKAT, cwd, p, 0)
				call(unix.SYS_CHDIR, p)
			}
		})
	}
	wg.Wait()
}

// hostileExec has programs run others by a path that changes meanwhile.
func hostileExec() {
	for stop := time.Now().Add(time.Second); time.Now().Before(stop); {
		p, err := os.StartProcess("/probe", []string{"/probe", "hostile", "become", os.Args[3]}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
		if err != nil {
			panic(err)
		}
		_, _ = p.Wait()
	}
}

func hostileBecome() {
	path := []byte("/bin/true\x00aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa")
	for range 2 {
		go func() {
			for n := 0; ; n++ {
				copy(path, []string{"/bin/true\x00", os.Args[3], "/bin/true/"}[n%3])
			}
		}()
	}
	argv := [2]uintptr{cstring("true"), 0}
	for range 100 {
		call(unix.SYS_EXECVE, uintptr(unsafe.Pointer(&path[0])), uintptr(unsafe.Pointer(&argv)), 0)
	}
}

// hostileThreads makes many calls from many threads, and processes that are killed meanwhile.
func hostileThreads() {
	var wg sync.WaitGroup
	stop := time.Now().Add(time.Second)
	for range 16 {
		wg.Go(func() {
			runtime.LockOSThread()
			var st unix.Stat_t
			for time.Now().Before(stop) {
				_ = unix.Lstat("/tmp", &st)
				_ = unix.Chdir("/tmp")
				unix.Getuid()
			}
		})
	}
	for range 20 {
		p, err := os.StartProcess("/bin/sh", []string{"sh", "-c", "while :; do touch /tmp/k; true & cat /tmp/k; done"}, &os.ProcAttr{Files: []*os.File{nil, nil, nil}})
		if err != nil {
			panic(err)
		}
		time.Sleep(20 * time.Millisecond)
		_ = p.Kill()
		_, _ = p.Wait()
	}
	wg.Wait()
}

// TestHostile has programs work against the engine. The step ends as it should, and nothing
// outside was read or touched.
func TestHostile(t *testing.T) {
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	if err := os.WriteFile(secret, []byte("of the caller\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"calls", "pointers", "race", "exec", "threads"} {
		t.Run(name, func(t *testing.T) {
			s := step(newRoot(t), "/probe", "hostile", name, secret)
			s.Mounts = []container.Mount{{Source: "/proc/self/exe", Target: "/probe", ReadOnly: true, File: true}}
			exe, err := os.Executable()
			if err != nil {
				t.Fatal(err)
			}
			s.Mounts[0].Source = exe
			if got := runOK(t, s); got != "done\n" {
				t.Errorf("output = %q", got)
			}
			all, err := os.ReadDir(dir)
			if err != nil || len(all) != 1 {
				t.Errorf("outside has %v, %v", all, err)
			}
			if b, err := os.ReadFile(secret); string(b) != "of the caller\n" {
				t.Errorf("the secret is %q, %v", b, err)
			}
		})
	}
}
