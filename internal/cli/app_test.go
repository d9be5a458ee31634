// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"sync"
	"testing"

	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
)

// Stages that ask for images of registries at the same time get one client, whose connections
// and tokens they share.
func TestImagesAtOnce(t *testing.T) {
	for range 300 {
		images := (&app{}).images(&state.State{})
		clients := make([]source.Registry, 16)
		begin := make(chan struct{})
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				<-begin
				var err error
				if clients[i], err = images.Registry(i%2 == 0); err != nil {
					t.Error(err)
				}
			})
		}
		close(begin)
		wg.Wait()
		for i, c := range clients {
			if c == nil || c != clients[i%2] {
				t.Fatalf("client %d is %p, want %p", i, c, clients[i%2])
			}
		}
	}
}
