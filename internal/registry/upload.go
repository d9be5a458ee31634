// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

const (
	// smallBlob is up to how many bytes a blob goes up in one request, which is begun
	// anew when it fails.
	smallBlob = 4 << 20
	// fallbackChunk is how much is sent at once where a large request is refused.
	fallbackChunk = 32 << 20
)

// BlobOptions configure PutBlob.
type BlobOptions struct {
	// MountFrom are repositories of the same registry from which the blob may be taken.
	MountFrom []string
	// Progress is told how many bytes were read so far; may be nil.
	Progress func(done int64)
}

// PutBlob uploads a blob unless the repository has it. open opens its content from
// the beginning, and may be called several times. A file, or what blob.Verify makes of
// one, is sent as it is: the registry verifies it, or it is verified here afterwards.
//
// An upload that breaks off is continued where the registry says it stopped, or
// begun anew where it does not say.
func (c *Client) PutBlob(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor,
	open func(ctx context.Context) (io.ReadCloser, error), opts BlobOptions,
) error {
	if err := image.CheckDescriptor(desc); err != nil {
		return fmt.Errorf("put blob: %w", err)
	}
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	if has, err := r.hasBlob(ctx, desc, r.pushScopes()); err != nil || has {
		return err
	}
	return c.UploadBlob(ctx, ref, desc, open, opts)
}

// UploadBlob is PutBlob for a blob that the repository is known not to have.
func (c *Client) UploadBlob(ctx context.Context, ref reference.Reference, desc ocispec.Descriptor,
	open func(ctx context.Context) (io.ReadCloser, error), opts BlobOptions,
) error {
	r, err := c.repository(ref)
	if err != nil {
		return err
	}
	u := &upload{ctx: ctx, repo: r, desc: desc, open: open, have: desc.Size, whole: true, chunk: c.opts.ChunkSize, tell: opts.Progress}
	if err := u.run(opts.MountFrom); err != nil {
		return fmt.Errorf("put blob %s: %w", desc.Digest, err)
	}
	return nil
}

// upload is one blob on its way up.
type upload struct {
	ctx      context.Context //nolint:containedctx // that of the call of PutBlob
	repo     *repository
	desc     ocispec.Descriptor // not known before whole
	open     func(ctx context.Context) (io.ReadCloser, error)
	growing  Growing  // what is still being made; nil: nothing is
	have     int64    // how many bytes of the content there are
	whole    bool     // that is all of it
	alone    bool     // the registry does not take the content in several requests
	location *url.URL // where the next request goes; nil before the upload has begun
	offset   int64    // how much the registry has
	least    int64    // least bytes of a request that is not the last one
	chunk    int64    // most bytes of one request; no bound when zero
	failed   int      // attempts since the last progress
	resumed  bool     // it did not come in one go
	trusted  bool     // some of the content was sent without being looked at
	tell     func(done int64)
}

// run uploads the blob; every failure that may pass is tried again.
func (u *upload) run(mountFrom []string) error {
	for _, name := range mountFrom {
		mounted, err := u.mount(name)
		if err != nil || mounted {
			return err
		}
		if u.location != nil {
			break // the registry began an upload in place of the mount
		}
	}
	for {
		done, err := u.step()
		if err == nil {
			if done {
				return nil
			}
			continue
		}
		if err := u.recover(err); err != nil {
			return err
		}
	}
}

// step does the next request of the upload.
func (u *upload) step() (done bool, err error) {
	if err := u.more(); err != nil {
		return false, err
	}
	switch {
	case u.location == nil:
		if u.whole && (u.failed > 0 || u.growing != nil) {
			// The answer to the last request may be all that was lost. Of what is made
			// now the digest was not known before.
			has, err := u.repo.hasBlob(u.ctx, u.desc, u.repo.pushScopes())
			if err != nil {
				return false, &finalError{err} // do has tried it often enough
			}
			if has {
				return true, nil
			}
		}
		return false, u.begin(u.repo.pushScopes(), nil)
	case u.whole && u.offset == 0 && u.have <= smallBlob:
		return true, u.finish(u.have)
	case u.offset < u.have:
		return false, u.patch()
	}
	return true, u.finish(0)
}

// mount asks the registry to take the blob from another repository. Where it does
// not, it may have begun an upload.
func (u *upload) mount(name string) (bool, error) {
	if name == u.repo.ref.Repository || u.repo.host.failsMounts() {
		return false, nil
	}
	if _, err := reference.Parse(u.repo.ref.Registry + "/" + name); err != nil {
		return false, err
	}
	scopes := append(u.repo.pushScopes(), "repository:"+name+":pull")
	err := u.begin(scopes, url.Values{"mount": {string(u.desc.Digest)}, "from": {name}})
	if errors.Is(err, errMounted) {
		return true, nil
	}
	if err == nil || u.ctx.Err() != nil {
		return false, err
	}
	// No access there, no mounts here, or a fault in them: upload. What is wrong with the
	// registry itself is told by that.
	var status *Error
	if errors.As(err, &status) && status.Status >= http.StatusInternalServerError {
		u.repo.host.noMounts() // it was asked often enough
	}
	return false, nil
}

// errMounted is returned by begin when nothing is left to do.
var errMounted = errors.New("mounted")

