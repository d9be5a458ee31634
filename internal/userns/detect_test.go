// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package userns

import (
	"errors"
	"fmt"
	"io/fs"
	"reflect"
	"strings"
	"testing"
	"testing/fstest"

	"golang.org/x/sys/unix"
)

const fullMap = "         0          0 4294967295\n"

// machine is a file system as Detect sees it: the arguments are names and contents,
// on top of a common machine.
func machine(pairs ...string) fstest.MapFS {
	m := fstest.MapFS{
		"usr/bin/newuidmap": {Mode: 0o755 | fs.ModeSetuid}, "usr/bin/newgidmap": {Mode: 0o755 | fs.ModeSetuid},
	}
	all := []string{
		"proc/self/uid_map", fullMap, "proc/self/gid_map", fullMap,
		"proc/self/status", "NoNewPrivs:\t0\nCapEff:\t000001ffffffffff\n",
		"proc/sys/user/max_user_namespaces", "1000\n",
		"etc/passwd", "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/:/bin/sh\n",
		"etc/subuid", "user:100000:65536\n", "etc/subgid", "user:200000:65536\n",
	}
	for i := 0; i < len(all); i += 2 {
		m[all[i]] = &fstest.MapFile{Data: []byte(all[i+1]), Mode: 0o644}
	}
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = &fstest.MapFile{Data: []byte(pairs[i+1]), Mode: 0o644}
	}
	return m
}

func without(m fstest.MapFS, names ...string) fstest.MapFS {
	for _, n := range names {
		delete(m, n)
	}
	return m
}

func TestDetect(t *testing.T) {
	sub := func(ids ...IDMap) []IDMap { return append([]IDMap{{0, 1000, 1}}, ids...) }
	for _, c := range []struct {
		name    string
		uid     int
		files   fstest.MapFS
		level   Level
		uids    []IDMap
		gids    []IDMap
		reasons string // in the text of the reasons for the level above
	}{
		{"user", 1000, machine(), LevelSubID, sub(IDMap{1, 100000, 65535}), sub(IDMap{1, 200000, 65535}), ""},
		{
			"by number, several lines", 1000, machine("etc/subuid", "1000:5000:10\nother:1:2\nuser:7000:20\n\nbad:line\nuser:x:1\n"),
			LevelSubID, sub(IDMap{1, 5000, 10}, IDMap{11, 7000, 20}), sub(IDMap{1, 200000, 65535}), "",
		},
		{"no entry in subuid", 1000, machine("etc/subuid", "other:1:2\n"), LevelSingle, sub(), sub(), "usermod --add-subuids"},
		{"no subgid file", 1000, without(machine(), "etc/subgid"), LevelSingle, sub(), sub(), "/etc/subgid has no ids"},
		{"no helper", 1000, without(machine(), "usr/bin/newgidmap"), LevelSingle, sub(), sub(), "newgidmap is not installed"},
		{"helper without rights", 1000, machine("usr/bin/newuidmap", ""), LevelSingle, sub(), sub(), "chmod u+s /usr/bin/newuidmap"},
		{"no new privileges", 1000, machine("proc/self/status", "NoNewPrivs:\t1\n"), LevelSingle, sub(), sub(), "no_new_privs"},
		{
			"root", 0, machine(), LevelRoot,
			[]IDMap{{0, 0x70000000, 65536}}, []IDMap{{0, 0x70000000, 65536}}, "",
		},
		{
			"root with ids of its own", 0, machine("etc/subuid", "root:300000:65536\nstacker:500000:200000\n", "etc/subgid", "root:400000:65536\n"), LevelRoot,
			[]IDMap{{0, 500000, 65536}}, []IDMap{{0, 400000, 65536}}, "",
		},
		{
			"root whose entry would map root", 0, machine("etc/subuid", "root:0:70000\n"), LevelRoot,
			[]IDMap{{0, 0x70000000, 65536}}, []IDMap{{0, 0x70000000, 65536}}, "",
		},
		{
			"root in a container", 0, machine("proc/self/uid_map", "0 100000 65536\n", "proc/self/gid_map", "0 100000 65536\n"), LevelRoot,
			[]IDMap{{0, 0, 65536}}, []IDMap{{0, 0, 65536}}, "",
		},
		{
			"root in a container that has the machine's ids", 0, machine("proc/self/uid_map", "0 0 65536\n", "proc/self/gid_map", "0 0 65536\n"), LevelRoot,
			[]IDMap{{0, 1, 65535}}, []IDMap{{0, 1, 65535}}, "only 65535 ids",
		},
		{
			"root in a rootless container", 0, machine("proc/self/uid_map", "0 1000 1\n1 100000 65536\n", "proc/self/gid_map", "0 1000 1\n1 100000 65536\n"), LevelRoot,
			[]IDMap{{0, 0, 1}, {1, 1, 65535}}, []IDMap{{0, 0, 1}, {1, 1, 65535}}, "",
		},
		{
			"root with one id", 0, machine("proc/self/uid_map", "0 1000 1\n", "proc/self/gid_map", "0 1000 1\n"), LevelSingle,
			[]IDMap{{0, 0, 1}}, []IDMap{{0, 0, 1}}, "only one id",
		},
		{
			"root with CAP_SETFCAP only", 0, machine("proc/self/status", "CapEff:\t0000000080000000\n"), LevelSingle,
			[]IDMap{{0, 0, 1}}, []IDMap{{0, 0, 1}}, "root has no CAP_SETUID",
		},
		{
			"root in a container, without CAP_SETFCAP", 0,
			machine("proc/self/uid_map", "0 100000 65536\n", "proc/self/gid_map", "0 100000 65536\n", "proc/self/status", "CapEff:\t00000000002000c3\n"), LevelRoot,
			[]IDMap{{0, 1, 65535}}, []IDMap{{0, 1, 65535}}, "only 65535 ids",
		},
		{
			"user of a container that lacks the subordinate ids", 1000,
			machine("proc/self/uid_map", "0 100000 65536\n", "proc/self/gid_map", "0 100000 65536\n"), LevelSingle, sub(), sub(),
			"/etc/subuid names ids that the container around this process does not have",
		},
		{
			"user of a container with part of the subordinate ids", 1000,
			machine("proc/self/uid_map", "0 100000 65536\n", "etc/subuid", "user:1:999\nuser:1001:64535\nuser:100000:65536\n"), LevelSubID,
			sub(IDMap{1, 1, 999}, IDMap{1000, 1001, 64535}), sub(IDMap{1, 200000, 65535}), "",
		},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, err := Detect(Host{UID: c.uid, GID: c.uid, Files: c.files, Path: []string{"", "relative", "/usr/bin"}})
			if err != nil {
				t.Fatal(err)
			}
			if p.Level != c.level || !reflect.DeepEqual(p.UIDs, c.uids) || !reflect.DeepEqual(p.GIDs, c.gids) {
				t.Errorf("got %s, uids %v, gids %v; want %s, %v, %v", p.Level, p.UIDs, p.GIDs, c.level, c.uids, c.gids)
			}
			if p.SetgroupsDeny != (p.Level == LevelSingle) {
				t.Errorf("SetgroupsDeny = %t at level %s", p.SetgroupsDeny, p.Level)
			}
			text := fmt.Sprint(p.Reasons)
			if !strings.Contains(text, c.reasons) {
				t.Errorf("reasons = %s, want %q in them", text, c.reasons)
			}
		})
	}
}

