// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/transfer"
)

// Open begins an output. What can be found wrong before a build is found here.
func (e *Exporter) Open(ctx context.Context, s Spec) (Output, error) {
	switch s.Type {
	case Image:
		return e.openImage(ctx, s)
	case OCI, Docker:
		if s.Directory {
			return e.openLayout(ctx, s)
		}
		return e.openArchive(s)
	case Tar:
		return e.openTar(s)
	case Local:
		return e.openLocal(s)
	case CacheOnly:
		return cacheOnly{}, nil
	}
	return nil, fmt.Errorf("output has the unknown type %q", s.Type)
}

// cacheOnly writes nothing: it implements Output.
type cacheOnly struct{}

// Add implements Output.
func (cacheOnly) Add(context.Context, []string, ...Product) (Outcome, error) { return Outcome{}, nil }

// Close implements Output.
func (cacheOnly) Close(context.Context, error) error { return nil }

// whole writes the products of one image, and their index where there are several.
func (e *Exporter) whole(ctx context.Context, products []Product, to transfer.Destination, s Spec) (Outcome, error) {
	if len(products) == 0 {
		return Outcome{}, errors.New("export image: it has no products")
	}
	var images []made
	for _, p := range products {
		m, err := e.image(ctx, p, to, s)
		if err != nil {
			return Outcome{}, err
		}
		images = append(images, m)
	}
	if len(images) == 1 {
		for _, a := range s.Annotations {
			if a.Place == OnIndex || a.Place == OnIndexDescriptor {
				return Outcome{}, fmt.Errorf("annotation-%s.%s: an image of one platform has no index", a.Place, a.Key)
			}
		}
		return Outcome{Image: images[0].image, Config: images[0].config}, nil
	}
	d, err := e.index(ctx, images, to, s)
	return Outcome{Image: d}, err
}

// names are the names of an image: those of the spec, or else those given.
func (s Spec) names(given []string) []string {
	if len(s.Names) > 0 {
		return s.Names
	}
	return given
}

// references parses names, and adds those that the spec wants for the digest.
func (s Spec) references(given []string, d digest.Digest) ([]reference.Reference, error) {
	var out []reference.Reference
	for _, n := range s.names(given) {
		ref, err := reference.Parse(n)
		if err != nil {
			return nil, err
		}
		out = append(out, ref)
		if s.NameCanonical {
			ref.Tag = ""
			out = append(out, ref.WithDigest(d))
		}
	}
	if len(out) == 0 && s.DanglingPrefix != "" {
		ref, err := reference.Parse(s.DanglingPrefix + "@" + string(d))
		if err != nil {
			return nil, fmt.Errorf("dangling-name-prefix: %w", err)
		}
		out = append(out, ref)
	}
	return out, nil
}

// imageOutput puts images into the local store and into registries.
type imageOutput struct {
	e       *Exporter
	spec    Spec
	uploads *uploads // nil without Push

	mu    sync.Mutex
	done  []Outcome
	refs  [][]reference.Reference
	works []*virtual          // of registries: where the documents are
	begun map[string]*virtual // by names: images under way
}

func (e *Exporter) openImage(ctx context.Context, s Spec) (Output, error) {
	if !s.Push && s.NoStore {
		return nil, errors.New("store=false needs push=true: the image would be nowhere")
	}
	for _, n := range s.Names {
		if _, err := reference.Parse(n); err != nil {
			return nil, err
		}
	}
	o := &imageOutput{e: e, spec: s, begun: map[string]*virtual{}}
	if s.Push {
		o.uploads = e.newUploads(ctx, s.Insecure)
	}
	return o, nil
}

// work gives the virtual place of an image, which is the same from its first layer on.
func (o *imageOutput) work(names []string) *virtual {
	o.mu.Lock()
	defer o.mu.Unlock()
	key := strings.Join(o.spec.names(names), " ")
	v := o.begun[key]
	if v == nil {
		v = newVirtual(o.e)
		v.names = key
		// A name that is wrong, or that only the image's digest makes, is seen to by Add.
		if refs, err := o.spec.references(names, digest.FromString("")); o.spec.Push && err == nil && key != "" {
			v.send(o.uploads, repositories(refs))
		}
		o.begun[key] = v
	}
	return v
}

// place is where an image's layers are made.
func (o *imageOutput) place(v *virtual) transfer.Destination {
	if o.spec.NoStore {
		return v
	}
	return v.store
}

// Early implements Early.
func (o *imageOutput) Early(names []string, p Product, in *Layout) {
	v := o.work(names)
	if len(v.repositories) == 0 {
		return
	}
	o.uploads.layers(p, v, func(l cache.Layer) transfer.Destination {
		if in == nil || !own(l) || !in.Layers.packs(o.spec.Layers) {
			return o.place(v)
		}
		place := in.blobs()
		place.tee = v.store.tee
		return place
	}, o.spec)
}

// Add implements Output. With Push, blobs are uploaded here, and tags set by Close.
func (o *imageOutput) Add(ctx context.Context, names []string, products ...Product) (Outcome, error) {
	v := o.work(names)
	out, err := o.e.whole(ctx, products, o.place(v), o.spec)
	if err != nil {
		return out, err
	}
	refs, err := o.spec.references(names, out.Image.Digest)
	if err != nil {
		return out, err
	}
	if o.spec.Push {
		if len(refs) == 0 {
			return out, errors.New("push=true needs a name: give --tag, or name= in the output")
		}
		o.uploads.wg.Wait()
		if err := o.upload(ctx, v, refs, out.Image); err != nil {
			return out, err
		}
	}
	for _, r := range refs {
		out.Names = append(out.Names, r.String())
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.done, o.refs, o.works = append(o.done, out), append(o.refs, refs), append(o.works, v)
	return out, nil
}

// repositories lists each repository of the references once.
func repositories(refs []reference.Reference) []reference.Reference {
	var out []reference.Reference
	seen := map[string]bool{}
	for _, r := range refs {
		if !seen[r.Name()] {
			seen[r.Name()] = true
			r.Tag, r.Digest = "", ""
			out = append(out, r)
		}
	}
	return out
}

// upload puts everything of an image but its tags into its repositories.
func (o *imageOutput) upload(ctx context.Context, from transfer.Source, refs []reference.Reference, d ocispec.Descriptor) error {
	for _, r := range repositories(refs) {
		if err := o.e.Push(ctx, from, r.WithDigest(d.Digest), d, o.spec.Insecure); err != nil {
			return err
		}
	}
	return nil
}

// Close implements Output.
func (o *imageOutput) Close(ctx context.Context, failed error) error {
	if o.uploads != nil {
		o.uploads.stop()
	}
	if failed != nil {
		return nil
	}
	for i, out := range o.done {
		if !o.spec.NoStore {
			if err := o.e.State.Images.Set(out.Image, o.e.Now(), o.refs[i]...); err != nil {
				return err
			}
		}
		if !o.spec.Push || o.spec.PushByDigest {
			continue
		}
		data, err := transfer.ReadAll(ctx, o.works[i], out.Image, image.MaxManifestSize)
		if err != nil {
			return err
		}
		c := o.e.Registry(o.spec.Insecure)
		for _, ref := range o.refs[i] {
			if ref.Tag == "" {
				continue
			}
			ref.Digest = ""
			if err := c.PutManifest(ctx, ref, out.Image.MediaType, data); err != nil {
				return fmt.Errorf("tag %s: %w", ref, err)
			}
		}
	}
	return nil
}
