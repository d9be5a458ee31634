// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package seccomp

import (
	"encoding/binary"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	capSysChroot = 18
	defaultCaps  = 1<<0 | 1<<1 | 1<<3 | 1<<4 | 1<<5 | 1<<6 | 1<<7 | 1<<8 | 1<<10 | 1<<capSysChroot | 1<<31
	allCaps      = 1<<41 - 1
)

func variants() map[string]Options {
	return map[string]Options{
		"nothing":    {},
		"default":    {Caps: defaultCaps},
		"userns":     {Caps: defaultCaps, AllowUserns: true},
		"all":        {Caps: allCaps, Socketcall: true},
		"networking": {Caps: 1<<capNetRaw | 1<<12},
	}
}

// machine runs a filter as the kernel would.
type machine struct{ vm *bpf.VM }

func newMachine(t *testing.T, goarch string, o Options) machine {
	t.Helper()
	raw, err := programFor(goarch, o)
	if err != nil {
		t.Fatal(err)
	}
	var insns []bpf.Instruction
	for ; len(raw) > 0; raw = raw[8:] {
		insns = append(insns, bpf.RawInstruction{
			Op: binary.NativeEndian.Uint16(raw), Jt: raw[2], Jf: raw[3], K: binary.NativeEndian.Uint32(raw[4:]),
		}.Disassemble())
	}
	vm, err := bpf.NewVM(insns)
	if err != nil {
		t.Fatalf("filter for %s with %+v: %v", goarch, o, err)
	}
	return machine{vm}
}

// run returns the answer to a call. The machine loads words big-endian, so they are laid out so.
func (m machine) run(t *testing.T, audit, nr uint32, args ...uint64) uint32 {
	t.Helper()
	data := make([]byte, 64)
	binary.BigEndian.PutUint32(data[offNr:], nr)
	binary.BigEndian.PutUint32(data[offArch:], audit)
	for i, a := range args {
		binary.BigEndian.PutUint32(data[offArgs+8*i:], uint32(a))
		binary.BigEndian.PutUint32(data[offArgs+8*i+4:], uint32(a>>32))
	}
	got, err := m.vm.Run(data)
	if err != nil {
		t.Fatal(err)
	}
	return uint32(got)
}

func archesOf(goarch string) []arch {
	if goarch == "amd64" {
		return []arch{x8664, i386}
	}
	return []arch{aarch64, arm}
}

// TestEveryNumber compares the compiled tree with the table, for every number up to some
// way behind the last, on every architecture and with every set of options.
func TestEveryNumber(t *testing.T) {
	rows, err := parseProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	for name, o := range variants() {
		for _, goarch := range []string{"amd64", "arm64"} {
			m := newMachine(t, goarch, o)
			for _, a := range archesOf(goarch) {
				want := map[uint32]uint32{}
				for _, r := range rows {
					if r.nr[a] < 0 {
						continue
					}
					v, err := verdictOf(r.rule, o)
					if err != nil {
						t.Fatal(err)
					}
					// Arguments that are all zero pass clone, personality and ioctl.
					want[uint32(r.nr[a])] = map[verdict]uint32{
						allow: retAllow, eperm: retEPERM, enosys: retENOSYS, checkClone: retAllow,
						checkSocket: retEPERM, checkPersonality: retAllow, checkIoctl: retAllow,
					}[v]
				}
				check := func(nr uint32) {
					w, ok := want[nr]
					if !ok {
						w = retENOSYS
					}
					if got := m.run(t, a.audit(), nr); got != w {
						t.Errorf("%s %s arch %d call %d: got %#x, want %#x", name, goarch, a, nr, got, w)
					}
				}
				for nr := range uint32(1024) {
					check(nr)
					check(nr | 1<<30) // x32
					check(nr + 0xf0000)
				}
				check(0xffffffff)
			}
			if got := m.run(t, 0x80000016, 1); got != retKill {
				t.Errorf("%s %s: foreign architecture: got %#x, want kill", name, goarch, got)
			}
		}
	}
}

// TestAskRoot hands one call over, of the machine's own architecture.
func TestAskRoot(t *testing.T) {
	m := newMachine(t, "amd64", Options{Caps: defaultCaps &^ (1 << unix.CAP_SYS_CHROOT), AskRoot: true})
	const chroot386 = 61
	if own, other := m.run(t, x8664.audit(), unix.SYS_CHROOT), m.run(t, i386.audit(), chroot386); own != retNotify || other != retEPERM {
		t.Errorf("chroot: %#x, of 32 bits %#x, want it handed over and EPERM", own, other)
	}
	if got := m.run(t, x8664.audit(), unix.SYS_GETPID); got != retAllow {
		t.Errorf("getpid: %#x", got)
	}
}

