// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"encoding/json"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/source"
	"build.stacker.dev/internal/state"
)

// remembering is a registry that keeps what tags named, for builds without network.
// It implements source.Registry.
type remembering struct {
	source.Registry
	app   *app
	state *state.State
}

// tagPlace is the name under which it is kept what a reference named.
func tagPlace(name string) string { return "reference " + name }

// Resolve implements source.Registry.
func (r *remembering) Resolve(ctx context.Context, name string) (ocispec.Descriptor, error) {
	d, err := r.Registry.Resolve(ctx, name)
	if err != nil {
		return d, err
	}
	text, err := json.Marshal(d)
	if err != nil || r.state.Cache.Seen(tagPlace(name)) == string(text) {
		return d, err
	}
	return d, r.state.Cache.SetSeen(tagPlace(name), string(text), r.app.now())
}

// offline is a registry that is not asked. It implements source.Registry.
type offline struct{ state *state.State }

// Resolve implements source.Registry: what the reference named when it was asked for
// last.
func (o *offline) Resolve(_ context.Context, name string) (ocispec.Descriptor, error) {
	var d ocispec.Descriptor
	if json.Unmarshal([]byte(o.state.Cache.Seen(tagPlace(name))), &d) != nil || image.CheckDescriptor(d) != nil {
		return d, missing("image " + name)
	}
	return d, nil
}

// Manifest implements source.Registry.
func (o *offline) Manifest(_ context.Context, name string, d ocispec.Descriptor) ([]byte, error) {
	return nil, missing(fmt.Sprintf("manifest %s of image %s", d.Digest, name))
}

// Fetch implements source.Registry.
func (o *offline) Fetch(_ context.Context, name string, d ocispec.Descriptor, _ *blob.Store, _ func(int64)) error {
	return missing(fmt.Sprintf("blob %s of image %s", d.Digest, name))
}

func missing(what string) error {
	return fmt.Errorf("%s is not on this machine, and --offline was given: build once without it", what)
}
