// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/blob"
	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry"
	"build.stacker.dev/internal/registry/auth"
	"build.stacker.dev/internal/registry/hosts"
)

// registryOptions are those of the user: certificates and credentials where
// docker and podman keep them.
func registryOptions(insecure bool) registry.Options {
	home, _ := os.UserHomeDir() // none: no files of the user
	o := registry.Options{
		Credentials: keychain(os.Getenv, home).Lookup,
		CertDirs:    []string{"/etc/docker/certs.d", "/etc/containers/certs.d"},
		Proxy:       http.ProxyFromEnvironment,
		UserAgent:   "stacker/" + Version(),
		Places:      places(os.Getenv, home),
	}
	if home != "" {
		o.CertDirs = append([]string{filepath.Join(home, ".config", "containers", "certs.d")}, o.CertDirs...)
	}
	if insecure {
		o.Insecure = func(string) bool { return true }
	}
	return o
}

// places reads, at the first need, the files in which podman, docker and containerd
// have mirrors.
func places(getenv func(string) string, home string) func(reference.Reference) ([]hosts.Place, error) {
	load := hostsConfig(getenv, home)
	return func(ref reference.Reference) ([]hosts.Place, error) {
		c, err := load()
		if err != nil {
			return nil, err
		}
		return c.Places(ref)
	}
}

// shortNames reads, at the first need, what podman takes for the meaning of a name
// without a registry.
func shortNames(getenv func(string) string, home string) func(name string) ([]string, string, error) {
	load := hostsConfig(getenv, home)
	return func(name string) ([]string, string, error) {
		if !reference.IsShort(name) {
			return nil, "", nil
		}
		c, err := load()
		if err != nil {
			return nil, "", err
		}
		m, err := c.ShortName(name)
		var out []string
		for _, r := range m.Candidates {
			out = append(out, r.String())
		}
		return out, m.From, err
	}
}

// userShortNames is shortNames of this user.
func userShortNames() func(name string) ([]string, string, error) {
	home, _ := os.UserHomeDir() // none: no files of the user
	return shortNames(os.Getenv, home)
}

// hostsConfig reads the files once.
func hostsConfig(getenv func(string) string, home string) func() (*hosts.Config, error) {
	return sync.OnceValues(func() (*hosts.Config, error) {
		o := hosts.Options{HostDirs: []string{"/etc/docker/certs.d", "/etc/containerd/certs.d"}}
		system := "/etc/containers/registries.conf"
		file, dirs := system, []string{system + ".d"}
		if home != "" {
			own := filepath.Join(home, ".config", "containers", "registries.conf")
			if _, err := os.Stat(own); err == nil {
				file = own // in place of the system's
			}
			dirs = append(dirs, own+".d")
		}
		if f := getenv("CONTAINERS_REGISTRIES_CONF"); f != "" {
			file = f
		}
		o.Registries = append(o.Registries, file)
		for _, dir := range dirs {
			more, _ := filepath.Glob(filepath.Join(dir, "*.conf")) // sorted; the pattern is right
			o.Registries = append(o.Registries, more...)
		}
		if recorded := recordedAliases(getenv, home); recorded != "" {
			o.Registries = append(o.Registries, recorded)
		}
		return hosts.Load(o)
	})
}

// recordedAliases is the file in which podman keeps what its user chose. It counts
// more than the others.
func recordedAliases(getenv func(string) string, home string) string {
	const name = "containers/short-name-aliases.conf"
	if os.Geteuid() == 0 {
		return filepath.Join("/var/cache", name)
	}
	if dir := getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, name)
	}
	if home == "" {
		return ""
	}
	return filepath.Join(home, ".cache", name)
}

// keychain reads the files in which docker and podman keep credentials, the most
// specific first.
func keychain(getenv func(string) string, home string) *auth.Keychain {
	var sources []auth.Source
	add := func(dir string, rest ...string) {
		if dir != "" {
			sources = append(sources, auth.Source{Path: filepath.Join(append([]string{dir}, rest...)...)})
		}
	}
	if data := getenv("DOCKER_AUTH_CONFIG"); data != "" {
		sources = append(sources, auth.Source{Data: []byte(data)})
	}
	add(getenv("REGISTRY_AUTH_FILE"))
	add(getenv("XDG_RUNTIME_DIR"), "containers", "auth.json")
	add(home, ".config", "containers", "auth.json")
	if dir := getenv("DOCKER_CONFIG"); dir != "" {
		add(dir, "config.json")
	} else {
		add(home, ".docker", "config.json")
	}
	return auth.New(sources...)
}

// fileCredentials finds those for an http import. trace (may be nil) is told what
// is looked for.
func fileCredentials(ctx context.Context, trace func(text string)) func(host, path string) (string, string, bool) {
	home, _ := os.UserHomeDir()
	keys := keychain(os.Getenv, home)
	return func(host, path string) (string, string, bool) {
		path = strings.Trim(path, "/")
		if trace != nil {
			trace(fmt.Sprintf("searching creds for key %q", strings.TrimSuffix(host+"/"+path, "/")))
		}
		c, err := keys.Lookup(ctx, host, path)
		return c.Username, c.Password, err == nil && c.Username != ""
	}
}

// puller is a registry client as package source wants it. It implements source.Registry.
type puller struct{ client *registry.Client }

// Resolve implements source.Registry.
func (p *puller) Resolve(ctx context.Context, name string) (ocispec.Descriptor, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	return p.client.Head(ctx, ref)
}

// Manifest implements source.Registry.
func (p *puller) Manifest(ctx context.Context, name string, d ocispec.Descriptor) ([]byte, error) {
	ref, err := reference.Parse(name)
	if err != nil {
		return nil, err
	}
	return p.client.Manifest(ctx, ref, d)
}

// Fetch implements source.Registry.
func (p *puller) Fetch(ctx context.Context, name string, d ocispec.Descriptor, into *blob.Store, progress func(int64)) error {
	ref, err := reference.Parse(name)
	if err != nil {
		return err
	}
	return p.client.Fetch(ctx, ref, d, into, progress)
}
