// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package registry is a client of the OCI distribution protocol: it resolves
// names, downloads and uploads manifests and blobs.
//
// What comes back has been verified. A manifest is parsed strictly and has the
// digest that was asked for; a blob's reader ends with an error when its bytes are
// not those of the digest. A download that breaks off continues where it stopped
// (Range), an upload asks how far it came. Requests are repeated, with growing
// pauses or the one that the registry asks for, a bounded number of times.
//
// Credentials go to the origin (scheme, host, port) of the registry that they are
// for, and to its token service: never along a redirect, to an upload location
// elsewhere, to a "urls" member of a descriptor (which is ignored), or to a token
// service of an unrelated domain. Plain HTTP is for loopback and for registries
// that the caller calls insecure.
//
// A Client is safe for concurrent use. It starts no goroutines that outlive a call,
// or the reader that a call returned. How many blobs are read at once is for the
// caller to decide; Push is told.
package registry

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"net/url"
	"sync"
	"time"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/auth"
	"build.stacker.dev/internal/registry/hosts"
)

// ErrNotFound is returned for a manifest or a blob that the registry does not have.
var ErrNotFound = errors.New("not found in the registry")

// ErrUnauthorized is returned when the registry refuses the credentials, or asks
// for some when there are none.
var ErrUnauthorized = errors.New("unauthorized")

// Options configure a Client. The zero value is anonymous, verifies TLS with the
// system's certificates and uses no proxy.
type Options struct {
	// Credentials returns those for a repository; nil is anonymous.
	Credentials func(ctx context.Context, registry, repository string) (auth.Credentials, error)
	// Insecure reports whether a registry (host or host:port) may be spoken to
	// without TLS and with a certificate that cannot be verified.
	Insecure func(registry string) bool
	// TokenHosts reports whether the token service on host may be given the
	// credentials for a registry of another domain.
	TokenHosts func(registry, host string) bool
	// Places returns where an image may be fetched from, the last of which is the
	// registry itself, where it is also pushed to; nil means that only. See package
	// hosts.
	Places func(ref reference.Reference) ([]hosts.Place, error)
	// CertDirs are directories like /etc/docker/certs.d, the most important first.
	// Below, a directory named HOST:PORT or HOST has *.crt (authorities) and pairs
	// of *.cert and *.key (client certificates).
	CertDirs []string
	// RootCAs are the authorities to trust; nil means those of the system.
	RootCAs *x509.CertPool
	// Proxy chooses a proxy, like http.ProxyFromEnvironment.
	Proxy func(*http.Request) (*url.URL, error)
	// UserAgent is sent with each request.
	UserAgent string
	// StallTimeout is how long a transfer may go without noticeable progress, and a
	// request without an answer; 30 seconds when zero.
	StallTimeout time.Duration
	// Attempts is how often a request is sent at most before it has failed; 6 when zero.
	Attempts int
	// ChunkSize bounds one request of an upload in bytes; no bound when zero. Where a
	// registry or a proxy refuses a large request, smaller ones are used anyway.
	ChunkSize int64
	// Wait pauses between attempts until the duration is over or ctx ends; nil waits
	// for real.
	Wait func(ctx context.Context, d time.Duration) error
	// Now is the clock; nil means time.Now.
	Now func() time.Time
}

// Limits of the retries of one request.
const (
	maxAttempts = 6
	// mirrorAttempts are those at a place when there is another one.
	mirrorAttempts = 2
	firstPause     = 250 * time.Millisecond
	maxPause       = 15 * time.Second
	maxRetryAfter  = 2 * time.Minute // a registry that asks for more gets an error
	maxMirrorWait  = 5 * time.Second // and a place beside which there is another one is left
	stallTimeout   = 30 * time.Second
)

// Client talks to registries.
type Client struct {
	opts  Options
	wide  wideLimits
	spare chan []byte // memory for reading ahead; nil ones are not made yet

	mu     sync.Mutex
	hosts  map[string]*host // by all that is configured of a place
	shared *http.Transport  // for hosts without settings of their own; made on first use
}

