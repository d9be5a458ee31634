// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package progress

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"build.stacker.dev/internal/solve"
)

var update = flag.Bool("update", false, "write the golden files")

func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s (renew with -update):\ngot:\n%s\nwant:\n%s", name, got, want)
	}
}

var epoch = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func at(seconds float64) time.Time { return epoch.Add(time.Duration(seconds * float64(time.Second))) }

var (
	base = solve.Vertex{ID: strings.Repeat("ab", 32), Stage: "base", Name: "base docker://docker.io/library/alpine:3.22"}
	imp  = solve.Vertex{ID: "import", Stage: "app", Name: "import foo\x1b]0;title\a.txt"}
	run  = solve.Vertex{ID: "run", Stage: "app", Name: "run make \\\n  all", Pos: "/p/stacker.yaml:7:3"}
	tool = solve.Vertex{ID: "tool", Stage: "tools", Name: "run true"}
	late = solve.Vertex{ID: "late", Stage: "tools", Name: "run false"}
	gone = solve.Vertex{ID: "gone", Stage: "tools", Name: "copy a b"}
)

// events is a build in which about everything happens.
func events() []solve.Event {
	pull := func(sec float64, item string, cur, total int64) solve.Event {
		return solve.Event{Kind: solve.Progress, Vertex: base, Time: at(sec), Item: item, Current: cur, Total: total}
	}
	out := func(sec float64, stream int, text string) solve.Event {
		return solve.Event{Kind: solve.Log, Vertex: run, Time: at(sec), Stream: stream, Data: []byte(text)}
	}
	return []solve.Event{
		{Kind: solve.Note, Time: at(0), Text: "preparing image app..."},
		{Kind: solve.Queued, Vertex: late, Time: at(0)},
		{Kind: solve.Started, Vertex: base, Time: at(0)},
		pull(0.1, "pull 3f2a9c01", 0, 25_000_000),
		pull(0.1, "pull 77aa0011", 0, 0),
		pull(1.5, "pull 3f2a9c01", 3_000_000, 25_000_000),
		{Kind: solve.Cached, Vertex: imp, Time: at(2), Dur: 3 * time.Second},
		{Kind: solve.Waiting, Vertex: tool, Time: at(2), Cause: "another build does the same step"},
		pull(5.2, "pull 3f2a9c01", 20_000_000, 25_000_000),
		pull(5.2, "pull 77aa0011", 1000, 0),
		pull(6, "pull 3f2a9c01", 25_000_000, 25_000_000),
		{Kind: solve.Progress, Vertex: base, Time: at(6), Item: "unpack", Current: 120, Total: 200, Unit: "files"},
		{Kind: solve.Done, Vertex: base, Time: at(6.5), Dur: 6500 * time.Millisecond},
		{Kind: solve.Started, Vertex: run, Time: at(7), Cause: "import content changed: foo.txt"},
		out(7.25, 1, "hello\nwor"),
		{Kind: solve.Cached, Vertex: tool, Time: at(7.5)},
		out(8, 2, "warning: \x1b[33myellow\x1b[2J\n"),
		out(8.5, 1, "ld\n10%\r50%\r"),
		{Kind: solve.Note, Level: solve.Warning, Vertex: run, Time: at(8.6), Text: "clock skew\x1b[1A"},
		{Kind: solve.Skipped, Vertex: gone, Time: at(9), Cause: "nothing reads it"},
		{Kind: solve.Failed, Vertex: run, Time: at(9.5), Dur: 2500 * time.Millisecond, Err: errors.New("exit status 2\nreally")},
		{Kind: solve.Log, Vertex: run, Time: at(9.6), Data: []byte("too late\n")},
		{Kind: solve.Failed, Vertex: late, Time: at(9.7), Err: fmt.Errorf("wait: %w", context.Canceled)},
	}
}

func show(t *testing.T, mode Mode, o Options) []byte {
	t.Helper()
	var out bytes.Buffer
	o.Now = func() time.Time { return at(10) }
	d := New(mode, &out, o)
	for _, e := range events() {
		d.Handle(e)
	}
	if err := d.Close(errors.New("exit status 2")); err != nil {
		t.Error(err)
	}
	d.Handle(solve.Event{Kind: solve.Note, Text: "after close"})
	if err := d.Close(nil); err != nil {
		t.Error(err)
	}
	return out.Bytes()
}

func TestPlain(t *testing.T) {
	got := show(t, Plain, Options{})
	golden(t, "plain.golden", got)
	if bad := commands(got); bad != "" || bytes.Contains(got, []byte("\x1b")) {
		t.Errorf("output commands the terminal: %q", bad)
	}
	if auto := show(t, Auto, Options{}); !bytes.Equal(auto, got) {
		t.Errorf("auto without a terminal: got\n%s\nwant plain", auto)
	}
	if tty := show(t, TTY, Options{}); !bytes.Equal(tty, got) {
		t.Errorf("tty without a terminal: got\n%s\nwant plain", tty)
	}
}

func TestPlainColor(t *testing.T) {
	got := show(t, Plain, Options{Color: true})
	if want := "#5 1.000 warning: \x1b[33myellow\\x1b[2J\x1b[0m\n"; !bytes.Contains(got, []byte(want)) {
		t.Errorf("got\n%q\nwant a line %q", got, want)
	}
}

