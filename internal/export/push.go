// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
)

// pushVertex names an upload.
func pushVertex(ref reference.Reference) solve.Vertex {
	return solve.Vertex{ID: "push " + ref.Name(), Name: "push to " + ref.Name()}
}

// pushOptions are those for a repository.
func (e *Exporter) pushOptions(reference.Reference) registry.PushOptions {
	return registry.PushOptions{}
}
