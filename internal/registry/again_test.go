// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bytes"
	"context"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/hosts"
	"build.stacker.dev/internal/registry/registrytest"
)

// pauses are what a client waited for, without waiting.
type pauses struct {
	mu   sync.Mutex
	list []time.Duration
}

// wait is Options.Wait.
func (p *pauses) wait(ctx context.Context, d time.Duration) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.list = append(p.list, d)
	return ctx.Err()
}

// longest returns the longest pause, and forgets all.
func (p *pauses) longest() (d time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, o := range p.list {
		d = max(d, o)
	}
	p.list = nil
	return d
}

// TestRetryAfter is R04, R05 and R06 for each kind of request: the next one comes no
// sooner than the registry asks for, or not at all where it asks for too much.
func TestRetryAfter(t *testing.T) {
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	has := func(method, part string) func(*http.Request) bool {
		return func(r *http.Request) bool { return r.Method == method && strings.Contains(r.URL.Path, part) }
	}
	m := memory{}
	desc := m.putImage(t, bigLayer(), layerData(1<<16))
	for name, match := range map[string]func(*http.Request) bool{
		"pull manifest": has(http.MethodGet, "/manifests/"),
		"pull blob":     has(http.MethodGet, "/blobs/"),
		"push token":    has(http.MethodGet, "/token"),
		"push look":     has(http.MethodHead, "/blobs/"),
		"push begin":    has(http.MethodPost, "/uploads/"),
		"push piece":    has(http.MethodPatch, "/uploads/"),
		"push blob":     has(http.MethodPut, "/uploads/"),
		"push manifest": has(http.MethodPut, "/manifests/"),
	} {
		t.Run(name, func(t *testing.T) {
			for header, want := range map[string]time.Duration{"77": 77 * time.Second, "Thu, 01 Jan 2026 00:01:17 GMT": 77 * time.Second, "86400": -1} {
				s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword})
				var p pauses
				c := newClient(t, Options{Credentials: credentials, Wait: p.wait, Now: func() time.Time { return begin }})
				push := func() error { return c.Push(t.Context(), ref(t, s, "a:v1"), desc, m, PushOptions{}) }
				do := push
				if strings.HasPrefix(name, "pull") {
					if err := push(); err != nil {
						t.Fatal(err)
					}
					do = func() error { _, _, err := pull(c, ref(t, s, "a:v1")); return err }
				}
				p.longest()
				times := 1
				if want < 0 {
					times = 0 // always
				}
				s.Inject(registrytest.Fault{Match: match, Times: times, Answer: status(429, "Retry-After", header)})
				switch err := do(); {
				case want >= 0 && (err != nil || p.longest() != want):
					t.Errorf("%s: got %v, or a pause of another length", header, err)
				case want < 0 && (err == nil || strings.Count(err.Error(), "asks to wait for 24h0m0s") != 1):
					t.Errorf("%s: got %v, want an error that tells how long once", header, err)
				}
			}
		})
	}
}

// TestImpatientWithMirrors: another place is asked at once where a mirror asks to wait.
func TestImpatientWithMirrors(t *testing.T) {
	layer := layerData(1 << 16)
	mirror, origin := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
	origin.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: layer}}})
	mirror.Inject(registrytest.Fault{Answer: status(429, "Retry-After", "100")})
	var p pauses
	c := newClient(t, Options{Places: through(mirror), Wait: p.wait})
	if _, data, err := pull(c, ref(t, origin, "a:v1")); err != nil || !bytes.Equal(data, layer) {
		t.Errorf("got %d bytes, %v", len(data), err)
	}
	if n, d := len(mirror.Requests()), p.longest(); n != 1 || d > maxMirrorWait {
		t.Errorf("the mirror got %d requests, and was waited for %s", n, d)
	}
}

// through returns Places with a mirror.
func through(mirror *registrytest.Server) func(reference.Reference) ([]hosts.Place, error) {
	return func(ref reference.Reference) ([]hosts.Place, error) {
		return []hosts.Place{{Registry: mirror.Host(), Repository: ref.Repository}, {Registry: ref.Registry, Repository: ref.Repository}}, nil
	}
}

