// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package hosts

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"build.stacker.dev/internal/reference"
)

// hostsFile is hosts.toml: the server, and hosts that are asked before it, in the
// order of the file.
type hostsFile struct {
	Server string               `toml:"server"`
	Host   map[string]hostTable `toml:"host"`
	hostTable
}

// hostTable is one [host."https://…"]; the members at the top are those of server.
type hostTable struct {
	Capabilities []string       `toml:"capabilities"`
	CA           any            `toml:"ca"`     // a file, or several
	Client       any            `toml:"client"` // a file, several, or pairs
	SkipVerify   bool           `toml:"skip_verify"`
	OverridePath bool           `toml:"override_path"`
	Header       map[string]any `toml:"header"`
}

// expand replaces a place by the hosts that hosts.toml has for its registry.
func (c *Config) expand(p Place) ([]Place, error) {
	for _, dir := range c.hostDirs {
		for _, name := range dirNames(p.Registry) {
			path := filepath.Join(dir, name, "hosts.toml")
			var f hostsFile
			meta, found, err := decodeFile(path, &f)
			if err != nil {
				return nil, fmt.Errorf("read %s: %w", path, err)
			}
			if !found {
				continue
			}
			var out []Place
			for _, key := range meta.Keys() {
				if len(key) != 2 || key[0] != "host" {
					continue
				}
				host, err := f.Host[key[1]].place(key[1], p, filepath.Dir(path))
				if err != nil {
					return nil, fmt.Errorf("read %s: host %q: %w", path, key[1], err)
				}
				out = append(out, host)
			}
			own, err := f.own(p, filepath.Dir(path))
			if err != nil {
				return nil, fmt.Errorf("read %s: server: %w", path, err)
			}
			return append(out, own), nil
		}
	}
	return []Place{p}, nil
}

// dirNames are the names of directories for a registry.
func dirNames(registry string) []string {
	names := []string{registry}
	if i := strings.LastIndexByte(registry, ':'); i > strings.LastIndexByte(registry, ']') {
		names = append(names, registry[:i]+"_"+registry[i+1:]+"_", registry[:i])
	}
	return append(names, "_default")
}

// own is the place of the registry itself, as the file has it.
func (f *hostsFile) own(p Place, dir string) (Place, error) {
	server := f.Server
	if server == "" {
		server = "https://" + p.Registry
	}
	out, err := f.place(server, p, dir)
	if f.Server == "" {
		out.Plain = false
	}
	if u, uerr := url.Parse(server); uerr == nil && p.Registry == reference.DefaultRegistry && u.Host == "registry-1.docker.io" {
		out.Registry = p.Registry // credentials for it have this name
	}
	return out, err
}

// place makes a Place of one host. Files without a directory are beside hosts.toml.
func (t hostTable) place(address string, p Place, dir string) (Place, error) {
	if !strings.Contains(address, "://") {
		address = "https://" + address
	}
	u, err := url.Parse(address)
	if err != nil || u.Scheme != "https" && u.Scheme != "http" || u.User != nil || !reference.ValidRegistry(u.Host) {
		return Place{}, errors.New("it is not https://HOST[/PATH] or http://HOST[/PATH]")
	}
	out := Place{Registry: u.Host, Repository: p.Repository, Plain: u.Scheme == "http", Insecure: p.Insecure || t.SkipVerify || u.Scheme == "http", NoPush: p.NoPush}
	if path := strings.TrimRight(u.Path, "/"); path != "" || t.OverridePath {
		out.Prefix = path
		if !t.OverridePath && !strings.HasSuffix(path, "/v2") {
			out.Prefix += "/v2"
		}
	}
	if t.Capabilities != nil {
		out.NoPull = !slices.Contains(t.Capabilities, "pull") || !slices.Contains(t.Capabilities, "resolve")
		out.NoPush = out.NoPush || !slices.Contains(t.Capabilities, "push")
	}
	files := func(list []string) (out []string) {
		for _, f := range list {
			if !filepath.IsAbs(f) {
				f = filepath.Join(dir, f)
			}
			out = append(out, f)
		}
		return out
	}
	cas, err := texts(t.CA)
	if err != nil {
		return out, fmt.Errorf("ca: %w", err)
	}
	out.CAs = files(cas)
	if out.Certificates, err = pairs(t.Client, files); err != nil {
		return out, fmt.Errorf("client: %w", err)
	}
	for name, value := range t.Header {
		list, err := texts(value)
		if err != nil {
			return out, fmt.Errorf("header %s: %w", name, err)
		}
		if out.Header == nil {
			out.Header = http.Header{}
		}
		out.Header[http.CanonicalHeaderKey(name)] = list
	}
	return out, nil
}

// texts takes a text or a list of them.
func texts(v any) ([]string, error) {
	switch v := v.(type) {
	case nil:
		return nil, nil
	case string:
		return []string{v}, nil
	case []any:
		var out []string
		for _, e := range v {
			s, ok := e.(string)
			if !ok {
				return nil, fmt.Errorf("%v is no text", e)
			}
			out = append(out, s)
		}
		return out, nil
	}
	return nil, errors.New("it is a text or a list of texts")
}

// pairs takes a file with certificate and key, several of them, or a list of pairs.
func pairs(v any, files func([]string) []string) (out [][2]string, err error) {
	list, isList := v.([]any)
	if !isList || len(list) > 0 && !isPair(list[0]) {
		names, err := texts(v)
		for _, f := range files(names) {
			out = append(out, [2]string{f, f})
		}
		return out, err
	}
	for _, e := range list {
		pair, err := texts(e)
		if err != nil || len(pair) == 0 || len(pair) > 2 {
			return nil, errors.New("a pair is [CERTIFICATE, KEY]")
		}
		if len(pair) == 1 || pair[1] == "" {
			pair = []string{pair[0], pair[0]} // both in one file
		}
		pair = files(pair)
		out = append(out, [2]string{pair[0], pair[1]})
	}
	return out, nil
}

func isPair(v any) bool {
	_, ok := v.([]any)
	return ok
}
