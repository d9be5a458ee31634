// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package initproc

import (
	"reflect"
	"strings"
	"syscall"
	"testing"
)

var steps = map[string]*Step{
	"empty": {Args: []string{}, Env: []string{}, Seccomp: []byte{}},
	"full": {
		Args: []string{"/bin/sh", "-c", ""}, Env: []string{"A=\x00b", "=", ""}, Dir: "/x", Hostname: "h",
		UID: 1<<32 - 1, GID: 7, Groups: []uint32{0, 1 << 31}, SingleID: true, OwnNetwork: true, Terminal: true,
		Caps: 1<<63 | 1, Seccomp: []byte(strings.Repeat("\xff\x00", 1000)), ShmSize: 1 << 40,
		Mounts: []Mount{{"a/b", true, false, true}, {"c", false, true, false}}, Limits: []Limit{{7, 1, 1<<64 - 1}},
	},
}

func TestMessage(t *testing.T) {
	for name, want := range steps {
		got, err := Decode(want.Encode())
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if !reflect.DeepEqual(got, want) {
			t.Errorf("%s: got %+v, want %+v", name, got, want)
		}
	}
}

func TestDecodeDamaged(t *testing.T) {
	whole := steps["full"].Encode()
	for n := range whole {
		if _, err := Decode(whole[:n]); err == nil {
			t.Errorf("first %d of %d bytes were accepted", n, len(whole))
		}
	}
	if _, err := Decode(append(whole, 0)); err == nil {
		t.Error("a byte too many was accepted")
	}
}

func FuzzDecode(f *testing.F) {
	for _, s := range steps {
		f.Add(s.Encode())
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := Decode(b)
		if err != nil {
			return
		}
		again, err := Decode(s.Encode())
		if err != nil || !reflect.DeepEqual(again, s) {
			t.Errorf("got %+v, %v after encoding again, want %+v", again, err, s)
		}
	})
}

func TestParseReport(t *testing.T) {
	var e encoder
	for _, n := range []uint64{137, 9, 5, 1 << 40, 3} {
		e.number(n)
	}
	for _, c := range []struct {
		name string
		kind byte
		body []byte
		want Outcome
		bad  bool
	}{
		{"exit", ReportExit, e.b, Outcome{Code: 137, Signal: 9, User: 5, System: 1 << 40, MaxRSS: 3, Ended: true}, false},
		{"error", ReportError, append(le32(le32(nil, uint32(syscall.ENOENT)), 0), "exec x: no"...), Outcome{Err: "exec x: no", Errno: syscall.ENOENT}, false},
		{"foreign", ReportError, append(le32(le32(nil, uint32(syscall.ENOEXEC)), 183), "exec x: no"...), Outcome{Err: "exec x: no", Errno: syscall.ENOEXEC, Machine: 183}, false},
		{"short exit", ReportExit, e.b[:3], Outcome{}, true},
		{"short error", ReportError, []byte{1, 2, 3, 4, 5, 6, 7}, Outcome{}, true},
		{"unknown", 'z', nil, Outcome{}, true},
	} {
		got, err := ParseReport(c.kind, c.body)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%s: got %+v, %v; want %+v, error %t", c.name, got, err, c.want, c.bad)
		}
	}
}

func TestRetryBusy(t *testing.T) {
	for _, c := range []struct {
		busy int
		then error
	}{{0, nil}, {2, nil}, {1, syscall.ENOENT}, {0, syscall.EACCES}} {
		calls := 0
		err := retryBusy(func() error {
			calls++
			if calls <= c.busy {
				return syscall.ETXTBSY
			}
			return c.then
		})
		if err != c.then || calls != c.busy+1 {
			t.Errorf("busy %d times, then %v: got %v after %d calls", c.busy, c.then, err, calls)
		}
	}
}
