// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/hosts"
)

// maxRedirects bounds a chain of redirects.
const maxRedirects = 8

// errStalled is the error of a transfer that made no progress for too long.
var errStalled = errors.New("connection stalled")

// send sends a request to target and follows redirects. The authorization goes to
// target's origin only, and not any more once a redirect has left it.
func (c *Client) send(ctx context.Context, h *host, req *request, target *url.URL, authorization string) (*http.Response, error) {
	origin, at := target, h
	for range maxRedirects {
		resp, err := c.sendOnce(ctx, at, req, target, authorization)
		if err != nil || !isRedirect(resp.StatusCode) {
			return resp, err
		}
		discard(resp)
		next, err := target.Parse(resp.Header.Get("Location"))
		if err != nil || resp.Header.Get("Location") == "" {
			return nil, final("registry %s: redirect without a usable location", h.name)
		}
		if err := checkRedirect(h, req, target, next); err != nil {
			return nil, err
		}
		if !sameOrigin(origin, next) {
			authorization = ""
		}
		if at, err = c.hostAt(h, next); err != nil {
			return nil, err
		}
		target = next
	}
	return nil, final("registry %s: too many redirects", h.name)
}

// isRedirect reports whether a status sends the client elsewhere.
func isRedirect(code int) bool {
	switch code {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return true
	}
	return false
}

// checkRedirect refuses what a registry has no reason to ask for: content to be sent
// elsewhere, a downgrade to plain HTTP, and addresses of this machine and the link.
func checkRedirect(h *host, req *request, from, to *url.URL) error {
	switch {
	case req.method != http.MethodGet && req.method != http.MethodHead:
		return final("registry %s: redirects an upload to %s: not followed", h.name, to.Host)
	case to.Scheme != "https" && (to.Scheme != "http" || from.Scheme == "https"):
		return final("registry %s: redirect from %s to %s: not followed", h.name, from.Scheme, to.Scheme)
	case to.User != nil || !reference.ValidRegistry(to.Host):
		return final("registry %s: redirect to a malformed address", h.name)
	case isForbidden(to.Hostname()) && !isForbidden(hostName(h.address)):
		return final("registry %s: redirect to the local address %s: not followed", h.name, to.Host)
	}
	return nil
}

// hostAt returns the record, and so the transport, for an address to which h sends us: that
// of h if it is there, else one of its own, so that settings for h are not used elsewhere. Two
// are: whom to trust, besides those whom everybody trusts, since a token service and a store of
// blobs mostly have their certificates from where the registry has its own; and on the same
// machine, that nothing can be verified.
func (c *Client) hostAt(h *host, u *url.URL) (*host, error) {
	if u.Host == h.address {
		return h, nil
	}
	same := strings.EqualFold(u.Hostname(), hostName(h.address))
	return c.hostFor(hosts.Place{Registry: u.Host, CAs: h.authorities, Insecure: h.insecure && same})
}

// sendOnce sends one request and returns its response, whose body is guarded
// against stalling.
func (c *Client) sendOnce(ctx context.Context, h *host, req *request, target *url.URL, authorization string) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	guard := newGuard(c.opts.StallTimeout, cancel)
	hreq, err := newRequest(ctx, req, target, guard)
	if err != nil {
		cancel(nil)
		return nil, err
	}
	for name, values := range h.place.Header {
		hreq.Header[name] = values // h is the record of target's host, also after a redirect
	}
	hreq.Header.Set("User-Agent", c.opts.UserAgent)
	if authorization != "" {
		hreq.Header.Set("Authorization", authorization)
	}
	guard.start()
	resp, err := roundTrip(h, hreq)
	guard.answered()
	if err != nil {
		err = guard.explain(ctx, err)
		cancel(nil)
		return nil, fmt.Errorf("%s %s://%s%s: %w", req.method, target.Scheme, target.Host, target.Path, err)
	}
	resp.Body = &guardedBody{body: resp.Body, guard: guard, ctx: ctx, cancel: cancel}
	return resp, nil
}

// roundTrip sends a request once. The failure of a TLS handshake is a handshakeError.
func roundTrip(h *host, hreq *http.Request) (*http.Response, error) {
	var failed atomic.Bool
	trace := &httptrace.ClientTrace{TLSHandshakeDone: func(_ tls.ConnectionState, err error) { failed.Store(err != nil) }}
	resp, err := h.transport.RoundTrip(hreq.WithContext(httptrace.WithClientTrace(hreq.Context(), trace)))
	if err != nil && failed.Load() {
		err = &handshakeError{err}
	}
	return resp, err
}

