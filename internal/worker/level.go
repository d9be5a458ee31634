// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package worker

import (
	"context"
	"errors"
	"fmt"
	"os"

	"build.stacker.dev/internal/container"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/snapshot/native"
	"build.stacker.dev/internal/snapshot/overlay"
)

// runner runs steps. Which one depends on the level: container.Runner in namespaces,
// container.Bare and container.Virtual without.
type runner interface {
	// Run runs a step and waits for its end, and for that of all that it started. The
	// error says what kept the command from starting.
	Run(ctx context.Context, s container.Spec) (container.Exit, error)
	// Close ends what is kept ready for coming steps.
	Close()
}

// newRunner gives the runner of the worker's level.
func newRunner(o MainOptions) runner {
	switch {
	case !o.Bare:
		return new(container.Runner)
	case o.SingleID:
		return container.Virtual{}
	}
	return new(container.Bare)
}

// chooseBare is choose where nothing can be mounted. What a step sees beside its root is
// moved into it for as long as the step runs, and cannot be moved between subvolumes of a btrfs.
func chooseBare(name, probe string, trees *overlay.Driver) choice {
	if name == snapshot.Auto || name == "" {
		out := choice{driver: native.New(trees)}
		out.why = []string{"not overlay: nothing can be mounted at this level", "not btrfs: at this level only directories work"}
		if err := canNative(probe); err != nil {
			out.err = fmt.Errorf("no snapshot driver works in this state directory: %w", err)
		}
		_ = os.RemoveAll(probe) // a left-over is removed with the session
		return out
	}
	out := choose(snapshot.Native, probe, trees)
	if name != snapshot.Native && out.err == nil {
		out.err = forced(name, errors.New("nothing can be mounted at this level"))
	}
	return out
}

// restored tells the driver of a that paths, relative to its root, were put back as they were
// when its step began.
func (s *server) restored(a snapshot.Active, paths []string) error {
	if d, ok := s.of(a).(*native.Driver); ok {
		return d.Restored(a, paths)
	}
	return nil
}
