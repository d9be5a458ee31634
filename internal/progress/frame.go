// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"strings"
	"time"
)

// maxTail is how many lines of its output a running step shows, maxBars how
// many of its items.
const (
	maxTail = 6
	maxBars = 8
)

// indent is the width of mark and time in front of every step.
const indent = 10

// theme is what the view draws with.
type theme struct {
	color                            bool
	ok, fail, skip, warn, pipe       string
	full, head, empty, more, between string
	spin                             []string
}

func newTheme(o Options) theme {
	if o.ASCII {
		return theme{
			color: o.Color, ok: "+", fail: "x", skip: "-", warn: "!", pipe: "|",
			full: "=", head: ">", empty: ".", more: "...", between: " - ",
			spin: []string{"|", "/", "-", "\\"},
		}
	}
	return theme{
		color: o.Color, ok: "✔", fail: "✘", skip: "–", warn: "!", pipe: "│",
		full: "━", head: "╸", empty: "─", more: "…", between: " · ",
		spin: []string{"⠋", "⠙", "⠹", "⠸", "⠼", "⠴", "⠦", "⠧", "⠇", "⠏"},
	}
}

func (t theme) sgr(code, s string) string {
	if !t.color || s == "" {
		return s
	}
	return "\x1b[" + code + "m" + s + sgrReset
}

func (t theme) dim(s string) string    { return t.sgr("2", s) }
func (t theme) bold(s string) string   { return t.sgr("1", s) }
func (t theme) red(s string) string    { return t.sgr("31", s) }
func (t theme) green(s string) string  { return t.sgr("32", s) }
func (t theme) yellow(s string) string { return t.sgr("33", s) }
func (t theme) cyan(s string) string   { return t.sgr("36", s) }

// frame returns the live part of the view: what waits or runs now, and the
// summary. There are fewer than height lines, none reaches width columns.
func (st *state) frame(t theme, now time.Time, width, height int) []string {
	rows := height - 2 // the summary and the cursor's line
	if rows < 0 || len(st.steps) == 0 {
		return nil
	}
	shown := st.active
	if len(shown) > rows {
		shown = shown[:max(0, rows-1)]
		rows = len(shown) // and one that says how many there are
	}
	var lines []string
	details := share(shown, rows-len(shown))
	for i, s := range shown {
		lines = append(lines, t.running(s, now, width))
		lines = append(lines, t.details(s, now, width, details[i])...)
	}
	if n := len(st.active) - len(shown); n > 0 && height > 2 {
		lines = append(lines, t.dim(fit(fmt.Sprintf("%*s%s and %d more", indent, "", t.more, n), width-1, t.more)))
	}
	return append(lines, t.bold(fit("   "+st.summary(now), width-1, t.more)))
}

// share distributes rows among the steps that have something to show below
// their line: one each, and again, until there are no more.
func share(steps []*step, rows int) []int {
	got := make([]int, len(steps))
	for more := true; more && rows > 0; {
		more = false
		for i, s := range steps {
			if rows > 0 && got[i] < s.wants() {
				got[i]++
				rows--
				more = true
			}
		}
	}
	return got
}

// wants returns how many rows the step would fill.
func (s *step) wants() int {
	n := min(len(s.tail.lines), maxTail)
	if n < maxTail && len(s.out[s.stream].partial()) > 0 {
		n++
	}
	return n + min(len(s.moving()), maxBars)
}

// moving returns the items that have not arrived.
func (s *step) moving() []*bar {
	var out []*bar
	for _, b := range s.bars {
		if b.ended.IsZero() {
			out = append(out, b)
		}
	}
	return out
}

// running is the line of a step that waits or runs.
func (t theme) running(s *step, now time.Time, width int) string {
	elapsed := max(0, now.Sub(s.began))
	mark := t.cyan(t.spin[int(elapsed/tickEvery)%len(t.spin)])
	head := " " + mark + fmt.Sprintf("%7s ", Duration(elapsed))
	var more []string
	if n := len(s.bars); n > 1 {
		more = append(more, fmt.Sprintf("%d/%d", n-len(s.moving()), n))
	}
	if s.status == waiting {
		more = append(more, "waiting")
	}
	// What is short and says something new is not cut for a long name.
	rest := strings.Join(more, t.between)
	if rest != "" {
		rest = t.between + rest
	}
	label := fit(s.label, width-1-indent-columns(rest), t.more)
	if room := width - 1 - indent - columns(label+rest); s.cause != "" && room > 16 {
		rest += fit(t.between+s.cause, room, t.more)
	}
	return clip(head+label+t.dim(rest), width)
}

