// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"io"
	"net/http"
	"testing"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/registrytest"
)

// BenchmarkDownload compares a verified download into a store with a bare GET of the
// same blob, which is what the machine can do.
func BenchmarkDownload(b *testing.B) {
	s := registrytest.New(b, registrytest.Options{})
	d := s.PutBlob("a", layerData(256<<20))
	r, err := reference.Parse(s.Host() + "/a")
	if err != nil {
		b.Fatal(err)
	}
	b.Run("get", func(b *testing.B) {
		b.SetBytes(d.Size)
		for b.Loop() {
			resp, err := http.Get(s.URL() + "/v2/a/blobs/" + string(d.Digest))
			if err != nil {
				b.Fatal(err)
			}
			if _, err := io.Copy(io.Discard, resp.Body); err != nil {
				b.Fatal(err)
			}
			_ = resp.Body.Close()
		}
	})
	b.Run("store", func(b *testing.B) {
		b.SetBytes(d.Size)
		store, err := blob.Create(b.TempDir()+"/blobs", blob.Options{})
		if err != nil {
			b.Fatal(err)
		}
		defer func() { _ = store.Close() }()
		c := New(Options{})
		for b.Loop() {
			err := store.Fetch(b.Context(), d, func(ctx context.Context, offset int64) (io.ReadCloser, error) {
				return c.BlobFrom(ctx, r, d, offset)
			})
			if err != nil {
				b.Fatal(err)
			}
			if err := store.Remove(d.Digest); err != nil {
				b.Fatal(err)
			}
		}
	})
}
