// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"sync"
	"testing"
)

func TestFlusherGathers(t *testing.T) {
	var beside sync.WaitGroup
	f := &flusher{dir: t.TempDir(), beside: &beside}
	for _, step := range []struct {
		wrote, begun int64
	}{
		{flushStep - 1, 0},
		{1, flushStep},
		{flushStep - 1, flushStep},
		{3 * flushStep, 5*flushStep - 1}, // one flush for all that gathered
		{flushStep / 2, 5*flushStep - 1},
	} {
		f.wrote(step.wrote)
		beside.Wait()
		if got := f.begun.Load(); got != step.begun {
			t.Errorf("after %d more bytes a flush was begun at %d, want %d", step.wrote, got, step.begun)
		}
		if f.running.Load() {
			t.Errorf("a flush is said to run that has ended")
		}
	}
}

// A flush under way is not doubled: what is written meanwhile belongs to the next one.
func TestFlusherRunsOnce(t *testing.T) {
	var beside sync.WaitGroup
	f := &flusher{dir: t.TempDir(), beside: &beside}
	f.running.Store(true)
	f.wrote(2 * flushStep)
	if got := f.begun.Load(); got != 0 {
		t.Errorf("a second flush was begun at %d while one ran", got)
	}
	f.running.Store(false)
	f.wrote(1)
	beside.Wait()
	if got := f.begun.Load(); got != 2*flushStep+1 {
		t.Errorf("the next flush was begun at %d, want %d", got, 2*flushStep+1)
	}
}
