// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"
	"strings"
	"time"

	"build.stacker.dev/internal/solve"
)

// plain prints one line per happening, for logs and for grep:
//
//	#2 CACHED [base] import foo.txt
//	#3 [base] run
//	#3 not cached: this step was not built before
//	#3 0.213 what the step printed 0.213 s after it began
//	#4 [app] base docker://docker.io/library/alpine:3.22
//	#4 pull 3f2a9c01: 12 MB of 25 MB, 4.2 MB/s
//	#4 pull 3f2a9c01: 25 MB in 6.1s
//	#4 DONE 6.2s
//	#3 ERROR [base] run: exit status 1
//	4 steps, 1 cached, 1 failed, 7.4s
//
// A number stands for the same step in all lines. Notes about the whole build
// have no prefix. No line is ever taken back.
type plain struct {
	out    io.Writer
	color  bool // let through the colours of steps
	noLogs bool // what steps print goes elsewhere
	state  *state
	buf    []byte
}

// tellEvery is how often an item that moves gets a line.
const tellEvery = 5 * time.Second

func newPlain(out io.Writer, o Options) *plain {
	return &plain{out: out, color: o.Color, noLogs: o.RunOutput != nil, state: newState()}
}

func (p *plain) handle(e solve.Event) error {
	s, ok := p.state.apply(e)
	if !ok {
		return nil
	}
	p.buf = p.buf[:0]
	switch e.Kind {
	case solve.Queued:
	case solve.Waiting:
		p.header(s)
		p.linef(s, "waiting: %s", s.cause)
	case solve.Started:
		p.header(s)
		if s.cause != "" {
			p.linef(s, "not cached: %s", s.cause)
		}
	case solve.Progress:
		p.header(s)
		p.progress(s, e)
	case solve.Log:
		p.log(s, e)
	case solve.Note:
		p.note(s, e)
	case solve.Cached, solve.Done, solve.Failed, solve.Skipped:
		p.end(s, e.Time)
	}
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.out.Write(p.buf)
	return err
}

func (p *plain) close(now time.Time, result error) error {
	p.buf = p.buf[:0]
	for _, s := range p.state.endAll(now, result) {
		p.end(s, now)
	}
	if len(p.state.steps) > 0 {
		p.buf = append(p.buf, p.state.summary(now)+"\n"...)
	}
	if len(p.buf) == 0 {
		return nil
	}
	_, err := p.out.Write(p.buf)
	return err
}

func (p *plain) linef(s *step, format string, args ...any) {
	p.buf = fmt.Appendf(p.buf, "#%d ", s.num)
	p.buf = fmt.Appendf(p.buf, format, args...)
	p.buf = append(p.buf, '\n')
}

// header names the step once, before the first line about it.
func (p *plain) header(s *step) {
	if !s.headed {
		s.headed = true
		p.linef(s, "%s", s.label)
	}
}

func (p *plain) log(s *step, e solve.Event) {
	if p.noLogs {
		return
	}
	p.header(s)
	prefix := logPrefix(s, e.Time)
	s.out[stream(e)].write(e.Data, func(line []byte) {
		p.buf = appendLine(append(p.buf, prefix...), line, p.color)
	})
}

// logPrefix stands before what a step prints.
func logPrefix(s *step, now time.Time) string {
	return fmt.Sprintf("#%d %.3f ", s.num, max(0, now.Sub(s.began)).Seconds())
}

// flush prints the lines that the step did not end.
func (p *plain) flush(s *step, now time.Time) {
	prefix := logPrefix(s, now)
	for i := range s.out {
		s.out[i].flush(func(line []byte) {
			p.buf = appendLine(append(p.buf, prefix...), line, p.color)
		})
	}
}

func (p *plain) progress(s *step, e solve.Event) {
	b := s.bar(cleanText(e.Item))
	switch {
	case !b.ended.IsZero():
		if !b.finished {
			b.finished = true
			p.linef(s, "%s: %s in %s", b.item, b.amount(b.total), Duration(b.ended.Sub(b.began)))
		}
	case b.told.IsZero(): // the first line waits its time, too
		b.told = e.Time
	case e.Time.Sub(b.told) >= tellEvery:
		b.told = e.Time
		p.linef(s, "%s", b.progress(e.Time))
	}
}

func (p *plain) note(s *step, e solve.Event) {
	text := strings.TrimRight(e.Text, "\n")
	for line := range strings.SplitSeq(text, "\n") {
		if s != nil {
			p.buf = fmt.Appendf(p.buf, "#%d ", s.num)
		}
		if e.Level == solve.Warning {
			p.buf = append(p.buf, "warning: "...)
		}
		p.buf = appendClean(p.buf, []byte(line), false)
		p.buf = append(p.buf, '\n')
	}
}

func (p *plain) end(s *step, now time.Time) {
	p.flush(s, now)
	switch s.status {
	case done:
		p.header(s)
		p.linef(s, "DONE %s", Duration(s.took))
	case cached:
		p.linef(s, "CACHED %s", s.label)
	case failed:
		p.linef(s, "ERROR %s: %s", s.label, s.errText())
	case canceled:
		p.linef(s, "CANCELED %s", s.label)
	case skipped:
		p.linef(s, "SKIPPED %s%s", s.label, inParens(s.cause))
	case queued, waiting, running:
	}
	s.finish()
}
