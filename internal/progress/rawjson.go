// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
	"unicode/utf16"
	"unicode/utf8"

	"build.stacker.dev/internal/solve"
)

// rawJSON writes one JSON object per event and line, in the shape that
// BuildKit's clients print with --progress=rawjson (client.SolveStatus):
//
//	{"vertexes":[{"digest":"sha256:…","name":"[app] run","started":"2026-01-02T15:04:05Z"}]}
//	{"logs":[{"vertex":"sha256:…","stream":1,"data":"aGkK","timestamp":"…"}]}
//	{"statuses":[{"id":"pull 3f2a","vertex":"sha256:…","total":25,"current":12,"timestamp":"…","started":"…"}]}
//	{"warnings":[{"vertex":"sha256:…","level":1,"short":"dGV4dA=="}]}
//
// Log data and warnings are base64, as there. A note that is no warning is a
// vertex that begins and ends at once. Vertices have no inputs here.
type rawJSON struct {
	out   io.Writer
	state *state
}

type statusJSON struct {
	Vertexes []vertexJSON  `json:"vertexes,omitempty"`
	Statuses []itemJSON    `json:"statuses,omitempty"`
	Logs     []logJSON     `json:"logs,omitempty"`
	Warnings []warningJSON `json:"warnings,omitempty"`
}

type vertexJSON struct {
	Digest    string     `json:"digest"`
	Name      string     `json:"name,omitempty"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
	Cached    bool       `json:"cached,omitempty"`
	Error     string     `json:"error,omitempty"`
}

type itemJSON struct {
	ID        string     `json:"id"`
	Vertex    string     `json:"vertex"`
	Total     int64      `json:"total,omitempty"`
	Current   int64      `json:"current"`
	Timestamp time.Time  `json:"timestamp"`
	Started   *time.Time `json:"started,omitempty"`
	Completed *time.Time `json:"completed,omitempty"`
}

type logJSON struct {
	Vertex    string    `json:"vertex"`
	Stream    int       `json:"stream"`
	Data      []byte    `json:"data"`
	Timestamp time.Time `json:"timestamp"`
}

type warningJSON struct {
	Vertex string `json:"vertex,omitempty"`
	Level  int    `json:"level"`
	Short  []byte `json:"short"`
}

func newRawJSON(out io.Writer) *rawJSON {
	return &rawJSON{out: out, state: newState()}
}

func (r *rawJSON) handle(e solve.Event) error {
	s, ok := r.state.apply(e)
	if !ok {
		return nil
	}
	e.Time = e.Time.UTC()
	var out statusJSON
	switch e.Kind {
	case solve.Queued, solve.Waiting, solve.Started:
		out.Vertexes = []vertexJSON{vertexOf(s)}
	case solve.Cached, solve.Done, solve.Failed, solve.Skipped:
		out.Vertexes = []vertexJSON{endOf(s, e)}
		s.finish()
	case solve.Log:
		out.Logs = []logJSON{{Vertex: digestOf(s.ID), Stream: stream(e) + 1, Data: e.Data, Timestamp: e.Time}}
	case solve.Progress:
		out.Statuses = []itemJSON{itemOf(s, e)}
	case solve.Note:
		out = noteOf(s, e)
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(out); err != nil {
		return err
	}
	_, err := r.out.Write(escapeRunes(buf.Bytes()))
	return err
}

// escapeRunes writes as \u009b those characters that a terminal may obey and
// package json leaves as they are. All of them stand inside strings.
func escapeRunes(doc []byte) []byte {
	if !bytes.ContainsFunc(doc, obeyed) {
		return doc
	}
	var out []byte
	for _, r := range string(doc) {
		if !obeyed(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		for _, u := range utf16.AppendRune(nil, r) {
			out = fmt.Appendf(out, `\u%04x`, u)
		}
	}
	return out
}

func obeyed(r rune) bool { return r >= 0x7f && r < 0xa0 || steers(r) }

func (r *rawJSON) close(time.Time, error) error { return nil }

func vertexOf(s *step) vertexJSON {
	v := vertexJSON{Digest: digestOf(s.ID), Name: s.Name}
	if s.Stage != "" {
		v.Name = "[" + s.Stage + "] " + s.Name
	}
	if s.status >= running && !s.began.IsZero() {
		t := s.began.UTC()
		v.Started = &t
	}
	return v
}

func endOf(s *step, e solve.Event) vertexJSON {
	v := vertexOf(s)
	v.Completed = &e.Time
	if v.Started == nil {
		v.Started = &e.Time
	}
	v.Cached = s.status == cached
	if s.err != nil {
		v.Error = s.err.Error()
		if errors.Is(s.err, context.Canceled) {
			v.Error = context.Canceled.Error() // what BuildKit's clients look for
		}
	}
	return v
}

func itemOf(s *step, e solve.Event) itemJSON {
	b := s.bar(cleanText(e.Item))
	began := b.began.UTC()
	out := itemJSON{
		ID: e.Item, Vertex: digestOf(s.ID), Total: max(e.Total, 0), Current: e.Current,
		Timestamp: e.Time, Started: &began,
	}
	if !b.ended.IsZero() {
		out.Completed = &e.Time
	}
	return out
}

func noteOf(s *step, e solve.Event) statusJSON {
	if e.Level == solve.Warning {
		w := warningJSON{Level: 1, Short: []byte(e.Text)}
		if s != nil {
			w.Vertex = digestOf(s.ID)
		}
		return statusJSON{Warnings: []warningJSON{w}}
	}
	return statusJSON{Vertexes: []vertexJSON{{Digest: digestOf(e.Text), Name: e.Text, Started: &e.Time, Completed: &e.Time}}}
}

// digestOf gives a vertex' ID the form of a digest, which readers check.
func digestOf(id string) string {
	if b, err := hex.DecodeString(strings.TrimPrefix(id, "sha256:")); err == nil && len(b) == sha256.Size {
		return "sha256:" + hex.EncodeToString(b)
	}
	sum := sha256.Sum256([]byte(id))
	return "sha256:" + hex.EncodeToString(sum[:])
}
