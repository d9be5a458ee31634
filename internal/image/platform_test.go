// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestParsePlatform(t *testing.T) {
	host := HostPlatform()
	tests := []struct{ in, want string }{
		{"linux/amd64", "linux/amd64"},
		{"linux/x86_64", "linux/amd64"},
		{"Linux/AMD64", "linux/amd64"},
		{"linux/arm64/v8", "linux/arm64"},
		{"linux/aarch64", "linux/arm64"},
		{"linux/arm64/v9", "linux/arm64/v9"},
		{"linux/arm", "linux/arm/v7"},
		{"linux/arm/6", "linux/arm/v6"},
		{"linux/armhf", "linux/arm/v7"},
		{"linux/amd64/v1", "linux/amd64"},
		{"linux/amd64/v3", "linux/amd64/v3"},
		{"windows/amd64", "windows/amd64"},
		{"riscv64", host.OS + "/riscv64"},
		{"linux", "linux/" + host.Architecture},
	}
	for _, tt := range tests {
		p, err := ParsePlatform(tt.in)
		if err != nil || p.String() != tt.want {
			t.Errorf("ParsePlatform(%q) = %v, %v, want %s", tt.in, p, err, tt.want)
		}
	}
	for _, bad := range []string{"", "/", "linux/", "a/b/c/d", "linux/am d64", "linux/../x"} {
		if p, err := ParsePlatform(bad); err == nil {
			t.Errorf("ParsePlatform(%q) = %v, want an error", bad, p)
		}
	}
}

func TestChoose(t *testing.T) {
	tests := []struct{ have, want, choice string }{
		{"linux/amd64 linux/arm64", "linux/arm64", "linux/arm64"},
		{"linux/amd64 linux/arm64/v8", "linux/arm64", "linux/arm64/v8"},
		{"linux/arm/v5 linux/arm/v7 linux/arm/v6", "linux/arm", "linux/arm/v7"},
		{"linux/arm/v5 linux/arm/v6 linux/arm/v7", "linux/arm/v6", "linux/arm/v6"},
		{"linux/arm/v5", "linux/arm/v7", "linux/arm/v5"},
		{"linux/arm/v7", "linux/arm/v6", ""},
		{"linux/amd64 linux/amd64/v2 linux/amd64/v3", "linux/amd64/v3", "linux/amd64/v3"},
		{"linux/amd64 linux/amd64/v2", "linux/amd64/v3", "linux/amd64/v2"},
		{"linux/amd64/v2", "linux/amd64", ""},
		{"unknown/unknown linux/amd64", "linux/amd64", "linux/amd64"},
		{"linux/amd64 linux/amd64", "linux/amd64", "linux/amd64"},
		{"windows/amd64", "linux/amd64", ""},
		{"-", "linux/amd64", "-"},
		{"- -", "linux/amd64", ""},
		{"", "linux/amd64", ""},
	}
	for _, tt := range tests {
		want, err := ParsePlatform(tt.want)
		if err != nil {
			t.Fatal(err)
		}
		var idx ocispec.Index
		for i, s := range strings.Fields(tt.have) {
			d := ocispec.Descriptor{Digest: digest.FromString(string(rune('a' + i)))}
			if parts := strings.SplitN(s+"//", "/", 3); s != "-" {
				d.Platform = &ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: strings.Trim(parts[2], "/")}
			}
			idx.Manifests = append(idx.Manifests, d)
		}
		got, err := Choose(idx, want)
		if tt.choice == "" {
			if err == nil {
				t.Errorf("Choose(%q, %s) = %v, want an error", tt.have, want, got)
			}
			continue
		}
		first := 0
		for i, s := range strings.Fields(tt.have) {
			if s == tt.choice {
				first = i
				break
			}
		}
		if err != nil || got.Digest != idx.Manifests[first].Digest {
			t.Errorf("Choose(%q, %s) = %v, %v, want entry %d", tt.have, want, got.Platform, err, first)
		}
	}
}
