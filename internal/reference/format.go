// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package reference

import (
	"strings"

	"github.com/opencontainers/go-digest"
)

// Name returns registry/repository.
func (r Reference) Name() string { return r.Registry + "/" + r.Repository }

// String returns the complete form; Parse of it gives r again.
func (r Reference) String() string { return r.suffix(r.Name()) }

// Familiar returns the form that people write: without what Parse fills in.
func (r Reference) Familiar() string {
	name := r.Name()
	if r.Registry == DefaultRegistry {
		name = r.Repository
		if short := strings.TrimPrefix(name, defaultNamespace); !strings.Contains(short, "/") {
			name = short // library/a/b would lose its namespace for good
		}
		if first, _, found := strings.Cut(name, "/"); found && looksLikeHost(first) {
			name = r.Name() // a.b/c would become the registry a.b
		}
	}
	if r.Tag == defaultTag && r.Digest == "" {
		return name
	}
	return r.suffix(name)
}

// suffix appends tag and digest to a name.
func (r Reference) suffix(name string) string {
	if r.Tag != "" {
		name += ":" + r.Tag
	}
	if r.Digest != "" {
		name += "@" + string(r.Digest)
	}
	return name
}

// Identifier returns what a registry is asked for: the digest when there is one,
// else the tag.
func (r Reference) Identifier() string {
	if r.Digest != "" {
		return string(r.Digest)
	}
	return r.Tag
}

// WithDigest returns r pinned to a digest; the tag is kept.
func (r Reference) WithDigest(d digest.Digest) Reference {
	r.Digest = d
	return r
}
