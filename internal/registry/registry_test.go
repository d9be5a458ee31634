// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/auth"
	"build.stacker.dev/internal/registry/registrytest"
)

const (
	testUser     = "user"
	testPassword = "correct horse"
)

// newClient returns a client that does not really wait, and its credentials are
// those of the test for every registry.
func newClient(t *testing.T, opts Options) *Client {
	t.Helper()
	if opts.Wait == nil {
		opts.Wait = func(ctx context.Context, _ time.Duration) error { return ctx.Err() }
	}
	c := New(opts)
	t.Cleanup(func() { _ = c.Close() })
	return c
}

func credentials(context.Context, string, string) (auth.Credentials, error) {
	return auth.Credentials{Username: testUser, Password: testPassword}, nil
}

func ref(t *testing.T, s *registrytest.Server, rest string) reference.Reference {
	t.Helper()
	r, err := reference.Parse(s.Host() + "/" + rest)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// layerData is incompressible enough to be seen as what it is in a failure.
func layerData(size int) []byte {
	return bytes.Repeat([]byte("0123456789abcdef"), size/16)
}

func readBlob(c *Client, r reference.Reference, d ocispec.Descriptor) ([]byte, error) {
	rc, err := c.Blob(context.Background(), r, d)
	if err != nil {
		return nil, err
	}
	defer func() { _ = rc.Close() }()
	return io.ReadAll(rc)
}

// pull resolves an image and reads its only layer.
func pull(c *Client, r reference.Reference) (ocispec.Descriptor, []byte, error) {
	d, data, err := c.Resolve(context.Background(), r)
	if err != nil {
		return d, nil, err
	}
	m, err := image.ParseManifest(data, d.MediaType)
	if err != nil {
		return d, nil, err
	}
	layer, err := readBlob(c, r, m.Layers[0])
	return d, layer, err
}

func TestPull(t *testing.T) {
	tests := []struct {
		name string
		opts registrytest.Options
		ok   bool
	}{
		{"open", registrytest.Options{}, true},
		{"basic", registrytest.Options{Auth: registrytest.Basic, Username: testUser, Password: testPassword}, true},
		{"token", registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword}, true},
		{"anonymous token", registrytest.Options{Auth: registrytest.Token}, true},
		{"tls", registrytest.Options{TLS: true}, true},
		{"tls token", registrytest.Options{TLS: true, Auth: registrytest.Token, Username: testUser, Password: testPassword}, true},
		{"wrong password, basic", registrytest.Options{Auth: registrytest.Basic, Username: testUser, Password: "other"}, false},
		{"wrong password, token", registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: "other"}, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, tt.opts)
			layer := layerData(1 << 16)
			want := s.PushImage("a/b", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: layer}}})
			opts := Options{Credentials: credentials}
			if tt.opts.TLS {
				opts.RootCAs = s.CAs()
			}
			c := newClient(t, opts)
			got, data, err := pull(c, ref(t, s, "a/b:v1"))
			if !tt.ok {
				if !errors.Is(err, ErrUnauthorized) {
					t.Errorf("got %v, want ErrUnauthorized", err)
				}
				if n := len(s.Requests()); n > 4 {
					t.Errorf("%d requests to be refused", n)
				}
				return
			}
			if err != nil || got.Digest != want.Digest || got.MediaType != want.MediaType || !bytes.Equal(data, layer) {
				t.Fatalf("got %v and %d bytes, %v, want %v", got, len(data), err, want)
			}
			if _, _, err := pull(c, ref(t, s, "a/b@"+string(want.Digest))); err != nil {
				t.Errorf("by digest: %v", err)
			}
			if head, err := c.Head(t.Context(), ref(t, s, "a/b:v1")); err != nil || head.Digest != want.Digest || head.Size != want.Size {
				t.Errorf("Head: got %v, %v", head, err)
			}
			if _, _, err := pull(c, ref(t, s, "a/b:v2")); !errors.Is(err, ErrNotFound) {
				t.Errorf("unknown tag: got %v, want ErrNotFound", err)
			}
		})
	}
}

func TestPullByTLSNeedsTrust(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{TLS: true})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	if _, _, err := pull(newClient(t, Options{}), ref(t, s, "a:v1")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want an error about the certificate", err)
	}
	insecure := Options{Insecure: func(string) bool { return true }}
	if _, _, err := pull(newClient(t, insecure), ref(t, s, "a:v1")); err != nil {
		t.Errorf("insecure: %v", err)
	}
	if n := len(s.Requests()); n != 2 {
		t.Errorf("%d requests reached the registry, want those of the insecure client", n)
	}
}

