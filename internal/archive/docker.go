// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// readDocker reads manifest.json of an archive that is no layout, as older dockers
// and skopeo write it. There are no manifests in it: they are made here, and so
// have other digests than those of a registry.
func (r *Reader) readDocker() error {
	data, err := r.document(manifestName, maxDocument)
	if err != nil {
		return err
	}
	var list []dockerImage
	if err := json.Unmarshal(data, &list); err != nil {
		return fmt.Errorf("manifest.json: %w", err)
	}
	if len(list) == 0 || len(list) > maxImages {
		return fmt.Errorf("manifest.json: %w: it lists %d images", ErrFormat, len(list))
	}
	for n, i := range list {
		d, err := r.dockerManifest(i)
		if err != nil {
			return fmt.Errorf("manifest.json: image %d: %w", n, err)
		}
		if len(i.RepoTags) == 0 {
			r.images = append(r.images, Image{Descriptor: d})
		}
		for _, tag := range i.RepoTags {
			ref, err := reference.Parse(tag)
			if err != nil {
				return fmt.Errorf("manifest.json: image %d: %w", n, err)
			}
			r.images = append(r.images, Image{Descriptor: d, Name: ref.String(), Tag: tag})
		}
	}
	return nil
}

// dockerManifest makes the manifest of an image.
func (r *Reader) dockerManifest(i dockerImage) (ocispec.Descriptor, error) {
	var none ocispec.Descriptor
	raw, err := r.document(i.Config, image.MaxConfigSize)
	if err != nil {
		return none, fmt.Errorf("config: %w", err)
	}
	config, err := image.ParseConfig(raw)
	if err != nil {
		return none, err
	}
	if len(config.RootFS.DiffIDs) != len(i.Layers) {
		return none, fmt.Errorf("it has %d layers, its config has %d diffIDs", len(i.Layers), len(config.RootFS.DiffIDs))
	}
	m := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Layers: []ocispec.Descriptor{}}
	m.SchemaVersion = 2
	m.Config = r.keep(raw, ocispec.MediaTypeImageConfig)
	for n, name := range i.Layers {
		d, err := r.dockerLayer(name, config.RootFS.DiffIDs[n])
		if err != nil {
			return none, fmt.Errorf("layer %d: %w", n, err)
		}
		m.Layers = append(m.Layers, d)
	}
	doc, err := image.Marshal(m)
	if err != nil {
		return none, err
	}
	return r.keep(doc, ocispec.MediaTypeImageManifest), nil
}

// keep holds a document.
func (r *Reader) keep(data []byte, mediaType string) ocispec.Descriptor {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
	r.made[d.Digest] = slices.Clone(data)
	return d
}

// dockerLayer describes a layer. A plain tar must be what the config says, which
// its reader verifies; a compressed one must be read to know its digest.
func (r *Reader) dockerLayer(name string, diffID digest.Digest) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: diffID}
	s, err := r.find(name)
	if err != nil {
		return d, err
	}
	d.Size = s.size
	head := make([]byte, min(s.size, compress.DetectSize))
	if _, err := r.file.ReadAt(head, s.offset); err != nil {
		return d, err
	}
	switch a := compress.Detect(head); a {
	case compress.None:
		r.blobs[d.Digest] = s
		return d, nil
	case compress.Gzip:
		d.MediaType = ocispec.MediaTypeImageLayerGzip
	case compress.Zstd:
		d.MediaType = ocispec.MediaTypeImageLayerZstd
	case compress.Xz, compress.Bzip2:
		return d, fmt.Errorf("member %.100q: layers compressed with %s are not supported", name, a)
	}
	d.Digest, err = r.hashLayer(s, diffID)
	r.blobs[d.Digest] = s
	return d, err
}

// hashLayer reads a compressed layer: its digest, and whether it unpacks to what
// the config says.
func (r *Reader) hashLayer(s section, diffID digest.Digest) (digest.Digest, error) {
	whole := digest.SHA256.Digester()
	packed := io.TeeReader(io.NewSectionReader(r.file, s.offset, s.size), whole.Hash())
	z, _, err := compress.NewReader(packed)
	if err != nil {
		return "", err
	}
	defer z.Close()
	got, err := digest.FromReader(z)
	if err != nil {
		return "", fmt.Errorf("read layer: %w", err)
	}
	if got != diffID {
		return "", fmt.Errorf("layer unpacks to %s, but the image's config says %s", got, diffID)
	}
	return whole.Digest(), nil
}
