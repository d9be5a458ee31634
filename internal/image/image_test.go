// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"fmt"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

var (
	d1 = digest.FromString("one")
	d2 = digest.FromString("two")
)

func desc(mediaType string, d digest.Digest) string {
	return fmt.Sprintf(`{"mediaType":%q,"digest":%q,"size":3}`, mediaType, d)
}

func manifest(more string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":[%s]%s}`,
		desc(ocispec.MediaTypeImageConfig, d1), desc(ocispec.MediaTypeImageLayerGzip, d2), more)
}

func index(more string) string {
	return fmt.Sprintf(`{"schemaVersion":2,"manifests":[%s]%s}`, desc(ocispec.MediaTypeImageManifest, d1), more)
}

func TestParseManifest(t *testing.T) {
	docker := strings.NewReplacer(ocispec.MediaTypeImageConfig, MediaTypeDockerConfig,
		ocispec.MediaTypeImageLayerGzip, MediaTypeDockerLayerGzip).Replace(manifest(`,"mediaType":"` + MediaTypeDockerManifest + `"`))
	tests := []struct{ name, doc, mediaType, want string }{
		{"plain", manifest(""), "", ""},
		{"announced", manifest(""), ocispec.MediaTypeImageManifest, ""},
		{"stated", manifest(`,"mediaType":"` + ocispec.MediaTypeImageManifest + `"`), ocispec.MediaTypeImageManifest, ""},
		{"docker", docker, MediaTypeDockerManifest, ""},
		{"case variants in annotations", manifest(`,"annotations":{"A":"1","a":"2","Layers":"x"}`), "", ""},
		{"no layers", strings.Replace(manifest(""), desc(ocispec.MediaTypeImageLayerGzip, d2), "", 1), "", ""},
		{"null layers", fmt.Sprintf(`{"schemaVersion":2,"config":%s,"layers":null}`, desc("a/b", d1)), "", ""},
		{"unknown member", manifest(`,"x":{"Layers2":[]}`), "", ""},

		{"hybrid", manifest(`,"manifests":[]`), "", "both"},
		{"hybrid null", manifest(`,"manifests":null`), "", "both"},
		{"index", index(""), "", "is an index"},
		{"index announced as manifest", index(""), ocispec.MediaTypeImageManifest, "does not fit"},
		{"other media type", docker, ocispec.MediaTypeImageManifest, "announced"},
		{"unknown media type", manifest(`,"mediaType":"application/x"`), "", "does not fit"},
		{"duplicate", manifest(`,"config":null`), "", "twice"},
		{"escaped duplicate", manifest(`,"\u0063onfig":null`), "", "twice"},
		{"case variant", manifest(`,"Config":null`), "", "spelled"},
		{"only case variant", strings.Replace(manifest(""), "layers", "Layers", 1), "", "spelled"},
		{"case variant in descriptor", strings.Replace(manifest(""), `"size":3`, `"Size":3`, 1), "", "spelled"},
		{"duplicate annotation", manifest(`,"annotations":{"a":"1","a":"2"}`), "", "twice"},
		{"negative size", strings.Replace(manifest(""), `"size":3`, `"size":-1`, 1), "", "negative"},
		{"huge size", strings.Replace(manifest(""), `"size":3`, `"size":9223372036854775808`, 1), "", "parse manifest"},
		{"float size", strings.Replace(manifest(""), `"size":3`, `"size":3.5`, 1), "", "parse manifest"},
		{"path in digest", strings.Replace(manifest(""), string(d2), "sha256:../../x", 1), "", "hexadecimal"},
		{"upper case digest", strings.Replace(manifest(""), d2.Encoded(), strings.ToUpper(d2.Encoded()), 1), "", "lower case"},
		{"sha512", strings.Replace(manifest(""), string(d2), "sha512:"+d2.Encoded()+d2.Encoded(), 1), "", "only sha256"},
		{"no media type", strings.Replace(manifest(""), ocispec.MediaTypeImageConfig, "", 1), "", "no mediaType"},
		{"null config", fmt.Sprintf(`{"schemaVersion":2,"config":null,"layers":[]}`), "", "no mediaType"},
		{"schema 1", `{"schemaVersion":1,"fsLayers":[]}`, "", "schema 1"},
		{"schema 3", strings.Replace(manifest(""), ":2", ":3", 1), "", "schemaVersion is 3"},
		{"empty object", "{}", "", "schemaVersion is 0"},
		{"null", "null", "", "not a JSON object"},
		{"array", "[]", "", "not a JSON object"},
		{"nothing", "", "", "unexpected EOF"},
		{"cut off", manifest("")[:40], "", "unexpected EOF"},
		{"trailing data", manifest("") + "{}", "", "after the document"},
		{"deep", manifest(`,"x":` + strings.Repeat("[", 100) + strings.Repeat("]", 100)), "", "too deep"},
		{"not UTF-8", manifest(",\"x\":\"\xff\""), "", "UTF-8"},
		{"too large", manifest(`,"x":"` + strings.Repeat("x", MaxManifestSize) + `"`), "", "more than"},
		{"wrong embedded data", strings.Replace(manifest(""), `"size":3`, `"size":3,"data":"YWJj"`, 1), "", "embeds"},
		{"bad subject", manifest(`,"subject":{"mediaType":"a/b","digest":"x","size":1}`), "", "subject"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, err := ParseManifest([]byte(tt.doc), tt.mediaType)
			checkError(t, err, tt.want)
			if err == nil && !IsManifest(m.MediaType) {
				t.Errorf("media type is %q", m.MediaType)
			}
		})
	}
}

