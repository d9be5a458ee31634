// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/cache"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/snapshot"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/transfer"
	"build.stacker.dev/internal/worker"
)

// RootHash is the annotation of a layer that names the root hash of its dm-verity
// tree. Its prefix is the same for everybody: atomfs looks for it.
const RootHash = "io.stackeroci.stacker.atomfs_verity_root_hash"

// Suffix is what follows the name of an image whose layers are of that archive.
func Suffix(a image.Archive) string {
	switch a {
	case image.Squashfs, image.Erofs:
		return "-" + string(a)
	case image.Tar:
	}
	return ""
}

func (o LayerOptions) archive() image.Archive {
	if o.Archive == "" {
		return image.Tar
	}
	return o.Archive
}

// layerType is what the media type of a layer made here says.
func (o LayerOptions) layerType() image.LayerType {
	t := image.LayerType{Archive: o.archive(), Compression: image.Uncompressed}
	switch {
	case t.Archive == image.Squashfs:
		t.Compression = image.Zstd
	case t.Archive == image.Erofs:
		t.Compression = image.LZ4HC
	case t.Archive == image.Tar && o.algorithm() == compress.Gzip:
		t.Compression = image.Gzip
	case t.Archive == image.Tar && o.algorithm() == compress.Zstd:
		t.Compression = image.Zstd
	}
	return t
}

// formatVersion changes when the writers of images give other bytes than before.
const formatVersion = "1"

// archiveOf is how a layer of a base image holds its files; a media type that is
// not known is taken as it is.
func archiveOf(l cache.Layer, otherwise image.Archive) image.Archive {
	if t, ok := image.ParseLayerType(l.Blob.MediaType); ok {
		return t.Archive
	}
	return otherwise
}

// converts tells whether a layer has to be made of its tree in another way than by
// packing a tar of what a step changed: as an image of a file system, or because the
// base image has it as something else than is wanted.
func (o LayerOptions) converts(l cache.Layer) bool {
	if l.Blob == nil {
		return o.archive() != image.Tar
	}
	return archiveOf(l, o.archive()) != o.archive()
}

// formatKey names everything that makes a difference in a converted layer. The
// chain tells what the root directory is like where the layer does not say.
func formatKey(l cache.Layer, chain string, o LayerOptions) cache.Ingredients {
	how := string(o.archive()) + " " + formatVersion
	if o.archive() == image.Tar {
		how += " " + string(o.algorithm()) + " " + strconv.Itoa(o.Level) + " " + packVersion
	} else if !o.NoVerity {
		how += " verity"
	}
	epoch := ""
	if l.Clamp != nil {
		epoch = strconv.FormatInt(*l.Clamp, 10) // the superblock has it
	}
	return cache.Ingredients{
		{Name: "convert", Value: string(l.DiffID)}, {Name: "chain", Value: chain}, {Name: "format", Value: how}, {Name: "SOURCE_DATE_EPOCH", Value: epoch},
	}
}

// knownFormat is what a layer was converted to before; false if it never was.
func (e *Exporter) knownFormat(l cache.Layer, chain string, o LayerOptions) (cache.Layer, cache.Key, bool) {
	key := formatKey(l, chain, o).Key()
	r := e.State.Cache.Lookup(key)
	if r == nil || len(r.Result.Layers) != 1 || r.Result.Layers[0].Blob == nil {
		return l, key, false
	}
	return r.Result.Layers[0], key, true
}

// convert puts layer n of a product into a place in another form than it has: the
// result has the blob, and the diffID that the image's config must say.
func (e *Exporter) convert(ctx context.Context, p Product, n int, to transfer.Destination, o LayerOptions) (cache.Layer, error) {
	return e.convertLayer(ctx, p, p.Layers[:n+1], p.Layers[n], to, o)
}

// convertLayer converts the topmost layer of stack.
func (e *Exporter) convertLayer(ctx context.Context, p Product, stack []cache.Layer, l cache.Layer, to transfer.Destination, o LayerOptions) (cache.Layer, error) {
	chain := cache.Chain(stack)
	if done, key, ok := e.knownFormat(l, chain, o); ok {
		d := *done.Blob
		d.Annotations = nil
		if kept, err := e.kept(ctx, d, to); err != nil || kept {
			e.State.Cache.Touch(key, e.Now())
			return done, err
		}
	}
	if l.Blob != nil {
		if err := e.Files.Unpack(ctx, stack); err != nil {
			return l, err
		}
	}
	e.packs.Lock()
	defer e.packs.Unlock()
	v := solve.Vertex{ID: "convert " + string(l.DiffID) + string(o.archive()), Stage: p.Name, Name: "pack layer " + l.DiffID.Encoded()[:12] + " as " + string(o.archive())}
	var out cache.Layer
	err := e.Report(ctx, v, func() (err error) {
		out, err = e.makeFormat(ctx, l, chain, to, o)
		return err
	})
	if err != nil {
		return out, err
	}
	in := formatKey(l, chain, o)
	return out, e.State.Cache.Put(&cache.Record{Step: cache.ConvertStep, Key: in.Key(), Created: e.Now(), Ingredients: in, Result: cache.Result{Layers: []cache.Layer{out}}})
}