// TestVirtualIoctl is about requests at the level vroot.
func TestVirtualIoctl(t *testing.T) {
	m := newMachine(t, "amd64", Options{Caps: defaultCaps, Virtual: true})
	for request, want := range map[uint64]uint32{
		unix.TCGETS: retAllow, tiocsti: retEPERM, tioclinux: retEPERM, fiosetown: retEPERM, siocspgrp: retEPERM,
		fsSetFlags: retNotify, fsSetAttributes: retNotify, fsSetVersion: retEPERM, fsSetEncryption: retEPERM, fsEnableVerity: retEPERM,
		fiClone: retAllow, fiCloneRange: retAllow, fiDedupeRange: retAllow, 0x5000940e: retEPERM, 0x80086601: retAllow, 1<<32 | fsSetFlags: retNotify,
	} {
		if got := m.run(t, x8664.audit(), unix.SYS_IOCTL, 0, request); got != want {
			t.Errorf("request %#x: got %#x, want %#x", request, got, want)
		}
	}
}

// TestProfile states what the profile must say about calls that matter, by name.
func TestProfile(t *testing.T) {
	tests := []struct {
		calls string
		opts  Options
		want  uint32
	}{
		{"read write openat execve mmap clone fork getpid futex statx openat2 faccessat2 epoll_pwait2 futex_waitv cachestat fchmodat2 " +
			"map_shadow_stack memfd_create landlock_create_ruleset ptrace mknod mknodat seccomp setxattr rseq copy_file_range close_range", Options{}, retAllow},
		{"mount umount2 fsopen fsconfig fsmount fspick open_tree move_mount mount_setattr pivot_root unshare setns bpf perf_event_open " +
			"keyctl add_key request_key io_uring_setup io_uring_enter userfaultfd open_by_handle_at kexec_load kexec_file_load init_module " +
			"finit_module reboot swapon settimeofday clock_settime acct syslog quotactl iopl move_pages", Options{Caps: defaultCaps}, retEPERM},
		{"clone3 statmount listmount", Options{Caps: defaultCaps}, retENOSYS},
		{"chroot", Options{}, retEPERM},
		{"chroot", Options{Caps: defaultCaps}, retAllow},
		{"mount unshare setns clone3 pivot_root fsopen", Options{AllowUserns: true}, retAllow},
		{"bpf perf_event_open", Options{AllowUserns: true}, retEPERM},
		{"mount bpf perf_event_open setns syslog", Options{Caps: 1 << capSysAdmin}, retAllow},
		{"keyctl io_uring_setup userfaultfd kexec_load", Options{Caps: allCaps, AllowUserns: true}, retEPERM},
	}
	rows, err := parseProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	byName := map[string]row{}
	for _, r := range rows {
		if _, twice := byName[r.name]; twice {
			t.Errorf("two rows for %s", r.name)
		}
		byName[r.name] = r
	}
	for _, tt := range tests {
		for _, goarch := range []string{"amd64", "arm64"} {
			m := newMachine(t, goarch, tt.opts)
			for name := range strings.FieldsSeq(tt.calls) {
				r, ok := byName[name]
				if !ok {
					t.Errorf("no row for %s", name)
					continue
				}
				for _, a := range archesOf(goarch) {
					if r.nr[a] < 0 {
						continue
					}
					if got := m.run(t, a.audit(), uint32(r.nr[a])); got != tt.want {
						t.Errorf("%s on %s arch %d with %+v: got %#x, want %#x", name, goarch, a, tt.opts, got, tt.want)
					}
				}
			}
		}
	}
}

