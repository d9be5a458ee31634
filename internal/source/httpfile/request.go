// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package httpfile

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"
)

// maxRedirects bounds a chain of them.
const maxRedirects = 10

// client is Options.Client without what could carry credentials elsewhere.
func client(o Options) *http.Client {
	c := &http.Client{}
	if o.Client != nil {
		*c = *o.Client
	} else {
		t := http.DefaultTransport.(*http.Transport).Clone()
		t.ResponseHeaderTimeout = o.stall()
		// Files are few; an idle connection would keep the process busy for nothing.
		t.DisableKeepAlives = true
		c.Transport = t
	}
	c.Jar = nil
	c.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return c
}

func (o *Options) stall() time.Duration {
	if o.Stall > 0 {
		return o.Stall
	}
	return time.Minute
}

// statusError is an answer that is no file.
type statusError struct {
	code  int
	text  string        // "404 Not Found"
	after time.Duration // from Retry-After; 0: not told
	login bool          // credentials were sent
}

func (e *statusError) Error() string {
	switch e.code {
	case http.StatusUnauthorized, http.StatusForbidden:
		if e.login {
			return e.text + ": the server refuses the user and password that are known for it"
		}
		return e.text + ": log in to the server first, no user and password are known for it"
	}
	return e.text
}

// send sends one request and follows redirects. The caller closes the body. Only
// 200, 206, 304 and 416 are no errors. Errors do not name the URL: the caller does.
func (f *fetch) send(ctx context.Context, method string, header http.Header) (*http.Response, error) {
	at := f.url
	home := true // no other host was met: one that was may have sent us back
	for range maxRedirects + 1 {
		req, err := http.NewRequestWithContext(ctx, method, at.String(), nil)
		if err != nil {
			return nil, bare(err)
		}
		req.Header = header.Clone()
		req.Header.Set("User-Agent", "stacker")
		// The file as it is: a .tar.gz must not arrive unpacked, nor its size be unknown.
		req.Header.Set("Accept-Encoding", "identity")
		login := home && f.authorize(req)
		resp, err := f.client.Do(req)
		if err != nil {
			return nil, bare(err)
		}
		to, err := redirect(resp, at)
		if to == nil && err == nil {
			return checkStatus(resp, login)
		}
		_ = resp.Body.Close()
		if err != nil {
			return nil, err
		}
		home = home && to.Scheme == f.url.Scheme && to.Host == f.url.Host
		at = to
	}
	return nil, fmt.Errorf("more than %d redirects", maxRedirects)
}

// authorize adds the credentials for f.url's host.
func (f *fetch) authorize(req *http.Request) bool {
	if f.user != nil {
		password, _ := f.user.Password()
		req.SetBasicAuth(f.user.Username(), password)
		return true
	}
	if f.o.Credentials == nil {
		return false
	}
	user, password, ok := f.o.Credentials(f.url.Host, f.url.Path)
	if ok {
		req.SetBasicAuth(user, password)
	}
	return ok
}

// redirect is where a response leads; nil: nowhere.
func redirect(resp *http.Response, from *url.URL) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	to, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" || to.Host == "" || to.Scheme != "http" && to.Scheme != "https" {
		return nil, fmt.Errorf("%s: redirect to a place that is no http or https URL", resp.Status)
	}
	to.User = nil // a server does not choose as whom we log in somewhere
	return to, nil
}

func checkStatus(resp *http.Response, login bool) (*http.Response, error) {
	switch resp.StatusCode {
	case http.StatusOK, http.StatusPartialContent, http.StatusNotModified, http.StatusRequestedRangeNotSatisfiable:
		return resp, nil
	}
	_ = resp.Body.Close()
	text := strconv.Itoa(resp.StatusCode) + " " + http.StatusText(resp.StatusCode)
	e := &statusError{code: resp.StatusCode, text: strings.TrimSpace(text), login: login}
	if sec, err := strconv.Atoi(resp.Header.Get("Retry-After")); err == nil && sec > 0 {
		e.after = time.Duration(min(sec, 30)) * time.Second
	}
	return nil, e
}

// bare is an error without the URL that net/http puts before it: after a redirect
// it may be a signed one.
func bare(err error) error {
	var u *url.Error
	if errors.As(err, &u) {
		return u.Err
	}
	return err
}

// isTemporary tells whether another attempt may do better.
func isTemporary(err error) bool {
	var status *statusError
	if errors.As(err, &status) {
		switch status.code {
		case http.StatusRequestTimeout, http.StatusTooManyRequests:
			return true
		}
		return status.code >= 500 && status.code != http.StatusNotImplemented && status.code != http.StatusHTTPVersionNotSupported
	}
	// A full disk is no matter of the server's, and an Errno would pass for a net.Error.
	var disk *fs.PathError
	var dns *net.DNSError
	if errors.As(err, &disk) || errors.As(err, &dns) && dns.IsNotFound {
		return false
	}
	var cert *tls.CertificateVerificationError
	var alert tls.AlertError
	if errors.As(err, &cert) || errors.As(err, &alert) {
		return false
	}
	var netErr net.Error
	var broken *brokenError
	return errors.As(err, &broken) || errors.As(err, &netErr) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF)
}

// brokenError is a download that ended too early.
type brokenError struct{ err error }

func (e *brokenError) Error() string { return "broken off: " + e.err.Error() }
func (e *brokenError) Unwrap() error { return e.err }
