// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"errors"
	"net/http"
	"strings"
	"testing"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/hosts"
	"build.stacker.dev/internal/registry/registrytest"
)

// TestMirror pulls through a mirror that has everything, nothing, half, or faults.
func TestMirror(t *testing.T) {
	layer := layerData(1 << 18)
	half := len(layer) / 2
	tests := []struct {
		name   string
		filled bool // the mirror has the image
		fault  *registrytest.Fault
		origin int // requests that the registry itself gets, at least
	}{
		{"has it", true, nil, 0},
		{"has it not", false, nil, 1},
		{"refuses", true, &registrytest.Fault{Answer: status(403)}, 1},
		{"is broken", true, &registrytest.Fault{Answer: status(500)}, 1},
		{"breaks", true, &registrytest.Fault{Answer: reset}, 1},
		{"breaks in the middle", true, &registrytest.Fault{Match: isBlob, Answer: replace(layer[:half], len(layer))}, 1},
		{"has other bytes under a digest", true, &registrytest.Fault{Match: isManifest, Answer: replace([]byte("{}"), 2)}, 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			mirror, origin := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
			img := registrytest.Image{Layers: []registrytest.Layer{{Data: layer}}}
			origin.PushImage("a", "v1", img)
			if tt.filled {
				mirror.PushImage("proxy/a", "v1", img)
			}
			if tt.fault != nil {
				mirror.Inject(*tt.fault)
			}
			c := newClient(t, Options{Credentials: credentials, Places: func(ref reference.Reference) ([]hosts.Place, error) {
				return []hosts.Place{
					{Registry: mirror.Host(), Repository: "proxy/" + ref.Repository, NoPush: true, Header: http.Header{"X-Mirror": {"yes"}}},
					{Registry: ref.Registry, Repository: ref.Repository},
				}, nil
			}})
			_, data, err := pull(c, ref(t, origin, "a:v1"))
			if err != nil || !bytes.Equal(data, layer) {
				t.Fatalf("got %d bytes, %v", len(data), err)
			}
			got := origin.Requests()
			if len(got) < tt.origin || tt.origin == 0 && len(got) > 0 {
				t.Errorf("the registry got %d requests, want %d or more", len(got), tt.origin)
			}
			for _, r := range got {
				if r.Header.Get("X-Mirror") != "" {
					t.Error("the registry got the header of the mirror")
				}
			}
			if n := len(mirror.Requests()); n == 0 || n > 4*mirrorAttempts {
				t.Errorf("the mirror got %d requests", n)
			}
			// What is pushed goes to the registry.
			if err := c.PutManifest(t.Context(), ref(t, origin, "a:v2"), "application/vnd.oci.image.index.v1+json", []byte(`{"schemaVersion":2,"manifests":[]}`)); err != nil {
				t.Error(err)
			}
			if tags := origin.Tags("a"); len(tags) != 2 {
				t.Errorf("tags of the registry are %q", tags)
			}
		})
	}
}

func TestBlockedRegistry(t *testing.T) {
	blocked := errors.New("blocked")
	c := newClient(t, Options{Places: func(reference.Reference) ([]hosts.Place, error) { return nil, blocked }})
	if _, _, err := c.Resolve(t.Context(), parse(t, "r.io/a")); !errors.Is(err, blocked) {
		t.Errorf("got %v", err)
	}
}

// TestPrefix: a server may have its API below a path.
func TestPrefix(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, "/deep/v2/") },
		Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			r.URL.Path = strings.TrimPrefix(r.URL.Path, "/deep")
			next.ServeHTTP(w, r)
		}})
	c := newClient(t, Options{Places: func(ref reference.Reference) ([]hosts.Place, error) {
		return []hosts.Place{{Registry: ref.Registry, Repository: ref.Repository, Prefix: "/deep/v2", Plain: true}}, nil
	}})
	if _, _, err := pull(c, ref(t, s, "a:v1")); err != nil {
		t.Error(err)
	}
	for _, r := range s.Requests() {
		if !strings.HasPrefix(r.Path, "/deep/") {
			t.Errorf("asked for %s", r.Path)
		}
	}
}
