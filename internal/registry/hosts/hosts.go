// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

// Package hosts finds out which servers have the images of a registry: mirrors, other
// locations, and how each is spoken to; and what names without a registry mean.
//
// It reads what other programs of the machine read: registries.conf in its version 2
// (containers-registries.conf.5) and hosts.toml (containerd, docs/hosts.md). Which
// files there are is for the caller to say. A file that cannot be read is an error:
// it may be the one that blocks a registry. The package connects to nothing.
package hosts

import (
	"fmt"
	"net/http"
	"strings"

	"build.stacker.dev/internal/reference"
)

// Place is a server that may have an image, and the image's repository there.
type Place struct {
	Registry   string // host or host:port
	Repository string
	// Prefix is the path of the API, "/v2" where it is empty.
	Prefix string
	// Insecure allows plain HTTP and certificates that cannot be verified.
	Insecure bool
	// Plain is plain HTTP from the beginning; only together with Insecure, or on
	// loopback.
	Plain bool
	// NoPull and NoPush say what the server is not for.
	NoPull, NoPush bool
	// CAs are files of authorities, besides those of the system; Certificates are
	// pairs of files, certificate and key, that identify the client.
	CAs          []string
	Certificates [][2]string
	// Header is sent with each request to this server.
	Header http.Header
}

// Config is what the files say. The zero value says nothing. It does not change and
// is safe for concurrent use.
type Config struct {
	registries []registryTable // the longest prefix first
	hostDirs   []string
	short      shortNames
}

// Options name the files.
type Options struct {
	// Registries are files in the form of registries.conf; later ones add to earlier
	// ones. Missing ones are passed over.
	Registries []string
	// HostDirs are directories like /etc/containerd/certs.d, the most important first.
	// Below, a directory HOST:PORT, HOST_PORT_, HOST or _default has hosts.toml.
	HostDirs []string
}

// Load reads the files.
func Load(o Options) (*Config, error) {
	c := &Config{hostDirs: o.HostDirs}
	for _, path := range o.Registries {
		if err := c.readRegistries(path); err != nil {
			return nil, fmt.Errorf("read %s: %w", path, err)
		}
	}
	c.sort()
	return c, nil
}

// Places returns where an image may be fetched from, the best place first: the
// mirrors, and then the place that the reference means. A blocked registry is an
// error.
func (c *Config) Places(ref reference.Reference) ([]Place, error) {
	own := []Place{{Registry: ref.Registry, Repository: ref.Repository}}
	if t := c.find(ref); t != nil {
		if t.Blocked {
			return nil, fmt.Errorf("registry %s is blocked by %s", ref.Registry, t.file)
		}
		var err error
		if own, err = t.places(ref); err != nil {
			return nil, fmt.Errorf("%s: %w", t.file, err)
		}
	}
	var out []Place
	for _, p := range own {
		expanded, err := c.expand(p)
		if err != nil {
			return nil, err
		}
		out = append(out, expanded...)
	}
	return out, nil
}

// place makes a Place of the name of a repository.
func place(name string, insecure bool) (Place, error) {
	ref, err := reference.Parse(name)
	if err != nil || ref.Digest != "" {
		return Place{}, fmt.Errorf("location %q is not HOST/PATH", name)
	}
	registry, _, _ := strings.Cut(name, "/")
	if registry != ref.Registry && !(ref.Registry == reference.DefaultRegistry && strings.HasSuffix(registry, "docker.io")) {
		return Place{}, fmt.Errorf("location %q begins with no host", name)
	}
	return Place{Registry: ref.Registry, Repository: ref.Repository, Insecure: insecure}, nil
}
