// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package source finds what comes from outside of a build: images in registries,
// in OCI layouts and in the local store. Local files and downloads have packages of their own below it.
// What it returns was verified against the digest that asked for it; bytes of
// layers are verified by whoever reads them.
package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/images"
	"build.stacker.dev/internal/layout"
)

// CachePrefix begins the origin of a layer that a shared cache had. The rest is an
// ordinary origin.
const CachePrefix = "cache+"

// ErrLost is returned for a layer with such an origin that cannot be had: it can be
// made again.
var ErrLost = errors.New("the shared cache does not give the layer")

// Prefixes of the references that build files use. A name without one is in the
// local store or in a registry: see [Policy].
const (
	DockerPrefix = "docker://"
	LayoutPrefix = "oci:"
	StorePrefix  = "store:" // the local store, and nothing else
)

// Policy says where an image is looked for that is called by its plain name.
type Policy string

// The policies.
const (
	Missing Policy = ""       // in the local store, then in the registry
	Always  Policy = "always" // in the registry
	Never   Policy = "never"  // in the local store
)

// Image is an image found, with its documents.
type Image struct {
	Origin    string // where its blobs can be had again, always by digest
	Insecure  bool
	Manifest  ocispec.Descriptor
	Document  ocispec.Manifest
	Config    image.Config
	RawConfig []byte
}

// Images finds images.
type Images struct {
	Blobs *blob.Store // keeps what is downloaded
	// Registry gives the client for one kind of connection; nil: no network.
	Registry func(insecure bool) (Registry, error)
	Local    *images.Store // nil: there are no local images
	Pull     Policy
	// Short gives what a name without a registry may mean, in the order in which to
	// try, and why; nothing: it is on docker.io. Nil: no name is short.
	Short func(name string) (candidates []string, why string, err error)
	// Took is told what a short name turned out to mean. It may be nil.
	Took func(short, name, why string)
}

// Registry is what this package needs of a registry client.
type Registry interface {
	// Resolve returns the descriptor that the reference names now.
	Resolve(ctx context.Context, reference string) (ocispec.Descriptor, error)
	// Manifest returns the verified bytes of a manifest or an index.
	Manifest(ctx context.Context, reference string, d ocispec.Descriptor) ([]byte, error)
	// Fetch brings a blob into the store.
	Fetch(ctx context.Context, reference string, d ocispec.Descriptor, into *blob.Store, progress func(int64)) error
}

// Resolve finds the image that a reference names, for the platform wanted.
func (s *Images) Resolve(ctx context.Context, ref string, insecure bool, want image.Platform) (Image, error) {
	if rest, ok := strings.CutPrefix(ref, LayoutPrefix); ok {
		return s.fromLayout(ctx, rest, want)
	}
	if strings.HasPrefix(ref, DockerPrefix) {
		return s.fromRegistry(ctx, ref, insecure, want)
	}
	if name, ok := strings.CutPrefix(ref, StorePrefix); ok {
		return s.fromStore(ctx, name, want)
	}
	return s.byName(ctx, ref, insecure, want)
}

// splitLayout takes PATH:TAG apart. Tags may contain colons, paths may not.
func splitLayout(s string) (dir, tag string, err error) {
	dir, tag, ok := strings.Cut(s, ":")
	if !ok || tag == "" || dir == "" {
		return "", "", fmt.Errorf("bad OCI tag: %s: write oci:DIRECTORY:TAG", s)
	}
	return dir, tag, nil
}

func (s *Images) fromLayout(ctx context.Context, name string, want image.Platform) (Image, error) {
	dir, tag, err := splitLayout(name)
	if err != nil {
		return Image{}, err
	}
	l, err := layout.Open(dir)
	if err != nil {
		return Image{}, err
	}
	defer l.Close()
	desc, err := l.Resolve(ctx, tag)
	if err != nil {
		return Image{}, err
	}
	read := func(d ocispec.Descriptor, limit int64) ([]byte, error) { return l.Blobs().ReadAll(ctx, d, limit) }
	img, err := load(desc, want, read)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", name, err)
	}
	img.Origin = LayoutPrefix + dir + ":" + string(img.Manifest.Digest)
	return img, nil
}

