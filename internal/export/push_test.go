// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package export

import (
	"context"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/registry/registrytest"
	"build.stacker.dev/internal/source"
)

// remote is a source.Registry that only fetches.
type remote struct {
	source.Registry
	client *registry.Client
}

func (r remote) Fetch(ctx context.Context, name string, d ocispec.Descriptor, into *blob.Store, progress func(int64)) error {
	ref, err := reference.Parse(name)
	if err != nil {
		return err
	}
	return r.client.Fetch(ctx, ref, d, into, progress)
}

// TestPushOfLies pushes an image whose base says something else about its layer than
// it is. It is refused wherever the layer's bytes are at hand or pass through here.
func TestPushOfLies(t *testing.T) {
	for _, tt := range []struct {
		name          string
		here, another bool // the blob is in the state directory; it goes to another registry
		honest        bool
		reads         int // of the blob, from its registry
	}{
		{"here", true, false, false, 0},
		{"here, to another registry", true, true, false, 0},
		{"to another registry", false, true, false, 1},
		{"mounted", false, false, false, 0},
		{"honest, here", true, false, true, 0},
		{"honest, to another registry", false, true, true, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			e := newExporter(t)
			from := registrytest.New(t, registrytest.Options{})
			to := from
			if tt.another {
				to = registrytest.New(t, registrytest.Options{})
			}
			client := registry.New(registry.Options{})
			t.Cleanup(func() { _ = client.Close() })
			e.Registry = func(bool) *registry.Client { return client }
			e.Images.Registry = func(bool) (source.Registry, error) { return remote{client: client}, nil }

			p := product(t, e, "amd64")
			l := &p.Layers[0]
			from.PutBlob("base", emptyArchive())
			l.Origin = source.DockerPrefix + from.Host() + "/base@" + string(digest.FromString("the manifest"))
			if !tt.here {
				if err := e.State.Blobs.Remove(l.Blob.Digest); err != nil {
					t.Fatal(err)
				}
			}
			if !tt.honest {
				l.DiffID = digest.FromString("a lie")
			}
			_, err := e.export(t, "type=registry", nil, []string{to.Host() + "/app:1"}, p)
			accepted := tt.honest || !tt.here && !tt.another
			if accepted && err != nil || !accepted && (err == nil || !strings.Contains(err.Error(), "do not trust")) {
				t.Errorf("push: %v, want it accepted: %v", err, accepted)
			}
			if _, _, ok := to.Manifest("app", "1"); ok != accepted {
				t.Errorf("the registry has the image: %v, want %v", ok, accepted)
			}
			reads := 0
			for _, r := range from.Requests() {
				if r.Method == "GET" && strings.HasSuffix(r.Path, string(l.Blob.Digest)) {
					reads++
				}
			}
			if reads != tt.reads {
				t.Errorf("the blob was read %d times from its registry, want %d", reads, tt.reads)
			}
			if seen := e.State.Cache.Verified(l.Blob.Digest, l.DiffID); seen != tt.honest {
				t.Errorf("it is kept that the blob was verified: %v, want %v", seen, tt.honest)
			}
		})
	}
}
