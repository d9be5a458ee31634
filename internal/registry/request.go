// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// request is one request to a repository. It may be sent several times.
type request struct {
	method string
	path   string // below the repository
	query  url.Values
	url    *url.URL // in place of path and query: an upload location, of our origin
	header http.Header
	scopes []string // what the token must allow
	// body opens the content of size bytes; nil is none.
	body func() (io.ReadCloser, error)
	size int64
	// once leaves it to the caller to repeat what failed: an upload must ask first
	// how far it came.
	once bool
}

// do sends a request until it gets an answer that repeating would not better.
func (r *repository) do(ctx context.Context, req *request) (*http.Response, error) {
	for attempt := 0; ; attempt++ {
		resp, err := r.authorized(ctx, req)
		if err == nil && !retryStatus(resp.StatusCode) {
			return resp, nil
		}
		if err == nil {
			if req.once {
				return resp, nil
			}
			err = r.refused(resp)
		} else if !retryError(err) {
			return nil, err
		}
		if req.once || attempt+1 >= r.attempts {
			return nil, err
		}
		if err := r.rest(ctx, attempt, err); err != nil {
			return nil, err
		}
	}
}

// rest pauses after a failed attempt, at least for as long as the registry asks for. It
// returns the failure where that is too long: with another place to ask, a few seconds are.
func (r *repository) rest(ctx context.Context, attempt int, failure error) error {
	delay := pause(attempt)
	var status *Error
	if errors.As(failure, &status) {
		if status.After > r.patience {
			return fmt.Errorf("%w; the registry asks to wait for %s", failure, status.After.Round(time.Second))
		}
		delay = max(delay, status.After)
	}
	if err := r.client.opts.Wait(ctx, delay); err != nil {
		return fmt.Errorf("%w (stopped after: %w)", err, failure)
	}
	return nil
}

// refused is statusError with how long the registry asks to wait.
func (r *repository) refused(resp *http.Response) error {
	after := r.retryAfter(resp)
	err := statusError(resp, r.host.name)
	var status *Error
	if errors.As(err, &status) {
		status.After = after
	}
	return err
}

// authorized sends a request with the credentials that the registry wants. When it
// refuses them, new ones are got once.
func (r *repository) authorized(ctx context.Context, req *request) (*http.Response, error) {
	for try := 0; ; try++ {
		header, err := r.authorization(ctx, req.scopes)
		if err != nil {
			return nil, err
		}
		resp, err := r.exchange(ctx, req, header)
		if err != nil || resp.StatusCode != http.StatusUnauthorized {
			return resp, err
		}
		if try > 0 {
			return resp, nil
		}
		if err := r.learn(resp.Header, header, req.scopes); err != nil {
			discard(resp)
			return nil, fmt.Errorf("registry %s: %w: %w", r.host.name, ErrUnauthorized, err)
		}
		if req.once {
			return resp, nil
		}
		discard(resp)
	}
}

// exchange sends a request once over the scheme that the registry speaks, and
// follows redirects.
func (r *repository) exchange(ctx context.Context, req *request, authorization string) (*http.Response, error) {
	if req.url == nil && r.host.plainAllowed() {
		defer r.host.meet(ctx)()
	}
	for {
		scheme := r.host.currentScheme()
		target := req.url
		if target == nil {
			target = r.url(scheme, req.path)
			target.RawQuery = req.query.Encode()
		}
		resp, err := r.client.send(ctx, r.host, req, target, authorization)
		if err == nil || req.url != nil || scheme != "https" {
			return resp, err
		}
		switch {
		case !r.host.plainAllowed():
			if speaksPlain(err, r.host) {
				err = fmt.Errorf("%w: it seems to speak plain HTTP, which is for registries that are called insecure", err)
			}
			return resp, err
		case speaksPlain(err, r.host):
			r.host.usePlain()
			continue
		case brokenHandshake(err):
			return r.tryPlain(ctx, req, authorization, err)
		}
		return resp, err
	}
}

// tryPlain sends a request over plain HTTP after a TLS handshake that ended without an answer. Where that is no
// better the error is that of the handshake.
func (r *repository) tryPlain(ctx context.Context, req *request, authorization string, failed error) (*http.Response, error) {
	target := r.url("http", req.path)
	target.RawQuery = req.query.Encode()
	resp, err := r.client.send(ctx, r.host, req, target, authorization)
	if err != nil {
		return nil, failed
	}
	if resp.StatusCode == http.StatusBadRequest { // what servers of HTTPS say to HTTP
		discard(resp)
		return nil, failed
	}
	r.host.usePlain()
	return resp, nil
}

// speaksPlain reports whether an error of a TLS connection means that the host
// speaks plain HTTP.
func speaksPlain(err error, h *host) bool {
	var record tls.RecordHeaderError
	if errors.As(err, &record) {
		// The first bytes are no record of TLS: a status line, or the text that some servers
		// send without one. Conn is set for the first record only.
		return record.Conn != nil
	}
	// Without a port, plain HTTP is at another one.
	var op *net.OpError
	return h.insecure && (&url.URL{Host: h.address}).Port() == "" && errors.As(err, &op) && op.Op == "dial"
}

// handshakeError is the failure of a TLS handshake.
type handshakeError struct{ error }

func (e *handshakeError) Unwrap() error { return e.error }

// brokenHandshake reports whether a TLS handshake ended without a word from the host: it hung up, or
// waits for the end of a line that does not come.
func brokenHandshake(err error) bool {
	var handshake *handshakeError
	var timeout net.Error
	return errors.As(err, &handshake) && (errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) ||
		errors.Is(err, syscall.ECONNRESET) || errors.As(err, &timeout) && timeout.Timeout())
}

// retryStatus reports whether repeating may turn a status into a better one.
func retryStatus(code int) bool {
	switch code {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryError reports whether repeating may help after an error of the network.
func retryError(err error) bool {
	var final *finalError
	var record tls.RecordHeaderError
	var verification *tls.CertificateVerificationError
	var op *net.OpError
	var dns *net.DNSError
	switch {
	case errors.Is(err, errStalled):
		return true
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded),
		errors.As(err, &final), errors.As(err, &record), errors.As(err, &verification):
		return false
	case errors.As(err, &op) && (op.Op == "remote error" || op.Op == "local error"):
		return false // alerts of crypto/tls: one side refuses the other
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	var status *Error
	if errors.As(err, &status) {
		return retryStatus(status.Status)
	}
	return true
}

// finalError marks an error that repeating does not change.
type finalError struct{ error }

func (e *finalError) Unwrap() error { return e.error }

// final returns a finalError with a formatted text.
func final(format string, args ...any) error {
	return &finalError{fmt.Errorf(format, args...)}
}

// retryAfter returns how long a response asks to wait.
func (r *repository) retryAfter(resp *http.Response) time.Duration {
	value := strings.TrimSpace(resp.Header.Get("Retry-After"))
	if seconds, err := strconv.ParseInt(value, 10, 32); err == nil {
		return time.Duration(max(seconds, 0)) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(at.Sub(r.client.opts.Now()), 0)
	}
	return 0
}

// discard reads a little of a body that nobody wants, so that the connection can be
// used again, and closes it.
func discard(resp *http.Response) {
	_, _ = io.CopyN(io.Discard, resp.Body, 16<<10)
	_ = resp.Body.Close()
}
