// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// The directory of the store:
//
//	names/HEX   one name. HEX: sha256 of the name, or, of an image without a
//	            name, of "@" and its digest
//
// A file is two lines: "stacker-image 1 SHA256" with the digest of the rest, and
// the JSON of record:
//
//	stacker-image 1 5f2c…
//	{"name":"docker.io/library/app:1","image":{"mediaType":"…manifest.v1+json","digest":"sha256:…","size":482},
//	 "created":"2026-01-02T15:04:05Z","updated":"2026-01-02T15:04:05Z"}
//
// One that does not match is no image, and is removed with the next prune. Blobs
// and documents lie in the state directory's blobs/.
const (
	namesDir   = "names"
	magic      = "stacker-image 1 "
	maxRecord  = 16 << 10 // bytes of a file
	recordMode = 0o600
)

// record is the content of a file in names/.
type record struct {
	Name    string             `json:"name,omitempty"`
	Image   ocispec.Descriptor `json:"image"`
	Created time.Time          `json:"created"` // when the name was first given
	Updated time.Time          `json:"updated"` // when it was given to this image
}

var errDamaged = errors.New("damaged record of an image")

// fileName is the name of the file for an image.
func fileName(name string, d ocispec.Descriptor) string {
	if name == "" {
		name = "@" + string(d.Digest)
	}
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

func (r record) marshal() ([]byte, error) {
	body, err := image.Marshal(r)
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(body)
	return fmt.Appendf(nil, "%s%x\n%s", magic, sum, body), nil
}

// parseRecord reads what marshal wrote. file is the name of its file.
func parseRecord(data []byte, file string) (record, error) {
	var r record
	head, body, ok := bytes.Cut(data, []byte("\n"))
	sum := sha256.Sum256(body)
	if !ok || string(head) != magic+hex.EncodeToString(sum[:]) {
		return r, errDamaged
	}
	if err := json.Unmarshal(body, &r); err != nil {
		return r, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if err := image.CheckDescriptor(r.Image); err != nil {
		return r, fmt.Errorf("%w: %w", errDamaged, err)
	}
	if r.Name != "" {
		if ref, err := reference.Parse(r.Name); err != nil || ref.String() != r.Name {
			return r, fmt.Errorf("%w: name %.100q", errDamaged, r.Name)
		}
	}
	if fileName(r.Name, r.Image) != file {
		return r, fmt.Errorf("%w: it is for another name", errDamaged)
	}
	return r, nil
}
