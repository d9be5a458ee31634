// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/graph"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// AttachedBy is the annotation of artifacts that Attach made; its value is the key of
// their document. Of the same image there is one of each type: a new one takes the
// place of the old. Artifacts of others, such as signatures, stay.
const AttachedBy = "io.stackeroci.stacker.attached"

// Made is an image that Image has written.
type Made struct {
	Name        string // the target's, with what tells its images apart
	Image       ocispec.Descriptor
	Created     time.Time         // as in its config
	Annotations map[string]string // of its manifest

	key imageKey
}

// Made gives the images of a target that Image has written: one for each kind of
// layers.
func (e *Layout) Made(t *graph.Target) []Made {
	e.mu.Lock()
	defer e.mu.Unlock()
	var out []Made
	for _, a := range e.archives() {
		key := imageKey{t, a}
		if m, ok := e.images[key]; ok {
			out = append(out, Made{t.Name + Suffix(a), m.image, m.created, m.annotations, key})
		}
	}
	return out
}

// Document is something to know about an image.
type Document struct {
	MediaType string
	Title     string // a file name for it
	Key       string // what decides its content, as a digest: see Reattach
	Data      []byte
}

// Attach writes a document about an image as an OCI artifact: a manifest that names
// the image as its subject (image-spec 1.1, manifest.md, "Guidelines for Artifact
// Usage"). It appears with the image's tag.
func (e *Layout) Attach(ctx context.Context, to Made, doc Document) error {
	d, err := e.artifact(ctx, to, doc)
	if err != nil {
		return fmt.Errorf("attach %s to %s: %w", doc.Title, to.Name, err)
	}
	e.attach(to, d)
	return nil
}

func (e *Layout) attach(to Made, list ...ocispec.Descriptor) {
	e.mu.Lock()
	defer e.mu.Unlock()
	m := e.images[to.key]
	m.attached = append(m.attached, list...)
	e.images[to.key] = m
}

// Reattach attaches the documents of these types that an earlier build attached to the
// same image under the same key, if the layout has all of them whole.
func (e *Layout) Reattach(ctx context.Context, to Made, key string, mediaTypes ...string) (bool, error) {
	list, err := e.Layout.Referrers(ctx, to.Image.Digest)
	if err != nil {
		return false, err
	}
	var found []ocispec.Descriptor
	for _, d := range list {
		if d.Annotations[AttachedBy] == key && slices.Contains(mediaTypes, d.ArtifactType) && e.whole(ctx, d) {
			found = append(found, d)
		}
	}
	if len(found) != len(mediaTypes) {
		return false, nil
	}
	e.attach(to, found...)
	return true, nil
}

// blobs is the layout as a place for blobs.
func (e *Layout) blobs() blobPlace {
	return blobPlace{e: e.Exporter, blobs: e.Layout.Blobs(), dir: e.Dir}
}

// whole tells whether an artifact's blobs are there.
func (e *Layout) whole(ctx context.Context, d ocispec.Descriptor) bool {
	data, err := e.Layout.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		return false
	}
	m, err := image.ParseManifest(data, d.MediaType)
	if err != nil {
		return false
	}
	for _, b := range append(m.Layers, m.Config) {
		if ok, err := e.blobs().Has(ctx, b); !ok || err != nil {
			return false
		}
	}
	return true
}

// artifact writes the document and its manifest.
func (e *Layout) artifact(ctx context.Context, about Made, doc Document) (ocispec.Descriptor, error) {
	content, err := put(ctx, e.blobs(), doc.Data, doc.MediaType)
	if err != nil {
		return content, err
	}
	content.Annotations = map[string]string{ocispec.AnnotationTitle: doc.Title}
	empty, err := put(ctx, e.blobs(), ocispec.DescriptorEmptyJSON.Data, ocispec.MediaTypeEmptyJSON)
	if err != nil {
		return content, err
	}
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: doc.MediaType,
		Config: empty, Layers: []ocispec.Descriptor{content},
		Subject: &ocispec.Descriptor{MediaType: about.Image.MediaType, Digest: about.Image.Digest, Size: about.Image.Size},
		Annotations: map[string]string{
			ocispec.AnnotationCreated: about.Created.UTC().Format(time.RFC3339), AttachedBy: doc.Key,
		},
	}
	d, err := marshalled(ctx, e.blobs(), m, m.MediaType)
	d.ArtifactType, d.Annotations = m.ArtifactType, m.Annotations
	return d, err
}

// attachedEntries gives the entries for what was attached to images, as far as
// the layout has them not, and the artifacts that an earlier build attached to the
// same images and that this one has made anew.
func (e *Layout) attachedEntries(ctx context.Context, images []made) (entries []layout.Entry, old []digest.Digest, err error) {
	current := map[digest.Digest]bool{}
	for _, m := range images {
		for _, d := range m.attached {
			current[d.Digest] = true
		}
	}
	for _, m := range images {
		if len(m.attached) == 0 {
			continue
		}
		list, err := e.Layout.Referrers(ctx, m.image.Digest)
		if err != nil {
			return nil, nil, err
		}
		for _, d := range m.attached {
			if !slices.ContainsFunc(list, func(l ocispec.Descriptor) bool { return l.Digest == d.Digest }) {
				entries = append(entries, layout.Entry{Descriptor: d})
			}
		}
		for _, l := range list {
			replaced := slices.ContainsFunc(m.attached, func(d ocispec.Descriptor) bool { return d.ArtifactType == l.ArtifactType })
			if l.Annotations[AttachedBy] != "" && replaced && !current[l.Digest] {
				old = append(old, l.Digest)
			}
		}
	}
	return entries, old, nil
}
