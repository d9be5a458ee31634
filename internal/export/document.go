// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/transfer"
)

// uncompressedSize is the annotation by which other tools of stacker.yaml's
// users know the size of a layer's tar.
const uncompressedSize = "ci.umo.uncompressed_blob_size"

// imageError says which image could not be exported. What ended the whole build, which another image may have
// done, is not this one's error.
func imageError(ctx context.Context, p Product, err error) error {
	if cause := context.Cause(ctx); cause != nil && errors.Is(err, cause) {
		return cause
	}
	return fmt.Errorf("export image %s: %w", p.Name, err)
}

// image puts the layers and then the documents of a product into a place.
func (e *Exporter) image(ctx context.Context, p Product, to transfer.Destination, s Spec) (made, error) {
	if s.Layers.Rewrite && p.Epoch == nil {
		return made{}, errors.New("rewrite-timestamp=true needs SOURCE_DATE_EPOCH")
	}
	p = p.complete()
	var layers []ocispec.Descriptor
	for i, l := range p.Layers {
		d, diffID, err := e.product(ctx, p, i, to, s)
		if err != nil {
			return made{}, imageError(ctx, p, err)
		}
		p.Config.RootFS.DiffIDs[i] = diffID
		if s.layerSizes && own(l) && s.Layers.layerType() == (image.LayerType{Archive: image.Tar, Compression: image.Gzip}) {
			d.Annotations = map[string]string{uncompressedSize: strconv.FormatInt(l.Size, 10)}
		}
		layers = append(layers, d)
	}
	if len(p.Layers) == 0 {
		d, err := e.emptyLayer(ctx, p, to, s.Layers)
		if err != nil {
			return made{}, imageError(ctx, p, err)
		}
		layers = []ocispec.Descriptor{d}
		if s.Layers.archive() != image.Tar {
			p.Config.RootFS.DiffIDs[0] = d.Digest
		}
	}
	m, err := e.documents(ctx, p, layers, to, s)
	if err != nil {
		return made{}, imageError(ctx, p, err)
	}
	return m, nil
}

// product puts layer n of a product into a place, and tells what the config must
// say of it.
func (e *Exporter) product(ctx context.Context, p Product, n int, to transfer.Destination, s Spec) (ocispec.Descriptor, digest.Digest, error) {
	l := p.Layers[n]
	if s.Layers.converts(l) {
		out, err := e.convert(ctx, p, n, to, s.Layers)
		if err != nil {
			return ocispec.Descriptor{}, "", err
		}
		return *out.Blob, out.DiffID, nil
	}
	d, err := e.layer(ctx, p, l, cache.Tree(p.Layers, n), to, s.Layers)
	d.Annotations = nil
	if !own(l) && !s.Layers.Force {
		d.Annotations = l.Blob.Annotations
	}
	return d, l.DiffID, err
}

// complete fills in what follows from the layers. An image without files gets one
// layer without entries: the image specification's schema wants at least one.
func (p Product) complete() Product {
	p.Config.RootFS = ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{}}
	for _, l := range p.Layers {
		p.Config.RootFS.DiffIDs = append(p.Config.RootFS.DiffIDs, l.DiffID)
	}
	p.Config.History = slices.Clone(p.Config.History)
	if len(p.Layers) == 0 {
		p.Config.RootFS.DiffIDs = []digest.Digest{digest.FromBytes(emptyArchive())}
		p.Config.History = append([]ocispec.History{{CreatedBy: "stacker: no files"}}, p.Config.History...)
		p.OwnHistory++
	}
	return p
}

// date says when the image was made.
func (p *Product) date(created time.Time) {
	if p.Config.Created == nil {
		p.Config.Created = &created
	}
	for i := min(p.OwnHistory, len(p.Config.History)); i < len(p.Config.History); i++ {
		if h := &p.Config.History[i]; h.Created == nil {
			h.Created = &created
		}
	}
}

// emptyArchive is a tar without entries: two blocks of zeros.
func emptyArchive() []byte { return make([]byte, 1024) }