// New returns a client.
func New(opts Options) *Client {
	if opts.Wait == nil {
		opts.Wait = wait
	}
	if opts.Now == nil {
		opts.Now = time.Now
	}
	if opts.StallTimeout == 0 {
		opts.StallTimeout = stallTimeout
	}
	if opts.Attempts == 0 {
		opts.Attempts = maxAttempts
	}
	if opts.UserAgent == "" {
		opts.UserAgent = "stacker"
	}
	c := &Client{opts: opts, hosts: map[string]*host{}}
	c.setWide(defaultWide())
	return c
}

// setWide sets the limits of reading ahead.
func (c *Client) setWide(l wideLimits) {
	c.wide, c.spare = l, make(chan []byte, l.memory)
	for range l.memory {
		c.spare <- nil
	}
}

// Close closes idle connections.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, h := range c.hosts {
		h.transport.CloseIdleConnections()
	}
	return nil
}

// wait pauses for d, or until ctx ends.
func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}

// pause returns how long to wait before the next attempt: twice as long each time,
// and spread, so that many clients do not come back together.
func pause(attempt int) time.Duration {
	d := min(firstPause<<attempt, maxPause)
	return d/2 + rand.N(d/2)
}

// repository is one repository of a registry, with what is known of its host.
type repository struct {
	client   *Client
	host     *host
	ref      reference.Reference
	attempts int           // of one request
	patience time.Duration // the longest pause that the registry may ask for
}

// places checks a reference and returns the repositories that it may be in. Those
// before the last one are given up early: there is another one.
func (c *Client) places(ref reference.Reference) ([]*repository, error) {
	// References are usually parsed, but the fields are open and end up in URLs.
	if again, err := reference.Parse(ref.Name()); err != nil || again.Name() != ref.Name() {
		return nil, fmt.Errorf("reference %q is not valid", ref.Name())
	}
	list := []hosts.Place{{Registry: ref.Registry, Repository: ref.Repository}}
	if c.opts.Places != nil {
		var err error
		if list, err = c.opts.Places(ref); err != nil {
			return nil, err
		}
	}
	var out []*repository
	for i, p := range list {
		h, err := c.hostFor(p)
		if err != nil {
			return nil, fmt.Errorf("registry %s: %w", p.Registry, err)
		}
		r := &repository{client: c, host: h, ref: ref, attempts: min(mirrorAttempts, c.opts.Attempts), patience: maxMirrorWait}
		r.ref.Registry, r.ref.Repository = p.Registry, p.Repository
		if i == len(list)-1 {
			r.attempts, r.patience = c.opts.Attempts, maxRetryAfter
		}
		out = append(out, r)
	}
	return out, nil
}

// repository returns where a reference points to itself.
func (c *Client) repository(ref reference.Reference) (*repository, error) {
	list, err := c.places(ref)
	if err != nil {
		return nil, err
	}
	return list[len(list)-1], nil
}

// sources returns the repositories to fetch from. A host that did not answer is
// passed over from then on, unless there is no other.
func (c *Client) sources(ref reference.Reference) ([]*repository, error) {
	list, err := c.places(ref)
	if err != nil {
		return nil, err
	}
	var out []*repository
	for i, r := range list {
		if i == len(list)-1 || !r.host.place.NoPull && !r.host.isDown() {
			out = append(out, r)
		}
	}
	return out, nil
}

// fromAny calls f for one place after the other until one succeeds. The last error
// is that of the registry itself.
func (c *Client) fromAny(ctx context.Context, ref reference.Reference, f func(r *repository) error) error {
	list, err := c.sources(ref)
	if err != nil {
		return err
	}
	for i, r := range list {
		if err = f(r); err == nil || ctx.Err() != nil {
			return err
		}
		if i < len(list)-1 {
			r.host.noteFailure(err)
		}
	}
	return err
}

// url returns the address of something in the repository, or of the registry where
// that has no name. The parts are digests, tags and fixed words, which need no
// escaping.
func (r *repository) url(scheme, path string) *url.URL {
	base := "/v2/"
	if r.host.place.Prefix != "" {
		base = r.host.place.Prefix + "/"
	}
	if r.ref.Repository != "" {
		base += r.ref.Repository + "/"
	}
	return &url.URL{Scheme: scheme, Host: r.host.address, Path: base + path}
}
