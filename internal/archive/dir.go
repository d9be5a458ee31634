// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/transfer"
)

// Dir is a directory with one image, as skopeo's "dir:" has it: manifest.json, and
// each blob under the hexadecimal part of its digest. It implements
// transfer.Source and transfer.Destination. Links in it are not followed.
type Dir struct {
	root *os.Root
	name string
}

// dirVersion is the content of the file "version".
const dirVersion = "Directory Transport Version: 1.1\n"

// OpenDir opens a directory; with create it is made where it is missing, and must be
// empty or such a directory.
func OpenDir(path string, create bool) (*Dir, error) {
	if create {
		if err := os.MkdirAll(path, 0o755); err != nil {
			return nil, fmt.Errorf("open dir: %w", err)
		}
	}
	root, err := os.OpenRoot(path)
	if err != nil {
		return nil, fmt.Errorf("open dir: %w", err)
	}
	d := &Dir{root: root, name: path}
	if !create {
		return d, nil
	}
	entries, err := os.ReadDir(path)
	if err == nil && len(entries) > 0 {
		if _, verr := root.Lstat("version"); verr != nil {
			err = fmt.Errorf("open dir %s: it is not empty, and no directory of an image", path)
		}
	}
	if err != nil {
		return nil, errors.Join(err, root.Close())
	}
	return d, nil
}

// Close releases the directory.
func (d *Dir) Close() error { return d.root.Close() }

// open opens a regular file.
func (d *Dir) open(name string) (*os.File, int64, error) {
	f, err := d.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, 0, fmt.Errorf("dir %s: %w", d.name, err)
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("dir %s: %s is no file", d.name, name)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, info.Size(), nil
}

// Image describes the image.
func (d *Dir) Image() (ocispec.Descriptor, error) {
	f, size, err := d.open(manifestName)
	if errors.Is(err, fs.ErrNotExist) {
		return ocispec.Descriptor{}, fmt.Errorf("dir %s: %w: it has no manifest.json", d.name, ErrFormat)
	}
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, image.MaxManifestSize+1))
	if err != nil || size > image.MaxManifestSize {
		return ocispec.Descriptor{}, fmt.Errorf("dir %s: manifest.json has %d bytes: %w", d.name, size, errors.Join(err, ErrFormat))
	}
	out := ocispec.Descriptor{Digest: digest.FromBytes(data), Size: int64(len(data))}
	if out.MediaType, err = image.MediaType(data, ""); err != nil {
		return out, fmt.Errorf("dir %s: manifest.json: %w", d.name, err)
	}
	return out, nil
}

// fileOf is the name of a blob or document. Below an index skopeo calls manifests
// so: HEX.manifest.json.
func (d *Dir) fileOf(desc ocispec.Descriptor) []string {
	hex := desc.Digest.Encoded()
	if image.IsManifest(desc.MediaType) || image.IsIndex(desc.MediaType) {
		return []string{hex + ".manifest.json", manifestName}
	}
	return []string{hex}
}

// Open implements transfer.Source, verified.
func (d *Dir) Open(_ context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	if err := image.CheckDescriptor(desc); err != nil {
		return nil, err
	}
	var last error
	for _, name := range d.fileOf(desc) {
		f, size, err := d.open(name)
		if err == nil && size == desc.Size {
			return blob.Verify(f, desc), nil
		}
		if err == nil {
			err = errors.Join(fmt.Errorf("dir %s: %s: %w: it has %d bytes, want %d", d.name, name, blob.ErrCorrupt, size, desc.Size), f.Close())
		}
		last = err
	}
	return nil, last
}

// Has implements transfer.Destination: everything is written anew.
func (d *Dir) Has(context.Context, ocispec.Descriptor) (bool, error) { return false, nil }

// Put implements transfer.Destination.
func (d *Dir) Put(ctx context.Context, desc ocispec.Descriptor, from transfer.Source) error {
	if err := image.CheckDescriptor(desc); err != nil {
		return err
	}
	r, err := from.Open(ctx, desc)
	if err != nil {
		return err
	}
	defer r.Close()
	return d.write(d.fileOf(desc)[0], r)
}

func (d *Dir) write(name string, r io.Reader) error {
	temp := name + ".new"
	_ = d.root.Remove(temp)
	f, err := d.root.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return fmt.Errorf("dir %s: %w", d.name, err)
	}
	_, err = io.Copy(f, r)
	if err = errors.Join(err, f.Close()); err == nil {
		err = d.root.Rename(temp, name)
	}
	if err != nil {
		_ = d.root.Remove(temp)
		return fmt.Errorf("dir %s: write %s: %w", d.name, name, err)
	}
	return nil
}

// Finish makes a document that was put in the image of the directory.
func (d *Dir) Finish(desc ocispec.Descriptor) error {
	if err := d.root.Rename(d.fileOf(desc)[0], manifestName); err != nil {
		return fmt.Errorf("dir %s: %w", d.name, err)
	}
	f, err := d.root.OpenFile("version", os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return fmt.Errorf("dir %s: %w", d.name, err)
	}
	_, err = io.WriteString(f, dirVersion)
	return errors.Join(err, f.Close())
}