// TestFetchDamaged is R16 of blobs: one with wrong bytes is fetched again, a few times,
// and from the registry where they came from a mirror.
func TestFetchDamaged(t *testing.T) {
	data := layerData(1 << 16)
	wrong := bytes.Clone(data)
	wrong[77] ^= 1
	for _, tt := range []struct {
		name           string
		mirror, origin int // how many answers are wrong; -1: all
		ok             bool
		requests       int // of the registry itself
	}{
		{"once", 0, 1, true, 2},
		{"always", 0, -1, false, fetches},
		{"mirror, always", -1, 0, true, 1},
		{"mirror, and then once", -1, 1, true, 2},
	} {
		t.Run(tt.name, func(t *testing.T) {
			mirror, origin := registrytest.New(t, registrytest.Options{}), registrytest.New(t, registrytest.Options{})
			d := origin.PutBlob("a", data)
			mirror.PutBlob("a", data)
			for s, times := range map[*registrytest.Server]int{mirror: tt.mirror, origin: tt.origin} {
				if times != 0 {
					s.Inject(registrytest.Fault{Times: max(times, 0), Answer: replace(wrong, len(wrong))})
				}
			}
			o := Options{}
			if tt.mirror != 0 {
				o.Places = through(mirror)
			}
			store, err := blob.Create(t.TempDir()+"/blobs", blob.Options{})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = store.Close() }()
			err = newClient(t, o).Fetch(t.Context(), ref(t, origin, "a"), d, store, nil)
			if tt.ok != (err == nil) || store.Has(d) != tt.ok || err != nil && !strings.Contains(err.Error(), origin.Host()) {
				t.Errorf("got %v, stored: %v", err, store.Has(d))
			}
			if n := len(origin.Requests()); n != tt.requests {
				t.Errorf("%d requests, want %d", n, tt.requests)
			}
		})
	}
}

// TestAuthorityOfTheRegistry: whom the registry's directory of certificates trusts is trusted
// at its token service too, and nowhere else.
func TestAuthorityOfTheRegistry(t *testing.T) {
	service := registrytest.New(t, registrytest.Options{TLS: true, Auth: registrytest.Token, Username: testUser, Password: testPassword})
	s := registrytest.New(t, registrytest.Options{TLS: true, Auth: registrytest.Token, Realm: service.URL() + "/token"})
	s.PushImage("a", "v1", registrytest.Image{})
	dir := filepath.Join(t.TempDir(), s.Host())
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "ca.crt"), s.Authority(), 0o600); err != nil {
		t.Fatal(err)
	}
	c := newClient(t, Options{Credentials: credentials, CertDirs: []string{filepath.Dir(dir)}})
	// The service's tokens are its own, so the registry refuses them; but it was asked.
	_, _, err := c.Resolve(t.Context(), ref(t, s, "a:v1"))
	if err == nil || strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want an answer of the registry", err)
	}
	if n := len(service.Requests()); n == 0 {
		t.Error("the token service was not asked")
	}
	if _, _, err := c.Resolve(t.Context(), ref(t, service, "a:v1")); err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("the same service as a registry: got %v, want an error about the certificate", err)
	}
}

// TestPingAsConfigured: what is said of a registry is kept to when it is logged in to.
func TestPingAsConfigured(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{TLS: true})
	for insecure, want := range map[bool]string{true: "", false: "certificate"} {
		c := newClient(t, Options{Places: func(ref reference.Reference) ([]hosts.Place, error) {
			return []hosts.Place{{Registry: "127.0.0.1:1"}, {Registry: ref.Registry, Insecure: insecure}}, nil
		}})
		err := c.Ping(t.Context(), s.Host(), "")
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("insecure %v: got %v, want %q", insecure, err, want)
		}
	}
}

// TestPushRefused is R26 of uploads: credentials that are wrong are not tried again and
// again, and the error has the words that come with the answer to the upload.
func TestPushRefused(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	s.Inject(registrytest.Fault{Answer: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
		w.Header().Set("WWW-Authenticate", "Basic realm=x")
		w.WriteHeader(http.StatusUnauthorized)
		if r.Method != http.MethodHead {
			_, _ = w.Write([]byte(`{"errors":[{"code":"UNAUTHORIZED","message":"the account is closed"}]}`))
		}
	}})
	m := memory{}
	desc := m.putImage(t, bigLayer())
	var p pauses
	c := newClient(t, Options{Credentials: credentials, Wait: p.wait})
	if err := c.Push(t.Context(), ref(t, s, "a:v1"), desc, m, PushOptions{}); err == nil || !strings.Contains(err.Error(), "the account is closed") {
		t.Errorf("got %v, want the registry's words", err)
	}
	if d := p.longest(); d > 0 {
		t.Errorf("it waited for %s", d)
	}
	// One image, two blobs: each is looked for and begun, first without credentials at most.
	if n := len(s.Requests()); n > 10 {
		t.Errorf("%d requests", n)
	}
}
