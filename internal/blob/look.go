// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"
)

// Look says which file a blob is and in which state, as a text: while it is the same,
// nobody wrote to the file. It is ErrCorrupt if the size is not that of d.
func (s *Store) Look(d ocispec.Descriptor) (string, error) {
	f, size, err := s.File(d.Digest)
	if err != nil {
		return "", err
	}
	defer f.Close()
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		return "", fmt.Errorf("stat blob %s: %w", d.Digest, err)
	}
	if size != d.Size {
		return "", fmt.Errorf("blob %s: %w", d.Digest, ErrCorrupt)
	}
	return fmt.Sprintln(st.Dev, st.Ino, st.Size, st.Mtim.Nano(), st.Ctim.Nano()), nil
}
