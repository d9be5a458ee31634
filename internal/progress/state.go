// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"build.stacker.dev/internal/solve"
)

// state is what the events so far say about the build. It does not look at a
// clock: every time in it came with an event.
type state struct {
	steps  []*step // in the order of their first event
	byID   map[string]*step
	active []*step // those that wait or run, in the order in which they began
	count  map[status]int
	first  time.Time // of the first event
}

// status is where a step is. Everything from cached on is final.
type status int

const (
	queued status = iota
	waiting
	running
	cached
	done
	failed
	canceled // failed, because something else did
	skipped
)

// step is a vertex with what is known about it.
type step struct {
	solve.Vertex
	num    int    // from 1
	label  string // "[stage] name", clean
	status status
	began  time.Time
	took   time.Duration
	cause  string
	err    error
	bars   []*bar
	out    [2]splitter // one per stream
	tail   tail
	stream int  // where the last bytes came from, 0 or 1
	headed bool // plain has printed its name
}

// bar is one item of a step that moves.
type bar struct {
	item           string // clean
	unit           string
	current, total int64
	began, ended   time.Time // ended: zero while it moves
	told           time.Time // when plain last printed a line about it
	finished       bool      // plain has printed that it arrived

	// The rate is taken over the time since a mark one to two seconds old, so
	// that it follows what happens and does not jump.
	mark, nextMark     time.Time
	markAt, nextMarkAt int64
}

func newState() *state {
	return &state{byID: map[string]*step{}, count: map[status]int{}}
}

// step returns the event's step, nil if it speaks of the whole build.
func (st *state) step(v solve.Vertex) *step {
	if v.ID == "" {
		return nil
	}
	s := st.byID[v.ID]
	if s == nil {
		s = &step{Vertex: v, num: len(st.steps) + 1, label: label(v)}
		st.byID[v.ID] = s
		st.steps = append(st.steps, s)
		st.count[queued]++
	}
	return s
}

