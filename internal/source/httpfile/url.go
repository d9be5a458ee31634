// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package httpfile

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"
)

// parse reads a URL; its errors hold no password.
func parse(rawURL string) (*url.URL, error) {
	u, err := url.Parse(rawURL)
	if err != nil {
		// The parser's own error repeats the text, and with it a password.
		return nil, errors.New("malformed URL: check its host, its port and its % signs")
	}
	if u.Scheme != "http" && u.Scheme != "https" {
		return nil, fmt.Errorf("unsupported url scheme %s", show(u))
	}
	if u.Host == "" {
		return nil, fmt.Errorf("URL %q names no host", show(u))
	}
	return u, nil
}

// show is a URL for messages: without a password, and without the query, in which
// signed URLs have their secret.
func show(u *url.URL) string {
	c := *u
	c.User, c.Fragment, c.RawFragment = nil, "", ""
	if c.RawQuery != "" {
		c.RawQuery = "…"
	}
	return c.String()
}

// Name is the file name that a URL gives: the last element of its path, "index"
// if it has none. What the server calls the file does not matter. A name that could
// lead out of a directory, or that cannot be shown, is an error.
func Name(rawURL string) (string, error) {
	u, err := parse(rawURL)
	if err != nil {
		return "", err
	}
	p := strings.TrimRight(u.EscapedPath(), "/")
	name, err := url.PathUnescape(p[strings.LastIndex(p, "/")+1:])
	switch {
	case err != nil:
		return "", fmt.Errorf("URL %q: the last part of its path is malformed", show(u))
	case name == "":
		return "index", nil
	case name == ".", name == "..", len(name) > 255, strings.ContainsFunc(name, isUnsafe):
		return "", fmt.Errorf("URL %q: the last part of its path, %.80q, is no usable file name", show(u), name)
	}
	return name, nil
}

func isUnsafe(r rune) bool { return r == '/' || r < ' ' || r == 0x7f }

// wanted is the digest that Options.Hash asks for.
func wanted(hash string) (digest.Digest, error) {
	if hash == "" {
		return "", nil
	}
	text := strings.ToLower(hash)
	text = strings.TrimPrefix(text, "sha256:")
	if raw, err := hex.DecodeString(text); err != nil || len(raw) != digest.SHA256.Size() {
		return "", fmt.Errorf("hash %.80q is not a sha256 in hexadecimal: want 64 digits", hash)
	}
	return digest.NewDigestFromEncoded(digest.SHA256, text), nil
}