// begin opens an upload.
func (u *upload) begin(scopes []string, query url.Values) error {
	resp, err := u.repo.do(u.ctx, &request{method: http.MethodPost, path: "blobs/uploads/", query: query, scopes: scopes})
	if err != nil {
		return &finalError{err} // do has tried it often enough
	}
	switch resp.StatusCode {
	case http.StatusCreated:
		if query != nil {
			discard(resp)
			return errMounted
		}
	case http.StatusAccepted:
		defer discard(resp)
		u.offset = 0
		u.least, _ = strconv.ParseInt(resp.Header.Get("OCI-Chunk-Min-Length"), 10, 64)
		return u.moveTo(resp)
	}
	return &finalError{statusError(resp, u.repo.host.name)}
}

// moveTo takes over the location of a response. It must be at the origin of the
// registry: it gets the content and the credentials.
func (u *upload) moveTo(resp *http.Response) error {
	header := resp.Header.Get("Location")
	if header == "" {
		return final("registry %s: it names no location for the upload", u.repo.host.name)
	}
	next, err := resp.Request.URL.Parse(header)
	if err != nil || next.User != nil {
		return final("registry %s: the location for the upload is malformed", u.repo.host.name)
	}
	origin := u.repo.url(u.repo.host.currentScheme(), "")
	if !sameOrigin(origin, next) {
		return final("registry %s: it wants the upload at %s://%s, not at %s://%s: refused",
			u.repo.host.name, next.Scheme, next.Host, origin.Scheme, origin.Host)
	}
	next.Fragment = ""
	u.location = next
	return nil
}

// patch sends the next piece, which is all that is left unless there is a bound.
func (u *upload) patch() error {
	size := u.have - u.offset
	if u.chunk > 0 {
		size = min(size, max(u.chunk, u.least))
	}
	header := http.Header{"Content-Type": {"application/octet-stream"}}
	if u.offset > 0 || size < u.have || !u.whole {
		header.Set("Content-Range", fmt.Sprintf("%d-%d", u.offset, u.offset+size-1))
	}
	resp, err := u.repo.do(u.ctx, &request{method: http.MethodPatch, url: u.location, header: header, scopes: u.repo.pushScopes(),
		body: u.section(u.offset, size), size: size, once: true})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusAccepted && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusCreated {
		return u.repo.refused(resp)
	}
	defer discard(resp)
	u.failed = 0
	u.offset += size
	return u.moveTo(resp)
}

// finish ends the upload with the last size bytes: all of them, or none.
func (u *upload) finish(size int64) error {
	target := *u.location
	query := target.RawQuery
	if query != "" {
		query += "&"
	}
	// What the registry put into its location stays byte for byte: it may be signed.
	target.RawQuery = query + "digest=" + url.QueryEscape(string(u.desc.Digest))
	resp, err := u.repo.do(u.ctx, &request{method: http.MethodPut, url: &target, scopes: u.repo.pushScopes(),
		header: http.Header{"Content-Type": {"application/octet-stream"}},
		body:   u.section(u.offset, size), size: size, once: true})
	if err != nil {
		return err
	}
	if resp.StatusCode != http.StatusCreated && resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return u.repo.refused(resp)
	}
	discard(resp)
	return u.confirm(digest.Digest(resp.Header.Get("Docker-Content-Digest")))
}

// recover finds out how to go on after a failure, or returns why that is not possible.
func (u *upload) recover(failure error) error {
	var status *Error
	known := errors.As(failure, &status)
	switch {
	case known && status.Status == http.StatusRequestEntityTooLarge && u.chunk == 0:
		u.chunk = fallbackChunk
	case known && status.Status == http.StatusRequestEntityTooLarge && u.chunk > 1<<20:
		u.chunk /= 2
	case known && status.Status == http.StatusBadRequest && u.resumed:
		// What the registry said that it had was not what it has: all of it again, once.
		u.location, u.resumed = nil, false
	case known && u.inPieces() && refusesPieces(status.Status):
		u.location, u.alone = nil, true
		u.repo.host.noPieces()
	case known && status.Status == http.StatusUnauthorized && u.location != nil, // the next request gets a new token
		known && status.Status == http.StatusRequestedRangeNotSatisfiable,
		known && (status.Status == http.StatusNotFound && u.location != nil),
		retryError(failure):
	default:
		return u.explain(failure)
	}
	if u.failed++; u.failed >= u.repo.attempts || u.ctx.Err() != nil {
		return failure
	}
	if err := u.repo.rest(u.ctx, u.failed-1, failure); err != nil {
		return err
	}
	if u.location == nil {
		return nil
	}
	return u.askOffset()
}

// askOffset asks the registry how much it has. An upload that it does not know any
// more, or of which it does not say, is begun anew.
func (u *upload) askOffset() error {
	resp, err := u.repo.do(u.ctx, &request{method: http.MethodGet, url: u.location, scopes: u.repo.pushScopes()})
	if err != nil {
		return &finalError{err}
	}
	defer discard(resp)
	location, before := u.location, u.offset
	u.location, u.offset = nil, 0 // begin anew, unless what follows says better
	if resp.StatusCode != http.StatusNoContent && resp.StatusCode != http.StatusOK {
		return nil
	}
	first, last, ok := strings.Cut(strings.TrimPrefix(resp.Header.Get("Range"), "bytes="), "-")
	end, err := strconv.ParseInt(last, 10, 64)
	if !ok || err != nil || first != "0" || end < 0 || end >= u.have {
		return nil
	}
	if end == 0 {
		return nil // "0-0" is what registries say both for one byte and for none
	}
	u.offset, u.resumed = end+1, true
	if u.offset > before {
		u.failed = 0
	}
	u.location = location
	if resp.Header.Get("Location") != "" {
		return u.moveTo(resp)
	}
	return nil
}
