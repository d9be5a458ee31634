// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/transfer"
)

const blockSize = 512 // of a tar

// Writer writes an archive. It implements transfer.Destination, and takes one blob
// at a time: what must come out the same each time gives them in the same order.
type Writer struct {
	docker bool

	mu     sync.Mutex
	out    io.Writer
	file   *os.File // out, where it can be sought; else nil
	offset int64    // where the next member begins
	has    map[digest.Digest]bool
	images []named
	docs   transfer.Bytes // manifests that were put in: docker's list is made of them
	err    error          // the archive is torn: nothing more is written
}

// named is an image with the names that it gets.
type named struct {
	desc  ocispec.Descriptor
	names []string
}

// NewWriter writes an archive to out, from the offset of a file on. With docker,
// docker load can read it.
func NewWriter(out io.Writer, docker bool) *Writer {
	w := &Writer{out: out, docker: docker, has: map[digest.Digest]bool{}, docs: transfer.Bytes{}}
	if f, ok := out.(*os.File); ok {
		if at, err := f.Seek(0, io.SeekCurrent); err == nil && at == 0 {
			if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
				w.file = f
			}
		}
	}
	return w
}

// CanMake tells whether Make writes blobs where they stay: the archive is a file.
func (w *Writer) CanMake() bool { return w.file != nil }

// Has implements transfer.Destination.
func (w *Writer) Has(_ context.Context, d ocispec.Descriptor) (bool, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.has[d.Digest], nil
}

// Put implements transfer.Destination.
func (w *Writer) Put(ctx context.Context, d ocispec.Descriptor, from transfer.Source) error {
	if err := image.CheckDescriptor(d); err != nil {
		return fmt.Errorf("write archive: %w", err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil || w.has[d.Digest] {
		return w.err
	}
	if w.docker && image.IsManifest(d.MediaType) {
		data, err := transfer.ReadAll(ctx, from, d, image.MaxManifestSize)
		if err != nil {
			return err
		}
		w.docs.Add(data, d.MediaType)
	}
	r, err := from.Open(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	if err := w.start(); err != nil {
		return err
	}
	if err := w.begin(blobName(d.Digest), d.Size); err != nil {
		return err
	}
	// The reader ends with an error where there is more: one byte tells.
	n, err := io.Copy(w.out, io.LimitReader(r, d.Size))
	if err == nil && n == d.Size {
		var one [1]byte
		if _, err = io.ReadFull(r, one[:]); errors.Is(err, io.EOF) {
			err = nil
		} else if err == nil {
			err = errors.New("it has more bytes than its descriptor says")
		}
	} else if err == nil {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return w.torn(fmt.Errorf("write blob %s: %w", d.Digest, err))
	}
	w.has[d.Digest] = true
	return w.pad(d.Size)
}

// Make implements transfer.Maker; only where CanMake says so. The blob is written
// behind a gap, into which its header goes when its name and size are known.
func (w *Writer) Make(_ context.Context, write func(*os.File) (ocispec.Descriptor, error)) (ocispec.Descriptor, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	var none ocispec.Descriptor
	if w.err != nil {
		return none, w.err
	}
	if w.file == nil {
		return none, errors.New("make blob: the archive is not a file")
	}
	if err := w.start(); err != nil {
		return none, err
	}
	start := w.offset
	if _, err := w.file.Seek(start+blockSize, io.SeekStart); err != nil {
		return none, w.torn(fmt.Errorf("write archive: %w", err))
	}
	d, err := write(w.file)
	if err != nil {
		return d, w.rewind(start, err)
	}
	if err := image.CheckDescriptor(d); err != nil {
		return d, w.rewind(start, err)
	}
	end, err := w.file.Seek(0, io.SeekCurrent)
	if err == nil && end != start+blockSize+d.Size {
		err = fmt.Errorf("blob %s has %d bytes, was announced with %d", d.Digest, end-start-blockSize, d.Size)
	}
	if err != nil {
		return d, w.rewind(start, err)
	}
	if w.has[d.Digest] {
		return d, w.rewind(start, nil)
	}
	if _, err := w.file.Seek(start, io.SeekStart); err != nil {
		return d, w.torn(err)
	}
	if err := w.begin(blobName(d.Digest), d.Size); err != nil {
		return d, err
	}
	if _, err := w.file.Seek(end, io.SeekStart); err != nil {
		return d, w.torn(err)
	}
	w.has[d.Digest] = true
	return d, w.pad(d.Size)
}

// start writes the directories before the first member. Who unpacks the archive as an
// ordinary user needs them: skopeo gives missing ones to root.
func (w *Writer) start() error {
	if w.offset > 0 {
		return nil
	}
	for _, name := range []string{"blobs/", blobsDir} {
		if err := w.header(&tar.Header{Typeflag: tar.TypeDir, Name: name, Mode: 0o755, Format: tar.FormatUSTAR}); err != nil {
			return err
		}
		w.offset += blockSize
	}
	return nil
}

// rewind drops what was written behind start.
func (w *Writer) rewind(start int64, why error) error {
	err := w.file.Truncate(start)
	if err == nil {
		_, err = w.file.Seek(start, io.SeekStart)
	}
	if err != nil {
		return w.torn(errors.Join(why, err))
	}
	return why
}

// torn notes that the archive cannot be completed.
func (w *Writer) torn(err error) error {
	w.err = err
	return err
}

// begin writes the header of a member: always one block.
func (w *Writer) begin(name string, size int64) error {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, Format: tar.FormatUSTAR}
	if size >= 1<<33 {
		h.Format = tar.FormatGNU // USTAR has eleven octal digits
	}
	return w.header(h)
}

func (w *Writer) header(h *tar.Header) error {
	var buf bytes.Buffer
	if err := tar.NewWriter(&buf).WriteHeader(h); err != nil {
		return w.torn(fmt.Errorf("write archive: %w", err))
	}
	if buf.Len() != blockSize {
		return w.torn(fmt.Errorf("write archive: the header of %s has %d bytes", h.Name, buf.Len()))
	}
	return w.write(buf.Bytes())
}

func (w *Writer) write(p []byte) error {
	if _, err := w.out.Write(p); err != nil {
		return w.torn(fmt.Errorf("write archive: %w", err))
	}
	return nil
}

// pad ends a member of size bytes.
func (w *Writer) pad(size int64) error {
	n := -size & (blockSize - 1)
	w.offset += blockSize + size + n
	return w.write(make([]byte, n))
}

// member writes a small member.
func (w *Writer) member(name string, data []byte) error {
	if err := w.begin(name, int64(len(data))); err != nil {
		return err
	}
	if err := w.write(data); err != nil {
		return err
	}
	return w.pad(int64(len(data)))
}

// Add lists an image whose blobs are there under names: complete references, or
// words of a layout. None lists it by its digest.
func (w *Writer) Add(d ocispec.Descriptor, names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.images = append(w.images, named{desc: d, names: names})
}

// Finish writes the lists of images and ends the archive.
func (w *Writer) Finish(ctx context.Context) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.err != nil {
		return w.err
	}
	idx := ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}}
	idx.SchemaVersion = 2
	for _, i := range w.images {
		idx.Manifests = append(idx.Manifests, Entries(i.desc, i.names)...)
	}
	data, err := image.Marshal(idx)
	if err != nil {
		return err
	}
	if err := w.start(); err != nil {
		return err
	}
	if w.docker {
		list, err := w.dockerList(ctx)
		if err != nil {
			return err
		}
		if err := w.member(manifestName, list); err != nil {
			return err
		}
	}
	if err := w.member(layoutName, []byte(layoutContent)); err != nil {
		return err
	}
	if err := w.member(indexName, data); err != nil {
		return err
	}
	return w.write(make([]byte, 2*blockSize))
}

