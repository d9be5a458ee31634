// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types of schema 2, and the one of schema 1 to refuse by name.
const (
	MediaTypeDockerManifest   = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex      = "application/vnd.docker.distribution.manifest.list.v2+json"
	MediaTypeDockerConfig     = "application/vnd.docker.container.image.v1+json"
	MediaTypeDockerLayer      = "application/vnd.docker.image.rootfs.diff.tar"
	MediaTypeDockerLayerGzip  = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	MediaTypeDockerLayerZstd  = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	mediaTypeDockerForeign    = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
	mediaTypeDockerSchema1    = "application/vnd.docker.distribution.manifest.v1"
	mediaTypeStackerSquashfs  = "application/vnd.stacker.image.layer.squashfs"
	mediaTypeStackerErofs     = "application/vnd.stacker.image.layer.erofs"
	mediaTypeOldOCISquashfs   = "application/vnd.oci.image.layer.squashfs"
	mediaTypeNonDistributable = "application/vnd.oci.image.layer.nondistributable.v1.tar"
)

// Archive is how a layer's blob holds its tree.
type Archive string

// The archives that layers come in.
const (
	Tar      Archive = "tar"
	Squashfs Archive = "squashfs"
	Erofs    Archive = "erofs"
)

// Compression is how the bytes of a layer are compressed: around the whole blob
// for Tar, inside of it for the file systems.
type Compression string

// The compressions that media types name. Unstated is a file system whose media
// type does not say.
const (
	Unstated     Compression = ""
	Uncompressed Compression = "none"
	Gzip         Compression = "gzip"
	Zstd         Compression = "zstd"
	LZ4HC        Compression = "lz4hc"
)

// LayerType is what a layer's media type says about its blob.
type LayerType struct {
	Archive     Archive
	Compression Compression
}

// ParseLayerType returns what the media type of a layer says, or false when it is
// not that of a layer known here.
func ParseLayerType(mediaType string) (LayerType, bool) {
	switch mediaType {
	case ocispec.MediaTypeImageLayer, mediaTypeNonDistributable, MediaTypeDockerLayer:
		return LayerType{Tar, Uncompressed}, true
	case ocispec.MediaTypeImageLayerGzip, mediaTypeNonDistributable + "+gzip",
		MediaTypeDockerLayerGzip, mediaTypeDockerForeign:
		return LayerType{Tar, Gzip}, true
	case ocispec.MediaTypeImageLayerZstd, mediaTypeNonDistributable + "+zstd", MediaTypeDockerLayerZstd:
		return LayerType{Tar, Zstd}, true
	}
	base, suffix, _ := strings.Cut(mediaType, "+")
	compression := Compression(suffix)
	switch compression {
	case Unstated, Uncompressed, Gzip, Zstd, LZ4HC:
	default:
		return LayerType{}, false
	}
	switch base {
	case mediaTypeStackerSquashfs, mediaTypeOldOCISquashfs:
		return LayerType{Squashfs, compression}, true
	case mediaTypeStackerErofs:
		return LayerType{Erofs, compression}, true
	}
	return LayerType{}, false
}

// MediaType returns the media type to write for a layer: OCI's for tar, stacker's
// for the file systems. It is empty for a combination that has none.
func (t LayerType) MediaType() string {
	switch t.Archive {
	case Tar:
		switch t.Compression {
		case Uncompressed:
			return ocispec.MediaTypeImageLayer
		case Gzip:
			return ocispec.MediaTypeImageLayerGzip
		case Zstd:
			return ocispec.MediaTypeImageLayerZstd
		case Unstated, LZ4HC:
			return ""
		}
	case Squashfs:
		return withSuffix(mediaTypeStackerSquashfs, t.Compression)
	case Erofs:
		return withSuffix(mediaTypeStackerErofs, t.Compression)
	}
	return ""
}

// withSuffix appends a compression to the media type of a file system layer.
func withSuffix(base string, c Compression) string {
	if c == Unstated {
		return base
	}
	return base + "+" + string(c)
}

// IsIndex reports whether a media type is that of an index, OCI's or Docker's.
func IsIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == MediaTypeDockerIndex
}

// IsManifest reports whether a media type is that of a manifest, OCI's or Docker's.
func IsManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == MediaTypeDockerManifest
}

// OCIMediaType returns OCI's name for a media type of Docker's schema 2; every
// other media type is returned as it is.
func OCIMediaType(mediaType string) string {
	switch mediaType {
	case MediaTypeDockerManifest:
		return ocispec.MediaTypeImageManifest
	case MediaTypeDockerIndex:
		return ocispec.MediaTypeImageIndex
	case MediaTypeDockerConfig:
		return ocispec.MediaTypeImageConfig
	case MediaTypeDockerLayer:
		return ocispec.MediaTypeImageLayer
	case MediaTypeDockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip
	case MediaTypeDockerLayerZstd:
		return ocispec.MediaTypeImageLayerZstd
	case mediaTypeDockerForeign:
		return mediaTypeNonDistributable + "+gzip"
	}
	return mediaType
}

// ToOCI returns a copy of m with OCI's media types. The blobs stay the same, the
// digest of the manifest does not.
func ToOCI(m ocispec.Manifest) ocispec.Manifest {
	m.MediaType = ocispec.MediaTypeImageManifest
	m.Config.MediaType = OCIMediaType(m.Config.MediaType)
	layers := make([]ocispec.Descriptor, len(m.Layers))
	for i, l := range m.Layers {
		l.MediaType = OCIMediaType(l.MediaType)
		layers[i] = l
	}
	m.Layers = layers
	return m
}
