// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package solve

import "time"

// EventKind says what an [Event] tells.
type EventKind int

// The life of a vertex is any number of Queued, Waiting, Started, Progress, Log
// and Note, in any order, and then one of Cached, Done, Failed, Skipped, after
// which nothing more is told about it. Queued and Started may be left out.
const (
	Queued   EventKind = iota + 1 // the vertex is part of the build and will have its turn
	Waiting                       // somebody else does the work; Cause says who
	Started                       // the work begins; Cause says why it was not cached
	Progress                      // Item is at Current of Total
	Log                           // Data was printed on Stream
	Note                          // Text, one line; about the whole build where Vertex.ID is empty
	Cached                        // the kept result was used; Dur is what it once took
	Done                          // the work is done and took Dur
	Failed                        // the work ended with Err after Dur
	Skipped                       // the vertex turned out not to be needed; Cause says why
)

// String gives the kind in lower case.
func (k EventKind) String() string {
	names := [...]string{"unknown", "queued", "waiting", "started", "progress", "log", "note", "cached", "done", "failed", "skipped"}
	if k < 0 || int(k) >= len(names) {
		return names[0]
	}
	return names[k]
}

// Level says how much a Note matters.
type Level int

// The levels of a Note.
const (
	Info Level = iota
	Warning
)

// Vertex names a vertex for people. It is comparable; two are the same vertex
// if their IDs are equal.
type Vertex struct {
	ID    string // of the graph's vertex, or any other unique text where the work is none (an export)
	Stage string // the stage that it belongs to; may be empty
	Name  string // the step as people call it: "run", "import foo.txt", "base docker://…"
	Pos   string // file:line:column; may be empty
}

// Event is one thing that happened while a build ran. Only the fields that its
// Kind speaks of are set. Texts may come from build files, images and steps: who
// shows them must neutralise control sequences.
type Event struct {
	Kind    EventKind
	Vertex  Vertex
	Time    time.Time     // when it happened; zero: when it is received
	Dur     time.Duration // Cached, Done, Failed
	Cause   string        // Waiting, Started, Skipped: why, one line; may be empty
	Changes []Change      // Started: how the step differs from its last run
	Text    string        // Note
	Level   Level         // Note
	Err     error         // Failed; one that wraps context.Canceled says that the step was only stopped

	// Of Progress. Items of one vertex move independently; one is finished when
	// Current reaches a known Total, or with its vertex.
	Item    string // what moves, as people call it: "pull 3f2a9c01"
	Current int64
	Total   int64  // ≤ 0: not known
	Unit    string // empty: bytes; else what is counted, in the plural: "files"

	// Of Log. Data is the sink's only until it returns.
	Stream int // 1 or 2
	Data   []byte
}

// Sink receives events. It is called from any goroutine and must be quick;
// a sink that blocks holds up the step that printed.
type Sink func(Event)
