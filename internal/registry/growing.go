// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"fmt"
	"io"
	"math"
	"net/http"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// growingPiece is how much of what is still being made goes up in one request, unless
// there is more by then.
const growingPiece = 8 << 20

// Growing is content that is still being made: a layer while it is compressed.
type Growing interface {
	// More waits until there are at least n bytes or no more will come, and returns
	// how many there are. The descriptor is nil as long as more may come. An error
	// says that it will never be complete.
	More(ctx context.Context, n int64) (have int64, whole *ocispec.Descriptor, err error)
	// Open opens what is there, from the beginning.
	Open(ctx context.Context) (io.ReadCloser, error)
}

// PutGrowing uploads a blob while it is made, and returns when all of it is there. What
// the registry turns out to have is not sent; nor is anything, before the end is near,
// of what is small. Where the registry takes a blob in one request only, all of it is
// sent when it is complete. progress may be nil.
func (c *Client) PutGrowing(ctx context.Context, ref reference.Reference, from Growing, progress func(done int64)) error {
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	u := &upload{ctx: ctx, repo: r, open: from.Open, growing: from, chunk: c.opts.ChunkSize, alone: r.host.wantsWhole(), tell: progress}
	if err := u.run(nil); err != nil {
		if !u.whole {
			u.abandon()
			return fmt.Errorf("put blob: %w", err)
		}
		return fmt.Errorf("put blob %s: %w", u.desc.Digest, err)
	}
	return nil
}

// more waits for content for the next request.
func (u *upload) more() error {
	if u.whole {
		return nil
	}
	want := max(u.offset+max(growingPiece, u.least), smallBlob+1)
	if u.alone {
		want = math.MaxInt64
	}
	have, whole, err := u.growing.More(u.ctx, want)
	if err != nil {
		return &finalError{err}
	}
	if u.have = have; whole != nil {
		u.desc, u.whole = *whole, true
		if err := image.CheckDescriptor(u.desc); err != nil {
			return &finalError{err}
		}
	}
	return nil
}

// abandon tells the registry that an upload will not be completed. It would find out.
func (u *upload) abandon() {
	if u.location == nil || u.ctx.Err() != nil {
		return
	}
	resp, err := u.repo.do(u.ctx, &request{method: http.MethodDelete, url: u.location, scopes: u.repo.pushScopes(), once: true})
	if err == nil {
		discard(resp)
	}
}

// inPieces reports whether the content goes up in several requests only because it
// is still being made.
func (u *upload) inPieces() bool {
	return u.growing != nil && !u.alone && u.location != nil && (u.offset > 0 || !u.whole)
}

// refusesPieces reports whether a status means that a registry does not want, or has
// not kept, a blob in several pieces. Several of the big ones know one request only.
func refusesPieces(status int) bool {
	switch status {
	case http.StatusUnauthorized, http.StatusForbidden, http.StatusRequestTimeout, http.StatusRequestEntityTooLarge, http.StatusTooManyRequests:
		return false
	}
	return status >= 400 && status < 500 || status == http.StatusNotImplemented
}

// noPieces remembers that the registry does not take blobs in pieces.
func (h *host) noPieces() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.whole = true
}

// wantsWhole reports whether noPieces was called.
func (h *host) wantsWhole() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.whole
}
