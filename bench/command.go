// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"
)

// ran is what one process did.
type ran struct {
	took   time.Duration
	maxRSS int64 // bytes, of its largest process
	output []byte
}

// run runs a command line in the area and waits for it; words are parted by
// spaces. u is nil for root.
func (a *area) run(ctx context.Context, u *account, line string) (ran, error) {
	return a.exec(ctx, u, strings.Fields(line))
}

// shell runs a script in the area.
func (a *area) shell(ctx context.Context, u *account, script string) (ran, error) {
	return a.exec(ctx, u, []string{"sh", "-ec", script})
}

func (a *area) exec(ctx context.Context, u *account, argv []string) (ran, error) {
	name := argv[0]
	if strings.HasPrefix(name, binDir+"/") {
		name = a.path(name)
	}
	cmd := exec.CommandContext(ctx, name, argv[1:]...)
	cmd.Dir = a.dir
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=/root", "LC_ALL=C.UTF-8"}
	// A group of its own: a cancelled pipeline ends as a whole.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = 10 * time.Second
	if u != nil {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: u.uid, Gid: u.gid}
		cmd.Env = append(cmd.Env[:1], "HOME="+u.home, "LC_ALL=C.UTF-8", "XDG_RUNTIME_DIR="+u.home+"/run", "STORAGE_DRIVER=overlay")
	}
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	start := time.Now()
	err := cmd.Run()
	r := ran{took: time.Since(start), output: out.Bytes()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.maxRSS = usage.Maxrss << 10 // of the largest process among it and those that were waited for
	}
	if err != nil {
		return r, fmt.Errorf("run %s: %w\n%s", strings.Join(argv, " "), errors.Join(err, ctx.Err()), out.Bytes())
	}
	return r, nil
}

// span is when something began and ended; logged is when it last printed.
type span struct{ started, ended, logged time.Time }

// events reads what `--progress rawjson` printed: by the name of the step,
// when it began, printed and ended.
func (r ran) events() (map[string]span, error) {
	type vertex struct {
		Digest, Name       string
		Started, Completed time.Time
	}
	names := map[string]string{}
	out := map[string]span{}
	for line := range bytes.Lines(r.output) {
		var e struct {
			Vertexes []vertex
			Logs     []struct {
				Vertex    string
				Timestamp time.Time
			}
		}
		if err := json.Unmarshal(line, &e); err != nil {
			return nil, fmt.Errorf("read progress %q: %w", line, err)
		}
		for _, v := range e.Vertexes {
			names[v.Digest] = v.Name
			s := out[v.Name]
			s.started, s.ended = v.Started, v.Completed
			out[v.Name] = s
		}
		for _, l := range e.Logs {
			s := out[names[l.Vertex]]
			s.logged = l.Timestamp
			out[names[l.Vertex]] = s
		}
	}
	return out, nil
}

// find returns the only step whose name begins so.
func find(events map[string]span, prefix string) (span, error) {
	var found []span
	for name, s := range events {
		if strings.HasPrefix(name, prefix) && !s.ended.IsZero() {
			found = append(found, s)
		}
	}
	if len(found) != 1 {
		return span{}, fmt.Errorf("the build has %d finished steps %q, want 1", len(found), prefix)
	}
	return found[0], nil
}
