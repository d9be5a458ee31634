// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// goodProgress is how many bytes of a blob must arrive until its attempts are
// counted anew.
const goodProgress = 1 << 20

// Blob opens a blob for reading. A connection that breaks is replaced by one that
// continues; one that is slow gets others at its side where the blob is large. The reader ends with blob.ErrCorrupt in place of io.EOF when the bytes
// are not those of the digest.
func (c *Client) Blob(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor) (io.ReadCloser, error) {
	r, err := c.BlobFrom(ctx, ref, desc, 0)
	if err != nil {
		return nil, err
	}
	return blob.Verify(r, desc), nil
}

// BlobFrom opens a blob for reading from an offset on. It continues like Blob, and
// has as many bytes as are missing, but does not verify them: blob.Store.Fetch does.
func (c *Client) BlobFrom(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor, offset int64) (io.ReadCloser, error) {
	b, err := c.blobFrom(ctx, ref, desc, offset, 0)
	if err != nil {
		return nil, err
	}
	return b, nil
}

// blobFrom is BlobFrom without the first places, skip of them, as long as one is left.
func (c *Client) blobFrom(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor, offset int64, skip int) (*blobReader, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return nil, fmt.Errorf("blob of %s: %w", ref, err)
	}
	places, err := c.sources(ref.WithDigest(desc.Digest))
	if err != nil {
		return nil, err
	}
	skip = min(skip, len(places)-1)
	b := &blobReader{ctx: ctx, repo: places[skip], others: places[skip+1:], place: skip, desc: desc, offset: offset}
	if offset < desc.Size || desc.Size == 0 {
		for err = b.connect(); err != nil; err = b.connect() {
			if !b.elsewhere(err) {
				return nil, err
			}
		}
	}
	return b, nil
}

// Source opens the blobs of one repository.
type Source struct {
	client *Client
	ref    reference.Reference
}

// Source returns the blobs of the repository of ref.
func (c *Client) Source(ref reference.Reference) Source { return Source{c, ref} }

// Open opens a blob, or a manifest, for reading, verified.
func (s Source) Open(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if !image.IsManifest(desc.MediaType) && !image.IsIndex(desc.MediaType) {
		return s.client.Blob(ctx, s.ref, desc)
	}
	data, err := s.client.Manifest(ctx, s.ref, desc)
	if err != nil {
		return nil, err
	}
	return io.NopCloser(strings.NewReader(string(data))), nil
}

// blobReader reads a blob over as many connections as it takes.
type blobReader struct {
	ctx    context.Context //nolint:containedctx // that of the call which opened the reader
	repo   *repository
	others []*repository // where else the blob may be
	place  int           // how many places were passed over
	desc   ocispec.Descriptor
	body   io.ReadCloser // nil between two connections
	offset int64         // of the next byte
	failed int           // attempts since the last good progress
	mark   int64         // offset at the last good progress
	whole  bool          // ranges did not work: always ask for all
	ranges bool          // the registry said that they work
	rate   rate          // of the connection at hand
	wide   *wide         // several connections; nil as long as one is enough
}

// Close closes the connections at hand.
func (b *blobReader) Close() error {
	b.wide.stop()
	if b.body == nil {
		return nil
	}
	return b.body.Close()
}

func (b *blobReader) Read(p []byte) (int, error) {
	for {
		if n := b.readAhead(p); n > 0 {
			return n, nil
		}
		if b.body == nil {
			if b.offset >= b.desc.Size {
				return 0, io.EOF
			}
			if err := b.connect(); err != nil {
				if b.elsewhere(err) {
					continue
				}
				return 0, err
			}
		}
		n, err := b.readBody(p[:b.wide.limit(b.offset, len(p))])
		if b.offset-b.mark >= goodProgress {
			b.failed, b.mark = 0, b.offset
		}
		switch {
		case err == nil:
			return n, nil
		case errors.Is(err, io.EOF) && b.offset >= b.desc.Size:
			return n, io.EOF // what is too long is seen by who verifies
		}
		// It broke off: whatever came is given on before the next attempt.
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		_ = b.body.Close()
		b.body = nil
		if err := b.again(err); err != nil && !b.elsewhere(err) {
			return n, err
		}
		if n > 0 {
			return n, nil
		}
	}
}