func TestDetectFileCapabilities(t *testing.T) {
	m := machine("usr/bin/newuidmap", "", "usr/bin/newgidmap", "")
	h := Host{UID: 1000, GID: 1000, Files: m, Path: []string{"/usr/bin"}, FileCaps: func(path string) bool { return strings.HasPrefix(path, "/usr/bin/new") }}
	p, err := Detect(h)
	if err != nil || p.Level != LevelSubID || p.Helpers != [2]string{"/usr/bin/newuidmap", "/usr/bin/newgidmap"} {
		t.Errorf("got %+v, %v; want level %s", p, err, LevelSubID)
	}
}

func TestDetectUnavailable(t *testing.T) {
	for _, c := range []struct {
		file, value, profile string
		uid                  int
		level                Level
		why                  string // what is said of better levels
	}{
		{"user/max_user_namespaces", "0", "", 1000, LevelVroot, "sysctl -w user.max_user_namespaces"},
		{"user/max_user_namespaces", "0", "", 0, LevelChroot, "sysctl -w user.max_user_namespaces"},
		{"kernel/unprivileged_userns_clone", "0", "", 1000, LevelVroot, "sysctl -w kernel.unprivileged_userns_clone=1"},
		{"kernel/unprivileged_userns_clone", "0", "", 0, LevelRoot, ""},
		{"kernel/unprivileged_userns_clone", "1", "", 1000, LevelSubID, ""},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "unconfined", 1000, LevelVroot, "AppArmor"},
		{"kernel/apparmor_restrict_unprivileged_userns", "1", "stacker (unconfined)", 1000, LevelSubID, ""},
	} {
		m := machine("proc/sys/"+c.file, c.value+"\n", "proc/self/attr/current", c.profile+"\n")
		p, err := Detect(Host{UID: c.uid, GID: c.uid, Files: m, Path: []string{"/usr/bin"}})
		if err != nil || p.Level != c.level || !strings.Contains(fmt.Sprint(p.Reasons), c.why) {
			t.Errorf("%s=%s uid %d: %+v, %v, want level %s and %q", c.file, c.value, c.uid, p, err, c.level, c.why)
		}
	}
}

