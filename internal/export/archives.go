// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/solve"
	"build.stacker.dev/internal/transfer"
)

// archiveOutput writes one archive with all images.
type archiveOutput struct {
	e      *Exporter
	spec   Spec
	file   *newFile // nil: the standard output
	writer *archive.Writer
	place  transfer.Destination

	mu sync.Mutex
}

func (e *Exporter) openArchive(s Spec) (Output, error) {
	if _, err := s.references(nil, ""); err != nil && len(s.Names) > 0 {
		return nil, err
	}
	o := &archiveOutput{e: e, spec: s}
	var out io.Writer = e.Stdout
	if s.Type == Docker && s.Dest == "" {
		f, err := Unnamed(e.State.Dir)
		if err != nil {
			return nil, err
		}
		o.file, out = &newFile{File: f}, f
	} else if !s.ToStdout() {
		f, err := createNew(s.Dest)
		if err != nil {
			return nil, err
		}
		o.file, out = f, f.File
	}
	o.writer = archive.NewWriter(out, s.Type == Docker)
	o.place = streamPlace{o.writer}
	if o.writer.CanMake() {
		o.place = archivePlace{o.writer}
	}
	return o, nil
}

// Add implements Output: one image after the other, so that the same build gives
// the same archive.
func (o *archiveOutput) Add(ctx context.Context, names []string, products ...Product) (Outcome, error) {
	if o.spec.Type == Docker && len(products) > 1 {
		return Outcome{}, errors.New("type=docker: docker archives have no images of several platforms: use type=oci")
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	out, err := o.e.whole(ctx, products, o.place, o.spec)
	if err != nil {
		return out, err
	}
	for _, n := range o.spec.names(names) {
		full, err := entryName(n)
		if err != nil {
			return out, err
		}
		out.Names = append(out.Names, full)
	}
	o.writer.Add(out.Image, out.Names...)
	return out, nil
}

// entryName is a name as an archive or a layout lists it: a reference in full, or
// the name of a stage as it is.
func entryName(name string) (string, error) {
	if !strings.ContainsAny(name, "/:") {
		return name, nil
	}
	ref, err := reference.Parse(name)
	return ref.String(), err
}

// Close implements Output.
func (o *archiveOutput) Close(ctx context.Context, failed error) error {
	if o.file != nil {
		defer o.file.drop()
	}
	if failed != nil {
		return nil
	}
	if err := o.writer.Finish(ctx); err != nil {
		return err
	}
	if o.file == nil {
		return nil
	}
	if o.file.to != "" {
		return o.file.publish()
	}
	if _, err := o.file.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("read archive: %w", err)
	}
	return o.e.Report(ctx, solve.Vertex{ID: "load", Name: "load into docker or podman"}, func() error {
		return o.e.Loader(ctx, o.file.File)
	})
}

// newFile is a file that replaces another when it is complete.
type newFile struct {
	*os.File
	to string // empty: it never gets a name
}

// createNew begins a file beside the one that it is to replace. What is no regular
// file, a FIFO or a device, is written as it is.
func createNew(path string) (*newFile, error) {
	if info, err := os.Stat(path); err == nil {
		if info.IsDir() {
			return nil, fmt.Errorf("dest=%s is a directory: name a file, or add tar=false", path)
		}
		if !info.Mode().IsRegular() {
			f, err := os.OpenFile(path, os.O_WRONLY, 0)
			return &newFile{File: f}, err
		}
	}
	// The umask decides on the mode, as for any file of the user.
	f, err := os.OpenFile(atomicfile.Beside(path), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return nil, fmt.Errorf("write %s: %w", path, err)
	}
	return &newFile{File: f, to: path}, nil
}

// Unnamed makes a file without a name in a directory.
func Unnamed(dir string) (*os.File, error) {
	fd, err := unix.Open(dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), "archive"), nil
	}
	f, err := os.CreateTemp(dir, "tmp-archive-*")
	if err != nil {
		return nil, fmt.Errorf("make temporary file: %w", err)
	}
	return f, os.Remove(f.Name())
}

// publish gives the file its name.
func (f *newFile) publish() error {
	if err := os.Rename(f.Name(), f.to); err != nil {
		return fmt.Errorf("write %s: %w", f.to, err)
	}
	return nil
}

// drop closes the file, and removes it where it has not got its name.
func (f *newFile) drop() {
	_ = f.Close()
	if f.to != "" {
		_ = os.Remove(f.Name())
	}
}

// layoutOutput puts images into an OCI layout in a directory.
type layoutOutput struct {
	e       *Exporter
	spec    Spec
	layout  *layout.Layout
	place   blobPlace
	release func()

	mu      sync.Mutex
	entries []layout.Entry
}

func (e *Exporter) openLayout(ctx context.Context, s Spec) (Output, error) {
	l, err := layout.Create(ctx, s.Dest)
	if err != nil {
		return nil, err
	}
	release, err := l.Hold(ctx)
	if err != nil {
		_ = l.Close()
		return nil, err
	}
	dir, err := filepath.Abs(s.Dest)
	if err != nil {
		dir = s.Dest
	}
	return &layoutOutput{e: e, spec: s, layout: l, place: blobPlace{e: e, blobs: l.Blobs(), dir: dir}, release: release}, nil
}

// Add implements Output.
func (o *layoutOutput) Add(ctx context.Context, names []string, products ...Product) (Outcome, error) {
	out, err := o.e.whole(ctx, products, o.place, o.spec)
	if err != nil {
		return out, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, n := range o.spec.names(names) {
		full, err := entryName(n)
		if err != nil {
			return out, err
		}
		out.Names = append(out.Names, full)
	}
	for _, d := range archive.Entries(out.Image, out.Names) {
		o.entries = append(o.entries, layout.Entry{Tag: d.Annotations[ocispec.AnnotationRefName], Descriptor: d})
	}
	return out, nil
}

// Close implements Output.
func (o *layoutOutput) Close(ctx context.Context, failed error) error {
	defer func() { _ = o.layout.Close() }()
	defer o.release()
	if failed != nil || len(o.entries) == 0 {
		return nil
	}
	return o.layout.Tag(ctx, o.entries...)
}
