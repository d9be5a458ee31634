// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/archive"
	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/transfer"
)

// Listed is an image that goes into an archive.
type Listed struct {
	Source transfer.Source
	Image  ocispec.Descriptor
	Names  []string // complete references, or words of a layout
}

// WriteArchive writes images into one archive: the file path, which is replaced when
// the new one is complete, or out.
func WriteArchive(ctx context.Context, path string, out *os.File, docker bool, images []Listed) error {
	var to io.Writer = out
	var file *newFile
	if path != "" {
		f, err := createNew(path)
		if err != nil {
			return err
		}
		defer f.drop()
		file, to = f, f.File
	}
	w := archive.NewWriter(to, docker)
	for _, i := range images {
		// One at a time: the same images give the same bytes.
		if err := transfer.Image(ctx, i.Source, i.Image, w, transfer.Options{AtOnce: 1}); err != nil {
			return err
		}
		w.Add(i.Image, i.Names...)
	}
	if err := w.Finish(ctx); err != nil {
		return err
	}
	if file != nil && file.to != "" {
		return file.publish()
	}
	return nil
}

// Blobs is a directory of blobs as a place that images are copied to. dir names it
// in records.
func (e *Exporter) Blobs(blobs *blob.Store, dir string) transfer.Destination {
	return blobPlace{e: e, blobs: blobs, dir: dir}
}
