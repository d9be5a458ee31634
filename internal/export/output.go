// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
)

// Product is what a build made: one image for one platform. Both kinds of build
// file end in it.
type Product struct {
	Name string // of the stage, for messages
	// Config is the config of the image with all of its history. RootFS is filled
	// in from Layers, Created where it is nil. So is the time of each history entry
	// from OwnHistory on that has none.
	Config      image.Config
	OwnHistory  int               // entries of Config.History that the base image has
	Annotations map[string]string // of the manifest
	Layers      []cache.Layer     // bottom first
	Epoch       *time.Time        // SOURCE_DATE_EPOCH
}

// Outcome is an image that an output wrote.
type Outcome struct {
	Names  []string           // as the image is called there
	Image  ocispec.Descriptor // of the manifest, or of the index of several platforms
	Config digest.Digest      // of the only platform; empty: there are several
}

// Output is one place that receives what a build makes. It is safe for concurrent
// use: a build adds each stage when it is done, while others run.
//
// Nothing is visible under a name before Close. A file or a tag that was there
// before stays as it was until then, and for good where the build fails.
type Output interface {
	// Add writes one image: one product for each of its platforms. The names are
	// used where the output's spec has none.
	Add(ctx context.Context, names []string, products ...Product) (Outcome, error)
	// Close ends the output: with nil everything added appears, with an error, that
	// of the build, everything is dropped. It must be called.
	Close(ctx context.Context, failed error) error
}
