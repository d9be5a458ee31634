// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"fmt"

	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
)

// Type says what kind of thing an output writes.
type Type string

// The types of outputs. "registry" is Image with Push.
const (
	Image     Type = "image"     // into the local store, and into a registry with Push
	OCI       Type = "oci"       // an OCI layout: an archive, or a directory
	Docker    Type = "docker"    // an archive for docker load; without Dest into docker or podman
	Tar       Type = "tar"       // the files as a tar archive
	Local     Type = "local"     // the files in a directory
	CacheOnly Type = "cacheonly" // nothing: the results are kept for the next build
)

// Stdout is the Dest that means the standard output.
const Stdout = "-"

// Spec is one output as --output says it. ParseSpec makes it; a zero field says
// that the user said nothing about it, unless its comment says something else.
type Spec struct {
	Type  Type
	Dest  string   // a file or a directory; Stdout
	Names []string // of the image; none: those of --tag

	// Of Image.
	Push           bool
	PushByDigest   bool // no tags in the registry
	Insecure       bool // plain http and unverifiable certificates are accepted
	NoStore        bool // not into the local store
	NameCanonical  bool // NAME@DIGEST is a name, too
	DanglingPrefix string

	// Of OCI and Docker.
	Directory bool // a layout in a directory in place of an archive

	// Of Tar and Local.
	Source        string // only what is below this path of the result
	PlatformSplit *bool  // a directory for each platform; nil: if there are several
	Delete        bool   // Local: what is in Dest and not in the result goes

	// Of all that write images.
	Layers      LayerOptions
	DockerTypes bool // documents and layers have docker's media types
	Annotations []Annotation
	layerSizes  bool  // layers tell the size of their tar
	OCIArtifact *bool // form of attestations; nil: the default of their maker
}

// LayerOptions say how layers are stored.
type LayerOptions struct {
	Compression compress.Algorithm // of layers made here; empty: Gzip
	Level       int                // 0: the default of the algorithm
	// Archive is what all layers shall be; empty: Tar. Layers of a base image that
	// are something else are converted.
	Archive  image.Archive
	NoVerity bool // images of file systems get no dm-verity tree
	Force    bool // layers of the base image, too
	// Rewrite wants times clamped to SOURCE_DATE_EPOCH. Layers made here are
	// always; it must be set then.
	Rewrite bool
}

func (o LayerOptions) algorithm() compress.Algorithm {
	if o.Compression == "" {
		return compress.Gzip
	}
	return o.Compression
}

// packs tells whether a layer made here comes out the same with other options.
func (o LayerOptions) packs(p LayerOptions) bool {
	return o.archive() == p.archive() && o.algorithm() == p.algorithm() && o.Level == p.Level
}

// Place says which document an annotation belongs to.
type Place string

// The places of annotations.
const (
	OnManifest           Place = "manifest"
	OnIndex              Place = "index"
	OnManifestDescriptor Place = "manifest-descriptor"
	OnIndexDescriptor    Place = "index-descriptor"
)

// Annotation is one annotation. A zero Platform means all.
type Annotation struct {
	Place      Place
	Platform   image.Platform
	Key, Value string
}

// IsImage tells whether the output has manifests and names, and not bare files.
func (s Spec) IsImage() bool {
	switch s.Type {
	case Image, OCI, Docker:
		return true
	case Tar, Local, CacheOnly:
	}
	return false
}

// ToStdout tells whether the output goes to the standard output.
func (s Spec) ToStdout() bool { return s.Dest == Stdout }

// keyError is a key of a spec with a value that it cannot have.
func keyError(key, value, want string) error {
	return fmt.Errorf("%s=%s: it is %s", key, value, want)
}
