// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
)

// A result under the key KEY is an ordinary image with the tag "step-KEY":
//
//   - its layers are those of the result that were made by steps, bottom first, and
//     not those of base images, which everybody gets from where they come from;
//
//   - its config is that of an image with these layers;
//
//   - the annotation resultAnnotation of its manifest is the JSON of entry:
//
//     {"version":1,"key":"d0c…","step":"web: run","created":"2026-01-02T03:04:05Z",
//     "duration":1200000000,"layers":[{"diffID":"sha256:…","size":0},
//     {"diffID":"sha256:…","size":10240,"own":true,"createdBy":"make"}]}
//
// Nothing else is kept: no index of results, no referrers.
const (
	resultAnnotation = "dev.stacker.build.result"
	entryVersion     = 1
)

// tagOf is the tag for a key, which is 64 characters of 0-9a-f.
func tagOf(k cache.Key) string { return "step-" + string(k) }

// entry is a result as it is shared. It has no ingredients: they are in the key, and
// whoever asks for a key has them; they may tell more than others should know.
type entry struct {
	Version  int               `json:"version"`
	Key      cache.Key         `json:"key"`
	Step     string            `json:"step"`
	Created  time.Time         `json:"created"`
	Duration time.Duration     `json:"duration"`
	Layers   []entryLayer      `json:"layers,omitempty"`
	Files    map[string]string `json:"files,omitempty"`
}

// entryLayer is one layer of a result. Own ones are in the manifest, in this order.
type entryLayer struct {
	DiffID    digest.Digest `json:"diffID"`
	Size      int64         `json:"size"`
	Own       bool          `json:"own,omitempty"`
	CreatedBy string        `json:"createdBy,omitempty"`
	Created   time.Time     `json:"created,omitzero"`
	Clamp     *int64        `json:"clamp,omitempty"`
	Start     int64         `json:"start,omitempty"`
	WithRoot  bool          `json:"withRoot,omitempty"`
}

// maxLayers bounds a result.
const maxLayers = 10_000

// encode makes the documents of a result: its manifest and its config. blobs are
// those of the layers that are the result's own.
func encode(r *cache.Record, own []bool, blobs []ocispec.Descriptor) (manifest, config []byte, err error) {
	e := entry{Version: entryVersion, Key: r.Key, Step: r.Step, Created: r.Created.UTC(), Duration: r.Duration, Files: r.Result.Files}
	diffIDs := []digest.Digest{}
	for i, l := range r.Result.Layers {
		e.Layers = append(e.Layers, entryLayer{DiffID: l.DiffID, Size: l.Size, Own: own[i], CreatedBy: l.CreatedBy, Created: l.Created,
			Clamp: l.Clamp, Start: l.Start, WithRoot: l.WithRoot})
		if own[i] {
			diffIDs = append(diffIDs, l.DiffID)
		}
	}
	text, err := image.Marshal(e)
	if err != nil {
		return nil, nil, err
	}
	return documents(diffIDs, blobs, resultAnnotation, text)
}

// documents makes the manifest and the config of an image with one annotation.
func documents(diffIDs []digest.Digest, blobs []ocispec.Descriptor, annotation string, text []byte) (manifest, config []byte, err error) {
	c := image.Config{Platform: image.HostPlatform().OCI(), RootFS: ocispec.RootFS{Type: "layers", DiffIDs: diffIDs}}
	if config, err = image.Marshal(c); err != nil {
		return nil, nil, err
	}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: describe(config, ocispec.MediaTypeImageConfig), Layers: append([]ocispec.Descriptor{}, blobs...),
		Annotations: map[string]string{annotation: string(text)}}
	manifest, err = image.Marshal(m)
	if err == nil && len(manifest) > image.MaxManifestSize {
		err = fmt.Errorf("the manifest would have %d bytes, more than %d", len(manifest), image.MaxManifestSize)
	}
	return manifest, config, err
}

func describe(data []byte, mediaType string) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(data), Size: int64(len(data))}
}

// decode reads the manifest of a key. Layers of bases have only a diffID: whoever
// asks knows the rest.
func decode(data []byte, key cache.Key, origin string, insecure bool) (*cache.Record, error) {
	m, err := image.ParseManifest(data, "")
	if err != nil {
		return nil, err
	}
	var e entry
	if err := json.Unmarshal([]byte(m.Annotations[resultAnnotation]), &e); err != nil {
		return nil, errors.New("it is no result of a step")
	}
	switch {
	case e.Version != entryVersion:
		return nil, fmt.Errorf("its version is %d, want %d", e.Version, entryVersion)
	case e.Key != key:
		return nil, errors.New("it is of another step")
	case len(e.Layers) > maxLayers:
		return nil, fmt.Errorf("it has more than %d layers", maxLayers)
	}
	r := &cache.Record{Step: e.Step, Key: key, Created: e.Created, Duration: e.Duration, Result: cache.Result{Files: e.Files}}
	blobs := m.Layers
	for i, l := range e.Layers {
		if err := image.CheckDigest(l.DiffID); err != nil {
			return nil, fmt.Errorf("layer %d: %w", i, err)
		}
		out := cache.Layer{DiffID: l.DiffID, Size: l.Size}
		if l.Own {
			if len(blobs) == 0 {
				return nil, errors.New("it has too few layers")
			}
			if t, ok := image.ParseLayerType(blobs[0].MediaType); !ok || t.Archive != image.Tar {
				return nil, fmt.Errorf("layer %d: its media type is %.100q", i, blobs[0].MediaType)
			}
			out.Blob, out.Origin, out.Insecure = &blobs[0], origin, insecure
			out.Blob.URLs = nil
			out.CreatedBy, out.Created, out.Clamp, out.Start, out.WithRoot = l.CreatedBy, l.Created, l.Clamp, l.Start, l.WithRoot
			blobs = blobs[1:]
		}
		r.Result.Layers = append(r.Result.Layers, out)
	}
	if len(blobs) > 0 {
		return nil, errors.New("it has too many layers")
	}
	return r, nil
}
