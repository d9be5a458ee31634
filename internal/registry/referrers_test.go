// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/registry/registrytest"
)

// putReferrer makes a manifest of an artifact about a subject.
func (m memory) putReferrer(t *testing.T, subject ocispec.Descriptor, artifactType, content string) ocispec.Descriptor {
	t.Helper()
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, ArtifactType: artifactType, Subject: &subject,
		Config: m.put(ocispec.MediaTypeEmptyJSON, []byte("{}")), Layers: []ocispec.Descriptor{m.put("text/plain", []byte(content))},
		Annotations: map[string]string{"content": content}}
	doc.SchemaVersion = 2
	return m.putDocument(t, doc.MediaType, doc)
}

// TestReferrers attaches artifacts to an image and lists them, in a registry that
// keeps the list and in one that leaves it to the clients.
func TestReferrers(t *testing.T) {
	for name, opts := range map[string]registrytest.Options{
		"listed by the registry":            {Referrers: true},
		"listed by the registry, in pages":  {Referrers: true, PageSize: 1},
		"listed under a tag":                {},
		"listed under a tag, with a token":  {Auth: registrytest.Token, Username: testUser, Password: testPassword},
		"listed by the registry, and token": {Referrers: true, Auth: registrytest.Token, Username: testUser, Password: testPassword},
	} {
		t.Run(name, func(t *testing.T) {
			s := registrytest.New(t, opts)
			c := newClient(t, Options{Credentials: credentials})
			to := ref(t, s, "a:v1")
			m := memory{}
			subject := m.putImage(t, []byte("layer"))
			if err := c.Push(t.Context(), to, subject, m, PushOptions{}); err != nil {
				t.Fatal(err)
			}
			if list, err := c.Referrers(t.Context(), to, subject.Digest, ""); err != nil || len(list) != 0 {
				t.Fatalf("before: got %v, %v, want none", list, err)
			}
			sbom, note := m.putReferrer(t, subject, "application/spdx+json", "bom"), m.putReferrer(t, subject, "", "note")
			for range 2 { // the second time changes nothing
				for _, d := range []ocispec.Descriptor{sbom, note} {
					if err := c.Attach(t.Context(), to, d, m, PushOptions{}); err != nil {
						t.Fatal(err)
					}
				}
			}
			checkReferrers(t, c, to.String(), subject.Digest, "", sbom, note)
			checkReferrers(t, c, to.String(), subject.Digest, "application/spdx+json", sbom)
			checkReferrers(t, c, to.String(), subject.Digest, ocispec.MediaTypeEmptyJSON, note)
			checkReferrers(t, c, to.String(), note.Digest, "")
			wantTags := []string{"v1"}
			if !opts.Referrers {
				wantTags = []string{referrersTag(subject.Digest), "v1"}
			}
			if got := s.Tags("a"); !slices.Equal(got, wantTags) {
				t.Errorf("tags are %q, want %q", got, wantTags)
			}
			if err := c.DeleteManifest(t.Context(), to.WithDigest(sbom.Digest)); err != nil {
				t.Fatal(err)
			}
			checkReferrers(t, c, to.String(), subject.Digest, "", note)
		})
	}
}

// checkReferrers lists and compares digests, artifact types and annotations.
func checkReferrers(t *testing.T, c *Client, name string, subject digest.Digest, artifactType string, want ...ocispec.Descriptor) {
	t.Helper()
	list, err := c.Referrers(t.Context(), parse(t, name), subject, artifactType)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.ArtifactType == "" || d.Annotations["content"] == "" {
			t.Errorf("the list says too little: %+v", d)
		}
		if !slices.ContainsFunc(want, func(w ocispec.Descriptor) bool { return w.Digest == d.Digest && w.Size == d.Size }) {
			t.Errorf("listed for %q: %v, which is not wanted", artifactType, d.Digest)
		}
	}
	if len(list) != len(want) {
		t.Errorf("%d referrers of type %q, want %d", len(list), artifactType, len(want))
	}
}

