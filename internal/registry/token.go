// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/auth"
)

// Limits of token services.
const (
	maxTokenBody = 1 << 20
	// A token without an expiry lives a minute (distribution, token.md). One is
	// renewed a little before its end, so that it does not end on its way.
	defaultTokenLife = 60 * time.Second
	tokenMargin      = 10 * time.Second
)

// token is a bearer token for some scopes.
type token struct {
	value   string
	expires time.Time
}

// authorization returns the Authorization header for the scopes; empty as long as
// the registry has not asked for one.
func (r *repository) authorization(ctx context.Context, scopes []string) (string, error) {
	h := r.host
	key := strings.Join(scopes, " ")
	if ch, _ := h.authState(key); ch.scheme == "" {
		return "", nil
	}
	unlock, err := h.lockToken(ctx, key)
	if err != nil {
		return "", err
	}
	defer unlock()
	ch, tok := h.authState(key)
	if ch.scheme == "bearer" && tok.value != "" && r.client.opts.Now().Before(tok.expires) {
		return "Bearer " + tok.value, nil
	}
	creds, err := r.credentials(ctx)
	if err != nil {
		return "", err
	}
	if creds.RegistryToken != "" {
		return "Bearer " + creds.RegistryToken, nil
	}
	if ch.scheme == "basic" {
		if creds.Username == "" && creds.Password == "" {
			return "", final("registry %s: %w: it wants a user name and a password: log in to it", h.name, ErrUnauthorized)
		}
		return basic(creds), nil
	}
	tok, err = r.fetchToken(ctx, ch, creds, scopes)
	if err != nil {
		return "", &finalError{fmt.Errorf("registry %s: get token: %w", h.name, err)} // it was tried often enough
	}
	h.mu.Lock()
	h.tokens[key] = tok
	h.mu.Unlock()
	return "Bearer " + tok.value, nil
}

// credentials asks the caller for the credentials of the repository.
func (r *repository) credentials(ctx context.Context) (auth.Credentials, error) {
	if r.client.opts.Credentials == nil {
		return auth.Credentials{}, nil
	}
	c, err := r.client.opts.Credentials(ctx, r.ref.Registry, r.ref.Repository)
	if err != nil {
		return c, &finalError{fmt.Errorf("registry %s: %w", r.ref.Registry, err)}
	}
	return c, nil
}

// basic returns the header of basic authentication.
func basic(c auth.Credentials) string {
	return "Basic " + base64.StdEncoding.EncodeToString([]byte(c.Username+":"+c.Password))
}

// learn notes how the registry wants to be authenticated with, and forgets a token
// that it did not take.
func (r *repository) learn(header http.Header, used string, scopes []string) error {
	ch, err := chooseChallenge(header)
	if err != nil {
		return &finalError{err}
	}
	key := strings.Join(scopes, " ")
	r.host.mu.Lock()
	defer r.host.mu.Unlock()
	r.host.challenge = ch
	// Another request may have renewed the token meanwhile; that one stays.
	if used == "Bearer "+r.host.tokens[key].value {
		delete(r.host.tokens, key)
	}
	return nil
}

// fetchToken asks the token service of a challenge for a token.
func (r *repository) fetchToken(ctx context.Context, ch challenge, creds auth.Credentials, scopes []string) (token, error) {
	realm, err := url.Parse(ch.params["realm"])
	if err != nil {
		return token{}, final("realm %.100q is not an address", ch.params["realm"])
	}
	if err := r.checkRealm(realm, !creds.Anonymous()); err != nil {
		return token{}, &finalError{err}
	}
	scopes = withChallengeScope(scopes, ch.params["scope"])
	for attempt := 0; ; attempt++ {
		tok, err := r.askForToken(ctx, realm, ch.params["service"], creds, scopes)
		if err == nil || !retryError(err) || attempt+1 >= r.attempts {
			return tok, err
		}
		if err := r.rest(ctx, attempt, err); err != nil {
			return token{}, err
		}
	}
}

// withChallengeScope adds the scope that the registry named, when it calls the
// repository by another name than its address does.
func withChallengeScope(scopes []string, asked string) []string {
	kind, rest, _ := strings.Cut(asked, ":")
	end := strings.LastIndexByte(rest, ':')
	if kind != "repository" || end < 0 {
		return scopes
	}
	prefix := asked[:len(kind)+1+end+1]
	if slices.ContainsFunc(scopes, func(s string) bool { return strings.HasPrefix(s, prefix) }) {
		return scopes
	}
	return append(slices.Clone(scopes), asked)
}

