// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// What TestPosture expects a probe inside a step to find: see the table in each.
type findings map[string]string

// probe looks around inside a step and prints "name value" lines.
func probe() {
	f := findings{}
	f.status()
	f.files()
	f.calls()
	f.outside(os.Args[2:])
	for _, k := range slices.Sorted(maps.Keys(f)) {
		fmt.Printf("%s %s\n", k, f[k])
	}
}

func (f findings) status() {
	b, _ := os.ReadFile("/proc/self/status")
	for line := range strings.Lines(string(b)) {
		k, v, _ := strings.Cut(line, ":")
		switch k {
		case "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Umask", "Groups", "Uid", "Gid", "NSpid":
			f[k] = strings.Join(strings.Fields(v), ",")
		}
	}
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "cgroup", "net", "user"} {
		f["ns-"+ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	for name, r := range map[string]int{"nofile": unix.RLIMIT_NOFILE, "core": unix.RLIMIT_CORE} {
		// Go raises its own soft limit: look at what the process was started with.
		var l unix.Rlimit
		f["limit-"+name] = result(unix.Getrlimit(r, &l)) + " " + strconv.FormatUint(l.Max, 10)
	}
	host, _ := os.Hostname()
	f["hostname"] = host
	sid, _ := unix.Getsid(0)
	f["session"] = strconv.Itoa(sid - os.Getpid())
	f["fds"] = openFiles()
	cwd, _ := syscall.Getwd()
	f["cwd"] = cwd
	pids, _ := filepath.Glob("/proc/[0-9]*")
	f["processes"] = strconv.Itoa(len(pids))
}

// openFiles lists this process's descriptors, but for those that Go opens.
func openFiles() string {
	all, _ := os.ReadDir("/proc/self/fd")
	var out []string
	for _, e := range all {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		if err != nil || strings.HasPrefix(to, "anon_inode:[event") || strings.HasPrefix(to, "/proc/") {
			continue
		}
		out = append(out, e.Name())
	}
	return strings.Join(out, ",")
}

func (f findings) files() {
	for _, p := range []string{"kcore", "keys", "interrupts", "timer_list", "sched_debug"} {
		b, err := os.ReadFile("/proc/" + p)
		if err == nil || !os.IsNotExist(err) {
			f["masked /proc/"+p] = result(err) + " " + strconv.Itoa(len(b))
		}
	}
	for _, d := range []string{"/proc/scsi", "/proc/acpi", "/proc/asound", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/dev/block"} {
		if l, err := os.ReadDir(d); !os.IsNotExist(err) {
			f["masked "+d] = result(err) + " " + strconv.Itoa(len(l))
		}
	}
	for _, p := range []string{"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger", "/proc/irq/default_smp_affinity", "/sys/kernel/uevent_seqnum", "/sys/fs/cgroup/cgroup.procs"} {
		var st unix.Statfs_t
		if err := unix.Statfs(p, &st); err == nil {
			f["read-only "+p] = strconv.FormatBool(st.Flags&unix.ST_RDONLY != 0)
		}
	}
	f["mkdir cgroup"] = result(os.Mkdir("/sys/fs/cgroup/x", 0o755))
	dev, _ := os.ReadDir("/dev")
	var names []string
	for _, e := range dev {
		names = append(names, e.Name())
	}
	f["dev"] = strings.Join(names, ",")
	_, err := os.ReadFile("/proc/1/environ")
	f["read /proc/1/environ"] = result(err)
	for _, link := range []string{"exe", "root", "cwd"} {
		_, err := os.Open("/proc/1/" + link)
		f["open /proc/1/"+link] = result(err)
	}
	f["open /proc/1/fd"] = "none is there"
	for n := range 1024 { // one is the socket to the worker
		if _, err := os.Open("/proc/1/fd/" + strconv.Itoa(n)); !errors.Is(err, fs.ErrNotExist) {
			f["open /proc/1/fd"] = result(err)
			break
		}
	}
	var st unix.Statfs_t
	_ = unix.Statfs("/dev/shm", &st)
	f["shm"] = strconv.FormatInt(int64(st.Blocks)*st.Bsize, 10)
}

func (f findings) calls() {
	call := func(name string, nr uintptr, a, b, c uintptr) {
		_, _, e := unix.RawSyscall(nr, a, b, c)
		if e == 0 {
			f["call "+name] = "ok"
			return
		}
		f["call "+name] = result(e)
	}
	path := uintptr(unsafe.Pointer(unsafe.StringData("/tmp\x00")))
	call("unshare user", unix.SYS_UNSHARE, unix.CLONE_NEWUSER, 0, 0)
	call("unshare mount", unix.SYS_UNSHARE, unix.CLONE_NEWNS, 0, 0)
	call("mount", unix.SYS_MOUNT, path, path, 0)
	call("umount", unix.SYS_UMOUNT2, uintptr(unsafe.Pointer(unsafe.StringData("/proc/sys\x00"))), unix.MNT_DETACH, 0)
	call("bpf", unix.SYS_BPF, 0, 0, 0)
	call("keyctl", unix.SYS_KEYCTL, 0, 0, 0)
	call("io_uring", unix.SYS_IO_URING_SETUP, 1, 0, 0)
	call("userfaultfd", unix.SYS_USERFAULTFD, 0, 0, 0)
	call("perf_event_open", unix.SYS_PERF_EVENT_OPEN, 0, 0, 0)
	call("open_tree", unix.SYS_OPEN_TREE, 0, path, 0)
	call("setns", unix.SYS_SETNS, 0, 0, 0)
	call("socket alg", unix.SYS_SOCKET, unix.AF_ALG, unix.SOCK_SEQPACKET, 0)
	call("socket vsock", unix.SYS_SOCKET, unix.AF_VSOCK, unix.SOCK_STREAM, 0)
	call("socket raw", unix.SYS_SOCKET, unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
	call("TIOCSTI", unix.SYS_IOCTL, 0, unix.TIOCSTI, path)
	call("ptrace init", unix.SYS_PTRACE, unix.PTRACE_SEIZE, 1, 0)
	call("mknod", unix.SYS_MKNODAT, uintptr(0xffffff9c), uintptr(unsafe.Pointer(unsafe.StringData("/tmp/n\x00"))), unix.S_IFBLK)
	call("sethostname", unix.SYS_SETHOSTNAME, path, 1, 0)
	call("reboot", unix.SYS_REBOOT, 0, 0, 0)
	parent := uintptr(os.Getppid())
	call("kill 1", unix.SYS_KILL, 1, 0, 0)
	call("kill parent", unix.SYS_KILL, parent, 0, 0)
	call("ptrace parent", unix.SYS_PTRACE, unix.PTRACE_SEIZE, parent, 0)
	var limit unix.Rlimit // of this process: a parent is not to be harmed
	call("limit by number", unix.SYS_PRLIMIT64, uintptr(os.Getpid()), unix.RLIMIT_CORE, uintptr(unsafe.Pointer(&limit)))
	if os.Getuid() == 0 {
		call("chown", unix.SYS_FCHOWNAT, uintptr(0xffffff9c), path, 0)
	}
	call("chroot", unix.SYS_CHROOT, path, 0, 0) // last: names mean something else after it
}

// outside tries to reach what runs beside the step: an abstract socket, a port.
func (f findings) outside(args []string) {
	if len(args) < 2 {
		return
	}
	_, err := net.Dial("unix", "@"+args[0])
	f["abstract socket"] = result(err)
	_, err = net.Dial("tcp", args[1])
	f["port"] = result(err)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	f["own port"] = result(err)
	if err == nil {
		_, err = net.Dial("tcp", l.Addr().String())
		f["own port"] = result(err)
		_ = l.Close()
	}
}

// result names an error in a way that does not depend on the texts of libraries.
func result(err error) string {
	var errno syscall.Errno
	switch {
	case err == nil || errors.Is(err, io.EOF):
		return "ok"
	case errors.As(err, &errno):
		return unix.ErrnoName(errno)
	}
	return err.Error()
}

const (
	caps11    = "00000000800405fb"
	capsOfNet = "00000000800425fb"
)

func TestPosture(t *testing.T) {
	abstract := listen(t, "unix", "@stacker-test-"+strconv.Itoa(os.Getpid())+"-"+strconv.FormatInt(int64(os.Getppid()), 10))
	port := listen(t, "tcp", "127.0.0.1:0")
	common := findings{
		"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapPrm": caps11, "CapEff": caps11, "CapBnd": caps11,
		"Seccomp": "2", "Umask": "0022", "Uid": "0,0,0,0", "Gid": "0,0,0,0",
		"limit-nofile": "ok", "limit-core": "ok 0", "hostname": "stacker", "session": "0", "fds": "0,1,2", "cwd": "/", "processes": "2",
		"masked /proc/kcore": "ok 0", "masked /proc/keys": "ok 0", "masked /proc/interrupts": "ok 0", "masked /proc/timer_list": "ok 0",
		"masked /sys/firmware": "ok 0", "masked /sys/dev/block": "ok 0",
		"read-only /proc/sys/kernel/core_pattern": "true", "read-only /proc/sys/kernel/hostname": "true", "read-only /proc/sysrq-trigger": "true",
		"read-only /sys/kernel/uevent_seqnum": "true", "read-only /sys/fs/cgroup/cgroup.procs": "true", "mkdir cgroup": "EROFS",
		"dev":                  "fd,full,mqueue,null,ptmx,pts,random,shm,stderr,stdin,stdout,tty,urandom,zero",
		"read /proc/1/environ": "EACCES", "open /proc/1/exe": "EACCES", "open /proc/1/root": "EACCES", "open /proc/1/cwd": "EACCES", "open /proc/1/fd": "EACCES",
		"shm":               "67108864",
		"call unshare user": "EPERM", "call unshare mount": "EPERM", "call mount": "EPERM", "call umount": "EPERM", "call bpf": "EPERM", "call keyctl": "EPERM",
		"call io_uring": "EPERM", "call userfaultfd": "EPERM", "call perf_event_open": "EPERM", "call open_tree": "EPERM", "call setns": "EPERM",
		"call TIOCSTI": "EPERM", "call ptrace init": "EPERM", "call mknod": "EPERM", "call sethostname": "EPERM", "call reboot": "EPERM",
		"call socket raw": "EPERM", "call chown": "ok", "abstract socket": "EPERM", "port": "ok", "own port": "ok",
	}
	for _, c := range []struct {
		name   string
		change func(s *Spec)
		want   findings
	}{
		{"default", func(s *Spec) {}, nil},
		{"directory and environment", func(s *Spec) { s.Dir = "etc"; s.Hostname = "x" }, findings{"cwd": "/etc", "hostname": "x"}},
		{"no network", func(s *Spec) { s.Network = NetworkNone }, findings{
			"CapPrm": capsOfNet, "CapEff": capsOfNet, "CapBnd": capsOfNet, "abstract socket": "ECONNREFUSED", "port": "ECONNREFUSED", "call socket raw": "ok",
		}},
		{"no new privileges", func(s *Spec) { s.NoNewPrivs = true }, findings{"NoNewPrivs": "1"}},
		{"other user", func(s *Spec) { s.UID, s.GID, s.Groups = 1000, 1001, []uint32{5, 7} }, findings{
			"CapPrm": "0000000000000000", "CapEff": "0000000000000000", "Uid": "1000,1000,1000,1000", "Gid": "1001,1001,1001,1001", "Groups": "5,7",
			"call chown": "", "call mknod": "EACCES",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			s := newStep(t, "/probe", "probe", abstract[1:], port)
			c.change(&s)
			if s.SingleID && s.UID != 0 {
				t.Skip("its ids are played: /proc has the real ones, and it holds their capabilities")
			}
			s.Mounts = append(s.Mounts, Mount{Source: "probe", Target: "/probe", ReadOnly: true, File: true})
			got := parse(runOK(t, s))
			want := maps.Clone(common)
			maps.Copy(want, c.want)
			compare(t, got, want)
		})
	}
}

func listen(t *testing.T, network, address string) string {
	t.Helper()
	l, err := net.Listen(network, address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	return l.Addr().String()
}

func parse(text string) findings {
	f := findings{}
	for line := range strings.Lines(strings.TrimSpace(text)) {
		line = strings.TrimSuffix(line, "\n")
		// Names may have spaces; values that do are those of limits and masks.
		for _, sep := range []string{" ok ", " "} {
			i := strings.LastIndex(line, sep)
			if i > 0 {
				f[line[:i]] = line[i+1:]
				break
			}
		}
	}
	return f
}

func compare(t *testing.T, got, want findings) {
	t.Helper()
	for _, k := range slices.Sorted(maps.Keys(want)) {
		g, there := got[k]
		switch {
		case want[k] == "", g == want[k]:
		case !there && (strings.HasPrefix(k, "masked") || strings.HasPrefix(k, "read-only")): // this kernel has no such file
		case k == "limit-nofile" && strings.HasPrefix(g, "ok "): // depends on the hard limit outside
		case k == "abstract socket" && want[k] == "EPERM" && !scopes():
		default:
			t.Errorf("%s: got %q, want %q", k, g, want[k])
		}
	}
	for _, ns := range []string{"mnt", "pid", "ipc", "uts", "cgroup"} {
		own, _ := os.Readlink("/proc/self/ns/" + ns)
		if g := got["ns-"+ns]; g == own || g == "" {
			t.Errorf("namespace %s: got %q, want another one than the worker's %q", ns, g, own)
		}
	}
	if own, _ := os.Readlink("/proc/self/ns/user"); got["ns-user"] != own {
		t.Errorf("user namespace: got %q, want the worker's %q", got["ns-user"], own)
	}
}

// scopes tells whether Landlock can keep a step from abstract sockets.
func scopes() bool {
	abi, _, e := unix.RawSyscall(unix.SYS_LANDLOCK_CREATE_RULESET, 0, 0, unix.LANDLOCK_CREATE_RULESET_VERSION)
	return e == 0 && abi >= 6
}

// A privileged step has all that the worker has, and still not the means to
// change this program.
func TestPrivileged(t *testing.T) {
	s := newStep(t, "/bin/sh", "-c", "mount -t tmpfs x /tmp && echo mounted; (: >> /proc/1/exe) 2>&1")
	s.Privileged = true
	out, _, err := output(t, s)
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out, "mounted\n") {
		t.Errorf("output = %q, want a mount to work", out)
	}
	if !strings.Contains(out, "Read-only file system") && !strings.Contains(out, "Permission denied") && !strings.Contains(out, "Text file busy") {
		t.Errorf("output = %q, want the program not to be writable", out)
	}
}
