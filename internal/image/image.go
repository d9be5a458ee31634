// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package image knows the OCI documents: manifest, index and config, their media
// types, platforms and digests.
//
// It parses bytes from outside strictly, because two programs that read one
// document differently is how a scanner sees another image than the one that
// runs: a document that is both manifest and index, a key that occurs twice or in
// another case, a media type that is not the one that was promised, a negative
// size and a malformed digest are errors. Docker's schema 2 documents are read
// too and have the same shape; ToOCI rewrites their media types.
//
// The package does no input or output. What it returns has been checked: digests
// are sha256 and lower case, so that they can be used as file names.
package image

import (
	"bytes"
	"encoding/json"
	"fmt"
)

// Limits of documents in bytes. The distribution specification asks registries to
// accept manifests up to 4 MiB.
const (
	MaxManifestSize = 4 << 20
	MaxConfigSize   = 8 << 20
)

// Marshal returns v as JSON in one canonical form: fields in the order of the
// struct, map keys sorted, no HTML escapes, no newline at the end.
func Marshal(v any) ([]byte, error) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return nil, fmt.Errorf("encode document: %w", err)
	}
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), nil
}
