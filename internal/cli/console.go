// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"os"
	"os/signal"
	"sync"

	"golang.org/x/sys/unix"
	"golang.org/x/term"
)

// console connects the user's terminal with a step's. A step never gets the
// user's own terminal: it could push keys into it.
type console struct {
	std     Streams
	mu      sync.Mutex
	restore func()
	output  sync.WaitGroup
}

func newConsole(std Streams) *console { return &console{std: std} }

// Streams implements build.Console.
func (c *console) Streams() [3]*os.File { return [3]*os.File{c.std.In, c.std.Out, c.std.Err} }

// Attach implements build.Console: keys go to the step, output comes back, and
// the step's terminal keeps the size of the user's.
func (c *console) Attach(terminal *os.File) {
	size := func() {
		if ws, err := unix.IoctlGetWinsize(int(c.std.In.Fd()), unix.TIOCGWINSZ); err == nil {
			_ = unix.IoctlSetWinsize(int(terminal.Fd()), unix.TIOCSWINSZ, ws)
		}
	}
	size()
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGWINCH)
	go func() {
		for range changes {
			size()
		}
	}()
	state, err := term.MakeRaw(int(c.std.In.Fd()))
	c.mu.Lock()
	c.restore = func() {
		if err == nil {
			_ = term.Restore(int(c.std.In.Fd()), state)
		}
		signal.Stop(changes)
		close(changes)
	}
	c.mu.Unlock()
	go func() { _, _ = io.Copy(terminal, c.std.In) }() // ends with the program
	c.output.Go(func() {
		_, _ = io.Copy(c.std.Out, terminal) // EIO when the step has ended
		_ = terminal.Close()
	})
}

// End implements build.Console. It waits for the rest of the output.
func (c *console) End() {
	c.output.Wait()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.restore != nil {
		c.restore()
		c.restore = nil
	}
}
