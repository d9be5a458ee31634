// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"fmt"
	"io"
	"time"

	"build.stacker.dev/internal/solve"
)

// quiet prints nothing, but warnings and the end of what failed steps printed.
type quiet struct {
	out   io.Writer
	color bool
	state *state
}

func newQuiet(out io.Writer, o Options) *quiet {
	return &quiet{out: out, color: o.Color, state: newState()}
}

func (q *quiet) handle(e solve.Event) error {
	s, ok := q.state.apply(e)
	if !ok {
		return nil
	}
	switch e.Kind {
	case solve.Log:
		s.keep(e)
	case solve.Cached, solve.Done, solve.Failed, solve.Skipped:
		s.finish()
	case solve.Note:
		if e.Level == solve.Warning {
			_, err := fmt.Fprintf(q.out, "warning: %s\n", cleanText(e.Text))
			return err
		}
	case solve.Queued, solve.Waiting, solve.Started, solve.Progress:
	}
	return nil
}

func (q *quiet) close(time.Time, error) error {
	var buf []byte
	for _, s := range q.state.steps {
		if s.status == failed {
			buf = fmt.Appendf(buf, "%s: %s\n", s.label, s.errText())
			buf = s.appendTail(buf, "  | ", q.color)
		}
	}
	if len(buf) == 0 {
		return nil
	}
	_, err := q.out.Write(buf)
	return err
}