// checkRealm refuses a token service that the registry has no business to name. One
// that gets credentials must also belong to the registry.
func (r *repository) checkRealm(realm *url.URL, secret bool) error {
	own := hostName(r.host.address)
	name := realm.Hostname()
	same := strings.EqualFold(own, name)
	switch {
	case realm.Scheme != "https" && realm.Scheme != "http",
		realm.User != nil, realm.Opaque != "", !reference.ValidRegistry(realm.Host):
		return fmt.Errorf("realm %.100q is not an http address", realm.Redacted())
	case realm.Scheme == "http" && r.host.currentScheme() == "https":
		return fmt.Errorf("the token service %s does not use TLS, the registry does: not asked", realm.Host)
	case !same && isPrivate(name) && !(isLoopback(own) && isLoopback(name)):
		return fmt.Errorf("the token service %s is a private address: not asked", realm.Host)
	case !secret || same || sameDomain(own, name):
		return nil
	case isLoopback(own) && isLoopback(name):
		return fmt.Errorf("the token service %s is at another address: not given credentials", realm.Host)
	case r.client.opts.TokenHosts != nil && r.client.opts.TokenHosts(r.host.name, name):
		return nil
	}
	return fmt.Errorf("the token service %s is of another domain: not given the credentials for %s "+
		"(allow it if it belongs to the registry)", realm.Host, r.host.name)
}

// askForToken sends one request to the token service.
func (r *repository) askForToken(ctx context.Context, realm *url.URL, service string, creds auth.Credentials, scopes []string) (token, error) {
	req := &request{method: http.MethodGet, header: http.Header{}}
	target := *realm
	query := target.Query()
	authorization := ""
	if service != "" {
		query.Set("service", service)
	}
	if creds.IdentityToken != "" {
		// The refresh token belongs in a body, where no log shows it.
		query.Set("grant_type", "refresh_token")
		query.Set("refresh_token", creds.IdentityToken)
		query.Set("client_id", r.client.opts.UserAgent)
		query.Set("scope", strings.Join(scopes, " "))
		form := query.Encode()
		req.method = http.MethodPost
		req.header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.size = int64(len(form))
		req.body = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(form)), nil }
		target.RawQuery = ""
	} else {
		for _, s := range scopes {
			query.Add("scope", s)
		}
		if creds.Username != "" || creds.Password != "" {
			query.Set("account", creds.Username)
			authorization = basic(creds)
		}
		target.RawQuery = query.Encode()
	}
	at, err := r.client.hostAt(r.host, &target)
	if err != nil {
		return token{}, err
	}
	resp, err := r.client.sendOnce(ctx, at, req, &target, authorization)
	if err != nil {
		return token{}, err
	}
	if resp.StatusCode != http.StatusOK {
		return token{}, r.refused(resp)
	}
	defer discard(resp)
	return parseToken(resp.Body, r.client.opts.Now())
}

// parseToken reads the answer of a token service.
func parseToken(body io.Reader, now time.Time) (token, error) {
	data, err := io.ReadAll(io.LimitReader(body, maxTokenBody+1))
	if err != nil {
		return token{}, err
	}
	var answer struct {
		Token       string  `json:"token"`
		AccessToken string  `json:"access_token"`
		ExpiresIn   float64 `json:"expires_in"`
	}
	if len(data) > maxTokenBody || json.Unmarshal(data, &answer) != nil {
		return token{}, &finalError{errors.New("the answer of the token service is malformed")}
	}
	value := answer.Token
	if value == "" {
		value = answer.AccessToken
	}
	if value == "" || strings.ContainsFunc(value, func(c rune) bool { return c <= ' ' || c > '~' }) {
		return token{}, &finalError{errors.New("the answer of the token service has no token")}
	}
	life := defaultTokenLife
	if answer.ExpiresIn > defaultTokenLife.Seconds() {
		life = time.Duration(min(answer.ExpiresIn, 24*3600) * float64(time.Second))
	}
	return token{value: value, expires: now.Add(life - tokenMargin)}, nil
}