// TestReferrersAtTheSameTime attaches from several goroutines: nothing is lost.
func TestReferrersAtTheSameTime(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	c, to, m := newClient(t, Options{}), ref(t, s, "a:v1"), memory{}
	subject := m.putImage(t)
	var all []ocispec.Descriptor
	for i := range 8 {
		all = append(all, m.putReferrer(t, subject, "text/plain", fmt.Sprint(i)))
	}
	var wg sync.WaitGroup
	for _, d := range all {
		wg.Go(func() {
			if err := c.Attach(t.Context(), to, d, m, PushOptions{}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	checkReferrers(t, c, to.String(), subject.Digest, "", all...)
	if err := c.Attach(t.Context(), to, subject, m, PushOptions{}); err == nil {
		t.Error("attached a manifest without a subject")
	}
}

// TestReferrersLost has another process that read the list before this one wrote it, and
// writes it afterwards: what it took away is put in again.
func TestReferrersLost(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	to, m := ref(t, s, "a:v1"), memory{}
	subject := m.putImage(t)
	ours, theirs := m.putReferrer(t, subject, "text/plain", "ours"), m.putReferrer(t, subject, "text/plain", "theirs")
	other := newClient(t, Options{})
	if err := other.Attach(t.Context(), to, theirs, m, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	list, mediaType, ok := s.Manifest("a", referrersTag(subject.Digest))
	if !ok {
		t.Fatal("no list")
	}
	var waits []time.Duration
	c := newClient(t, Options{Wait: func(_ context.Context, d time.Duration) error {
		if waits = append(waits, d); len(waits) == 1 {
			s.PutManifest("a", referrersTag(subject.Digest), mediaType, list)
		}
		return nil
	}})
	if err := c.Attach(t.Context(), to, ours, m, PushOptions{}); err != nil {
		t.Fatal(err)
	}
	checkReferrers(t, c, to.String(), subject.Digest, "", theirs, ours)
	if len(waits) != 2 || waits[0] < 200*time.Millisecond {
		t.Errorf("it waited %v", waits)
	}
}

// TestReferrersFaults are answers that are no list.
func TestReferrersFaults(t *testing.T) {
	tests := []struct {
		name   string
		answer answer
		want   string // of the error; empty: the list under the tag is read
	}{
		{"404", status(404), ""},
		{"405", status(405), ""},
		{"400", status(400), ""},
		{"a page for people", status(200, "Content-Type", "text/html"), ""},
		{"500", status(500), "500"},
		{"403", status(403), "403"},
		{"not an index", status(200, "Content-Type", ocispec.MediaTypeImageIndex), "EOF"},
		{"elsewhere", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Link", `<http://127.0.0.2:1/v2/a/referrers/x>; rel="next"`)
			next.ServeHTTP(w, r)
		}, "not followed"},
		{"in another repository", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Link", `</v2/b/referrers/x>; rel="next"`)
			next.ServeHTTP(w, r)
		}, "not followed"},
		{"for ever", func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			w.Header().Set("Link", "<"+r.URL.Path+">; rel=next")
			next.ServeHTTP(w, r)
		}, "pages"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := registrytest.New(t, registrytest.Options{Referrers: true})
			s.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return strings.Contains(r.URL.Path, "/referrers/") }, Answer: tt.answer})
			list, err := newClient(t, Options{}).Referrers(t.Context(), ref(t, s, "a:v1"), digest.FromString("x"), "")
			switch {
			case tt.want == "" && (err != nil || len(list) != 0):
				t.Errorf("got %v, %v, want an empty list", list, err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
		})
	}
}

func TestTags(t *testing.T) {
	for _, size := range []int{0, 1, 3, 100} {
		s := registrytest.New(t, registrytest.Options{PageSize: size})
		var want []string
		for _, tag := range []string{"1", "2", "3", "4", "5", "latest", "v6"} {
			s.PushImage("a", tag, registrytest.Image{})
			want = append(want, tag)
		}
		got, err := newClient(t, Options{}).Tags(t.Context(), ref(t, s, "a"))
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("pages of %d: got %q, %v, want %q", size, got, err, want)
		}
	}
	s := registrytest.New(t, registrytest.Options{})
	s.Inject(registrytest.Fault{Answer: func(w http.ResponseWriter, _ *http.Request, _ http.Handler) {
		_, _ = w.Write([]byte(`{"tags":["a\u001b[0m"]}`))
	}})
	if got, err := newClient(t, Options{}).Tags(t.Context(), ref(t, s, "a")); err == nil {
		t.Errorf("got %q, want an error about what is no tag", got)
	}
}

func TestDelete(t *testing.T) {
	for _, alone := range []bool{true, false} {
		s := registrytest.New(t, registrytest.Options{DeleteTags: alone, Auth: registrytest.Token, Username: testUser, Password: testPassword})
		d := s.PushImage("a", "v1", registrytest.Image{})
		s.PushImage("a", "v2", registrytest.Image{})
		c := newClient(t, Options{Credentials: credentials})
		err := c.DeleteTag(t.Context(), ref(t, s, "a:v1"))
		if alone && err != nil || !alone && !errors.Is(err, ErrUnsupported) {
			t.Errorf("tags alone %v: got %v", alone, err)
		}
		if n := len(s.Tags("a")); alone && n != 1 || !alone && n != 2 {
			t.Errorf("tags alone %v: %d tags are left", alone, n)
		}
		if err := c.DeleteManifest(t.Context(), ref(t, s, "a:v2").WithDigest(d.Digest)); err != nil {
			t.Error(err)
		}
		if n := len(s.Tags("a")); n != 0 {
			t.Errorf("%d tags are left of an image that was removed", n)
		}
		if err := c.DeleteManifest(t.Context(), ref(t, s, "a").WithDigest(d.Digest)); !errors.Is(err, ErrNotFound) {
			t.Errorf("again: got %v, want ErrNotFound", err)
		}
	}
}
