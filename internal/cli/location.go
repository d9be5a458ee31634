// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/compress"
	"build.stacker.dev/internal/export"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/state"
	"build.stacker.dev/internal/transfer"
)

// transport says what kind of place a name of an image is in.
type transport string

const (
	inStore         transport = ""
	inRegistry      transport = "docker://"
	inLayout        transport = "oci:"
	inDockerArchive transport = "docker-archive:"
	inOCIArchive    transport = "oci-archive:"
	inDir           transport = "dir:"
)

// location is a name of an image as commands take it: NAME, docker://NAME,
// oci:DIRECTORY[:TAG], docker-archive:FILE[:NAME], oci-archive:FILE[:TAG], dir:DIRECTORY.
type location struct {
	transport transport
	text      string              // as it was written
	ref       reference.Reference // inRegistry
	path      string              // of the others but inStore
	tag       string              // in the layout or archive; may be empty
}

// parseLocation reads a name. What is in the store is not parsed: it may be an id.
func parseLocation(text string) (location, error) {
	l := location{text: text}
	for _, t := range []transport{inRegistry, inLayout, inDockerArchive, inOCIArchive, inDir} {
		rest, ok := strings.CutPrefix(text, string(t))
		if !ok {
			continue
		}
		l.transport = t
		var err error
		switch t {
		case inRegistry:
			l.ref, err = reference.Parse(rest)
		case inDir:
			l.path = rest
		case inLayout, inDockerArchive, inOCIArchive:
			l.path, l.tag, _ = strings.Cut(rest, ":")
		case inStore:
		}
		if err == nil && t != inRegistry && l.path == "" {
			err = fmt.Errorf("image %q: the path is missing", text)
		}
		return l, err
	}
	if scheme, _, ok := strings.Cut(text, "://"); ok {
		return l, fmt.Errorf("image %q: unknown transport %s: there are docker://, oci:, docker-archive:, oci-archive: and dir:", text, scheme)
	}
	if text == "" {
		return l, errors.New("image name is empty")
	}
	return l, nil
}

// found is an image that a location names.
type found struct {
	transfer.Source
	image ocispec.Descriptor
	name  string // as people call it
	close func()
}

// find opens what a location names.
func (a *app) find(ctx context.Context, e *export.Exporter, l location, insecure bool) (found, error) {
	nothing := func() {}
	switch l.transport {
	case inStore:
		img, err := e.State.Images.Find(ctx, l.text)
		return found{e.State.Blobs, img.Descriptor, img.String(), nothing}, err
	case inRegistry:
		c := e.Registry(insecure)
		d, data, err := c.Resolve(ctx, l.ref)
		from := transfer.NewDocuments(c.Source(l.ref))
		if err == nil {
			from.Keep(d, data)
		}
		return found{from, d, l.ref.Familiar(), nothing}, err
	case inLayout:
		lay, err := layout.Open(l.path)
		if err != nil {
			return found{}, err
		}
		d, err := lay.Resolve(ctx, l.tag)
		f := found{lay, d, l.text, func() { _ = lay.Close() }}
		return f.or(err)
	case inDockerArchive, inOCIArchive:
		r, done, err := openArchive(e.State, l.path, nil)
		if err != nil {
			return found{}, err
		}
		i, err := r.Resolve(l.tag)
		f := found{r, i.Descriptor, l.text, done}
		return f.or(err)
	case inDir:
		d, err := archive.OpenDir(l.path, false)
		if err != nil {
			return found{}, err
		}
		i, err := d.Image()
		f := found{d, i, l.text, func() { _ = d.Close() }}
		return f.or(err)
	}
	return found{}, fmt.Errorf("image %q: unknown transport", l.text)
}

// or closes what was found where there was an error.
func (f found) or(err error) (found, error) {
	if err != nil {
		f.close()
	}
	return f, err
}

// openArchive opens an archive of images: a file, or in where path is empty. One
// that is compressed, or cannot be sought, is spooled into the state directory.
func openArchive(s *state.State, path string, in *os.File) (*archive.Reader, func(), error) {
	f := in
	if path != "" {
		var err error
		if f, err = os.Open(path); err != nil {
			return nil, nil, err
		}
	}
	done := func() {
		if path != "" {
			_ = f.Close()
		}
	}
	plain, err := spooled(s, f)
	if err != nil {
		done()
		return nil, nil, err
	}
	if plain != f {
		done()
		done = func() { _ = plain.Close() }
	}
	r, err := archive.Open(plain)
	if err != nil {
		done()
		return nil, nil, err
	}
	return r, done, nil
}

// spooled is the file itself where it is a plain archive on a disk, else a copy.
func spooled(s *state.State, f *os.File) (*os.File, error) {
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		head := make([]byte, compress.DetectSize)
		n, _ := f.ReadAt(head, 0)
		if compress.Detect(head[:n]) == compress.None {
			return f, nil
		}
	}
	z, _, err := compress.NewReader(f)
	if err != nil {
		return nil, fmt.Errorf("read archive: %w", err)
	}
	defer z.Close()
	temp, err := export.Unnamed(s.Dir)
	if err != nil {
		return nil, err
	}
	if _, err := io.Copy(temp, z); err != nil {
		return nil, errors.Join(fmt.Errorf("read archive: %w", err), temp.Close())
	}
	return temp, nil
}
