// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"fmt"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is the file behind the writer, for another process that writes the blob
// and computes its digest on the way. Write must not be used then.
func (w *Writer) File() *os.File { return w.file }

// CommitAs gives a blob that was written through File its name. The digest is
// taken from whoever wrote the bytes; the size is checked.
func (w *Writer) CommitAs(d ocispec.Descriptor) error {
	if err := checkDescriptor(d); err != nil {
		return err
	}
	info, err := w.file.Stat()
	if err != nil {
		return fmt.Errorf("commit blob %s: %w", d.Digest, err)
	}
	if info.Size() != d.Size {
		return fmt.Errorf("commit blob %s: %w: it has %d bytes, want %d", d.Digest, ErrCorrupt, info.Size(), d.Size)
	}
	if err := w.publish(d.Digest.Encoded()); err != nil {
		return fmt.Errorf("commit blob %s: %w", d.Digest, err)
	}
	return nil
}