// TestDetectNothing is where not even processes can be traced.
func TestDetectNothing(t *testing.T) {
	m := machine("proc/sys/user/max_user_namespaces", "0\n", "proc/sys/kernel/yama/ptrace_scope", "2\n")
	_, err := Detect(Host{UID: 1000, GID: 1000, Files: m, Path: []string{"/usr/bin"}})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "sysctl -w user.max_user_namespaces") {
		t.Errorf("got %v, want that no namespace can be had", err)
	}
	_, err = Detect(Host{UID: 1000, GID: 1000, Files: m, Path: []string{"/usr/bin"}, Refused: func() error { return unix.EPERM }})
	if !errors.Is(err, ErrUnavailable) {
		t.Errorf("got %v", err)
	}
}

func TestDetectRootWithoutCapabilities(t *testing.T) {
	for name, h := range map[string]Host{
		"none":                            {Files: machine("proc/self/status", "CapEff:\t0000000000000000\n")},
		"none, and no namespaces":         {Files: machine("proc/self/status", "CapEff:\t0000000000000000\n"), Refused: func() error { return unix.EPERM }},
		"all but one, and no namespaces":  {Files: machine("proc/self/status", "CapEff:\t00000000a00425fb\n"), Refused: func() error { return unix.EPERM }},
		"nobody traces, but there is one": {Files: machine("proc/sys/kernel/yama/ptrace_scope", "1\n", "proc/self/status", "CapEff:\t0000000000000000\n")},
	} {
		p, err := Detect(h)
		if err != nil || p.Level != LevelVroot || len(p.UIDs) != 1 || p.UIDs[0] != (IDMap{0, 0, 1}) || len(p.Reasons) == 0 {
			t.Errorf("%s: got %+v, %v, want level %s with id 0", name, p, err, LevelVroot)
		}
	}
	m := machine("proc/sys/kernel/yama/ptrace_scope", "2\n", "proc/self/status", "CapEff:\t0000000000000000\n")
	_, err := Detect(Host{Files: m, Path: []string{"/usr/bin"}})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "runAsUser: 1000") {
		t.Errorf("got %v, want that another user is needed", err)
	}
	m["proc/sys/user/max_user_namespaces"] = &fstest.MapFile{Data: []byte("0\n")}
	_, err = Detect(Host{Files: m, Path: []string{"/usr/bin"}})
	if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), "sysctl -w user.max_user_namespaces") {
		t.Errorf("got %v, want that no namespace can be had", err)
	}
}

func TestDetectRefused(t *testing.T) {
	p, err := Detect(Host{UID: 1000, Files: machine(), Refused: func() error { return unix.EPERM }})
	if err != nil || p.Level != LevelVroot || !strings.Contains(fmt.Sprint(p.Reasons), "seccomp") {
		t.Errorf("got %+v, %v, want that seccomp refuses better levels", p, err)
	}
	if err := tryUnshare(); err != nil {
		t.Errorf("unshare(2) is refused here: %v", err)
	}
}

// TestDetectBare is about a container of docker: its root can go without namespaces.
func TestDetectBare(t *testing.T) {
	m := machine("proc/self/status", "CapEff:\t00000000a80425fb\n", "proc/self/uid_map", "0 100000 65536\n", "proc/self/gid_map", "0 0 4294967295\n")
	p, err := Detect(Host{Files: m, Refused: func() error { return unix.EPERM }})
	if err != nil || p.Level != LevelChroot || p.UIDs[0] != (IDMap{0, 0, 65536}) || p.GIDs[0] != (IDMap{0, 0, 4294967295}) {
		t.Fatalf("got %+v, %v; want level %s with the ids of the container", p, err, LevelChroot)
	}
	if uid, gid := p.RootIDs(); uid != 0 || gid != 0 || !p.Level.Bare() || p.Level.SingleID() {
		t.Errorf("root is %d:%d, bare %t, single %t", uid, gid, p.Level.Bare(), p.Level.SingleID())
	}
	if len(p.Reasons) != 1 || p.Reasons[0].Level != LevelRoot || !strings.Contains(p.Reasons[0].Remedy, "seccomp") {
		t.Errorf("reasons %+v, want that of level %s", p.Reasons, LevelRoot)
	}
	p, err = Detect(Host{UID: 1000, Files: m, Refused: func() error { return unix.EPERM }, Want: LevelRoot})
	if err == nil || !strings.Contains(err.Error(), "level root cannot be had: the user is not root") {
		t.Errorf("got %+v, %v; want that the user is not root", p, err)
	}
}

