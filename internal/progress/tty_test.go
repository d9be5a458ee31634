// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"build.stacker.dev/internal/solve"
)

// stopped returns a view that is painted only by hand, and how to set its clock.
func stopped(screen *vt, color, ascii bool) (t *tty, clock *time.Time) {
	clock = new(time.Time)
	*clock = at(0)
	t = makeTTY(screen, Options{
		Size:  func() (int, int) { return screen.width, screen.height },
		Now:   func() time.Time { return *clock },
		Color: color, ASCII: ascii,
	})
	close(t.done) // nobody waits for a goroutine
	return t, clock
}

// The screen is painted after each event; the golden file shows some of them.
func TestTTY(t *testing.T) {
	var shots bytes.Buffer
	screen := newVT(76, 24)
	view, clock := stopped(screen, true, false)
	for i, e := range events() {
		*clock = e.Time
		if err := view.handle(e); err != nil {
			t.Fatal(err)
		}
		view.paint(nil)
		screen.atRest(t)
		if i == 8 || i == 17 {
			fmt.Fprintf(&shots, "--- after %s\n%s", e.Time.Sub(epoch), screen.text())
		}
	}
	if err := view.close(at(10), errors.New("exit status 2")); err != nil {
		t.Fatal(err)
	}
	screen.atRest(t)
	fmt.Fprintf(&shots, "--- at the end\n%s", screen.text())
	golden(t, "tty.golden", shots.Bytes())
}

func TestTTYWithoutColorAndUnicode(t *testing.T) {
	var out bytes.Buffer
	view, clock := stopped(newVT(60, 12), false, true)
	view.out = &out
	for _, e := range events() {
		*clock = e.Time
		if err := view.handle(e); err != nil {
			t.Fatal(err)
		}
		view.paint(nil)
	}
	if err := view.close(at(10), nil); err != nil {
		t.Fatal(err)
	}
	if i := bytes.IndexFunc(out.Bytes(), func(r rune) bool { return r > 0x7e }); i >= 0 {
		t.Errorf("not ASCII: %q", out.Bytes()[i:])
	}
	if bytes.Contains(out.Bytes(), []byte("m\x1b")) || bytes.Contains(out.Bytes(), []byte("\x1b[0m")) {
		t.Errorf("colours in\n%q", out.Bytes())
	}
}

// Nothing is written when nothing changed.
func TestTTYIdle(t *testing.T) {
	screen := newVT(80, 24)
	view, clock := stopped(screen, true, false)
	var out bytes.Buffer
	view.out = &out
	paint := func() int { out.Reset(); view.paint(nil); return out.Len() }
	if n := paint(); n != 0 {
		t.Errorf("the empty build writes %d bytes, want none", n)
	}
	if err := view.handle(solve.Event{Kind: solve.Started, Vertex: run, Time: at(0)}); err != nil {
		t.Fatal(err)
	}
	if n := paint(); n == 0 {
		t.Error("a step that began is not drawn")
	}
	if n := paint(); n != 0 {
		t.Errorf("the same moment is drawn again with %d bytes", n)
	}
	*clock = at(1)
	if n := paint(); n == 0 {
		t.Error("the clock is not drawn")
	}
	screen.width = 40
	if n := paint(); n == 0 {
		t.Error("a resized screen is not drawn")
	}
}

// A resized terminal wraps the lines that stand on it; they must go all the same.
func TestTTYNarrower(t *testing.T) {
	view, _ := stopped(newVT(80, 24), false, false)
	view.wide = []int{79, 10, 0, 40}
	for _, c := range []struct{ width, height, want int }{{80, 24, 4}, {40, 24, 5}, {20, 24, 8}, {20, 5, 4}, {0, 0, 0}} {
		if got := view.rows(c.width, c.height); got != c.want {
			t.Errorf("rows(%d, %d) = %d, want %d", c.width, c.height, got, c.want)
		}
	}
}

// Whatever the size of the screen, a frame has its room.
func TestFrameFits(t *testing.T) {
	st := newState()
	for i := range 12 {
		v := solve.Vertex{ID: fmt.Sprint(i), Stage: "stäge", Name: strings.Repeat("日本 run ", i)}
		kind := solve.Started
		if i%5 == 4 {
			kind = solve.Waiting
		}
		s, _ := st.apply(solve.Event{Kind: kind, Vertex: v, Time: at(float64(i)), Cause: "some reason"})
		for n := range i {
			st.apply(solve.Event{Kind: solve.Progress, Vertex: v, Time: at(float64(n)), Item: fmt.Sprint("pull ", strings.Repeat("x", n*4)), Current: int64(n * 999999), Total: int64(n%4) * 9999999})
			s.keep(solve.Event{Data: fmt.Appendf(nil, "\tlog %d\x1b[1;31m %s\nend", n, strings.Repeat("é日", 50))})
		}
	}
	for _, color := range []bool{true, false} {
		th := newTheme(Options{Color: color})
		for width := 0; width < 130; width += 3 {
			for height := range 30 {
				lines := st.frame(th, at(4000), width, height)
				if len(lines) > max(0, height-1) {
					t.Fatalf("%dx%d: %d lines", width, height, len(lines))
				}
				for _, l := range lines {
					if columns(l) > max(0, width-1) || strings.ContainsAny(l, "\n\t") {
						t.Fatalf("%dx%d: line has %d columns: %q", width, height, columns(l), l)
					}
				}
			}
		}
	}
}

// The view's goroutine draws by itself and ends with Close.
func TestTTYLoop(t *testing.T) {
	drawn := make(chan string, 100)
	d := New(TTY, writerFunc(func(p []byte) { drawn <- string(p) }), Options{Size: func() (int, int) { return 80, 24 }})
	d.Handle(solve.Event{Kind: solve.Started, Vertex: run})
	for _, what := range []string{"the event", "the clock"} {
		select {
		case s := <-drawn:
			if !strings.Contains(s, "[app] run make ...") {
				t.Errorf("after %s the view draws %q, want the step", what, s)
			}
		case <-time.After(time.Minute):
			t.Fatalf("nothing drawn after %s", what)
		}
	}
	d.Handle(solve.Event{Kind: solve.Done, Vertex: run, Dur: time.Second})
	if err := d.Close(nil); err != nil {
		t.Fatal(err)
	}
	close(drawn)
	var last string
	for s := range drawn {
		last = s
	}
	if !strings.Contains(last, "✔   1.0s [app] run make ...") || !strings.Contains(last, "1 step, ") {
		t.Errorf("the last write is %q, want the finished step and the summary", last)
	}
}

type writerFunc func([]byte)

func (f writerFunc) Write(p []byte) (int, error) { f(p); return len(p), nil }

// BenchmarkFrame is what 5 to 20 of every second cost.
func BenchmarkFrame(b *testing.B) {
	st := newState()
	for _, e := range events()[:18] {
		if s, _ := st.apply(e); s != nil && e.Kind == solve.Log {
			s.keep(e)
		}
	}
	th := newTheme(Options{Color: true})
	for b.Loop() {
		st.frame(th, at(8), 120, 40)
	}
}
