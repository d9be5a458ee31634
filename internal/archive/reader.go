// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
)

// Image is an image in an archive.
type Image struct {
	Descriptor ocispec.Descriptor
	Name       string // complete reference; empty: it has none
	Tag        string // as index.json has it; may be empty
}

// Reader reads an archive. It implements transfer.Source.
type Reader struct {
	file    *os.File
	members map[string]member
	blobs   map[digest.Digest]section // of a docker archive: what stands for a blob
	made    map[digest.Digest][]byte  // documents that a docker archive has not
	images  []Image
}

// member is what has a name in the archive.
type member struct {
	section
	link string // the name that it stands for; empty: it is a file
}

// section is where bytes lie in the archive.
type section struct{ offset, size int64 }

// Open reads the directory of an archive in a regular file that is not
// compressed. The caller keeps the file open while it uses the Reader, and closes it.
func Open(f *os.File) (*Reader, error) {
	r := &Reader{file: f, members: map[string]member{}, blobs: map[digest.Digest]section{}, made: map[digest.Digest][]byte{}}
	if err := r.scan(); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	read := r.readOCI
	switch {
	case r.members[indexName].size > 0:
	case r.members[manifestName].size > 0:
		read = r.readDocker
	default:
		return nil, fmt.Errorf("read archive: %w: it has no index.json and no manifest.json", ErrFormat)
	}
	if err := read(); err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	return r, nil
}

// Images lists what is in the archive, an image with several names several times.
func (r *Reader) Images() []Image { return r.images }

// Resolve finds an image by its name or tag; the empty string names the only one.
func (r *Reader) Resolve(what string) (Image, error) {
	var found []Image
	ref, err := reference.Parse(what)
	for _, i := range r.images {
		if what == "" || i.Tag == what || err == nil && i.Name == ref.String() || string(i.Descriptor.Digest) == what {
			found = append(found, i)
		}
	}
	for _, i := range found[min(1, len(found)):] {
		if i.Descriptor.Digest != found[0].Descriptor.Digest {
			return Image{}, fmt.Errorf("archive has several images %q: it has %s", what, r.list())
		}
	}
	if len(found) == 0 {
		return Image{}, fmt.Errorf("image %q: %w: it has %s", what, ErrNotFound, r.list())
	}
	return found[0], nil
}

// list names the images, for messages.
func (r *Reader) list() string {
	const most = 20
	var names []string
	for _, i := range r.images {
		name := i.Name
		if name == "" {
			name = i.Tag
		}
		if name == "" {
			name = string(i.Descriptor.Digest)
		}
		names = append(names, fmt.Sprintf("%.300q", name))
	}
	if len(names) > most {
		names = append(names[:most], fmt.Sprintf("%d more", len(names)-most))
	}
	return strings.Join(names, ", ")
}

// scan notes where members lie.
func (r *Reader) scan() error {
	size, err := r.file.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	in := &positioned{r: io.NewSectionReader(r.file, 0, size)}
	t := tar.NewReader(in)
	for n := 0; ; n++ {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFormat, err)
		}
		if n == maxMembers {
			return fmt.Errorf("it has more than %d members", maxMembers)
		}
		if err := r.note(h, in.offset(), size); err != nil {
			return err
		}
	}
}

func (r *Reader) note(h *tar.Header, offset, size int64) error {
	name, ok := clean(h.Name)
	if !ok {
		return fmt.Errorf("member %.100q has a name that leads out of the archive", h.Name)
	}
	m := member{}
	switch h.Typeflag {
	case tar.TypeDir, tar.TypeXGlobalHeader:
		return nil
	case tar.TypeReg:
		if offset+h.Size > size || h.Size < 0 {
			return fmt.Errorf("member %.100q: %w", h.Name, io.ErrUnexpectedEOF)
		}
		for k := range h.PAXRecords {
			if strings.HasPrefix(k, "GNU.sparse.") {
				return fmt.Errorf("member %.100q is sparse", h.Name)
			}
		}
		m.section = section{offset, h.Size}
	case tar.TypeSymlink:
		if m.link, ok = clean(path.Join(path.Dir(name), h.Linkname)); !ok || strings.HasPrefix(h.Linkname, "/") {
			return fmt.Errorf("member %.100q is a link out of the archive", h.Name)
		}
	case tar.TypeLink:
		if m.link, ok = clean(h.Linkname); !ok {
			return fmt.Errorf("member %.100q is a link out of the archive", h.Name)
		}
	default:
		return fmt.Errorf("member %.100q is no file", h.Name)
	}
	if _, twice := r.members[name]; twice {
		return fmt.Errorf("member %.100q is there twice", h.Name)
	}
	r.members[name] = m
	return nil
}