func TestPullIndex(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	a := s.PushImage("x", "", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("a")}}})
	want := s.PushIndex("x", "multi", a)
	c := newClient(t, Options{})
	d, data, err := c.Resolve(t.Context(), ref(t, s, "x:multi"))
	if err != nil || d.Digest != want.Digest {
		t.Fatalf("got %v, %v, want %v", d, err, want)
	}
	idx, err := image.ParseIndex(data, d.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	chosen, err := image.Choose(idx, image.HostPlatform())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Manifest(t.Context(), ref(t, s, "x:multi"), chosen); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*ocispec.Descriptor){
		"size":       func(d *ocispec.Descriptor) { d.Size++ },
		"media type": func(d *ocispec.Descriptor) { d.MediaType = image.MediaTypeDockerManifest },
		"digest":     func(d *ocispec.Descriptor) { d.Digest = digest.FromString("?") },
	} {
		bad := chosen
		change(&bad)
		if _, err := c.Manifest(t.Context(), ref(t, s, "x:multi"), bad); err == nil {
			t.Errorf("another %s was accepted", name)
		}
	}
}

// TestTokens counts the requests to the token service: one for many downloads at
// once, and one more when the registry forgets a token in the middle.
func TestTokens(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: layerData(1 << 10)}}})
	c := newClient(t, Options{Credentials: credentials})
	tokens := func() (n int) {
		for _, r := range s.Requests() {
			if r.Path == "/token" {
				n++
			} else if h := r.Header.Get("Authorization"); h != "" && !strings.HasPrefix(h, "Bearer ") {
				t.Errorf("%s %s got %q", r.Method, r.Path, h)
			}
		}
		return n
	}
	if _, _, err := pull(c, ref(t, s, "a:v1")); err != nil {
		t.Fatal(err)
	}
	if n := tokens(); n != 1 {
		t.Errorf("%d tokens for one image, want 1", n)
	}
	s.RevokeTokens()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if _, _, err := pull(c, ref(t, s, "a:v1")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if n := tokens(); n != 1 {
		t.Errorf("%d tokens after one was revoked, want 1", n)
	}
}

func TestIdentityToken(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	c := newClient(t, Options{Credentials: func(context.Context, string, string) (auth.Credentials, error) {
		return auth.Credentials{IdentityToken: testPassword}, nil
	}})
	if _, _, err := pull(c, ref(t, s, "a:v1")); err != nil {
		t.Error(err)
	}
	for _, r := range s.Requests() {
		if strings.Contains(r.Query, "horse") {
			t.Errorf("the secret is in the query of %s %s", r.Method, r.Path)
		}
	}
}

func TestCredentialErrorSendsNothing(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	broken := errors.New("helper is missing")
	c := newClient(t, Options{Credentials: func(context.Context, string, string) (auth.Credentials, error) {
		return auth.Credentials{}, broken
	}})
	if _, _, err := pull(c, ref(t, s, "a:v1")); !errors.Is(err, broken) {
		t.Errorf("got %v, want %v", err, broken)
	}
	if n := len(s.Requests()); n != 1 {
		t.Errorf("%d requests, want the one that was refused", n)
	}
}

func TestFetchIntoStore(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	data := layerData(1 << 20)
	d := s.PutBlob("a", data)
	store, err := blob.Create(t.TempDir()+"/blobs", blob.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = store.Close() }()
	c, r := newClient(t, Options{}), ref(t, s, "a")
	open := func(ctx context.Context, offset int64) (io.ReadCloser, error) { return c.BlobFrom(ctx, r, d, offset) }
	s.Inject(registrytest.Fault{Answer: func(w http.ResponseWriter, req *http.Request, _ http.Handler) {
		if req.Header.Get("Range") == "" {
			w.Header().Set("Content-Length", "1048576")
			_, _ = w.Write(data[:300000])
			return
		}
		panic(http.ErrAbortHandler)
	}})
	if err := store.Fetch(t.Context(), d, open); err == nil {
		t.Fatal("the broken download succeeded")
	}
	s.ClearFaults()
	s.Requests()
	if err := store.Fetch(t.Context(), d, open); err != nil {
		t.Fatal(err)
	}
	if reqs := s.Requests(); len(reqs) != 1 || reqs[0].Header.Get("Range") != "bytes=300000-" {
		t.Errorf("requests: %v, want one with Range bytes=300000-", reqs)
	}
	if !store.Has(d) {
		t.Error("the blob is not in the store")
	}
}