func label(v solve.Vertex) string {
	name, more, _ := strings.Cut(strings.TrimSpace(v.Name), "\n")
	name = cleanText(name)
	if more != "" {
		name = strings.TrimRight(name, ` \`) + " ..."
	}
	if v.Stage == "" {
		return name
	}
	return "[" + cleanText(v.Stage) + "] " + name
}

// apply brings e in. It returns the event's step, nil where the event is about
// the whole build, and whether there is anything to show: nothing is told of a
// step that has ended, and only notes need no step.
func (st *state) apply(e solve.Event) (s *step, ok bool) {
	if st.first.IsZero() {
		st.first = e.Time
	}
	s = st.step(e.Vertex)
	if e.Kind == solve.Note {
		return s, true
	}
	if s == nil || s.status >= cached {
		return s, false
	}
	switch e.Kind {
	case solve.Waiting:
		s.cause = cleanText(e.Cause)
		st.begin(s, waiting, e.Time)
	case solve.Started:
		s.cause = cleanText(e.Cause)
		s.began = time.Time{} // waiting is not its own time
		st.begin(s, running, e.Time)
	case solve.Progress:
		st.begin(s, running, e.Time)
		s.move(e)
	case solve.Log:
		st.begin(s, running, e.Time)
	case solve.Cached:
		st.end(s, cached, e)
	case solve.Done:
		st.end(s, done, e)
	case solve.Skipped:
		s.cause = cleanText(e.Cause)
		st.end(s, skipped, e)
	case solve.Failed:
		s.err = e.Err
		if errors.Is(e.Err, context.Canceled) {
			st.end(s, canceled, e)
			break
		}
		st.end(s, failed, e)
	case solve.Queued, solve.Note:
	}
	return s, true
}

func (st *state) set(s *step, to status) {
	st.count[s.status]--
	st.count[to]++
	s.status = to
}

func (st *state) begin(s *step, to status, now time.Time) {
	if s.status == queued {
		st.active = append(st.active, s)
	}
	if s.began.IsZero() {
		s.began = now
	}
	if to > s.status {
		st.set(s, to)
	}
}

func (st *state) end(s *step, to status, e solve.Event) {
	for i, a := range st.active {
		if a == s {
			st.active = append(st.active[:i:i], st.active[i+1:]...)
			break
		}
	}
	s.took = e.Dur
	if s.took == 0 && !s.began.IsZero() {
		s.took = e.Time.Sub(s.began)
	}
	st.set(s, to)
}

// endAll ends what still waits or runs when the build does, and returns it.
func (st *state) endAll(now time.Time, result error) []*step {
	open := st.active
	to := done
	if result != nil {
		to = canceled
	}
	for _, s := range open {
		st.end(s, to, solve.Event{Time: now})
	}
	return open
}

// finish ends the step's last lines and forgets what only a running step needs;
// the tail of a failed step is kept.
func (s *step) finish() {
	for i := range s.out {
		s.out[i].flush(s.tail.add)
	}
	s.bars, s.out = nil, [2]splitter{}
	if s.status != failed {
		s.tail = tail{}
	}
}

// keep adds a log event to the step's tail.
func (s *step) keep(e solve.Event) {
	s.stream = stream(e)
	data, dropped := skip(e.Data)
	if dropped > 0 {
		s.tail.total += dropped
		s.out[s.stream].rest = s.out[s.stream].rest[:0]
	}
	s.out[s.stream].write(data, s.tail.add)
}

// stream returns the index of the event's stream.
func stream(e solve.Event) int {
	if e.Stream == 2 {
		return 1
	}
	return 0
}

// move brings a Progress event into its bar and returns the bar.
func (s *step) move(e solve.Event) *bar {
	b := s.bar(cleanText(e.Item))
	if b == nil {
		b = &bar{item: cleanText(e.Item), began: e.Time, mark: e.Time, nextMark: e.Time, markAt: e.Current, nextMarkAt: e.Current}
		s.bars = append(s.bars, b)
	}
	b.unit, b.current, b.total = cleanText(e.Unit), e.Current, e.Total
	if e.Time.Sub(b.nextMark) >= time.Second {
		b.mark, b.markAt = b.nextMark, b.nextMarkAt
		b.nextMark, b.nextMarkAt = e.Time, e.Current
	}
	if b.ended.IsZero() && b.total > 0 && b.current >= b.total {
		b.ended = e.Time
	}
	return b
}

func (s *step) bar(item string) *bar {
	for _, b := range s.bars {
		if b.item == item {
			return b
		}
	}
	return nil
}

// rate returns units per second; 0 where too little time has passed.
func (b *bar) rate(now time.Time) int64 {
	d := now.Sub(b.mark)
	if d < 500*time.Millisecond || b.current <= b.markAt {
		return 0
	}
	return int64(float64(b.current-b.markAt) / d.Seconds())
}

// progress tells in one line where the item is.
func (b *bar) progress(now time.Time) string {
	out := b.item + ": " + b.amount(b.current)
	if b.total > 0 {
		out += " of " + b.amount(b.total)
	}
	if r := b.rate(now); r > 0 {
		out += ", " + b.amount(r) + "/s"
	}
	return out
}

// amount gives n in the bar's unit.
func (b *bar) amount(n int64) string {
	if b.unit == "" {
		return Bytes(n)
	}
	return fmt.Sprintf("%d %s", n, b.unit)
}

// summary is the last line: what was done and how long it took.
func (st *state) summary(now time.Time) string {
	ended := len(st.steps) - st.count[queued] - st.count[waiting] - st.count[running]
	steps := fmt.Sprintf("%d steps", len(st.steps))
	switch {
	case ended < len(st.steps):
		steps = fmt.Sprintf("%d/%d steps", ended, len(st.steps))
	case ended == 1:
		steps = "1 step"
	}
	out := []string{steps}
	for _, c := range []struct {
		status status
		word   string
	}{{cached, "cached"}, {skipped, "skipped"}, {canceled, "canceled"}, {failed, "failed"}} {
		if n := st.count[c.status]; n > 0 {
			out = append(out, fmt.Sprintf("%d %s", n, c.word))
		}
	}
	return strings.Join(append(out, Duration(now.Sub(st.first))), ", ")
}

// errText is what went wrong with a step, beside the step's name.
func (s *step) errText() string {
	if s.err == nil {
		return "no reason given"
	}
	return cleanText(strings.TrimPrefix(s.err.Error(), s.Name+": "))
}

// inParens adds a reason to a line, if there is one.
func inParens(s string) string {
	if s == "" {
		return ""
	}
	return " (" + s + ")"
}
