// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package supervisor

import (
	"os"
	"os/exec"
	"runtime"
	"testing"

	"golang.org/x/sys/unix"
)

// TestNumbers translates as for a /proc of another pid namespace; here both number alike.
func TestNumbers(t *testing.T) {
	var p numbers
	if e := p.look(); e != 0 {
		t.Fatal(e)
	}
	pid := uint32(os.Getpid())
	if p.foreign || p.self != pid {
		t.Errorf("foreign = %t, self = %d; want false, %d", p.foreign, p.self, pid)
	}
	p.foreign = true
	done := make(chan uint32)
	go func() {
		runtime.LockOSThread() // not the first thread, which the test's goroutine may be on
		done <- p.of(uint32(unix.Gettid()))
	}()
	if got := <-done; got != pid {
		t.Errorf("a thread belongs to %d, want %d", got, pid)
	}
	for range 2 * len(p.known) {
		cmd := exec.Command("sleep", "60")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		child := uint32(cmd.Process.Pid)
		if got := p.of(child); got != child {
			t.Errorf("process %d is %d", child, got)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		_ = cmd.Wait() // killed
		if got := p.of(child); got != 0 {
			t.Errorf("process %d is gone, but is %d", child, got)
		}
	}
	if got := p.of(pid); got != pid {
		t.Errorf("this process is %d, want %d", got, pid)
	}
}
