// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package export turns what a build made into images and puts them where they are
// wanted: into the local store, registries, layouts, archives, or bare files.
//
// An [Output] is one such place, open for one build. Layers are packed as soon as a
// stage's files are there, while other stages still run; names appear together,
// after everything that they need is there. A layer goes straight to where it
// stays; only where that cannot be sought, or where the layer is small, it is
// kept in the state directory, too. The same result and the same settings give the
// same bytes.
package export

import (
	"context"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
)

// Exporter makes images of results.
type Exporter struct {
	State  *state.State
	Images *source.Images
	Now    func() time.Time
	Events solve.Sink
	// Files reads the files of results, for Tar and Local.
	Files Files
	// Registry gives the client for one kind of connection.
	Registry func(insecure bool) *registry.Client
	// Loader feeds an archive to docker or podman, for Docker without Dest.
	Loader func(ctx context.Context, archive *os.File) error
	Stdout *os.File
	// Near are more blobs, of a layout, that may be copied; nil: none.
	Near *blob.Store
	// Several says that more than one output gets each image: a layer is then packed
	// where all of them find it.
	Several bool

	packs sync.Mutex // one layer is packed at a time: it uses all cores
}

// Files reads the files of a stack of layers.
type Files interface {
	// Unpack makes sure that the trees of all layers are there.
	Unpack(ctx context.Context, layers []cache.Layer) error
	// WriteTar writes what path names, a directory or a file, as a tar.
	WriteTar(ctx context.Context, layers []cache.Layer, path string, out *os.File) error
	// WriteDir puts what a directory holds into a directory of this machine, as the
	// user's own, and names what is there now, relative to it.
	WriteDir(ctx context.Context, layers []cache.Layer, path, dir string) ([]string, error)
}

// made is an image whose documents and layers are in their place.
type made struct {
	image       ocispec.Descriptor // with its platform
	config      digest.Digest
	created     time.Time         // as in the config
	annotations map[string]string // of the manifest
	attached    []ocispec.Descriptor
}

// Report does something, and tells that it is being done and how it ended.
func (e *Exporter) Report(ctx context.Context, v solve.Vertex, do func() error) error {
	if e.Events == nil {
		return do()
	}
	start := e.Now()
	e.tell(solve.Event{Kind: solve.Started, Vertex: v, Time: start})
	err := do()
	e.tell(e.ended(ctx, v, start, err))
	return err
}

// tell passes an event on.
func (e *Exporter) tell(event solve.Event) {
	if e.Events != nil {
		e.Events(event)
	}
}

// ended is the event of an end.
func (e *Exporter) ended(ctx context.Context, v solve.Vertex, start time.Time, err error) solve.Event {
	end := solve.Event{Kind: solve.Done, Vertex: v, Dur: e.Now().Sub(start)}
	if err != nil {
		end.Kind, end.Err = solve.Failed, err
		if ctx.Err() != nil { // stopped by another's failure, or by the user
			end.Err = context.Canceled
		}
	}
	return end
}

// platform is that of a config.
func platform(c image.Config) ocispec.Platform {
	return ocispec.Platform{
		OS: c.OS, Architecture: c.Architecture, Variant: c.Variant, OSVersion: c.OSVersion, OSFeatures: c.OSFeatures,
	}
}
