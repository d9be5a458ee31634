// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package auth finds the credentials for a registry.
//
// It reads Docker's config.json and the auth.json of the containers tools, which
// have one format, and asks credential helpers; Login and Logout change them. Which files there are is for the
// caller to say; the package reads no environment. It does not know how
// credentials are sent, and never guesses: a file that cannot be read and a helper
// that is missing, fails, hangs or answers nonsense is an error and not "no
// credentials", since the wrong ones may be the ones of another registry.
package auth

import (
	"context"
	"fmt"
	"strings"

	"build.stacker.dev/internal/reference"
)

// Credentials are what a registry accepts. The zero value is anonymous.
type Credentials struct {
	Username, Password string
	// IdentityToken is an OAuth2 refresh token, used in place of a password.
	IdentityToken string
	// RegistryToken is a bearer token that is sent as it is.
	RegistryToken string
}

// Anonymous reports whether there are no credentials.
func (c Credentials) Anonymous() bool { return c == Credentials{} }

// Keychain finds credentials in several sources, in their order. The zero value
// has none. It holds what it read; it is safe for concurrent use.
type Keychain struct {
	sources []*source
	helper  func(ctx context.Context, name, server string) (Credentials, error)
}

// Source is a file, or the content of one.
type Source struct {
	Path string // a missing file is passed over
	Data []byte // used in place of the file when it is not nil
}

// New returns a keychain of sources, the most important first.
func New(sources ...Source) *Keychain {
	k := &Keychain{helper: runHelper}
	for _, s := range sources {
		k.sources = append(k.sources, &source{Source: s})
	}
	return k
}

// Lookup returns the credentials for a repository of a registry, given as in a
// Reference; anonymous ones if no source has any. In a source, the entry with the
// longest path that is the repository or a parent of it wins.
func (k *Keychain) Lookup(ctx context.Context, registry, repository string) (Credentials, error) {
	keys := lookupKeys(registry, repository)
	for _, s := range k.sources {
		c, err := s.lookup(ctx, k.helper, keys)
		if err != nil || !c.Anonymous() {
			return c, err
		}
	}
	return Credentials{}, nil
}

// lookupKeys returns the keys under which credentials may be, the longest first.
func lookupKeys(registry, repository string) []string {
	var keys []string
	for path := repository; path != ""; {
		keys = append(keys, registry+"/"+path)
		i := strings.LastIndexByte(path, '/')
		path = path[:max(i, 0)]
	}
	return append(keys, registry)
}

// Key returns the name under which credentials for a registry, or for what is below
// registry/path, are kept, from what people write.
func Key(name string) (string, error) {
	key := normalKey(name)
	registry, _, below := strings.Cut(key, "/")
	if !strings.ContainsAny(registry, ".:") && registry != "localhost" || !reference.ValidRegistry(registry) {
		return "", fmt.Errorf("%q is no registry: write HOST or HOST:PORT", name)
	}
	if below {
		if r, err := reference.Parse(key); err != nil || r.Name() != key {
			return "", fmt.Errorf("%q is no registry: write HOST, HOST:PORT or HOST/PATH", name)
		}
	}
	return key, nil
}

// dockerHub is how references name Docker's registry, dockerServer how its own
// files and helpers do.
const (
	dockerHub    = "docker.io"
	dockerServer = "https://index.docker.io/v1/"
)

// normalKey returns a key of a file in the form of lookupKeys. Docker writes URLs,
// the containers tools host[:port][/path].
func normalKey(key string) string {
	for _, scheme := range []string{"https://", "http://"} {
		if rest, ok := strings.CutPrefix(key, scheme); ok {
			key, _, _ = strings.Cut(rest, "/") // a URL stands for its host
		}
	}
	key = strings.TrimRight(key, "/")
	host, path, hasPath := strings.Cut(key, "/")
	switch host {
	case "index.docker.io", "registry-1.docker.io":
		host = dockerHub
	}
	if !hasPath || path == "v1" || path == "v2" {
		return host
	}
	return host + "/" + path
}
