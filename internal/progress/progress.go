// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package progress shows people and programs what a build does while it runs.
//
// It receives solve's events and draws them in one of four modes: tty (a live
// view at the bottom of a terminal), plain (a line per happening), rawjson (a
// JSON object per happening, in the words of BuildKit's clients) and quiet
// (nothing, but what a failed step printed). It decides nothing, knows no flag
// and no environment variable, and does not print the build's final error: the
// command line does, after Close.
//
// Whatever came from a build file, an image, a registry or a step is shown
// harmless: see appendClean. Memory is bounded per step, whatever it prints.
//
// Lock order: Display.mu, then the terminal's. Nobody calls out under either,
// except to write.
package progress

import (
	"fmt"
	"io"
	"sync"
	"time"

	"build.stacker.dev/internal/solve"
)

// Mode says how a build is shown.
type Mode string

// The modes. Auto is TTY on a terminal and Plain elsewhere.
const (
	Auto    Mode = "auto"
	TTY     Mode = "tty"
	Plain   Mode = "plain"
	RawJSON Mode = "rawjson"
	Quiet   Mode = "quiet"
)

// ParseMode returns the mode that a user named. "none" is another name of quiet,
// the empty string one of auto.
func ParseMode(s string) (Mode, error) {
	switch m := Mode(s); m {
	case Auto, TTY, Plain, RawJSON, Quiet:
		return m, nil
	case "":
		return Auto, nil
	case "none":
		return Quiet, nil
	}
	return "", fmt.Errorf("unknown progress mode %q: use auto, tty, plain, rawjson or quiet", s)
}

// Options are the settings of a Display. The zero value is right for output
// that is not a terminal; see [ForTerminal] for one that may be.
type Options struct {
	// Size returns the columns and rows of the terminal; it is asked before
	// every frame. Nil says that out is no terminal that can move its cursor:
	// TTY is then shown as Plain.
	Size func() (width, height int)
	// Color permits colours, our own and those of steps.
	Color bool
	// ASCII forbids characters beyond ASCII in what the view itself draws.
	ASCII bool
	// RunOutput receives the bytes that steps print, as they are; Plain then
	// does not show them. It must not be the terminal of a TTY view; where it is
	// any terminal, wrap it in a [SafeWriter].
	RunOutput io.Writer
	// Now is the clock; nil is time.Now.
	Now func() time.Time
}

// view is one way of showing events. Calls do not overlap.
type view interface {
	handle(solve.Event) error
	close(now time.Time, result error) error
}

// Display shows one build. Its methods may be called from any goroutine.
type Display struct {
	mu     sync.Mutex
	view   view
	run    io.Writer
	now    func() time.Time
	closed bool
	err    error // the first error of a write to out
	runErr error // the first error of a write to run
}

// New starts a view of a build on out. It must be closed.
func New(mode Mode, out io.Writer, o Options) *Display {
	if o.Now == nil {
		o.Now = time.Now
	}
	d := &Display{run: o.RunOutput, now: o.Now}
	if mode == Auto || mode == "" {
		mode = TTY
	}
	switch {
	case mode == RawJSON:
		d.view = newRawJSON(out)
	case mode == Quiet:
		d.view = newQuiet(out, o)
	case mode == TTY && o.Size != nil:
		d.view = newTTY(out, o)
	default:
		d.view = newPlain(out, o)
	}
	return d
}

// Handle shows an event; it is a [solve.Sink]. Modes other than TTY write
// before it returns, so that a slow reader slows the steps and nothing is lost.
// Events after Close are dropped.
func (d *Display) Handle(e solve.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return
	}
	if e.Time.IsZero() {
		e.Time = d.now()
	}
	if e.Kind == solve.Log && d.run != nil && d.runErr == nil {
		_, d.runErr = d.run.Write(e.Data)
	}
	if d.err == nil {
		d.err = d.view.handle(e)
	}
}

// Close shows how the build ended, with what failed steps printed last, and
// gives the terminal back. result is the build's error; it is not printed. The
// error says what could not be written. Closing again does nothing.
func (d *Display) Close(result error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	err := d.view.close(d.now(), result)
	switch {
	case d.err != nil:
		err = d.err
	case d.runErr != nil:
		err = d.runErr
	}
	if err != nil {
		return fmt.Errorf("write progress: %w", err)
	}
	return nil
}