// clip drops a line that even without its label is too wide.
func clip(line string, width int) string {
	if columns(line) >= width {
		return ""
	}
	return line
}

// details are the lines under a running step: its items, then what it printed.
func (t theme) details(s *step, now time.Time, width, rows int) []string {
	moving := s.moving()
	hidden := 0
	if n := min(rows, maxBars); len(moving) > n {
		hidden = len(moving) - max(0, n-1)
		moving = moving[:len(moving)-hidden]
	}
	lines := t.bars(moving, now, width)
	if hidden > 0 && rows > 0 {
		lines = append(lines, t.dim(fit(fmt.Sprintf("%*s%s and %d more", indent, "", t.more, hidden), width-1, t.more)))
	}
	for _, text := range s.lastLines(rows-len(lines), width) {
		lines = append(lines, t.dim(fit(fmt.Sprintf("%*s%s %s", indent, "", t.pipe, text), width-1, t.more)))
	}
	return lines
}

// lastLines returns the end of what the step printed, clean and without
// colours; the line that it is at counts as one.
func (s *step) lastLines(n, width int) []string {
	if n <= 0 {
		return nil
	}
	raw := s.tail.last(n)
	if p := s.out[s.stream].partial(); len(p) > 0 {
		raw = append(raw, p)
		raw = raw[max(0, len(raw)-n):]
	}
	out := make([]string, len(raw))
	for i, line := range raw {
		line = line[:min(len(line), 8*width)] // the rest cannot be seen
		out[i] = expandTabs(string(appendClean(nil, line, false)))
	}
	return out
}

// bars draws items below each other, their columns in line.
func (t theme) bars(bars []*bar, now time.Time, width int) []string {
	name := 0
	for _, b := range bars {
		name = max(name, columns(b.item))
	}
	name = min(name, 32, max(8, width/3))
	const amounts = len("  999 MB of 999 MB  999 MB/s") + 1
	long := min(30, width-indent-name-2-amounts)
	lines := make([]string, 0, len(bars))
	for _, b := range bars {
		item := fit(b.item, name, t.more)
		line := strings.Repeat(" ", indent) + item + strings.Repeat(" ", name-columns(item)) + "  "
		amount := b.amount(b.current)
		if b.total > 0 {
			if long >= 5 {
				line += t.bar(b, long) + "  "
			}
			amount += " of " + b.amount(b.total)
		}
		if r := b.rate(now); r > 0 {
			amount += "  " + b.amount(r) + "/s"
		}
		room := width - 1 - columns(line)
		lines = append(lines, clip(line+fit(amount, max(0, room), t.more), width))
	}
	return lines
}

// bar draws how far an item of known size is.
func (t theme) bar(b *bar, long int) string {
	part := min(1, max(0, float64(b.current)/float64(b.total)))
	n := int(part * float64(long))
	full := strings.Repeat(t.full, n)
	rest := long - n
	if rest > 0 && n > 0 {
		full += t.head
		rest--
	}
	return t.cyan(full) + t.dim(strings.Repeat(t.empty, rest))
}

// finished is the line that stays of a step that has ended.
func (t theme) finished(s *step, width int) string {
	mark, at, more := t.ok, Duration(s.took), ""
	paint := func(s string) string { return s }
	switch s.status {
	case cached:
		at, paint = "cached", t.dim
	case skipped:
		mark, at, more, paint = t.skip, "", " skipped"+inParens(s.cause), t.dim
	case canceled:
		mark, more, paint = t.skip, " canceled", t.dim
	case failed:
		// The error must be seen whole.
		return " " + t.red(t.fail) + fmt.Sprintf("%7s ", at) + s.label + ": " + t.red(s.errText())
	case done:
		mark = t.green(mark)
	case queued, waiting, running:
	}
	label := fit(s.label, max(0, width-1-indent-columns(more)), t.more)
	return paint(" " + mark + fmt.Sprintf("%7s ", at) + label + more)
}

// note is the line that stays of a Note.
func (t theme) note(text string, warning bool) string {
	if warning {
		return " " + t.yellow(t.warn+" warning") + " " + text
	}
	return t.dim(strings.Repeat(" ", indent) + text)
}