func TestArguments(t *testing.T) {
	m := newMachine(t, "amd64", Options{Caps: defaultCaps})
	tests := []struct {
		name string
		a    arch
		nr   uint32
		args []uint64
		want uint32
	}{
		{"clone thread", x8664, unix.SYS_CLONE, []uint64{0x3d0f00}, retAllow},
		{"clone newuser", x8664, unix.SYS_CLONE, []uint64{unix.CLONE_NEWUSER | 17}, retEPERM},
		{"clone newns with high bits", x8664, unix.SYS_CLONE, []uint64{1<<40 | unix.CLONE_NEWNS}, retEPERM},
		{"i386 clone newuser", i386, 120, []uint64{unix.CLONE_NEWUSER | 17}, retEPERM},
		{"socket unix", x8664, unix.SYS_SOCKET, []uint64{unix.AF_UNIX, 1}, retAllow},
		{"socket inet6", x8664, unix.SYS_SOCKET, []uint64{unix.AF_INET6, 1}, retAllow},
		{"socket netlink", x8664, unix.SYS_SOCKET, []uint64{unix.AF_NETLINK, 3}, retAllow},
		{"socket packet", x8664, unix.SYS_SOCKET, []uint64{unix.AF_PACKET, 3}, retEPERM},
		{"socket alg", x8664, unix.SYS_SOCKET, []uint64{unix.AF_ALG, 5}, retEPERM},
		{"socket alg with high bits", x8664, unix.SYS_SOCKET, []uint64{7<<32 | unix.AF_ALG, 5}, retEPERM},
		{"socket vsock", x8664, unix.SYS_SOCKET, []uint64{unix.AF_VSOCK, 1}, retEPERM},
		{"socketpair tipc", x8664, unix.SYS_SOCKETPAIR, []uint64{unix.AF_TIPC, 1}, retEPERM},
		{"i386 socket alg", i386, 359, []uint64{unix.AF_ALG, 5}, retEPERM},
		{"i386 socketcall", i386, 102, []uint64{1}, retENOSYS},
		{"ioctl TIOCSTI", x8664, unix.SYS_IOCTL, []uint64{0, tiocsti}, retEPERM},
		{"ioctl TIOCSTI with high bits", x8664, unix.SYS_IOCTL, []uint64{0, 1<<32 | tiocsti}, retEPERM},
		{"ioctl TIOCLINUX", x8664, unix.SYS_IOCTL, []uint64{0, tioclinux}, retEPERM},
		{"ioctl TCGETS", x8664, unix.SYS_IOCTL, []uint64{0, unix.TCGETS}, retAllow},
		{"personality query", x8664, unix.SYS_PERSONALITY, []uint64{0xffffffff}, retAllow},
		{"personality linux32", x8664, unix.SYS_PERSONALITY, []uint64{8}, retAllow},
		{"personality no randomize", x8664, unix.SYS_PERSONALITY, []uint64{0x40000}, retEPERM},
	}
	for _, tt := range tests {
		nr := tt.nr
		if tt.a == x8664 {
			nr = numberOnAmd64(t, tt.name)
		}
		if got := m.run(t, tt.a.audit(), nr, tt.args...); got != tt.want {
			t.Errorf("%s: got %#x, want %#x", tt.name, got, tt.want)
		}
	}
	raw := newMachine(t, "amd64", Options{Caps: 1 << capNetRaw})
	if got := raw.run(t, x8664.audit(), 41, unix.AF_PACKET, 3); got != retAllow {
		t.Errorf("packet socket with NET_RAW: got %#x, want allow", got)
	}
	bare := newMachine(t, "amd64", Options{OwnLimits: true})
	for pid, want := range map[uint64]uint32{0: retAllow, 1 << 32: retAllow, 7: retEPERM, 1<<32 | 7: retEPERM} {
		if got := bare.run(t, x8664.audit(), 302, pid, 7); got != want {
			t.Errorf("limits of process %#x: got %#x, want %#x", pid, got, want)
		}
	}
	old := newMachine(t, "amd64", Options{Socketcall: true})
	if got := old.run(t, i386.audit(), 102, 1); got != retAllow {
		t.Errorf("socketcall where wanted: got %#x, want allow", got)
	}
}

// numberOnAmd64 returns the number of the call that is the first word of a test's name: the
// constants of package unix are those of the architecture that the test runs on.
func numberOnAmd64(t *testing.T, name string) uint32 {
	t.Helper()
	call, _, _ := strings.Cut(name, " ")
	rows, err := parseProfile(profile)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range rows {
		if r.name == call {
			return uint32(r.nr[x8664])
		}
	}
	t.Fatalf("no row for %s", call)
	return 0
}

// TestSizeAndShape holds the filter small, and its way to "allow" free of what the kernel
// cannot evaluate when it is loaded.
func TestSizeAndShape(t *testing.T) {
	for name, o := range variants() {
		for _, goarch := range []string{"amd64", "arm64"} {
			raw, err := programFor(goarch, o)
			if err != nil {
				t.Fatal(err)
			}
			n := len(raw) / 8
			t.Logf("%s %s: %d instructions", goarch, name, n)
			if n > 400 {
				t.Errorf("%s %s: %d instructions, want at most 400", goarch, name, n)
			}
			for i := 0; i < len(raw); i += 8 {
				switch code := binary.NativeEndian.Uint16(raw[i:]); code {
				case ldAbs, ja, jeq, jge, jset, ret:
				default:
					t.Errorf("%s %s: instruction %d has code %#x", goarch, name, i/8, code)
				}
			}
		}
	}
}

