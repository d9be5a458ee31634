// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"sync/atomic"
	"testing"
)

func TestLeaving(t *testing.T) {
	var l leaving
	l.add("free", nil)
	l.wait([]string{"free", "never seen"})

	gone := make(chan struct{})
	l.add("tree", gone)
	var closed atomic.Bool
	go func() {
		closed.Store(true)
		close(gone)
	}()
	l.wait([]string{"free", "tree"})
	if !closed.Load() {
		t.Error("a tree that is in use was not waited for")
	}
	if len(l.trees) != 0 {
		t.Errorf("%d trees are still noted, want none", len(l.trees))
	}
}