func TestDetectOuterProc(t *testing.T) {
	const own = "25 30 0:23 / /proc rw - proc proc rw\n31 25 0:30 / /proc/sys/fs/binfmt_misc rw - autofs x rw\n"
	const masked = own + "90 25 0:5 /null /proc/kcore rw - tmpfs tmpfs rw\n"
	for text, want := range map[string]bool{"": false, own: false, masked: true} {
		p, err := Detect(Host{UID: 1000, Files: machine("proc/self/mountinfo", text), Path: []string{"/usr/bin"}})
		if err != nil || p.OuterProc != want {
			t.Errorf("%q: OuterProc = %t, %v; want %t", text, p.OuterProc, err, want)
		}
	}
}

func TestDetectByPath(t *testing.T) {
	for status, want := range map[string]bool{"CapEff:\t000001ffffffffff\n": false, "CapEff:\t00000000a80425fb\n": true} {
		if p, err := Detect(Host{Files: machine("proc/self/status", status)}); err != nil || p.ByPath != want {
			t.Errorf("%q: ByPath = %t, %v; want %t", status, p.ByPath, err, want)
		}
	}
}

func FuzzParseSub(f *testing.F) {
	f.Add("user:100000:65536\n", "user", "1000")
	f.Add("1000:4294967295:1\nuser:1:4294967295\n", "user", "1000")
	f.Add("::\n:1:1", "", "")
	f.Fuzz(func(t *testing.T, text, name, id string) {
		total := 0
		for _, m := range stack(1000, parseSub(text, name, id)) {
			if m.Count == 0 || uint64(m.Outside)+uint64(m.Count) > 1<<32 {
				t.Errorf("range %+v is not one", m)
			}
			total += int(m.Count)
		}
		if total > wantIDs {
			t.Errorf("%d ids, want at most %d", total, wantIDs)
		}
	})
}

func FuzzParseMap(f *testing.F) {
	f.Add(fullMap)
	f.Add("0 1 2\n3 4\n")
	f.Fuzz(func(t *testing.T, text string) {
		maps, err := parseMap(text)
		if err != nil {
			return
		}
		if n := count(nested(maps, true)); n > wantIDs {
			t.Errorf("%d ids, want at most %d", n, wantIDs)
		}
	})
}

func BenchmarkDetect(b *testing.B) {
	h := Local("/usr/bin:/bin")
	for b.Loop() {
		if _, err := Detect(h); err != nil {
			b.Fatal(err)
		}
	}
}

// TestWant asks for a level.
func TestWant(t *testing.T) {
	for _, c := range []struct {
		name  string
		uid   int
		want  Level
		files fstest.MapFS
		level Level
		err   string
	}{
		{"the best", 1000, "", machine(), LevelSubID, ""},
		{"what there is", 1000, LevelSubID, machine(), LevelSubID, ""},
		{"less", 1000, LevelSingle, machine(), LevelSingle, ""},
		{"more, as user", 1000, LevelRoot, machine(), "", "level root cannot be had: the user is not root"},
		{"no ids", 1000, LevelSubID, without(machine(), "etc/subuid"), "", "level subid cannot be had: /etc/subuid has no ids"},
		{"root", 0, LevelRoot, machine(), LevelRoot, ""},
		{"root, less", 0, LevelSingle, machine(), "", "level single is for ordinary users"},
		{"nonsense", 1000, "best", machine(), "", `level "best" is not known`},
		{"chroot", 0, LevelChroot, machine(), LevelChroot, ""},
		{"chroot, as user", 1000, LevelChroot, machine(), "", "level chroot cannot be had: the user is not root"},
		{"chroot, without rights", 0, LevelChroot, machine("proc/self/status", "CapEff:\t00000000a00405fb\n"), "", "root has no CAP_MKNOD here"},
		{"vroot", 1000, LevelVroot, machine(), LevelVroot, ""},
		{"vroot, as root", 0, LevelVroot, machine(), "", "level chroot is for root"},
		{"vroot, as root without rights", 0, LevelVroot, machine("proc/self/status", "CapEff:\t00000000a00405fb\n"), LevelVroot, ""},
	} {
		p, err := Detect(Host{UID: c.uid, GID: c.uid, Files: c.files, Path: []string{"/usr/bin"}, Want: c.want})
		if c.err != "" {
			if !errors.Is(err, ErrUnavailable) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: error %v, want %q", c.name, err, c.err)
			}
			continue
		}
		if err != nil || p.Level != c.level {
			t.Errorf("%s: level %s, %v, want %s", c.name, p.Level, err, c.level)
		}
		if p.Level == LevelSingle && (len(p.UIDs) != 1 || p.UIDs[0] != (IDMap{0, 1000, 1}) || !p.SetgroupsDeny || p.Helpers != [2]string{}) {
			t.Errorf("%s: %+v", c.name, p)
		}
	}
}
