// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registrytest

import (
	"crypto/rand"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"time"
)

// grant is what a token allows.
type grant struct {
	scopes []string
	until  time.Time // zero is forever
}

// serveToken is the token service.
func (s *Server) serveToken(w http.ResponseWriter, r *http.Request) {
	user, password, ok := r.BasicAuth()
	if r.Method == http.MethodPost && r.ParseForm() == nil && r.PostForm.Get("refresh_token") != "" {
		user, password, ok = s.opts.Username, r.PostForm.Get("refresh_token"), true
	}
	if s.opts.Username != "" && (!ok || user != s.opts.Username || password != s.opts.Password) {
		fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "wrong user or password")
		return
	}
	var scopes []string
	for _, v := range append(r.URL.Query()["scope"], r.PostForm["scope"]...) {
		scopes = append(scopes, strings.Fields(v)...)
	}
	g := grant{scopes: scopes}
	if s.opts.TokenLife > 0 {
		g.until = time.Now().Add(s.opts.TokenLife)
	}
	token := rand.Text()
	s.mu.Lock()
	s.tokens[token] = g
	s.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 3600})
}

// RevokeTokens makes the tokens that were given so far invalid.
func (s *Server) RevokeTokens() {
	s.mu.Lock()
	defer s.mu.Unlock()
	clear(s.tokens)
}

// SetChallenge replaces the WWW-Authenticate header of refusals.
func (s *Server) SetChallenge(header string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.challenge = header
}

// authorize reports whether a request may go on, and refuses it otherwise.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, name string) bool {
	action := "pull"
	switch r.Method {
	case http.MethodPost, http.MethodPut, http.MethodPatch:
		action = "push"
	case http.MethodDelete:
		action = "delete"
	}
	var challenge string
	switch s.opts.Auth {
	case Open:
		return true
	case Basic:
		user, password, ok := r.BasicAuth()
		if ok && user == s.opts.Username && password == s.opts.Password {
			return true
		}
		challenge = `Basic realm="test"`
	case Token:
		if s.allows(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "), name, action) {
			return true
		}
		realm := s.opts.Realm
		if realm == "" {
			realm = s.URL() + "/token"
		}
		challenge = `Bearer realm="` + realm + `",service="test",scope="repository:` + name + ":" + action + `"`
	}
	s.mu.Lock()
	if s.challenge != "" {
		challenge = s.challenge
	}
	s.mu.Unlock()
	w.Header().Set("WWW-Authenticate", challenge)
	fail(w, http.StatusUnauthorized, "UNAUTHORIZED", "authentication required")
	return false
}

// allows reports whether a token allows an action in a repository.
func (s *Server) allows(token, name, action string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	g, ok := s.tokens[token]
	if !ok || (!g.until.IsZero() && time.Now().After(g.until)) {
		return false
	}
	for _, scope := range g.scopes {
		actions, found := strings.CutPrefix(scope, "repository:"+name+":")
		if found && slices.Contains(strings.Split(actions, ","), action) {
			return true
		}
	}
	return name == ""
}
