// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"sync"

	"build.stacker.dev/internal/layer"
)

// views are the stacks that were made into one directory for reading, where there
// are no overlays. They stay until the worker ends: a stack that was read once is
// often read again.
type views struct {
	mu  sync.Mutex
	all map[string]func() (string, error)
}

// get gives the directory of the stack named key, which make makes once.
func (v *views) get(key string, make func() (string, error)) (string, error) {
	v.mu.Lock()
	if v.all == nil {
		v.all = map[string]func() (string, error){}
	}
	f := v.all[key]
	if f == nil {
		f = sync.OnceValues(make)
		v.all[key] = f
	}
	v.mu.Unlock()
	return f()
}

// linked makes a directory with further names of all files of a stack. Nobody
// writes to them.
func (s *server) linked(paths []string) (string, error) {
	id := s.session.newID()
	s.mu.Lock()
	s.atEnd = append(s.atEnd, id)
	s.mu.Unlock()
	dir, err := s.driver.Dir(id)
	if err != nil {
		return "", err
	}
	// It serves others too: the call that made it may be cancelled.
	return dir, layer.Flatten(context.Background(), paths, dir, layer.FlattenOptions{Link: true})
}