func (e *Exporter) emptyLayer(ctx context.Context, p Product, to transfer.Destination, o LayerOptions) (ocispec.Descriptor, error) {
	if o.archive() != image.Tar {
		return e.emptyImage(ctx, p, to, o)
	}
	var packed bytes.Buffer
	z, err := compress.NewWriter(&packed, o.algorithm(), compress.WriterOptions{Level: o.Level})
	if err == nil {
		_, err = z.Write(emptyArchive())
		err = errors.Join(err, z.Close())
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return put(ctx, to, packed.Bytes(), mediaType(o.algorithm()))
}

// put gives a place a document, unless it has it.
func put(ctx context.Context, to transfer.Destination, data []byte, mediaType string) (ocispec.Descriptor, error) {
	b := transfer.Bytes{}
	d := b.Add(data, mediaType)
	has, err := to.Has(ctx, d)
	if err != nil || has {
		return d, err
	}
	return d, to.Put(ctx, d, b)
}

func marshalled(ctx context.Context, to transfer.Destination, v any, mediaType string) (ocispec.Descriptor, error) {
	data, err := image.Marshal(v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return put(ctx, to, data, mediaType)
}

// documents writes config and manifest.
func (e *Exporter) documents(ctx context.Context, p Product, layers []ocispec.Descriptor, to transfer.Destination, s Spec) (made, error) {
	of := image.NewPlatform(platform(p.Config))
	notes := maps.Clone(p.Annotations)
	if notes == nil {
		notes = map[string]string{}
	}
	maps.Copy(notes, s.annotations(OnManifest, of))
	created, err := e.created(p, notes)
	if err != nil {
		return made{}, err
	}
	p.date(created)
	types := documentTypes(s.DockerTypes)
	config, err := marshalled(ctx, to, p.Config, types.config)
	if err != nil {
		return made{}, err
	}
	m := ocispec.Manifest{MediaType: types.manifest, Config: config, Layers: layers, Annotations: notes}
	m.SchemaVersion = 2
	if s.DockerTypes {
		if m.Layers, err = dockerLayers(layers); err != nil {
			return made{}, err
		}
	}
	desc, err := marshalled(ctx, to, m, types.manifest)
	if err != nil {
		return made{}, err
	}
	pl := platform(p.Config)
	desc.Platform = &pl
	if notes := s.annotations(OnManifestDescriptor, of); len(notes) > 0 {
		desc.Annotations = notes
	}
	return made{image: desc, config: config.Digest, created: created, annotations: notes}, nil
}

// index writes the index of several images.
func (e *Exporter) index(ctx context.Context, images []made, to transfer.Destination, s Spec) (ocispec.Descriptor, error) {
	types := documentTypes(s.DockerTypes)
	idx := ocispec.Index{MediaType: types.index, Annotations: s.annotations(OnIndex, image.Platform{})}
	idx.SchemaVersion = 2
	for _, m := range images {
		idx.Manifests = append(idx.Manifests, m.image)
	}
	d, err := marshalled(ctx, to, idx, types.index)
	if err == nil {
		d.Annotations = s.annotations(OnIndexDescriptor, image.Platform{})
	}
	return d, err
}

// annotations are those for one document; nil: there are none.
func (s Spec) annotations(place Place, of image.Platform) map[string]string {
	var out map[string]string
	for _, a := range s.Annotations {
		if a.Place != place || a.Platform != (image.Platform{}) && a.Platform != of {
			continue
		}
		if out == nil {
			out = map[string]string{}
		}
		out[a.Key] = a.Value
	}
	return out
}

// types are media types of documents.
type types struct{ config, manifest, index string }

func documentTypes(docker bool) types {
	if docker {
		return types{image.MediaTypeDockerConfig, image.MediaTypeDockerManifest, image.MediaTypeDockerIndex}
	}
	return types{ocispec.MediaTypeImageConfig, ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex}
}

// dockerLayers gives layers docker's media types.
func dockerLayers(layers []ocispec.Descriptor) ([]ocispec.Descriptor, error) {
	out := slices.Clone(layers)
	for i := range out {
		switch t, _ := image.ParseLayerType(out[i].MediaType); t {
		case image.LayerType{Archive: image.Tar, Compression: image.Uncompressed}:
			out[i].MediaType = image.MediaTypeDockerLayer
		case image.LayerType{Archive: image.Tar, Compression: image.Gzip}:
			out[i].MediaType = image.MediaTypeDockerLayerGzip
		case image.LayerType{Archive: image.Tar, Compression: image.Zstd}:
			out[i].MediaType = image.MediaTypeDockerLayerZstd
		default:
			return nil, fmt.Errorf("oci-mediatypes=false: docker has no media type for %s", out[i].MediaType)
		}
	}
	return out, nil
}

// created is when this very image was made first: building it again changes
// nothing. With SOURCE_DATE_EPOCH it is that.
func (e *Exporter) created(p Product, annotations map[string]string) (time.Time, error) {
	if p.Epoch != nil {
		return p.Epoch.UTC(), nil
	}
	if p.Config.Created != nil {
		return *p.Config.Created, nil
	}
	config, err := image.Marshal(p.Config)
	if err != nil {
		return time.Time{}, err
	}
	notes, err := image.Marshal(annotations)
	if err != nil {
		return time.Time{}, err
	}
	in := cache.Ingredients{{Name: "image", Value: p.Name}, {Name: "config", Value: string(config)}, {Name: "annotations", Value: string(notes)}}
	key := in.Key()
	if r := e.State.Cache.Lookup(key); r != nil {
		e.State.Cache.Touch(key, e.Now())
		return r.Created.UTC(), nil
	}
	now := e.Now().UTC().Truncate(time.Second)
	err = e.State.Cache.Put(&cache.Record{Step: "image " + p.Name, Key: key, Created: now, Ingredients: in})
	return now, err
}
