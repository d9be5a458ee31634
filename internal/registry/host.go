// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"sync"

	"golang.org/x/net/publicsuffix"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/hosts"
)

// host is what the client knows of one registry.
type host struct {
	name      string // as in references
	place     hosts.Place
	address   string // host[:port] to connect to
	insecure  bool
	transport *http.Transport
	// authorities are the files that say whom to trust at this address.
	authorities []string

	mu        sync.Mutex
	scheme    string                   // https until the registry turned out to speak plain HTTP
	meeting   chan struct{}            // of the first request, see meet; nil: none was sent
	met       bool                     // meeting is closed
	challenge challenge                // how it wants to be authenticated with; empty until it asked
	tokens    map[string]token         // by scopes
	fetching  map[string]chan struct{} // by scopes; full while a token is being got
	down      bool                     // it did not answer
	whole     bool                     // it takes blobs in one request only
	mountless bool                     // it fails where it shall take a blob from another repository
}

// hubAddress is where the API of docker.io is.
const hubAddress = "registry-1.docker.io"

// hostFor returns the record of a place, made on first use. Two places at one address
// that are spoken to in other ways have two.
func (c *Client) hostFor(p hosts.Place) (*host, error) {
	p.Repository = ""
	key := fmt.Sprintf("%+v", p)
	c.mu.Lock()
	defer c.mu.Unlock()
	if h := c.hosts[key]; h != nil {
		return h, nil
	}
	h := &host{name: p.Registry, place: p, address: p.Registry, scheme: "https", tokens: map[string]token{}, fetching: map[string]chan struct{}{}}
	if p.Registry == reference.DefaultRegistry {
		h.address = hubAddress
	}
	h.insecure = p.Insecure || c.opts.Insecure != nil && c.opts.Insecure(p.Registry)
	if p.Plain && h.plainAllowed() {
		h.scheme = "http"
	}
	var err error
	if h.transport, err = c.transport(h); err != nil {
		return nil, err
	}
	c.hosts[key] = h
	return h, nil
}

// noteFailure remembers a host that did not answer at all, or answers no more for now.
func (h *host) noteFailure(err error) {
	var status *Error
	if errors.As(err, &status) && status.Status < http.StatusInternalServerError && status.Status != http.StatusTooManyRequests {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.down = true
}

// isDown reports whether the host did not answer before.
func (h *host) isDown() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.down
}

// plainAllowed reports whether the registry may be spoken to over plain HTTP.
func (h *host) plainAllowed() bool { return h.insecure || isLoopback(hostName(h.address)) }

// currentScheme returns the scheme to use.
func (h *host) currentScheme() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.scheme
}

// lockToken makes callers take turns at getting the token of one set of scopes.
func (h *host) lockToken(ctx context.Context, key string) (unlock func(), err error) {
	h.mu.Lock()
	turn := h.fetching[key]
	if turn == nil {
		turn = make(chan struct{}, 1)
		h.fetching[key] = turn
	}
	h.mu.Unlock()
	select {
	case turn <- struct{}{}:
		return func() { <-turn }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// authState returns how to authenticate, and the token for a set of scopes.
func (h *host) authState(key string) (challenge, token) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.challenge, h.tokens[key]
}

// usePlain notes that the registry speaks plain HTTP.
func (h *host) usePlain() {
	h.mu.Lock()
	h.scheme = "http"
	h.mu.Unlock()
	h.known()
}

// meet has the first request to a registry that may speak plain HTTP go ahead: of many at once each
// would try TLS. The others return when that is over. What it returns says so.
func (h *host) meet(ctx context.Context) (known func()) {
	h.mu.Lock()
	first := h.meeting == nil
	if first {
		h.meeting = make(chan struct{})
	}
	over := h.meeting
	h.mu.Unlock()
	if first {
		return h.known
	}
	select {
	case <-over:
	case <-ctx.Done():
	}
	return func() {}
}

// known lets the requests go on that wait in meet.
func (h *host) known() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.meeting != nil && !h.met {
		close(h.meeting)
		h.met = true
	}
}

// noMounts remembers that the registry fails at mounts.
func (h *host) noMounts() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mountless = true
}

// failsMounts reports whether noMounts was called.
func (h *host) failsMounts() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mountless
}

// hostName returns host[:port] without port and brackets.
func hostName(address string) string {
	return (&url.URL{Host: address}).Hostname()
}

// isLoopback reports whether a host name means this machine by its spelling.
func isLoopback(name string) bool {
	name = strings.TrimSuffix(strings.ToLower(name), ".")
	if name == "localhost" || strings.HasSuffix(name, ".localhost") {
		return true
	}
	ip, err := netip.ParseAddr(name)
	return err == nil && ip.Unmap().IsLoopback()
}

// isForbidden reports whether a host name is an address that nobody outside may
// send us to: this machine, the link (where clouds have their metadata service).
func isForbidden(name string) bool {
	ip, ok := literal(name)
	if !ok {
		return isLoopback(name)
	}
	return ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast()
}

// isPrivate is isForbidden, and the private networks too.
func isPrivate(name string) bool {
	ip, ok := literal(name)
	return isForbidden(name) || (ok && ip.IsPrivate())
}

// literal parses an address as resolvers do: also the forms 127.1, 2130706433 and
// 0x7f.1, which become the unspecified address, since nobody needs them.
func literal(name string) (netip.Addr, bool) {
	name, _, _ = strings.Cut(name, "%")
	name = strings.TrimSuffix(name, ".")
	if ip, err := netip.ParseAddr(name); err == nil {
		return ip.Unmap(), true
	}
	last := name[strings.LastIndexByte(name, '.')+1:]
	if last != "" && (strings.Trim(last, "0123456789") == "" || strings.HasPrefix(strings.ToLower(last), "0x")) {
		return netip.IPv4Unspecified(), true
	}
	return netip.Addr{}, false
}

// sameOrigin reports whether two addresses have one scheme, host and port.
func sameOrigin(a, b *url.URL) bool {
	return a.Scheme == b.Scheme && strings.EqualFold(a.Hostname(), b.Hostname()) && port(a) == port(b)
}

// port returns the port of an address, also where it is the scheme's own.
func port(u *url.URL) string {
	if p := u.Port(); p != "" {
		return p
	}
	if u.Scheme == "http" {
		return "80"
	}
	return "443"
}

// sameDomain reports whether two host names belong to one registered domain, such
// as registry-1.docker.io and auth.docker.io.
func sameDomain(a, b string) bool {
	a, b = strings.ToLower(a), strings.ToLower(b)
	if a == b {
		return true
	}
	if _, ok := literal(a); ok {
		return false
	}
	da, err := publicsuffix.EffectiveTLDPlusOne(a)
	if err != nil {
		return false
	}
	db, err := publicsuffix.EffectiveTLDPlusOne(b)
	return err == nil && da == db
}
