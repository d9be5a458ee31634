// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"syscall"
	"testing"
)

// TestScript looks which calls of a list are made.
func TestScript(t *testing.T) {
	say := func(n uintptr) op { return op{nr: give, args: [6]uintptr{n}, result: regPlace} }
	no := func(e syscall.Errno) op { return op{nr: refuse, args: [6]uintptr{uintptr(e)}} }
	with := func(o op, set func(*op)) op { set(&o); return o }
	for _, c := range []struct {
		name  string
		list  []op
		reg   uintptr
		call  int
		errno syscall.Errno
	}{
		{"all", []op{say(1), say(2)}, 2, 0, 0},
		{"error", []op{say(1), no(syscall.EPERM), say(2)}, 1, 1, syscall.EPERM},
		{"expected error", []op{with(no(syscall.EPERM), func(o *op) { o.on(0, syscall.ENOENT, syscall.EPERM) }), say(2)}, 2, 0, 0},
		{"expected error skips", []op{say(1), with(no(syscall.EPERM), func(o *op) { o.on(1, syscall.EPERM) }), say(2)}, 1, 0, 0},
		{"other error", []op{with(no(syscall.EIO), func(o *op) { o.on(1, syscall.EPERM) }), say(2)}, 0, 0, syscall.EIO},
		{"any error", []op{with(no(syscall.EIO), func(o *op) { o.any, o.skip = true, 1 }), say(2), say(3)}, 3, 0, 0},
		{"success skips", []op{with(say(1), func(o *op) { o.skipDone = 2 }), say(2), say(3)}, 1, 0, 0},
		{"register", []op{say(uintptr(syscall.EBUSY)), with(no(0), func(o *op) { o.reg = regPlace })}, uintptr(syscall.EBUSY), 1, syscall.EBUSY},
		{"relative directory", []op{{nr: checkCwd}}, 0, 0, syscall.EACCES},
		{"no program", []op{{nr: checkFile}}, 0, 0, syscall.EACCES},
		{"kernel", []op{{nr: syscall.SYS_CLOSE, args: [6]uintptr{1 << 30}}}, 0, 0, syscall.EBADF},
	} {
		s := new(script)
		call, e := s.do(c.list)
		if call != c.call || e != c.errno || s.regs[regPlace] != c.reg {
			t.Errorf("%s: got call %d, error %v, register %d; want %d, %v, %d", c.name, call, e, s.regs[regPlace], c.call, c.errno, c.reg)
		}
	}
}

// TestTargets looks how a missing mount point is made.
func TestTargets(t *testing.T) {
	p := new(script)
	p.attach(7, 8, Mount{Target: "a/b", Make: true, File: true})
	var got []uintptr
	for _, o := range p.setup {
		got = append(got, o.nr)
	}
	want := []uintptr{sysOpenat2, sysOpenat2, syscall.SYS_MKDIRAT, sysOpenat2, syscall.SYS_OPENAT, sysOpenat2, sysMoveMount}
	if len(got) != len(want) || p.setup[0].skipDone != len(want)-2 {
		t.Fatalf("got calls %v, the first leaves out %d; want %v, %d", got, p.setup[0].skipDone, want, len(want)-2)
	}
	for i := range want {
		if got[i] != want[i] {
			t.Errorf("call %d is %d, want %d", i, got[i], want[i])
		}
	}
}

func TestReportStatus(t *testing.T) {
	body := func(status uint32) []byte {
		b := le32(nil, status)
		for _, n := range []uint32{0, 5, 0, 1, 1 << 8, 3, 0, 1, 0} {
			b = le32(b, n)
		}
		return b
	}
	for status, want := range map[uint32]Outcome{
		7 << 8: {Code: 7, User: 5, System: 1<<40 + 1, MaxRSS: 3, Ended: true, Alone: true},
		9:      {Code: 137, Signal: 9, User: 5, System: 1<<40 + 1, MaxRSS: 3, Ended: true, Alone: true},
	} {
		if got, err := ParseReport(ReportStatus, body(status)); err != nil || got != want {
			t.Errorf("status %d: got %+v, %v; want %+v", status, got, err, want)
		}
	}
	if _, err := ParseReport(ReportStatus, body(0)[1:]); err == nil {
		t.Error("a short report was accepted")
	}
}

// What one step was told is not in the memory that the next one's first process is copied from.
func TestWipe(t *testing.T) {
	p := new(script)
	p.exec(&Step{Args: []string{"/x"}, Env: []string{"KEY=secret"}})
	env := p.keep[len(p.keep)-2].([]byte)
	if string(env) != "KEY=secret\x00" {
		t.Fatalf("kept %q, want the variable", env)
	}
	p.wipe()
	m := &message{raw: []byte("KEY=secret")}
	m.close()
	for _, b := range [][]byte{env, m.raw} {
		for _, c := range b {
			if c != 0 {
				t.Fatalf("got %q after it was wiped out", b)
			}
		}
	}
}