// Entries are the entries of index.json for an image: one for each name.
func Entries(d ocispec.Descriptor, names []string) []ocispec.Descriptor {
	if len(names) == 0 {
		return []ocispec.Descriptor{d}
	}
	var out []ocispec.Descriptor
	for _, n := range names {
		e := d
		e.Annotations = maps.Clone(d.Annotations)
		if e.Annotations == nil {
			e.Annotations = map[string]string{}
		}
		e.Annotations[ocispec.AnnotationRefName] = n
		if ref, err := reference.Parse(n); err == nil && strings.Contains(n, "/") {
			e.Annotations[annotationName] = ref.String()
			e.Annotations[ocispec.AnnotationRefName] = ref.Identifier()
		}
		out = append(out, e)
	}
	return out
}

// dockerList is manifest.json.
func (w *Writer) dockerList(ctx context.Context) ([]byte, error) {
	list := []dockerImage{}
	for _, i := range w.images {
		if image.IsIndex(i.desc.MediaType) {
			return nil, errors.New("docker archives have no images of several platforms: use the OCI format")
		}
		m, err := transfer.ReadManifest(ctx, w.docs, i.desc)
		if err != nil {
			return nil, err
		}
		e := dockerImage{Config: blobName(m.Config.Digest), RepoTags: []string{}, Layers: []string{}}
		for _, l := range m.Layers {
			e.Layers = append(e.Layers, blobName(l.Digest))
		}
		for _, n := range i.names {
			if ref, err := reference.Parse(n); err == nil && ref.Tag != "" {
				ref.Digest = ""
				e.RepoTags = append(e.RepoTags, dockerName(ref))
			}
		}
		list = append(list, e)
	}
	return image.Marshal(list)
}

// dockerName is the form of RepoTags: short, but with a tag.
func dockerName(ref reference.Reference) string {
	name := ref.Familiar()
	if !strings.HasSuffix(name, ":"+ref.Tag) {
		name += ":" + ref.Tag
	}
	return name
}
