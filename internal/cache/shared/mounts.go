// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package shared

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
)

// What a cache mount holds is shared only where somebody asked for it by the
// mount's id: it may be a secret. It is an ordinary image of one layer with the tag
// "mount-NAME-OS-ARCHITECTURE", where NAME is a digest of the id and of what the
// mount starts with. The annotation mountAnnotation of its manifest is
//
//	{"version":1,"name":"7f0…","id":"/root/.cache","diffID":"sha256:…"}
//
// Nothing in it tells a time or a machine, so that equal mounts are equal images.
// A later image takes the tag.
const (
	mountAnnotation = "dev.stacker.build.cache-mount"
	mountVersion    = 1
)

// Mounts is a place together with the ids of the cache mounts that it is for.
type Mounts struct {
	Place Place
	IDs   []string
}

// mountEntry says of which mount an image is.
type mountEntry struct {
	Version int           `json:"version"`
	Name    string        `json:"name"`
	ID      string        `json:"id"`
	DiffID  digest.Digest `json:"diffID"`
}

// mountTag is the tag for a mount, whose name is 64 characters of 0-9a-f.
func mountTag(name string) string {
	p := image.HostPlatform()
	return "mount-" + name + "-" + p.OS + "-" + p.Architecture
}

// LoadMount looks a cache mount up in the places that are for its id, in their
// order, and calls load with the first archive that there is.
func (c *Cache) LoadMount(ctx context.Context, id, name string, load func(context.Context, cache.Layer) error) {
	for _, m := range c.o.MountsFrom {
		if !slices.Contains(m.IDs, id) || !c.alive(m.Place) {
			continue
		}
		data, err := m.Place.Find(ctx, mountTag(name))
		if err != nil {
			c.fail(ctx, m.Place, "look up the cache mount "+id, err)
			continue
		}
		if data == nil {
			continue
		}
		l, err := decodeMount(data, name)
		if err == nil {
			origin, insecure := m.Place.Origin(digest.FromBytes(data))
			l.Origin, l.Insecure = origin, insecure
			err = load(ctx, l)
		}
		if err == nil {
			return
		}
		if ctx.Err() == nil {
			c.o.Warn(fmt.Sprintf("the shared cache %s: the cache mount %s stays empty: %v", m.Place, id, err))
		}
	}
}

// SaveMount keeps a cache mount in the places that are for its id. save is called
// if there are any; it gives the archive to keep, which reads content before it
// returns.
func (c *Cache) SaveMount(ctx context.Context, id, name string, save func(ctx context.Context, keep func(l cache.Layer, content io.ReaderAt) error) error) {
	var to []Place
	for _, m := range c.o.MountsTo {
		if slices.Contains(m.IDs, id) && c.alive(m.Place) {
			to = append(to, m.Place)
		}
	}
	if len(to) == 0 {
		return
	}
	err := save(ctx, func(l cache.Layer, content io.ReaderAt) error {
		img, err := packMount(id, name, l, content)
		if err != nil {
			return err
		}
		for _, p := range to {
			if err := p.Keep(ctx, mountTag(name), img.desc, img); err != nil {
				c.fail(ctx, p, "keep the cache mount "+id, err)
			}
		}
		return nil
	})
	if err != nil && ctx.Err() == nil {
		c.o.Warn(fmt.Sprintf("the cache mount %s is not shared: %v", id, err))
	}
}

// packMount makes the image of a mount.
func packMount(id, name string, l cache.Layer, content io.ReaderAt) (*packed, error) {
	text, err := image.Marshal(mountEntry{Version: mountVersion, Name: name, ID: id, DiffID: l.DiffID})
	if err != nil {
		return nil, err
	}
	manifest, config, err := documents([]digest.Digest{l.DiffID}, []ocispec.Descriptor{*l.Blob}, mountAnnotation, text)
	if err != nil {
		return nil, err
	}
	img := newPacked(manifest, config, func(context.Context, cache.Layer) (io.ReadCloser, error) {
		return io.NopCloser(io.NewSectionReader(content, 0, l.Blob.Size)), nil
	})
	img.layers[l.Blob.Digest] = l
	return img, nil
}

// decodeMount reads the manifest of a mount's image.
func decodeMount(data []byte, name string) (cache.Layer, error) {
	m, err := image.ParseManifest(data, "")
	if err != nil {
		return cache.Layer{}, err
	}
	var e mountEntry
	if err := json.Unmarshal([]byte(m.Annotations[mountAnnotation]), &e); err != nil {
		return cache.Layer{}, errors.New("it is no cache mount")
	}
	switch {
	case e.Version != mountVersion:
		return cache.Layer{}, fmt.Errorf("its version is %d, want %d", e.Version, mountVersion)
	case e.Name != name:
		return cache.Layer{}, errors.New("it is of another cache mount")
	case len(m.Layers) != 1:
		return cache.Layer{}, fmt.Errorf("it has %d layers, want 1", len(m.Layers))
	}
	if err := image.CheckDigest(e.DiffID); err != nil {
		return cache.Layer{}, err
	}
	blob := m.Layers[0]
	if t, ok := image.ParseLayerType(blob.MediaType); !ok || t.Archive != image.Tar {
		return cache.Layer{}, fmt.Errorf("its media type is %.100q", blob.MediaType)
	}
	blob.URLs = nil
	return cache.Layer{DiffID: e.DiffID, Blob: &blob}, nil
}
