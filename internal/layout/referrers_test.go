// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package layout

import (
	"errors"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
)

// putReferrer stores an artifact about subject, with an entry without a tag.
func putReferrer(t *testing.T, l *Layout, subject ocispec.Descriptor, content string) ocispec.Descriptor {
	t.Helper()
	put := func(data []byte, mediaType string) ocispec.Descriptor {
		d, err := l.Blobs().Put(data)
		if err != nil {
			t.Fatal(err)
		}
		d.MediaType = mediaType
		return d
	}
	m := ocispec.Manifest{
		MediaType: ocispec.MediaTypeImageManifest, ArtifactType: "application/x", Subject: &subject,
		Config: put([]byte("{}"), ocispec.MediaTypeEmptyJSON), Layers: []ocispec.Descriptor{put([]byte(content), "application/x")},
	}
	m.SchemaVersion = 2
	data, err := image.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	d := put(data, ocispec.MediaTypeImageManifest)
	d.ArtifactType = m.ArtifactType
	if err := l.Tag(t.Context(), Entry{Descriptor: d}); err != nil {
		t.Fatal(err)
	}
	return d
}

// TestReferrers: what is about an image is found, stays as long as the image, and
// goes with it; what is about something that was never here stays.
func TestReferrers(t *testing.T) {
	l, _ := newLayout(t)
	one, two := putImage(t, l, "one"), putImage(t, l, "two")
	if err := l.Tag(t.Context(), Entry{"one", one}, Entry{"two", two}); err != nil {
		t.Fatal(err)
	}
	about := putReferrer(t, l, one, "about one")
	signature := putReferrer(t, l, about, "about that")
	other := putReferrer(t, l, two, "about two")
	elsewhere := putReferrer(t, l, ocispec.Descriptor{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("elsewhere"), Size: 9,
	}, "about something else")
	check := func(when string, subject ocispec.Descriptor, want ...digest.Digest) {
		t.Helper()
		list, err := l.Referrers(t.Context(), subject.Digest)
		if err != nil {
			t.Fatal(err)
		}
		var got []digest.Digest
		for _, d := range list {
			got = append(got, d.Digest)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s: referrers of %s are %v, want %v", when, subject.Digest, got, want)
		}
	}
	collect := func() {
		t.Helper()
		if _, err := l.GC(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	collect()
	check("with all tags", one, about.Digest)
	check("with all tags", about, signature.Digest)
	check("with all tags", two, other.Digest)

	// The tag moves: the old image goes, and all that is about it.
	if err := l.Tag(t.Context(), Entry{"one", putImage(t, l, "new")}); err != nil {
		t.Fatal(err)
	}
	collect()
	check("after one went", one)
	check("after one went", about)
	check("after one went", two, other.Digest)
	for _, d := range []ocispec.Descriptor{one, about, signature} {
		if l.Blobs().Has(d) {
			t.Errorf("%s is still there", d.Digest)
		}
	}
	for _, d := range []ocispec.Descriptor{other, elsewhere} {
		if !l.Blobs().Has(d) {
			t.Errorf("%s is gone", d.Digest)
		}
	}
	if got, want := tags(t, l), []string{"one", "two", "", ""}; !slices.Equal(got, want) {
		t.Errorf("tags are %q, want %q", got, want)
	}
}

// TestForget takes only entries without a tag.
func TestForget(t *testing.T) {
	l, _ := newLayout(t)
	one := putImage(t, l, "one")
	if err := l.Tag(t.Context(), Entry{"one", one}, Entry{"", one}); err != nil {
		t.Fatal(err)
	}
	if err := l.Forget(t.Context(), one.Digest); err != nil {
		t.Fatal(err)
	}
	if got, want := tags(t, l), []string{"one"}; !slices.Equal(got, want) {
		t.Errorf("tags are %q, want %q", got, want)
	}
}

// TestResolveOnlyImageAmongReferrers: the empty name is the only image's.
func TestResolveOnlyImageAmongReferrers(t *testing.T) {
	l, _ := newLayout(t)
	one := putImage(t, l, "one")
	if err := l.Tag(t.Context(), Entry{"one", one}); err != nil {
		t.Fatal(err)
	}
	putReferrer(t, l, one, "about one")
	if d, err := l.Resolve(t.Context(), ""); err != nil || d.Digest != one.Digest {
		t.Errorf("Resolve of the empty name: %s, %v, want %s", d.Digest, err, one.Digest)
	}
	if err := l.Tag(t.Context(), Entry{"two", putImage(t, l, "two")}); err != nil {
		t.Fatal(err)
	}
	if d, err := l.Resolve(t.Context(), ""); err == nil || errors.Is(err, ErrNoLayout) {
		t.Errorf("Resolve of the empty name among two: %s, %v, want an error", d.Digest, err)
	}
}