// newRequest makes the request for net/http.
func newRequest(ctx context.Context, req *request, target *url.URL, guard *guard) (*http.Request, error) {
	var body io.ReadCloser
	if req.body != nil {
		opened, err := req.body()
		if err != nil {
			return nil, &finalError{err}
		}
		if f, ok := opened.(*fileBody); ok {
			f.watch(guard)
			body = f
		} else {
			body = &guardedSource{ReadCloser: opened, guard: guard}
		}
	}
	hreq, err := http.NewRequestWithContext(ctx, req.method, target.String(), nil)
	if err != nil {
		if body != nil {
			_ = body.Close()
		}
		return nil, &finalError{err}
	}
	for name, values := range req.header {
		hreq.Header[name] = values
	}
	if body != nil {
		hreq.Body, hreq.ContentLength = body, req.size
		if req.size == 0 {
			_ = body.Close()
			hreq.Body = http.NoBody
		}
	}
	return hreq, nil
}

// guard ends a request that waits for the other side too long. The time that we
// take ourselves, to open content or to use it, does not count.
type guard struct {
	limit time.Duration
	timer *time.Timer

	mu     sync.Mutex
	over   bool // the answer is there: nothing is sent any more
	moving func() time.Duration
}

// newGuard makes a guard that is not started. What is sent by others than us says in
// moving for how long it may be waited for now: not at all when it stands still.
func newGuard(limit time.Duration, cancel context.CancelCauseFunc) *guard {
	g := &guard{limit: limit}
	g.timer = time.AfterFunc(limit, func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		if g.moving != nil && !g.over {
			if d := g.moving(); d > 0 {
				g.timer.Reset(d)
				return
			}
		}
		cancel(errStalled)
	})
	g.timer.Stop()
	return g
}

func (g *guard) start() { g.timer.Reset(g.limit) }

func (g *guard) stop() { g.timer.Stop() }

// sending gives the other side some time to take what is sent, or to answer. It may
// have answered before it has taken all.
func (g *guard) sending(d time.Duration) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.over {
		g.timer.Reset(d)
	}
}

// answered ends the time of sending.
func (g *guard) answered() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.over = true
	g.timer.Stop()
}

// explain returns errStalled for an error that the guard caused.
func (g *guard) explain(ctx context.Context, err error) error {
	if errors.Is(context.Cause(ctx), errStalled) {
		return fmt.Errorf("%w for %s", errStalled, g.limit)
	}
	return err
}

// answerFactor is how much longer than usual the answer to an upload may take: the
// registry digests what it got and may copy it.
const answerFactor = 10

// guardedSource is content on its way up. The transport reads it as fast as the
// other side takes it: the time between two reads is the other side's.
type guardedSource struct {
	io.ReadCloser
	guard *guard
}

func (s *guardedSource) Read(p []byte) (int, error) {
	s.guard.stop()
	n, err := s.ReadCloser.Read(p)
	if err != nil {
		s.guard.sending(answerFactor * s.guard.limit)
	} else {
		s.guard.sending(s.guard.limit)
	}
	return n, err
}

// minProgress is how many bytes must arrive while a download is waited for as long
// as the limit of its guard.
const minProgress = 16 << 10

// guardedBody is a response on its way down.
type guardedBody struct {
	body   io.ReadCloser
	guard  *guard
	ctx    context.Context //nolint:containedctx // that of the one request that this is the answer to
	cancel context.CancelCauseFunc
	waited time.Duration // in this window
	got    int64         // in this window
}

func (b *guardedBody) Read(p []byte) (int, error) {
	begin := time.Now()
	b.guard.start()
	n, err := b.body.Read(p)
	b.guard.stop()
	b.waited += time.Since(begin)
	b.got += int64(n)
	if err != nil && err != io.EOF {
		return n, b.guard.explain(b.ctx, err)
	}
	if err == nil && b.waited > b.guard.limit {
		if b.got < minProgress {
			b.cancel(errStalled)
			return n, fmt.Errorf("%w: %d bytes in %s", errStalled, b.got, b.waited.Round(time.Second))
		}
		b.waited, b.got = 0, 0
	}
	return n, err
}

func (b *guardedBody) Close() error {
	err := b.body.Close()
	b.guard.stop()
	b.cancel(nil)
	return err
}