// find follows links to a file.
func (r *Reader) find(name string) (section, error) {
	at, ok := clean(name)
	for hop := 0; ok && hop < maxHops; hop++ {
		m, found := r.members[at]
		if !found {
			return section{}, fmt.Errorf("member %.100q is %w", name, ErrNotFound)
		}
		if m.link == "" {
			return m.section, nil
		}
		at = m.link
	}
	return section{}, fmt.Errorf("member %.100q: its name or its links lead nowhere", name)
}

// document reads a small member.
func (r *Reader) document(name string, limit int64) ([]byte, error) {
	s, err := r.find(name)
	if err != nil {
		return nil, err
	}
	if s.size > limit {
		return nil, fmt.Errorf("member %s has %d bytes, more than %d", name, s.size, limit)
	}
	data := make([]byte, s.size)
	_, err = r.file.ReadAt(data, s.offset)
	return data, err
}

// readOCI reads index.json.
func (r *Reader) readOCI() error {
	data, err := r.document(indexName, maxDocument)
	if err != nil {
		return err
	}
	idx, err := image.ParseIndex(data, "")
	if err != nil {
		return fmt.Errorf("index.json: %w", err)
	}
	if len(idx.Manifests) > maxImages {
		return fmt.Errorf("it has more than %d images", maxImages)
	}
	for _, d := range idx.Manifests {
		i := Image{Tag: d.Annotations[ocispec.AnnotationRefName]}
		for _, name := range []string{d.Annotations[annotationName], i.Tag} {
			if ref, err := reference.Parse(name); i.Name == "" && err == nil && strings.ContainsAny(name, "/:") {
				i.Name = ref.String()
			}
		}
		d.Annotations = nil
		i.Descriptor = d
		r.images = append(r.images, i)
	}
	return nil
}

// Open implements transfer.Source. The reader ends with blob.ErrCorrupt in place of
// io.EOF when the bytes are not those of the digest.
func (r *Reader) Open(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := image.CheckDescriptor(d); err != nil {
		return nil, err
	}
	if data, ok := r.made[d.Digest]; ok {
		return blob.Verify(io.NopCloser(strings.NewReader(string(data))), d), nil
	}
	s, ok := r.blobs[d.Digest]
	if !ok {
		var err error
		if s, err = r.find(blobName(d.Digest)); err != nil {
			return nil, fmt.Errorf("blob %s: %w", d.Digest, err)
		}
	}
	if s.size != d.Size {
		return nil, fmt.Errorf("blob %s: %w: it has %d bytes, want %d", d.Digest, blob.ErrCorrupt, s.size, d.Size)
	}
	return blob.Verify(io.NopCloser(io.NewSectionReader(r.file, s.offset, s.size)), d), nil
}

// positioned is a reader that knows how far it is. It can seek, so that the bytes of
// members are passed over.
type positioned struct{ r *io.SectionReader }

// Read implements io.Reader.
func (p *positioned) Read(b []byte) (int, error) { return p.r.Read(b) }

// Seek implements io.Seeker.
func (p *positioned) Seek(offset int64, whence int) (int64, error) { return p.r.Seek(offset, whence) }

func (p *positioned) offset() int64 {
	at, _ := p.r.Seek(0, io.SeekCurrent) // a section reader cannot fail to say where it is
	return at
}