func TestRunOutput(t *testing.T) {
	var raw bytes.Buffer
	got := show(t, Plain, Options{RunOutput: &raw})
	if want := "hello\nworwarning: \x1b[33myellow\x1b[2J\nld\n10%\r50%\r"; !strings.HasPrefix(raw.String(), want) {
		t.Errorf("RunOutput got %q, want %q", raw.String(), want)
	}
	if bytes.Contains(got, []byte("hello")) {
		t.Errorf("plain repeats what RunOutput got:\n%s", got)
	}
	if !bytes.Contains(got, []byte("ERROR [app] run make ...: exit status 2 really\n")) {
		t.Errorf("plain does not tell the error:\n%s", got)
	}
}

func TestQuiet(t *testing.T) {
	golden(t, "quiet.golden", show(t, Quiet, Options{}))
	var out bytes.Buffer
	d := New(Quiet, &out, Options{})
	d.Handle(solve.Event{Kind: solve.Done, Vertex: run})
	if err := d.Close(nil); err != nil || out.Len() > 0 {
		t.Errorf("a good build prints %q, %v; want nothing", out.Bytes(), err)
	}
}

func TestRawJSON(t *testing.T) {
	got := show(t, RawJSON, Options{})
	golden(t, "rawjson.golden", got)
	dec := json.NewDecoder(bytes.NewReader(got))
	dec.DisallowUnknownFields()
	for {
		var s statusJSON
		err := dec.Decode(&s)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if len(s.Vertexes)+len(s.Statuses)+len(s.Logs)+len(s.Warnings) != 1 {
			t.Errorf("a line tells not one thing: %+v", s)
		}
	}
	if bad := commands(got); bad != "" {
		t.Errorf("JSON commands the terminal: %q", bad)
	}
	var out bytes.Buffer
	d := New(RawJSON, &out, Options{})
	name := "a\u009b\u202e\x7f\U000e0041é"
	d.Handle(solve.Event{Kind: solve.Queued, Vertex: solve.Vertex{ID: "x", Name: name}})
	var s statusJSON
	if err := json.Unmarshal(out.Bytes(), &s); err != nil || s.Vertexes[0].Name != name || commands(out.Bytes()) != "" {
		t.Errorf("name %q is written as %s (%v)", name, out.Bytes(), err)
	}
}

func TestParseMode(t *testing.T) {
	for in, want := range map[string]Mode{"": Auto, "auto": Auto, "tty": TTY, "plain": Plain, "rawjson": RawJSON, "quiet": Quiet, "none": Quiet} {
		if got, err := ParseMode(in); got != want || err != nil {
			t.Errorf("ParseMode(%q) = %q, %v, want %q", in, got, err, want)
		}
	}
	if _, err := ParseMode("fancy"); err == nil || !strings.Contains(err.Error(), "rawjson") {
		t.Errorf("ParseMode(fancy): %v, want an error that lists the modes", err)
	}
}

func TestForTerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	for _, c := range []struct {
		env          map[string]string
		color, ascii bool
	}{
		{map[string]string{}, true, true},
		{map[string]string{"NO_COLOR": "1", "LANG": "de_DE.UTF-8"}, false, false},
		{map[string]string{"LC_ALL": "C", "LANG": "de_DE.UTF-8"}, true, true},
		{map[string]string{"LC_CTYPE": "C.utf8", "LANG": "ja_JP.SJIS"}, true, false},
	} {
		o := ForTerminal(null, func(k string) string { return c.env[k] })
		if o.Size != nil || o.Color != c.color || o.ASCII != c.ascii {
			t.Errorf("%v: terminal %t, color %t, ascii %t; want false, %t, %t", c.env, o.Size != nil, o.Color, o.ASCII, c.color, c.ascii)
		}
	}
}

type brokenWriter struct{ writes int }

func (w *brokenWriter) Write([]byte) (int, error) { w.writes++; return 0, io.ErrClosedPipe }

func TestBrokenOutput(t *testing.T) {
	for _, mode := range []Mode{Plain, TTY, RawJSON, Quiet} {
		w := &brokenWriter{}
		d := New(mode, w, Options{Size: func() (int, int) { return 80, 24 }})
		for _, e := range events() {
			d.Handle(e)
		}
		if err := d.Close(nil); !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("%s: Close = %v, want %v", mode, err, io.ErrClosedPipe)
		}
		if w.writes > 2 {
			t.Errorf("%s: %d writes to a closed pipe, want few", mode, w.writes)
		}
	}
}

// Steps tell from goroutines of their own while the view draws and is closed.
func TestConcurrent(t *testing.T) {
	for _, mode := range []Mode{Plain, TTY, RawJSON, Quiet} {
		d := New(mode, io.Discard, Options{Size: func() (int, int) { return 80, 24 }, Color: true})
		var wg sync.WaitGroup
		for i := range 8 {
			v := solve.Vertex{ID: fmt.Sprint(i), Stage: "s", Name: "run"}
			wg.Go(func() {
				d.Handle(solve.Event{Kind: solve.Started, Vertex: v})
				for n := range 200 {
					d.Handle(solve.Event{Kind: solve.Log, Vertex: v, Stream: n%2 + 1, Data: []byte("some\x1b[1m text\nmore")})
					d.Handle(solve.Event{Kind: solve.Progress, Vertex: v, Item: fmt.Sprint(n % 3), Current: int64(n), Total: 150})
				}
				d.Handle(solve.Event{Kind: solve.Failed, Vertex: v, Err: io.EOF})
			})
		}
		wg.Go(func() {
			if err := d.Close(nil); err != nil {
				t.Errorf("%s: %v", mode, err)
			}
		})
		wg.Wait()
	}
}
