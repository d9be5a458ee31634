// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package reference knows the names of images: registry/repository:tag@digest.
//
// It parses what people write with Docker's rules (a name without a registry is
// on docker.io, one without a namespace is in library/, one without tag and digest
// means latest) and the grammar of the distribution project. A parsed Reference is
// complete and comparable, and its parts are safe in URLs. The package does not
// know how registries are reached.
package reference

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/opencontainers/go-digest"

	"build.stacker.dev/internal/image"
)

// The registry and the namespace that short names mean, and the default tag.
const (
	DefaultRegistry  = "docker.io"
	defaultNamespace = "library/"
	defaultTag       = "latest"
)

// Limits of the grammar: of registry/repository together, and of a tag.
const (
	maxName = 255
	maxTag  = 128
)

// Reference names an image in a registry. At least one of Tag and Digest is set in
// what Parse returns.
type Reference struct {
	Registry   string // host or host:port
	Repository string // path below the registry
	Tag        string
	Digest     digest.Digest
}

// Parse parses a name as people write it.
func Parse(s string) (Reference, error) {
	r, err := parse(s)
	if err != nil {
		return Reference{}, fmt.Errorf("image name %q: %w", shorten(s), err)
	}
	return r, nil
}

// parse is Parse without the name in its errors.
func parse(s string) (Reference, error) {
	if s == "" {
		return Reference{}, errors.New("it is empty")
	}
	if strings.Contains(s, "://") {
		return Reference{}, errors.New("leave out the scheme (like https://)")
	}
	rest, dgst, hasDigest := strings.Cut(s, "@")
	var r Reference
	if hasDigest {
		r.Digest = digest.Digest(dgst)
		if err := image.CheckDigest(r.Digest); err != nil {
			return Reference{}, err
		}
	}
	// A colon after the last slash begins a tag; before it, a port.
	if i := strings.LastIndexByte(rest, ':'); i > strings.LastIndexByte(rest, '/') {
		r.Tag = rest[i+1:]
		rest = rest[:i]
		if !ValidTag(r.Tag) {
			return Reference{}, fmt.Errorf("tag %q: want up to 128 letters, digits, '_', '.' and '-', not first '.' or '-'", shorten(r.Tag))
		}
	}
	r.Registry, r.Repository = split(rest)
	if err := r.checkName(rest); err != nil {
		return Reference{}, err
	}
	if r.Tag == "" && r.Digest == "" {
		r.Tag = defaultTag
	}
	return r, nil
}

// split divides a name without tag and digest and fills in what is left out.
func split(name string) (registry, repository string) {
	first, rest, found := strings.Cut(name, "/")
	if !found || !looksLikeHost(first) {
		registry, repository = DefaultRegistry, name
	} else {
		registry, repository = first, rest
	}
	if registry == "index.docker.io" {
		registry = DefaultRegistry
	}
	if registry == DefaultRegistry && !strings.Contains(repository, "/") {
		repository = defaultNamespace + repository
	}
	return registry, repository
}

// IsShort reports whether a name leaves out the registry: what it means can be
// configured, and is docker.io where nothing is.
func IsShort(name string) bool {
	first, _, found := strings.Cut(name, "/")
	return !found || !looksLikeHost(first)
}

// looksLikeHost tells a registry from a namespace, as Docker does.
func looksLikeHost(s string) bool {
	return strings.ContainsAny(s, ".:[") || s == "localhost" || strings.ToLower(s) != s
}

// checkName checks registry and repository; written is what the user wrote of them.
func (r Reference) checkName(written string) error {
	if len(written) == 64 && image.ValidDigest(digest.Digest("sha256:"+written)) {
		return errors.New("it is the hexadecimal part of a digest, not a name: write NAME@sha256:…")
	}
	if !ValidRegistry(r.Registry) {
		return fmt.Errorf("registry %q is not a host or host:port", shorten(r.Registry))
	}
	if len(r.Registry)+1+len(r.Repository) > maxName {
		return fmt.Errorf("longer than %d characters", maxName)
	}
	if strings.TrimPrefix(r.Repository, defaultNamespace) == "" {
		return errors.New("the repository is missing")
	}
	for part := range strings.SplitSeq(r.Repository, "/") {
		if !validComponent(part) {
			hint := ""
			if strings.ToLower(part) != part {
				hint = " (it must be lower case)"
			}
			return fmt.Errorf("repository %q: %q is malformed%s", shorten(r.Repository), shorten(part), hint)
		}
	}
	return nil
}

// ValidTag reports whether s is a tag by the distribution specification.
func ValidTag(s string) bool {
	if s == "" || len(s) > maxTag || s[0] == '.' || s[0] == '-' {
		return false
	}
	for i := range len(s) {
		if !isAlnum(s[i]) && s[i] != '_' && s[i] != '.' && s[i] != '-' {
			return false
		}
	}
	return true
}

// validComponent reports whether s is one path component of a repository: lower
// case letters and digits, separated by '.', '_', '__' or any number of '-'.
func validComponent(s string) bool {
	if s == "" || !isLower(s[0]) || !isLower(s[len(s)-1]) {
		return false
	}
	for i := 0; i < len(s); {
		if isLower(s[i]) {
			i++
			continue
		}
		j := i
		for j < len(s) && !isLower(s[j]) {
			j++
		}
		if sep := s[i:j]; sep != "." && sep != "_" && sep != "__" && strings.Trim(sep, "-") != "" {
			return false
		}
		i = j
	}
	return true
}

// ValidRegistry reports whether s is a host name, an IPv4 address or an IPv6
// address in brackets, with an optional port.
func ValidRegistry(s string) bool {
	host, port, hasPort := s, "", false
	if i := strings.LastIndexByte(s, ':'); i > strings.LastIndexByte(s, ']') {
		host, port, hasPort = s[:i], s[i+1:], true
	}
	if hasPort {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return false
		}
	}
	if inner, ok := strings.CutPrefix(host, "["); ok {
		inner, ok = strings.CutSuffix(inner, "]")
		return ok && inner != "" && strings.Trim(strings.ToLower(inner), "0123456789abcdef:") == ""
	}
	for label := range strings.SplitSeq(host, ".") {
		if label == "" || !isAlnum(label[0]) || !isAlnum(label[len(label)-1]) {
			return false
		}
		for i := range len(label) {
			if !isAlnum(label[i]) && label[i] != '-' {
				return false
			}
		}
	}
	return true
}

func isLower(c byte) bool { return c >= 'a' && c <= 'z' || c >= '0' && c <= '9' }

func isAlnum(c byte) bool { return isLower(c) || c >= 'A' && c <= 'Z' }

// shorten makes a string from outside short enough for an error message.
func shorten(s string) string {
	const limit = 100
	if len(s) > limit {
		return s[:limit] + "…"
	}
	return s
}
