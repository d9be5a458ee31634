// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package image

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Platform is an operating system, an architecture and its variant, in GOOS and
// GOARCH words. It is normalised: the variant that an architecture has anyway
// (arm64 v8, amd64 v1) is empty, and that of arm is not.
type Platform struct {
	OS, Architecture, Variant string
}

// HostPlatform returns the platform that this program runs on.
func HostPlatform() Platform {
	return NewPlatform(ocispec.Platform{OS: runtime.GOOS, Architecture: runtime.GOARCH})
}

// NewPlatform returns the normalised form of a document's platform.
func NewPlatform(p ocispec.Platform) Platform {
	os, arch, variant := strings.ToLower(p.OS), strings.ToLower(p.Architecture), strings.ToLower(p.Variant)
	switch arch {
	case "x86_64", "x86-64":
		arch = "amd64"
	case "i386", "i486", "i586", "i686", "x86":
		arch = "386"
	case "aarch64":
		arch = "arm64"
	case "armhf":
		arch, variant = "arm", "v7"
	case "armel":
		arch, variant = "arm", "v6"
	}
	switch {
	case arch == "arm64" && (variant == "8" || variant == "v8"), arch == "amd64" && variant == "v1", arch == "386":
		variant = ""
	case arch == "arm" && variant == "":
		variant = "v7"
	case (arch == "arm" || arch == "arm64") && variant[:min(1, len(variant))] != "v" && variant != "":
		variant = "v" + variant
	}
	return Platform{os, arch, variant}
}

// ParsePlatform parses OS/ARCH[/VARIANT], or an OS or an ARCH alone: what is
// missing is that of the host.
func ParsePlatform(s string) (Platform, error) {
	parts := strings.Split(s, "/")
	for _, p := range parts {
		if p == "" || strings.Trim(strings.ToLower(p), "abcdefghijklmnopqrstuvwxyz0123456789_-") != "" {
			return Platform{}, fmt.Errorf("platform %s: want OS/ARCH or OS/ARCH/VARIANT, like linux/arm64", quote(s))
		}
	}
	host := HostPlatform()
	switch len(parts) {
	case 1:
		switch one := strings.ToLower(parts[0]); one {
		case "linux", "windows", "darwin", "freebsd", "netbsd", "openbsd", "solaris", "wasi":
			return Platform{one, host.Architecture, host.Variant}, nil
		}
		return NewPlatform(ocispec.Platform{OS: host.OS, Architecture: parts[0]}), nil
	case 2:
		return NewPlatform(ocispec.Platform{OS: parts[0], Architecture: parts[1]}), nil
	case 3:
		return NewPlatform(ocispec.Platform{OS: parts[0], Architecture: parts[1], Variant: parts[2]}), nil
	}
	return Platform{}, fmt.Errorf("platform %s: want OS/ARCH or OS/ARCH/VARIANT, like linux/arm64", quote(s))
}

// String returns OS/ARCH or OS/ARCH/VARIANT.
func (p Platform) String() string {
	s := p.OS + "/" + p.Architecture
	if p.Variant != "" {
		s += "/" + p.Variant
	}
	return s
}

// OCI returns the platform as documents have it.
func (p Platform) OCI() ocispec.Platform {
	return ocispec.Platform{OS: p.OS, Architecture: p.Architecture, Variant: p.Variant}
}

// variants lists, best first, the variants that a machine of the platform runs.
func (p Platform) variants() []string {
	ladder := map[string][]string{
		"arm":   {"v8", "v7", "v6", "v5"},
		"amd64": {"v4", "v3", "v2", ""},
	}[p.Architecture]
	if i := slices.Index(ladder, p.Variant); i >= 0 {
		return ladder[i:]
	}
	if p.Variant == "" {
		return []string{""}
	}
	return []string{p.Variant, ""} // arm64/v9 runs plain arm64
}

// Runs reports how well a machine of platform p runs an image of platform other:
// 0 is exactly, higher is worse, negative is not at all.
func (p Platform) Runs(other Platform) int {
	if p.OS != other.OS || p.Architecture != other.Architecture {
		return -1
	}
	return slices.Index(p.variants(), other.Variant)
}

// ErrNoPlatform is returned by Choose where nothing fits.
var ErrNoPlatform = errors.New("no image")

// Choose returns the entry of an index that fits the platform best; among equal
// ones the first. Entries without an image, such as attestations, are passed over.
// An index with one entry that names no platform stands for every platform.
func Choose(idx ocispec.Index, want Platform) (ocispec.Descriptor, error) {
	best, rank := -1, 0
	var have []string
	for i, d := range idx.Manifests {
		if d.Platform == nil || d.Platform.OS == "unknown" {
			continue
		}
		p := NewPlatform(*d.Platform)
		have = append(have, p.String())
		if r := want.Runs(p); r >= 0 && (best < 0 || r < rank) {
			best, rank = i, r
		}
	}
	switch {
	case best >= 0:
		return idx.Manifests[best], nil
	case len(idx.Manifests) == 1 && idx.Manifests[0].Platform == nil:
		return idx.Manifests[0], nil
	case len(have) == 0:
		return ocispec.Descriptor{}, fmt.Errorf("%w: index names no platform", ErrNoPlatform)
	}
	slices.Sort(have)
	have = slices.Compact(have)
	return ocispec.Descriptor{}, fmt.Errorf("%w for %s; there are %q", ErrNoPlatform, want, have[:min(len(have), 20)])
}
