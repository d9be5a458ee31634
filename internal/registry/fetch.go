// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/reference"
)

// Fetch makes sure that a store has a blob, and goes on where an earlier download
// of it stopped. progress, which may be nil, is told how many bytes are there.
func (c *Client) Fetch(ctx context.Context, ref reference.Reference, d ocispec.Descriptor, into *blob.Store, progress func(done int64)) error {
	return into.Fetch(ctx, d, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
		r, err := c.BlobFrom(ctx, ref, d, offset)
		if err != nil || progress == nil {
			return r, err
		}
		return &watched{ReadCloser: r, done: offset, tell: progress}, nil
	})
}