// load reads an image's documents by their descriptors.
func load(desc ocispec.Descriptor, want image.Platform, read func(ocispec.Descriptor, int64) ([]byte, error)) (Image, error) {
	for depth := 0; image.IsIndex(desc.MediaType); depth++ {
		if depth == 3 {
			return Image{}, fmt.Errorf("indexes within indexes: %s", desc.Digest)
		}
		raw, err := read(desc, image.MaxManifestSize)
		if err != nil {
			return Image{}, err
		}
		idx, err := image.ParseIndex(raw, desc.MediaType)
		if err != nil {
			return Image{}, err
		}
		if desc, err = image.Choose(idx, want); err != nil {
			return Image{}, err
		}
	}
	raw, err := read(desc, image.MaxManifestSize)
	if err != nil {
		return Image{}, err
	}
	m, err := image.ParseManifest(raw, desc.MediaType)
	if err != nil {
		return Image{}, err
	}
	img := Image{Manifest: desc, Document: m}
	if img.RawConfig, err = read(m.Config, image.MaxConfigSize); err != nil {
		return Image{}, err
	}
	if img.Config, err = image.ParseConfig(img.RawConfig); err != nil {
		return Image{}, err
	}
	return img, image.CheckLayers(m, img.Config)
}

// fromRegistry asks the registry what a tag names; what a digest names is never
// asked again.
func (s *Images) fromRegistry(ctx context.Context, ref string, insecure bool, want image.Platform) (Image, error) {
	name := strings.TrimPrefix(ref, DockerPrefix)
	var client Registry
	connect := func() (err error) {
		if client == nil {
			client, err = s.Registry(insecure)
		}
		return err
	}
	desc, err := s.resolveName(ctx, name, connect, func() Registry { return client })
	if err != nil {
		return Image{}, err // it names the image
	}
	read := func(d ocispec.Descriptor, limit int64) ([]byte, error) {
		if s.Blobs.Has(d) {
			return s.Blobs.ReadAll(ctx, d, limit)
		}
		if err := connect(); err != nil {
			return nil, err
		}
		return s.download(ctx, client, name, d, limit)
	}
	img, err := load(desc, want, read)
	if err != nil {
		return Image{}, fmt.Errorf("image %s: %w", ref, err)
	}
	img.Origin, img.Insecure = DockerPrefix+withoutTag(name)+"@"+string(img.Manifest.Digest), insecure
	return img, nil
}

// resolveName gives the descriptor of a name: from the store where the name has
// a digest that is there, else from the registry.
func (s *Images) resolveName(ctx context.Context, name string, connect func() error, client func() Registry) (ocispec.Descriptor, error) {
	if _, d, ok := strings.Cut(name, "@"); ok && image.ValidDigest(digest.Digest(d)) {
		if desc, ok := s.kept(ctx, digest.Digest(d)); ok {
			return desc, nil
		}
	}
	if err := connect(); err != nil {
		return ocispec.Descriptor{}, err
	}
	return client().Resolve(ctx, name)
}

// kept describes a manifest or index that the store has.
func (s *Images) kept(ctx context.Context, d digest.Digest) (ocispec.Descriptor, bool) {
	size, err := s.Blobs.Stat(d)
	if err != nil || size > image.MaxManifestSize {
		return ocispec.Descriptor{}, false
	}
	desc := ocispec.Descriptor{Digest: d, Size: size}
	raw, err := s.Blobs.ReadAll(ctx, desc, image.MaxManifestSize)
	if err != nil {
		return ocispec.Descriptor{}, false
	}
	if desc.MediaType, err = image.MediaType(raw, ""); err != nil {
		return ocispec.Descriptor{}, false
	}
	return desc, true
}

