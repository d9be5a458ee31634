// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/solve"
)

// story tells a build in the sentences that scripts around stacker.yaml look
// for, beside what the display shows of it: "preparing image a...",
// "cache miss because …", "found cached layer a". It tells each once per stage,
// and only where progress is lines.
type story struct {
	show  solve.Sink
	lines bool
	bases map[string]string // by stage: the image that it starts from

	mu   sync.Mutex
	ran  map[string]bool // stages of which a step ran
	kept map[string]bool // stages of which a step was reused
	told map[string]bool
}

func newStory(show solve.Sink, lines bool, g *graph.Build) *story {
	s := &story{show: show, lines: lines, bases: map[string]string{}, ran: map[string]bool{}, kept: map[string]bool{}, told: map[string]bool{}}
	for _, t := range g.Targets {
		if t.Base != nil {
			s.bases[t.Name] = strings.TrimPrefix(t.Base.Name, "base ")
		}
	}
	return s
}

// handle passes an event on; it is a solve.Sink.
func (s *story) handle(e solve.Event) {
	if e.Kind == solve.Started && s.lines {
		for _, text := range s.begin(e) {
			s.show(solve.Event{Kind: solve.Note, Text: text, Time: e.Time})
		}
	}
	if e.Kind == solve.Cached {
		s.mu.Lock()
		s.kept[e.Vertex.Stage] = true
		s.mu.Unlock()
	}
	s.show(e)
}

// tell tells a sentence where progress is lines.
func (s *story) tell(text string) {
	if s.lines {
		s.show(solve.Event{Kind: solve.Note, Text: text, Time: time.Now()})
	}
}

// begin gives the sentences for a step that is about to run.
func (s *story) begin(e solve.Event) []string {
	stage := e.Vertex.Stage
	var all []string
	if base := s.bases[stage]; base != "" {
		all = append(all, "loading "+base)
	}
	all = append([]string{"preparing image " + stage + "..."}, all...)
	for _, c := range e.Changes {
		all = append(all, misses(e.Vertex.Name, c)...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ran[stage] = true
	return slices.DeleteFunc(all, func(text string) bool {
		key := stage + "\x00" + text
		known := s.told[key]
		s.told[key] = true
		return known
	})
}

// misses says why the last result is not used. step is the step's name.
func misses(step string, c solve.Change) []string {
	const because = "cache miss because "
	file, isImport := strings.CutPrefix(c.Name, "import ")
	switch {
	case c.Name == "base" || c.Name == "archive":
		return []string{because + "base layer was changed"}
	case c.Name == "SOURCE_DATE_EPOCH":
		return []string{because + "SOURCE_DATE_EPOCH changed"}
	case !isImport || slices.ContainsFunc([]string{" dest", " mode", " uid", " gid", " directory"}, func(s string) bool {
		return strings.HasSuffix(c.Name, s)
	}):
		return []string{because + "layer definition was changed"}
	case strings.HasPrefix(step, "overlay_dir "):
		text := because + "content of 1 overlay dirs changed:\nChanged overlay_dir: " + strings.TrimPrefix(step, "overlay_dir ")
		if len(c.Lines) > 0 {
			text += "\nContents that changed:\n" + strings.Join(c.Lines, "\n")
		}
		return []string{text}
	case c.Added:
		return []string{because + "new import: " + file}
	case c.Removed:
		return []string{because + "import was missing: " + file}
	case len(c.Lines) > 0 && c.Lines[0] == "  .: type":
		return []string{because + "import type changed: " + file}
	case len(c.Lines) > 1 || len(c.Lines) > 0 && !strings.HasPrefix(c.Lines[0], "  .: "):
		return []string{because + "import dir content changed: " + file}
	}
	return []string{because + "import content changed: " + file}
}

// end tells which images are as they were. before and after are the layout's tags.
func (s *story) end(g *graph.Build, archives []image.Archive, before, after map[string]digest.Digest) {
	for _, t := range g.Targets {
		if s.someMissing(t, archives, before) {
			s.tell("missing some cached layer output types, building anyway")
		}
		for i, a := range archives {
			if t.BuildOnly && i > 0 {
				break
			}
			s.show(solve.Event{Kind: solve.Note, Text: s.verdict(t, t.Name+export.Suffix(a), before, after), Time: time.Now()})
		}
	}
}

// someMissing tells whether the layout had images of some types only.
func (s *story) someMissing(t *graph.Target, archives []image.Archive, before map[string]digest.Digest) bool {
	n := 0
	for _, a := range archives {
		if before[t.Name+export.Suffix(a)] != "" {
			n++
		}
	}
	return !t.BuildOnly && !s.ran[t.Name] && n > 0 && n < len(archives)
}

// verdict is about one image of a target.
func (s *story) verdict(t *graph.Target, tag string, before, after map[string]digest.Digest) string {
	if t.BuildOnly {
		tag = t.Name
	}
	there := before[tag] != "" || t.BuildOnly
	if there && !s.ran[t.Name] && (s.kept[t.Name] || before[tag] == after[tag]) {
		return "found cached layer " + tag
	}
	return fmt.Sprintf("filesystem %s built successfully", tag)
}

// stamper writes lines with the time before each, for --log-timestamp. What it
// gets are whole lines.
type stamper struct {
	out io.Writer
	now func() time.Time
}

// Write implements io.Writer.
func (w *stamper) Write(p []byte) (int, error) {
	var b strings.Builder
	stamp := w.now().Format(time.RFC3339) + " "
	for line := range strings.Lines(string(p)) {
		b.WriteString(stamp + line)
	}
	if _, err := io.WriteString(w.out, b.String()); err != nil {
		return 0, err
	}
	return len(p), nil
}
