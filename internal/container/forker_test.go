// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package container

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestForked tells which steps have their first process forked.
func TestForked(t *testing.T) {
	for name, c := range map[string]struct {
		set  func(*Spec)
		want bool
	}{
		"ordinary":   {func(*Spec) {}, true},
		"by PATH":    {func(s *Spec) { s.Args = []string{"true"} }, true},
		"shm":        {func(s *Spec) { s.ShmSize = 1 << 20 }, false},
		"terminal":   {func(s *Spec) { s.Terminal = true }, false},
		"network":    {func(s *Spec) { s.Network = NetworkNone }, false},
		"privileged": {func(s *Spec) { s.Privileged = true }, false},
		"one id":     {func(s *Spec) { s.SingleID = true }, false},
		"no name":    {func(s *Spec) { s.Args = []string{""} }, false},
	} {
		s := Spec{Args: []string{"/bin/true"}}
		c.set(&s)
		if got := forked(&s); got != c.want {
			t.Errorf("%s: got %t, want %t", name, got, c.want)
		}
	}
}

// A forking process that is killed fails the step that meets that, and no other.
func TestForkerKilled(t *testing.T) {
	if single {
		t.Skip("nothing is forked where there is one id")
	}
	var rn Runner
	defer rn.Close()
	run := func() error {
		_, err := rn.Run(context.Background(), newStep(t, "/bin/true"))
		return err
	}
	if err := run(); err != nil {
		t.Fatal(err)
	}
	if err := rn.forks.proc.proc.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := run(); !errors.Is(err, errForker) {
		t.Errorf("error = %v, want %v", err, errForker)
	}
	if err := run(); err != nil {
		t.Errorf("the step after: %v", err)
	}
}

// When a step that went well is reported, nothing of it runs; its mounts may still be there, until
// Exit.Gone is closed.
func TestGone(t *testing.T) {
	if single {
		t.Skip("nothing is forked where there is one id")
	}
	var rn Runner
	defer rn.Close()
	// What outlives the command: children of its own, one in a session of its own, one that ignores
	// signals, and a chain of processes of which each waits for the next one.
	nap := newNap()
	script := nap.script(`sleep & setsid sleep & (setsid sh -c "trap '' HUP TERM INT; sleep; true" &); sh -c "sh -c 'sleep; true'; true" & echo x > /made`)
	s := newStep(t, "/bin/sh", "-c", script)
	exit, err := rn.Run(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	if left := nap.sleepers(t); left != "" {
		t.Errorf("processes left: %s", left)
	}
	if exit.Gone == nil {
		t.Fatal("the end of the first process was waited for")
	}
	<-exit.Gone
	if err := os.RemoveAll(s.Work); err != nil {
		t.Errorf("remove work directory: %v", err)
	}
	above := newStep(t, "/bin/cat", "/made")
	above.Lowers = append(above.Lowers, s.Upper)
	if got := runOK(t, above); got != "x\n" {
		t.Errorf("the step above reads %q, want what the one below wrote", got)
	}
	failed := newStep(t, "/bin/sh", "-c", "exit 1")
	if exit, err := rn.Run(context.Background(), failed); err != nil || exit.Gone != nil {
		t.Errorf("a step that failed: Gone is %v, error %v; want that its end was waited for", exit.Gone, err)
	}
}

// The command is looked for in PATH as exec does: what is no program is passed over.
func TestPath(t *testing.T) {
	s := newStep(t, "tool")
	for name, mode := range map[string]os.FileMode{"b/tool": 0o644, "c/tool": 0o755, "d/tool": 0o755} {
		p := filepath.Join(s.Upper, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte("#!/bin/sh\necho $0\n"), mode); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.MkdirAll(filepath.Join(s.Upper, "a/tool"), 0o755); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		"/none:/a:/b:/c:/d": "/c/tool\n",
		"/d:/c":             "/d/tool\n",
		"/a::":              "./tool\n",
	} {
		s.Env = []string{"PATH=" + path}
		s.Dir = "/d"
		if got := runOK(t, s); got != want {
			t.Errorf("PATH=%s: got %q, want %q", path, got, want)
		}
	}
	s.Env = []string{"PATH=/a:/b"}
	if _, _, err := output(t, s); err == nil || !strings.Contains(err.Error(), "exec tool (looked for in PATH)") {
		t.Errorf("got %v, want that it was looked for in PATH", err)
	}
}