// elsewhere goes on at the next place that may have the blob, if there is one.
func (b *blobReader) elsewhere(err error) bool {
	if len(b.others) == 0 || b.ctx.Err() != nil {
		return false
	}
	b.repo.host.noteFailure(err)
	b.wide.stop()
	b.repo, b.others, b.place = b.others[0], b.others[1:], b.place+1
	b.wide, b.failed, b.whole = nil, 0, false
	return true
}

// readAhead reads from the piece that was read ahead, if the next byte is in one.
func (b *blobReader) readAhead(p []byte) int {
	front := b.wide.front()
	if front == nil || front.from > b.offset {
		return 0
	}
	if b.body != nil {
		_ = b.body.Close()
		b.body = nil
	}
	n := b.wide.read(p, b.offset)
	b.offset += int64(n)
	return n
}

// readBody reads from the connection at hand and measures it.
func (b *blobReader) readBody(p []byte) (int, error) {
	now := b.repo.client.opts.Now
	begin := now()
	n, err := b.body.Read(p)
	b.rate.waited += now().Sub(begin)
	b.rate.got += int64(n)
	b.offset += int64(n)
	b.widen()
	return n, err
}

// again pauses before the next attempt, or returns err when there is none.
func (b *blobReader) again(err error) error {
	err = fmt.Errorf("registry %s: read blob %s at %d of %d bytes: %w", b.repo.host.name, b.desc.Digest, b.offset, b.desc.Size, err)
	b.failed++
	if b.ctx.Err() != nil || b.failed >= b.repo.attempts {
		return err
	}
	if werr := b.repo.client.opts.Wait(b.ctx, pause(b.failed-1)); werr != nil {
		return fmt.Errorf("%w (stopped after: %w)", werr, err)
	}
	return nil
}

// connect opens the blob at the offset.
func (b *blobReader) connect() error {
	req := &request{method: http.MethodGet, path: "blobs/" + string(b.desc.Digest), header: http.Header{}, scopes: b.repo.pullScopes()}
	ranged := b.offset > 0 && !b.whole
	if ranged {
		req.header.Set("Range", "bytes="+strconv.FormatInt(b.offset, 10)+"-")
	}
	resp, err := b.repo.do(b.ctx, req)
	if err != nil {
		return fmt.Errorf("read blob %s: %w", b.desc.Digest, err)
	}
	b.rate = rate{}
	b.ranges = resp.StatusCode == http.StatusPartialContent || resp.Header.Get("Accept-Ranges") == "bytes"
	switch {
	case resp.StatusCode == http.StatusOK:
		if resp.ContentLength > b.desc.Size {
			_ = resp.Body.Close()
			return fmt.Errorf("registry %s: %w: %s has %d bytes, want %d", b.repo.host.name, blob.ErrCorrupt, b.desc.Digest, resp.ContentLength, b.desc.Size)
		}
		return b.skip(resp.Body)
	case ranged && resp.StatusCode == http.StatusPartialContent && startsAt(resp.Header.Get("Content-Range"), b.offset, b.desc.Size):
		b.body = resp.Body
		return nil
	case ranged && (resp.StatusCode == http.StatusPartialContent || resp.StatusCode == http.StatusRequestedRangeNotSatisfiable):
		_ = resp.Body.Close()
		b.whole = true
		if err := b.again(errors.New("the registry answers another range than was asked for")); err != nil {
			return err
		}
		return b.connect()
	}
	return fmt.Errorf("read blob %s: %w", b.desc.Digest, statusError(resp, b.repo.host.name))
}

// skip passes over what is there already, from a registry that does not know ranges.
func (b *blobReader) skip(body io.ReadCloser) error {
	if b.offset == 0 {
		b.body = body
		return nil
	}
	if _, err := io.CopyN(io.Discard, body, b.offset); err != nil {
		_ = body.Close()
		if err := b.again(err); err != nil {
			return err
		}
		return b.connect()
	}
	b.body = body
	return nil
}

// startsAt reports whether a Content-Range says "bytes offset-…/size".
func startsAt(header string, offset, size int64) bool {
	span, total, ok := strings.Cut(strings.TrimPrefix(header, "bytes "), "/")
	first, last, dash := strings.Cut(span, "-")
	from, err := strconv.ParseInt(strings.TrimSpace(first), 10, 64)
	to, lastErr := strconv.ParseInt(strings.TrimSpace(last), 10, 64)
	if !ok || !dash || err != nil || lastErr != nil || from != offset || to >= size {
		return false
	}
	return total == "*" || total == strconv.FormatInt(size, 10)
}
