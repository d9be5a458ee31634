// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"build.stacker.dev/internal/solve"
)

// The rules of the live view.
//
//   - The scrollback is the record. Every step that ends leaves one line there,
//     in the order in which steps end, and that line never changes.
//   - Only the bottom moves: what runs now, with its time, its transfers and the
//     last few lines that it printed, and one line that sums up.
//   - The bottom is always smaller than the screen, no line of it wraps, and a
//     long name is cut before a number is.
//   - Columns: a mark, a time, then "[stage] step". A mark and a word say what a
//     colour says; the view is complete without colours and beyond ASCII.
//   - Dim is what one may skip: cached steps, output, reasons. Red is only for
//     what failed. Nothing blinks, nothing beeps.
//   - A step that fails shows its error and its last forty lines in full, below
//     everything else, where one looks first.
//   - The terminal is never in a state that must be undone: no raw mode, no
//     alternate screen, the cursor hidden and wrapping off only inside one
//     write. Whatever kills the program, the prompt comes on a fresh line.
//   - A build that takes no time draws no frame, only its lines.
//   - It costs next to nothing: at most 20 frames a second when something
//     happens, 5 for the clock alone, none while nothing runs, and never a
//     write that changes nothing. A slow terminal does not slow the build.
const (
	frameEvery = 50 * time.Millisecond
	tickEvery  = 200 * time.Millisecond
)

// tty draws on a terminal from a goroutine of its own, which ends with close.
type tty struct {
	out   io.Writer
	size  func() (int, int)
	now   func() time.Time
	theme theme

	mu    sync.Mutex
	state *state
	ended []entry // what has not been written to the scrollback

	dirty chan struct{} // holds one when something changed
	stop  chan struct{}
	done  chan struct{}

	// Only of the goroutine, and of close after it.
	drawn string // the live part as it stands on the screen
	wide  []int  // columns of its lines
	asked int    // columns of the screen then
	err   error  // of the first write that failed; there is no other after it
}

// entry is something that stays in the scrollback: a step or a note.
type entry struct {
	step    *step
	text    string
	warning bool
}

func newTTY(out io.Writer, o Options) *tty {
	t := makeTTY(out, o)
	go t.loop()
	return t
}

// makeTTY returns a tty that nobody paints yet.
func makeTTY(out io.Writer, o Options) *tty {
	return &tty{
		out: out, size: o.Size, now: o.Now, theme: newTheme(o), state: newState(),
		dirty: make(chan struct{}, 1), stop: make(chan struct{}), done: make(chan struct{}),
	}
}

func (t *tty) handle(e solve.Event) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s, ok := t.state.apply(e)
	if !ok {
		return nil
	}
	switch e.Kind {
	case solve.Log:
		s.keep(e)
	case solve.Note:
		for line := range strings.SplitSeq(strings.TrimRight(e.Text, "\n"), "\n") {
			line = cleanText(line)
			if s != nil {
				line = s.label + ": " + line
			}
			t.ended = append(t.ended, entry{text: line, warning: e.Level == solve.Warning})
		}
	case solve.Cached, solve.Done, solve.Failed, solve.Skipped:
		s.finish()
		t.ended = append(t.ended, entry{step: s})
	case solve.Queued, solve.Waiting, solve.Started, solve.Progress:
	}
	select {
	case t.dirty <- struct{}{}:
	default:
	}
	return nil
}

func (t *tty) loop() {
	defer close(t.done)
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		timer.Stop()
		var tick <-chan time.Time
		if t.runs() {
			timer.Reset(tickEvery)
			tick = timer.C
		}
		select {
		case <-t.stop:
			return
		case <-tick:
		case <-t.dirty:
			// What happens together is drawn together.
			timer.Reset(frameEvery)
			select {
			case <-t.stop:
				return
			case <-timer.C:
			}
		}
		t.paint(nil)
	}
}

func (t *tty) runs() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return len(t.state.active) > 0
}

func (t *tty) close(now time.Time, result error) error {
	close(t.stop)
	<-t.done
	t.mu.Lock()
	for _, s := range t.state.endAll(now, result) {
		s.finish()
		t.ended = append(t.ended, entry{step: s})
	}
	t.mu.Unlock()
	t.paint(t.final(now))
	return t.err
}

// final is what stands below all steps at the end.
func (t *tty) final(now time.Time) []byte {
	out := []byte{}
	if len(t.state.steps) == 0 {
		return out
	}
	for _, s := range t.state.steps {
		if s.status == failed && s.tail.total > 0 {
			out = fmt.Appendf(out, "\n   %s\n", t.theme.bold(s.label+":"))
			out = s.appendTail(out, "   "+t.theme.dim(t.theme.pipe)+" ", t.theme.color)
		}
	}
	if len(out) > 0 {
		out = append(out, '\n')
	}
	return append(out, t.theme.bold("   "+t.state.summary(now))+"\n"...)
}

// paint writes what has ended above the live part, and the live part anew; or,
// where final is not nil, final instead of a live part. It holds no lock while
// it writes.
func (t *tty) paint(final []byte) {
	if t.err != nil {
		return
	}
	width, height := t.size()
	t.mu.Lock()
	var stays strings.Builder
	for _, e := range t.ended {
		if e.step == nil {
			stays.WriteString(t.theme.note(e.text, e.warning) + "\n")
			continue
		}
		stays.WriteString(t.theme.finished(e.step, width) + "\n")
	}
	t.ended = nil
	var lines []string
	if final == nil {
		lines = t.state.frame(t.theme, t.now(), width, height)
	}
	t.mu.Unlock()
	stays.Write(final)
	live := strings.Join(lines, "\n")
	if stays.Len() == 0 && live == t.drawn && (width == t.asked || live == "") {
		return
	}
	text := t.overwrite(stays.String(), lines, width, height)
	t.drawn, t.asked, t.wide = live, width, t.wide[:0]
	for _, l := range lines {
		t.wide = append(t.wide, columns(l))
	}
	_, t.err = io.WriteString(t.out, text)
}

// overwrite returns the bytes that replace the old live part by what stays and
// the new lines. The cursor is then at the start of the line below.
func (t *tty) overwrite(stays string, lines []string, width, height int) string {
	var b strings.Builder
	b.WriteString("\x1b[?25l\r")
	if up := t.rows(width, height); up > 0 {
		fmt.Fprintf(&b, "\x1b[%dA", up)
	}
	if stays != "" {
		b.WriteString("\x1b[J")
		b.WriteString(strings.ReplaceAll(stays, "\n", "\r\n"))
	}
	// Where a terminal finds a character wider than we do, the line must not wrap.
	b.WriteString("\x1b[?7l")
	for _, l := range lines {
		b.WriteString(l)
		b.WriteString("\x1b[K\r\n")
	}
	b.WriteString("\x1b[J\x1b[?7h\x1b[?25h")
	return b.String()
}

// rows returns how many rows of the screen the old live part takes. Where the
// window became narrower, the terminal has wrapped its lines.
func (t *tty) rows(width, height int) int {
	n := 0
	for _, w := range t.wide {
		n += max(1, (w+width-1)/max(1, width))
	}
	return min(n, max(0, height-1))
}