// makeFormat packs the tree of a layer. An image needs a file of its own, since it
// is not written from its beginning to its end.
func (e *Exporter) makeFormat(ctx context.Context, l cache.Layer, chain string, to transfer.Destination, o LayerOptions) (cache.Layer, error) {
	out := l
	write := func(f *os.File) (ocispec.Descriptor, error) {
		d, layer, err := e.packFormat(ctx, l, chain, o, f)
		out = layer
		return d, err
	}
	place, direct := to.(blobPlace)
	if !direct {
		place = e.store()
	}
	d, err := place.Make(ctx, write)
	if err == nil && !direct {
		err = to.Put(ctx, d, place.blobs)
	}
	return out, err
}

func (e *Exporter) packFormat(ctx context.Context, l cache.Layer, chain string, o LayerOptions, f *os.File) (d ocispec.Descriptor, out cache.Layer, err error) {
	w, err := e.State.Worker(ctx)
	if err != nil {
		return d, l, err
	}
	r := worker.PackRequest{Clamp: l.Clamp, Start: l.Start, WithRoot: l.WithRoot, Algorithm: o.algorithm(), Level: o.Level}
	if r.Tree = l.Tree; r.Tree == "" && chain != "" {
		r.Tree = snapshot.LayerTree(chain)
	}
	if l.Blob == nil {
		r.DiffID = l.DiffID
	} else {
		// The tree is what a verified blob unpacked to. What the blob said of the
		// root directory, the tree has.
		r.WithRoot = true
	}
	reply, err := e.packAs(ctx, w, r, o, f)
	if errors.Is(err, worker.ErrMismatch) {
		return d, l, e.damaged(ctx, w, r.Tree, err)
	}
	if err != nil {
		return d, l, err
	}
	if n := reply.DroppedXattrs; n > 0 && e.Events != nil {
		e.Events(solve.Event{Kind: solve.Note, Level: solve.Warning, Time: e.Now(), Text: fmt.Sprintf(
			"%s cannot hold %d extended attributes of layer %s, such as access control lists: they are left out", o.archive(), n, l.DiffID.Encoded()[:12])})
	}
	d = ocispec.Descriptor{MediaType: o.layerType().MediaType(), Digest: reply.Digest, Size: reply.Size}
	out = l
	out.DiffID, out.Size, out.Origin = reply.Digest, 0, ""
	if o.archive() == image.Tar {
		out.DiffID, out.Size = reply.DiffID, reply.TarSize
	}
	blob := d
	if reply.RootHash != "" {
		blob.Annotations = map[string]string{RootHash: reply.RootHash}
	}
	out.Blob = &blob
	return d, out, nil
}

// packAs asks the worker for a blob of the archive that is wanted.
func (e *Exporter) packAs(ctx context.Context, w *worker.Client, r worker.PackRequest, o LayerOptions, f *os.File) (worker.PackReply, error) {
	switch o.archive() {
	case image.Squashfs:
		r.Format, r.Verity = worker.Squashfs, !o.NoVerity
	case image.Erofs:
		r.Format, r.Verity = worker.Erofs, !o.NoVerity
	case image.Tar:
	}
	return w.Pack(ctx, r, f)
}

// damaged removes a tree that is not what it should be: it must not be served
// again, nor what was made on top of it.
func (e *Exporter) damaged(ctx context.Context, w *worker.Client, tree string, err error) error {
	return fmt.Errorf("%w: it was removed, and so were all kept results: run the build again",
		errors.Join(err, w.Remove(ctx, []string{tree}), e.State.Cache.Clear()))
}

// emptyImage makes the only layer of an image without files, as a file system.
func (e *Exporter) emptyImage(ctx context.Context, p Product, to transfer.Destination, o LayerOptions) (ocispec.Descriptor, error) {
	l, err := e.convertLayer(ctx, p, nil, cache.Layer{DiffID: digest.FromBytes(emptyArchive())}, to, o)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return *l.Blob, nil
}

// expected is p with the diffIDs that its layers had when they were converted last;
// false if one never was.
func (e *Exporter) expected(p Product, o LayerOptions) ([]digest.Digest, bool) {
	var ids []digest.Digest
	for n, l := range p.Layers {
		if o.converts(l) {
			done, _, ok := e.knownFormat(l, cache.Chain(p.Layers[:n+1]), o)
			if !ok {
				return nil, false
			}
			l = done
		}
		ids = append(ids, l.DiffID)
	}
	return ids, true
}
