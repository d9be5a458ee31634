// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// manifestKeys are the members of manifests, indexes and descriptors.
const manifestKeys = "schemaVersion mediaType artifactType config layers manifests subject annotations " +
	"digest size urls data platform architecture os os.version os.features variant fsLayers signatures"

// ParseManifest parses and checks a manifest. mediaType is what the descriptor or
// the registry said that it is; empty means that nothing did.
func ParseManifest(data []byte, mediaType string) (ocispec.Manifest, error) {
	var m ocispec.Manifest
	kind, err := inspect(data, mediaType)
	if err != nil {
		return m, fmt.Errorf("parse manifest: %w", err)
	}
	if !IsManifest(kind) {
		return m, fmt.Errorf("parse manifest: it is an index (%s)", kind)
	}
	if err := json.Unmarshal(data, &m); err != nil {
		return m, fmt.Errorf("parse manifest: %w", err)
	}
	m.MediaType = kind
	if err := checkManifest(m); err != nil {
		return m, fmt.Errorf("parse manifest: %w", err)
	}
	return m, nil
}

// checkManifest checks the descriptors of a manifest.
func checkManifest(m ocispec.Manifest) error {
	if err := CheckDescriptor(m.Config); err != nil {
		return fmt.Errorf("config: %w", err)
	}
	var total int64
	for i, l := range m.Layers {
		if err := CheckDescriptor(l); err != nil {
			return fmt.Errorf("layer %d: %w", i, err)
		}
		if l.Size > math.MaxInt64-total {
			return errors.New("the sizes of the layers overflow")
		}
		total += l.Size
	}
	return checkSubject(m.Subject)
}

// ParseIndex parses and checks an index. mediaType is what the descriptor or the
// registry said that it is; empty means that nothing did.
func ParseIndex(data []byte, mediaType string) (ocispec.Index, error) {
	var idx ocispec.Index
	kind, err := inspect(data, mediaType)
	if err != nil {
		return idx, fmt.Errorf("parse index: %w", err)
	}
	if !IsIndex(kind) {
		return idx, fmt.Errorf("parse index: it is a manifest (%s)", kind)
	}
	if err := json.Unmarshal(data, &idx); err != nil {
		return idx, fmt.Errorf("parse index: %w", err)
	}
	idx.MediaType = kind
	for i, d := range idx.Manifests {
		if err := CheckDescriptor(d); err != nil {
			return idx, fmt.Errorf("parse index: entry %d: %w", i, err)
		}
	}
	if err := checkSubject(idx.Subject); err != nil {
		return idx, fmt.Errorf("parse index: %w", err)
	}
	return idx, nil
}

// checkSubject checks the optional subject of a manifest or an index.
func checkSubject(d *ocispec.Descriptor) error {
	if d == nil {
		return nil
	}
	if err := CheckDescriptor(*d); err != nil {
		return fmt.Errorf("subject: %w", err)
	}
	return nil
}

// CheckDescriptor returns an error unless the descriptor has a media type, a valid
// digest and a size that is not negative.
func CheckDescriptor(d ocispec.Descriptor) error {
	if d.MediaType == "" {
		return errors.New("descriptor has no mediaType")
	}
	if strings.ContainsAny(d.MediaType, "\r\n\x00 ") {
		return fmt.Errorf("media type %s is malformed", quote(d.MediaType))
	}
	if err := CheckDigest(d.Digest); err != nil {
		return err
	}
	if d.Size < 0 {
		return fmt.Errorf("descriptor of %s has the negative size %d", d.Digest, d.Size)
	}
	if len(d.Data) > 0 && (int64(len(d.Data)) != d.Size || digest.FromBytes(d.Data) != d.Digest) {
		return fmt.Errorf("descriptor of %s embeds other data", d.Digest)
	}
	return nil
}

// MediaType returns the media type of a manifest or an index: the one that the
// document states, else contentType where that is one, else what its members say.
// A contentType of a manifest or an index that contradicts the document is an
// error; any other one is ignored.
func MediaType(data []byte, contentType string) (string, error) {
	contentType, _, _ = strings.Cut(contentType, ";")
	contentType = strings.TrimSpace(contentType)
	if strings.HasPrefix(contentType, mediaTypeDockerSchema1) {
		return "", errSchema1
	}
	if !IsManifest(contentType) && !IsIndex(contentType) {
		contentType = ""
	}
	return inspect(data, contentType)
}

var errSchema1 = errors.New("it is a Docker schema 1 manifest, which is not supported: " +
	"push the image again with a current client")

// inspect checks the form of a manifest or an index and returns its media type.
func inspect(data []byte, want string) (string, error) {
	if len(data) > MaxManifestSize {
		return "", fmt.Errorf("it has %d bytes, more than %d", len(data), MaxManifestSize)
	}
	keys, err := checkKeys(data, newShape(manifestKeys))
	if err != nil {
		return "", err
	}
	var head struct {
		SchemaVersion int    `json:"schemaVersion"`
		MediaType     string `json:"mediaType"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return "", err
	}
	if head.SchemaVersion == 1 || keys["fsLayers"] || keys["signatures"] {
		return "", errSchema1
	}
	if head.SchemaVersion != 2 {
		return "", fmt.Errorf("schemaVersion is %d, want 2", head.SchemaVersion)
	}
	kind := head.MediaType
	if want != "" && kind != "" && want != kind {
		return "", fmt.Errorf("media type is %s, but was announced as %s", quote(kind), quote(want))
	}
	if kind == "" {
		kind = want
	}
	return checkMembers(keys, kind)
}

// checkMembers checks that the members of a document are those of its kind only,
// and returns the kind, found by the members when it is not known.
func checkMembers(keys map[string]bool, kind string) (string, error) {
	manifest := keys["config"] || keys["layers"]
	index := keys["manifests"]
	switch {
	case manifest && index:
		return "", errors.New("it is both a manifest and an index")
	case !manifest && !index:
		return "", errors.New("it is neither a manifest nor an index")
	case kind == "" && manifest:
		return ocispec.MediaTypeImageManifest, nil
	case kind == "":
		return ocispec.MediaTypeImageIndex, nil
	case IsManifest(kind) && manifest, IsIndex(kind) && index:
		return kind, nil
	}
	return "", fmt.Errorf("its content does not fit its media type %s", quote(kind))
}
