// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
)

// hexLen is the length of a SHA-256 in hexadecimal.
const hexLen = 64

// CheckDigest returns an error unless d is "sha256:" and 64 lower case
// hexadecimal digits. Everything else is refused, also the other algorithms that
// the specification allows: a digest becomes a file name and a path of a URL.
func CheckDigest(d digest.Digest) error {
	hex, ok := strings.CutPrefix(string(d), "sha256:")
	if !ok {
		return fmt.Errorf("digest %s: only sha256 digests are supported", quote(string(d)))
	}
	if len(hex) != hexLen {
		return fmt.Errorf("digest %s: want 64 hexadecimal digits, got %d", quote(string(d)), len(hex))
	}
	for i := range len(hex) {
		if c := hex[i]; (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return fmt.Errorf("digest %s: want lower case hexadecimal digits", quote(string(d)))
		}
	}
	return nil
}

// ValidDigest reports whether CheckDigest accepts d.
func ValidDigest(d digest.Digest) bool { return CheckDigest(d) == nil }

// ExtendChain returns the chainID of the layer diffID on top of the stack whose
// chainID is parent; an empty parent is the empty stack.
func ExtendChain(parent, diffID digest.Digest) digest.Digest {
	if parent == "" {
		return diffID
	}
	return digest.FromString(string(parent) + " " + string(diffID))
}

// ChainID returns the chainID of a stack of layers, bottom first (image-spec,
// config.md, "Layer ChainID"). It is empty for no layers.
func ChainID(diffIDs []digest.Digest) digest.Digest {
	var chain digest.Digest
	for _, d := range diffIDs {
		chain = ExtendChain(chain, d)
	}
	return chain
}

// quote makes a string from outside safe and short enough for an error message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		s = s[:limit] + "…"
	}
	return fmt.Sprintf("%q", s)
}
