// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"hash"
	"io"
	"os"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Verify returns a reader of r that returns ErrCorrupt in place of io.EOF when the
// bytes are not those of the descriptor, and as soon as there are more than its
// size. Close closes r. Whoever stops before io.EOF has verified nothing.
func Verify(r io.ReadCloser, desc ocispec.Descriptor) io.ReadCloser {
	desc.Size = max(desc.Size, 0)
	return &verifier{source: r, desc: desc, hash: sha256.New()}
}

// Unverified returns the file behind a reader of Verify's of which nothing was read
// yet. Who takes it closes it in place of the reader, and sees in another way to it
// that the bytes are those of the descriptor.
func Unverified(r io.Reader) (*os.File, bool) {
	v, ok := r.(*verifier)
	if !ok || v.read > 0 || v.err != nil {
		return nil, false
	}
	f, ok := v.source.(*os.File)
	return f, ok
}

type verifier struct {
	source io.ReadCloser
	desc   ocispec.Descriptor
	hash   hash.Hash
	read   int64
	err    error
}

func (v *verifier) Close() error { return v.source.Close() }

func (v *verifier) Read(p []byte) (int, error) {
	if v.err != nil || len(p) == 0 {
		return 0, v.err
	}
	// One byte more than is due shows a blob that is too long without reading on.
	if room := v.desc.Size - v.read; room < int64(len(p)) {
		p = p[:room+1]
	}
	n, err := v.source.Read(p)
	v.read += int64(n)
	if v.read > v.desc.Size {
		v.err = fmt.Errorf("%w: %s has more than %d bytes", ErrCorrupt, v.desc.Digest, v.desc.Size)
		return 0, v.err
	}
	_, _ = v.hash.Write(p[:n])
	if err == io.EOF {
		err = v.check()
	}
	v.err = err
	return n, err
}

// check returns io.EOF if what was read is the blob.
func (v *verifier) check() error {
	if v.read < v.desc.Size {
		return fmt.Errorf("%w: %s ends after %d of %d bytes", ErrCorrupt, v.desc.Digest, v.read, v.desc.Size)
	}
	if got := hex.EncodeToString(v.hash.Sum(nil)); got != v.desc.Digest.Encoded() {
		return fmt.Errorf("%w: %s has the digest sha256:%s", ErrCorrupt, v.desc.Digest, got)
	}
	return io.EOF
}
