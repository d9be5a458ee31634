// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/reference"
)

// fetches is how often a blob is read anew whose bytes are wrong. What damaged it may
// have been on the way.
const fetches = 3

// Fetch makes sure that a store has a blob, and goes on where an earlier download
// of it stopped. One whose bytes turn out to be wrong is fetched again, elsewhere if
// there is another place. progress, which may be nil, is told how many bytes are there.
func (c *Client) Fetch(ctx context.Context, ref reference.Reference, d ocispec.Descriptor, into *blob.Store, progress func(done int64)) error {
	skip := 0
	for try := 1; ; try++ {
		var b *blobReader
		err := into.Fetch(ctx, d, func(ctx context.Context, offset int64) (_ io.ReadCloser, err error) {
			if b, err = c.blobFrom(ctx, ref, d, offset, skip); err != nil {
				return nil, err
			}
			if progress == nil {
				return b, nil
			}
			return &watched{ReadCloser: b, done: offset, tell: progress}, nil
		})
		if b == nil || !errors.Is(err, blob.ErrCorrupt) {
			return err
		}
		err = fmt.Errorf("%w (they came from %s)", err, b.repo.host.name)
		if try == fetches {
			return err
		}
		if skip = b.place; len(b.others) > 0 {
			skip++
		}
		if werr := c.opts.Wait(ctx, pause(try)); werr != nil {
			return fmt.Errorf("%w (stopped after: %w)", werr, err)
		}
	}
}