func TestTreeSplits(t *testing.T) {
	var spans []span
	for i := range uint32(1000) {
		spans = append(spans, span{i * 2, verdict(i % 3)})
	}
	var insns []bpf.Instruction
	for _, i := range append([]insn{{code: ldAbs, k: offNr}}, tree(spans, Options{})...) {
		insns = append(insns, bpf.RawInstruction{Op: i.code, Jt: i.jt, Jf: i.jf, K: i.k}.Disassemble())
	}
	vm, err := bpf.NewVM(insns)
	if err != nil {
		t.Fatal(err)
	}
	for nr := range uint32(2000) {
		want := []uint32{retAllow, retEPERM, retENOSYS}[nr/2%3]
		if got := (machine{vm}).run(t, 0, nr); got != want {
			t.Fatalf("call %d: got %#x, want %#x", nr, got, want)
		}
	}
}

func TestParseProfileErrors(t *testing.T) {
	for _, text := range []string{"read 0 3 63 allow\n", "read 0 3 x 3 allow\n", "read 0 3 -1 3 allow\n", "read 0 3 99999999999 3 allow\n"} {
		if rows, err := parseProfile(text); err == nil {
			t.Errorf("profile %s: got %v, want an error", strconv.Quote(text), rows)
		}
	}
	rows, err := parseProfile("read 0 3 63 3 SYS_ADMIM\n")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := compile(rows, []arch{x8664}, Options{}); err == nil {
		t.Error("unknown capability: got no error")
	}
	if _, err := programFor("riscv64", Options{}); err == nil {
		t.Error("unknown architecture: got no error")
	}
}

func BenchmarkProgram(b *testing.B) {
	for b.Loop() {
		if _, err := Program(Options{Caps: defaultCaps}); err != nil {
			b.Fatal(err)
		}
	}
}

// TestSupervise looks at what is handed over, and when.
func TestSupervise(t *testing.T) {
	const amd64, arm64 = 0xc000003e, 0xc00000b7
	numbers := map[string][2]uint32{ // amd64, arm64
		"stat": {4, 1 << 20}, "newfstatat": {262, 79}, "chroot": {161, 51}, "execve": {59, 221},
		"openat": {257, 56}, "prctl": {157, 167}, "prlimit64": {302, 261}, "setrlimit": {160, 164}, "read": {0, 63}, "lgetxattr": {192, 9},
	}
	for _, tc := range []struct {
		name string
		args []uint64
		want uint32
	}{
		{"stat", nil, retNotify}, {"newfstatat", nil, retNotify}, {"chroot", nil, retNotify}, {"execve", nil, retNotify}, {"lgetxattr", nil, retNotify},
		{"openat", []uint64{0, 0, 0x2}, retAllow}, {"openat", []uint64{0, 0, 0x41}, retNotify}, {"openat", []uint64{0, 0, 0x410000}, retNotify},
		{"openat", []uint64{0, 0, 0x10000}, retAllow},
		{"prctl", []uint64{8, 1}, retNotify}, {"prctl", []uint64{28}, retNotify}, {"prctl", []uint64{15}, retAllow},
		{"prlimit64", []uint64{0, 10}, retNotify}, {"prlimit64", []uint64{10, 7}, retAllow}, {"setrlimit", []uint64{10}, retNotify}, {"setrlimit", []uint64{7}, retAllow},
		{"read", nil, retAllow},
	} {
		for i, goarch := range []string{"amd64", "arm64"} {
			nr := numbers[tc.name][i]
			if nr == 1<<20 {
				continue // no such call there
			}
			m := newMachine(t, goarch, Options{Caps: defaultCaps, Supervise: true})
			if got := m.run(t, [...]uint32{amd64, arm64}[i], nr, tc.args...); got != tc.want {
				t.Errorf("%s: %s%v = %#x, want %#x", goarch, tc.name, tc.args, got, tc.want)
			}
			plain := newMachine(t, goarch, Options{Caps: defaultCaps})
			if got := plain.run(t, [...]uint32{amd64, arm64}[i], nr, tc.args...); got != retAllow {
				t.Errorf("%s, not supervised: %s = %#x, want %#x", goarch, tc.name, got, uint32(retAllow))
			}
		}
	}
	// The other architecture that the machine runs, chown.
	m := newMachine(t, "amd64", Options{Caps: defaultCaps, Supervise: true})
	if got := m.run(t, 0x40000003, 182); got != retAllow {
		t.Errorf("i386: chown = %#x, want %#x", got, uint32(retAllow))
	}
}