func TestParseIndex(t *testing.T) {
	tests := []struct{ name, doc, mediaType, want string }{
		{"plain", index(""), "", ""},
		{"docker", index(""), MediaTypeDockerIndex, ""},
		{"empty", `{"schemaVersion":2,"manifests":[]}`, "", ""},
		{"hybrid", index(`,"layers":[]`), "", "both"},
		{"manifest", manifest(""), "", "is a manifest"},
		{"bad entry", strings.Replace(index(""), `"size":3`, `"size":-3`, 1), "", "entry 0"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseIndex([]byte(tt.doc), tt.mediaType)
			checkError(t, err, tt.want)
		})
	}
}

func TestMediaType(t *testing.T) {
	tests := []struct{ name, doc, contentType, media, want string }{
		{"by members", manifest(""), "", ocispec.MediaTypeImageManifest, ""},
		{"by members, index", index(""), "text/plain", ocispec.MediaTypeImageIndex, ""},
		{"by content type", index(""), MediaTypeDockerIndex + "; charset=utf-8", MediaTypeDockerIndex, ""},
		{"contradiction", index(""), MediaTypeDockerManifest, "", "does not fit"},
		{"schema 1", `{}`, "application/vnd.docker.distribution.manifest.v1+prettyjws", "", "schema 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := MediaType([]byte(tt.doc), tt.contentType)
			checkError(t, err, tt.want)
			if got != tt.media {
				t.Errorf("got %q, want %q", got, tt.media)
			}
		})
	}
}