func (s *Images) download(ctx context.Context, c Registry, name string, d ocispec.Descriptor, limit int64) ([]byte, error) {
	if d.Size > limit {
		return nil, fmt.Errorf("document %s has %d bytes, more than %d", d.Digest, d.Size, limit)
	}
	if !image.IsIndex(d.MediaType) && !image.IsManifest(d.MediaType) {
		if err := c.Fetch(ctx, name, d, s.Blobs, nil); err != nil {
			return nil, err
		}
		return s.Blobs.ReadAll(ctx, d, limit)
	}
	raw, err := c.Manifest(ctx, name, d)
	if err != nil {
		return nil, err
	}
	_, err = s.Blobs.Put(raw)
	return raw, err
}

func withoutTag(name string) string {
	name, _, _ = strings.Cut(name, "@")
	if i := strings.LastIndexByte(name, ':'); i > strings.LastIndexByte(name, '/') {
		name = name[:i]
	}
	return name
}

// Layer opens a layer's blob for reading. The bytes are not verified. Without an
// origin the layer was made here.
func (s *Images) Layer(ctx context.Context, origin string, insecure bool, d ocispec.Descriptor, progress func(int64)) (*os.File, error) {
	if origin == "" {
		f, _, err := s.Blobs.File(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("layer %s was made here and is gone: %w: run the build again", d.Digest, err)
		}
		return f, nil
	}
	if name, ok := strings.CutPrefix(origin, StorePrefix); ok {
		f, _, err := s.Blobs.File(d.Digest)
		if err != nil {
			return nil, fmt.Errorf("image %s of the local store is not complete: %w: build, load or pull it again", name, err)
		}
		return f, nil
	}
	if rest, ok := strings.CutPrefix(origin, CachePrefix); ok {
		f, err := s.Layer(ctx, rest, insecure, d, progress)
		if err != nil && ctx.Err() == nil {
			err = fmt.Errorf("%w: %w", ErrLost, err)
		}
		return f, err
	}
	if rest, ok := strings.CutPrefix(origin, LayoutPrefix); ok {
		dir, _, err := splitLayout(rest)
		if err != nil {
			return nil, err
		}
		l, err := layout.Open(dir)
		if err != nil {
			return nil, err
		}
		defer l.Close()
		f, _, err := l.Blobs().File(d.Digest)
		return f, err
	}
	if !s.Blobs.Has(d) {
		client, err := s.Registry(insecure)
		if err != nil {
			return nil, err
		}
		if err := client.Fetch(ctx, strings.TrimPrefix(origin, DockerPrefix), d, s.Blobs, progress); err != nil {
			return nil, err
		}
	}
	f, _, err := s.Blobs.File(d.Digest)
	return f, err
}

// Here tells whether Layer opens the blob without asking a registry.
func (s *Images) Here(origin string, d ocispec.Descriptor) bool {
	return !strings.HasPrefix(strings.TrimPrefix(origin, CachePrefix), DockerPrefix) || s.Blobs.Has(d)
}

// Open is Layer, verified while it is read.
func (s *Images) Open(ctx context.Context, origin string, insecure bool, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := s.Layer(ctx, origin, insecure, d, nil)
	if err != nil {
		return nil, err
	}
	r := blob.Verify(f, d)
	if strings.HasPrefix(origin, CachePrefix) {
		return &losable{r}, nil
	}
	return r, nil
}

// losable is a blob of a shared cache: damage is a loss.
type losable struct{ io.ReadCloser }

// Read implements io.Reader.
func (l *losable) Read(p []byte) (int, error) {
	n, err := l.ReadCloser.Read(p)
	if err != nil && err != io.EOF {
		err = fmt.Errorf("%w: %w", ErrLost, err)
	}
	return n, err
}
