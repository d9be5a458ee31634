// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package dockerfile

import (
	"bytes"
	"errors"
	"regexp"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/parser"

	"build.stacker.dev/internal/frontend/llb"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/nearest"
)

// Mistake is something wrong in a Dockerfile, or in what is asked for of it.
type Mistake struct {
	Pos   graph.Pos // no line: of the build as a whole
	Quote string    // the line as written; empty: none
	Text  string
	Hint  string // what to do; may be empty
	Err   error
}

// Error gives place and message in one line.
func (e *Mistake) Error() string {
	if e.Pos.Line == 0 {
		return e.Text
	}
	return e.Pos.String() + ": " + e.Text
}

// Unwrap gives the cause.
func (e *Mistake) Unwrap() error { return e.Err }

// explain makes a Mistake of what the converter says. data is the Dockerfile.
func (c *frontendClient) explain(err error, data []byte) error {
	var done *Mistake
	if err == nil || errors.As(err, &done) {
		return err
	}
	m := &Mistake{Pos: graph.Pos{File: c.options.File}, Err: err, Text: err.Error()}
	var known *llb.PosError
	var at *parser.LocationError
	switch {
	case errors.As(err, &known):
		m.Pos, m.Text = known.Pos, known.Err.Error()
	case errors.As(err, &at) && len(at.Locations) > 0 && len(at.Locations[0]) > 0:
		r := at.Locations[0][0]
		m.Pos.Line, m.Pos.Column = r.Start.Line, r.Start.Character+1
	default:
		m.Pos.Line = search(m.Text, data)
		m.Pos.Column = min(m.Pos.Line, 1)
	}
	m.Quote = line(data, m.Pos.Line)
	m.Text, m.Hint = clear(m.Text, m.Quote)
	if m.Hint == "" {
		m.Hint = c.stageHint(m.Text, data)
	}
	if m.Pos.Line == 0 && m.Hint == "" {
		return err
	}
	return m
}

// line gives a line, counted from 1, without its end.
func line(data []byte, n int) string {
	lines := bytes.Split(data, []byte("\n"))
	if n < 1 || n > len(lines) {
		return ""
	}
	return string(bytes.TrimRight(lines[n-1], "\r"))
}

// unresolved matches what is said of an image that is not found.
var unresolved = regexp.MustCompile(`^(\S+): failed to resolve source metadata for `)

// noStage matches what is said of a --from that counts further than there are stages.
var noStage = regexp.MustCompile(`^invalid stage index (\d+)$`)

// search finds the line that a message is about which has no place: that of a parser
// directive, or of a --from or a mount; 0: it is about something else.
func search(text string, data []byte) int {
	want := ""
	m := unresolved.FindStringSubmatch(text)
	if m == nil {
		m = noStage.FindStringSubmatch(text)
	}
	switch {
	case strings.Contains(text, "failed to parse check option"):
		want = `^#\s*(?i:check)\s*=`
	case strings.HasPrefix(text, "variable expansion is not supported for --from"):
		want = `--from=\S*\$`
	case m != nil:
		want = `from=` + regexp.QuoteMeta(m[1]) + `\b`
	default:
		return 0
	}
	re := regexp.MustCompile(want)
	for i, l := range bytes.Split(data, []byte("\n")) {
		if re.Match(l) {
			return i + 1
		}
	}
	return 0
}

// stageHint names stages where one is asked for that is not there.
func (c *frontendClient) stageHint(text string, data []byte) string {
	word, ok := strings.CutPrefix(text, "target stage ")
	if !ok {
		return ""
	}
	word, _, _ = strings.Cut(word, " could not be found")
	var names []string
	for _, m := range regexp.MustCompile(`(?im)^\s*FROM\s.*\sAS\s+(\S+)\s*$`).FindAllSubmatch(data, -1) {
		names = append(names, string(m[1]))
	}
	if near := nearest.Word(strings.Trim(word, `"`), names); near != "" {
		return "did you mean " + near + "?"
	}
	if len(names) == 0 {
		return "no stage has a name: write FROM … AS NAME"
	}
	return "the stages are " + strings.Join(names, ", ")
}