func TestParseConfig(t *testing.T) {
	good := `{"architecture":"arm64","os":"linux","config":{"Env":["A=b"],"Labels":{"X":"1","x":"2"},"OnBuild":["RUN x"],` +
		`"Shell":["/bin/bash"],"Healthcheck":{"Test":["NONE"],"Interval":5}},"rootfs":{"type":"layers","diff_ids":["` + string(d1) + `"]},` +
		`"history":[{"created":"2020-01-02T03:04:05Z","created_by":"x"}],"docker_version":"1","container_config":{"Cmd":["x"]}}`
	tests := []struct{ name, doc, want string }{
		{"good", good, ""},
		{"null config", `{"config":null,"rootfs":{"type":"layers","diff_ids":null}}`, ""},
		{"no rootfs", `{"config":{}}`, "no rootfs"},
		{"empty", `{}`, "no rootfs"},
		{"null", `null`, "not a JSON object"},
		{"other type", `{"rootfs":{"type":"x"}}`, "rootfs type"},
		{"bad diffID", `{"rootfs":{"type":"layers","diff_ids":["sha256:zz"]}}`, "diffID 0"},
		{"case variant", strings.Replace(good, `"Env"`, `"env"`, 1), "spelled"},
		{"duplicate", strings.Replace(good, `"os":"linux"`, `"os":"linux","os":"x"`, 1), "twice"},
		{"too large", `{"x":"` + strings.Repeat("x", MaxConfigSize) + `"}`, "more than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseConfig([]byte(tt.doc))
			checkError(t, err, tt.want)
		})
	}
	c, err := ParseConfig([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if c.Architecture != "arm64" || c.Config.Shell[0] != "/bin/bash" || c.Config.Healthcheck.Interval != 5 || c.Config.Env[0] != "A=b" {
		t.Errorf("got %+v", c)
	}
	if err := CheckLayers(ocispec.Manifest{}, c); err == nil {
		t.Error("CheckLayers accepts a config with more diffIDs than layers")
	}
}

func TestMarshal(t *testing.T) {
	got, err := Marshal(Config{Author: "a<b>&", Config: RunConfig{ImageConfig: ocispec.ImageConfig{Labels: map[string]string{"b": "1", "a": "2"}}}})
	if err != nil {
		t.Fatal(err)
	}
	want := `{"author":"a<b>&","architecture":"","os":"","config":{"Labels":{"a":"2","b":"1"}},"rootfs":{"type":"","diff_ids":null}}`
	if string(got) != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

func TestChainID(t *testing.T) {
	// The example of image-spec's config.md: ChainID(A|B) = SHA256(A + " " + B).
	if got := ChainID(nil); got != "" {
		t.Errorf("of nothing: got %q", got)
	}
	if got := ChainID([]digest.Digest{d1}); got != d1 {
		t.Errorf("of one: got %q, want %q", got, d1)
	}
	two := digest.FromString(string(d1) + " " + string(d2))
	if got := ChainID([]digest.Digest{d1, d2}); got != two {
		t.Errorf("of two: got %q, want %q", got, two)
	}
	if got := ChainID([]digest.Digest{d1, d2, d1}); got != ExtendChain(two, d1) {
		t.Errorf("of three: got %q, want %q", got, ExtendChain(two, d1))
	}
}

func TestLayerTypes(t *testing.T) {
	tests := []struct {
		mediaType string
		want      LayerType
		ok        bool
	}{
		{ocispec.MediaTypeImageLayer, LayerType{Tar, Uncompressed}, true},
		{ocispec.MediaTypeImageLayerGzip, LayerType{Tar, Gzip}, true},
		{ocispec.MediaTypeImageLayerZstd, LayerType{Tar, Zstd}, true},
		{MediaTypeDockerLayer, LayerType{Tar, Uncompressed}, true},
		{MediaTypeDockerLayerGzip, LayerType{Tar, Gzip}, true},
		{"application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", LayerType{Tar, Gzip}, true},
		{"application/vnd.stacker.image.layer.squashfs+zstd", LayerType{Squashfs, Zstd}, true},
		{"application/vnd.stacker.image.layer.squashfs+gzip", LayerType{Squashfs, Gzip}, true},
		{"application/vnd.stacker.image.layer.squashfs", LayerType{Squashfs, Unstated}, true},
		{"application/vnd.oci.image.layer.squashfs", LayerType{Squashfs, Unstated}, true},
		{"application/vnd.stacker.image.layer.erofs+lz4hc", LayerType{Erofs, LZ4HC}, true},
		{"application/vnd.stacker.image.layer.squashfs+xz", LayerType{}, false},
		{"application/vnd.oci.image.layer.v1.tar+xz", LayerType{}, false},
		{"text/plain", LayerType{}, false},
	}
	for _, tt := range tests {
		got, ok := ParseLayerType(tt.mediaType)
		if got != tt.want || ok != tt.ok {
			t.Errorf("%s: got %v %v, want %v %v", tt.mediaType, got, ok, tt.want, tt.ok)
		}
		if again, _ := ParseLayerType(got.MediaType()); ok && again != got {
			t.Errorf("%s: written as %q, read as %v", tt.mediaType, got.MediaType(), again)
		}
	}
}

func TestToOCI(t *testing.T) {
	m := ocispec.Manifest{MediaType: MediaTypeDockerManifest,
		Config: ocispec.Descriptor{MediaType: MediaTypeDockerConfig},
		Layers: []ocispec.Descriptor{{MediaType: MediaTypeDockerLayerGzip}, {MediaType: "x/y"}}}
	got := ToOCI(m)
	if got.MediaType != ocispec.MediaTypeImageManifest || got.Config.MediaType != ocispec.MediaTypeImageConfig ||
		got.Layers[0].MediaType != ocispec.MediaTypeImageLayerGzip || got.Layers[1].MediaType != "x/y" {
		t.Errorf("got %+v", got)
	}
	if m.Layers[0].MediaType != MediaTypeDockerLayerGzip {
		t.Error("ToOCI changed its argument")
	}
}

func checkError(t *testing.T, err error, want string) {
	t.Helper()
	switch {
	case want == "" && err != nil:
		t.Errorf("got error %v, want none", err)
	case want != "" && err == nil:
		t.Errorf("got no error, want one that says %q", want)
	case want != "" && !strings.Contains(err.Error(), want):
		t.Errorf("got error %v, want one that says %q", err, want)
	}
}

func FuzzDocuments(f *testing.F) {
	f.Add([]byte(manifest("")), "")
	f.Add([]byte(index("")), ocispec.MediaTypeImageIndex)
	f.Add([]byte(`{"config":{},"rootfs":{"type":"layers","diff_ids":[]}}`), "")
	f.Fuzz(func(t *testing.T, data []byte, mediaType string) {
		m, merr := ParseManifest(data, mediaType)
		_, ierr := ParseIndex(data, mediaType)
		_, _ = ParseConfig(data) // must not panic
		if merr == nil && ierr == nil {
			t.Errorf("%q is both a manifest and an index", data)
		}
		if merr == nil {
			again, err := Marshal(m)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := ParseManifest(again, ""); err != nil {
				t.Errorf("%q was accepted, but not when written again: %v", data, err)
			}
		}
	})
}
