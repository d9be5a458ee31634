// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import "sync"

// leaving are the trees that steps just made, while the kernel still takes away the overlays
// in which they were the upper directory. They can be read; what an overlay is made of it
// refuses, or grumbles about, before that. The zero value is ready for use.
type leaving struct {
	mu    sync.Mutex
	trees map[string]<-chan struct{}
}

// add notes a tree until gone is closed; nil: it is free.
func (l *leaving) add(tree string, gone <-chan struct{}) {
	if gone == nil {
		return
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.trees == nil {
		l.trees = map[string]<-chan struct{}{}
	}
	l.trees[tree] = gone
}

// wait waits until the trees are free.
func (l *leaving) wait(trees []string) {
	for _, t := range trees {
		l.mu.Lock()
		gone := l.trees[t]
		l.mu.Unlock()
		if gone == nil {
			continue
		}
		<-gone
		l.mu.Lock()
		if l.trees[t] == gone {
			delete(l.trees, t)
		}
		l.mu.Unlock()
	}
}
