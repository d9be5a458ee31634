// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package par has the few forms of parallel work that several packages need.
package par

import (
	"context"
	"errors"
	"sync"
)

// Group does equal work once: callers of Do with the same key at the same time
// share one call and its result. The zero value is ready for use.
type Group[K comparable, V any] struct {
	mu    sync.Mutex
	calls map[K]*call[V]
}

type call[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// Do calls f, or waits for the call that is under way for the key. A caller
// whose own context ends stops waiting. Where the call that was waited for
// ended because its caller was canceled, the work is begun again.
func (g *Group[K, V]) Do(ctx context.Context, key K, f func() (V, error)) (V, error) {
	for {
		g.mu.Lock()
		if g.calls == nil {
			g.calls = map[K]*call[V]{}
		}
		c, others := g.calls[key]
		if !others {
			c = &call[V]{done: make(chan struct{})}
			g.calls[key] = c
		}
		g.mu.Unlock()
		if !others {
			c.value, c.err = f()
			g.mu.Lock()
			delete(g.calls, key)
			g.mu.Unlock()
			close(c.done)
			return c.value, c.err
		}
		select {
		case <-c.done:
			if errors.Is(c.err, context.Canceled) && ctx.Err() == nil {
				continue
			}
			return c.value, c.err
		case <-ctx.Done():
			var zero V
			return zero, context.Cause(ctx)
		}
	}
}
