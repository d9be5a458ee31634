// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package hosts

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"

	"build.stacker.dev/internal/atomicfile"
	"build.stacker.dev/internal/reference"
)

// maxFile bounds a file, in bytes.
const maxFile = 1 << 20

// registriesFile is what is read of registries.conf.
type registriesFile struct {
	Registry []registryTable `toml:"registry"`

	Search        []string          `toml:"unqualified-search-registries"`
	ShortNameMode string            `toml:"short-name-mode"`
	Aliases       map[string]string `toml:"aliases"`

	// Registries is the table of version 1.
	Registries map[string]any `toml:"registries"`
}

// registryTable is one [[registry]].
type registryTable struct {
	Prefix             string        `toml:"prefix"`
	Location           string        `toml:"location"`
	Insecure           bool          `toml:"insecure"`
	Blocked            bool          `toml:"blocked"`
	MirrorByDigestOnly bool          `toml:"mirror-by-digest-only"`
	Mirrors            []mirrorTable `toml:"mirror"`

	file string
}

// mirrorTable is one [[registry.mirror]].
type mirrorTable struct {
	Location       string `toml:"location"`
	Insecure       bool   `toml:"insecure"`
	PullFromMirror string `toml:"pull-from-mirror"`
}

// decodeFile reads a TOML file; false where it is missing.
func decodeFile(path string, into any) (toml.MetaData, bool, error) {
	data, err := atomicfile.ReadRegular(path, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return toml.MetaData{}, false, nil
	}
	if err != nil {
		return toml.MetaData{}, false, err
	}
	meta, err := toml.Decode(string(data), into)
	return meta, true, err
}

// readRegistries adds what a file says. A later table for the same prefix counts.
func (c *Config) readRegistries(path string) error {
	var f registriesFile
	meta, found, err := decodeFile(path, &f)
	if err != nil || !found {
		return err
	}
	if len(f.Registries) > 0 {
		return errors.New("[registries] is version 1 of the format: write [[registry]]")
	}
	if err := c.short.add(f, meta.IsDefined("unqualified-search-registries"), path); err != nil {
		return err
	}
	for _, t := range f.Registry {
		t.file = path
		if t.Prefix == "" {
			t.Prefix = t.Location
		}
		t.Prefix, t.Location = strings.TrimRight(t.Prefix, "/"), strings.TrimRight(t.Location, "/")
		if err := t.check(); err != nil {
			return err
		}
		c.registries = slices.DeleteFunc(c.registries, func(o registryTable) bool { return o.Prefix == t.Prefix })
		c.registries = append(c.registries, t)
	}
	return nil
}

// check refuses what has no meaning.
func (t *registryTable) check() error {
	host, _, _ := strings.Cut(strings.TrimPrefix(t.Prefix, "*."), "/")
	switch {
	case t.Prefix == "":
		return errors.New("a [[registry]] has neither prefix nor location")
	case !reference.ValidRegistry(host):
		return fmt.Errorf("prefix %q begins with no host", t.Prefix)
	case strings.HasPrefix(t.Prefix, "*.") && strings.Contains(t.Prefix, "/"):
		return fmt.Errorf("prefix %q: *.HOST goes without a path", t.Prefix)
	}
	if s := suffixOf(t.Location); s != "" && s != suffixOf(t.Prefix) {
		return fmt.Errorf("location %q: a tag or digest cannot be moved: leave out %q", t.Location, s)
	}
	for _, m := range t.Mirrors {
		if s := suffixOf(m.Location); s != "" {
			return fmt.Errorf("mirror %q: leave out %q", m.Location, s)
		}
		switch m.PullFromMirror {
		case "", "all", "digest-only", "tag-only":
		default:
			return fmt.Errorf("pull-from-mirror %q: it is all, digest-only or tag-only", m.PullFromMirror)
		}
		if m.Location == "" {
			return fmt.Errorf("a mirror of %q has no location", t.Prefix)
		}
		if m.PullFromMirror != "" && t.MirrorByDigestOnly {
			return fmt.Errorf("a mirror of %q has pull-from-mirror, and mirror-by-digest-only is set for all: use one of them", t.Prefix)
		}
	}
	return nil
}

// suffixOf is the tag or digest at the end of a prefix, which is no port.
func suffixOf(prefix string) string {
	if !strings.Contains(prefix, "/") {
		return ""
	}
	_, suffix := splitSuffix(prefix)
	return suffix
}

// sort puts the longest prefixes first, and those with an asterisk last.
func (c *Config) sort() {
	slices.SortStableFunc(c.registries, func(a, b registryTable) int {
		if x, y := strings.HasPrefix(a.Prefix, "*."), strings.HasPrefix(b.Prefix, "*."); x != y {
			if x {
				return 1
			}
			return -1
		}
		return len(b.Prefix) - len(a.Prefix)
	})
}

// find returns the table for a reference; nil if there is none.
func (c *Config) find(ref reference.Reference) *registryTable {
	for i := range c.registries {
		if _, ok := c.registries[i].match(ref); ok {
			return &c.registries[i]
		}
	}
	return nil
}

// match returns what of a repository's name comes after the prefix. A prefix may go
// as far as a tag or a digest; *.HOST is for every host below HOST, on any port.
func (t *registryTable) match(ref reference.Reference) (rest string, ok bool) {
	name := ref.Name()
	if domain, wild := strings.CutPrefix(t.Prefix, "*"); wild {
		host, _, _ := strings.Cut(ref.Registry, ":")
		return "/" + ref.Repository, strings.HasSuffix(host, domain)
	}
	for _, whole := range []string{name, name + ":" + ref.Tag, name + "@" + string(ref.Digest)} {
		if t.Prefix == whole {
			return "", true
		}
	}
	rest, ok = strings.CutPrefix(name, t.Prefix)
	return rest, ok && rest != "" && rest[0] == '/'
}

// places are the mirrors that are for the reference, and the location itself.
func (t *registryTable) places(ref reference.Reference) ([]Place, error) {
	rest, _ := t.match(ref)
	location := t.Location
	if location == "" {
		location = strings.TrimSuffix(ref.Name(), rest)
	}
	var out []Place
	for _, m := range t.Mirrors {
		how := m.PullFromMirror
		if how == "" && t.MirrorByDigestOnly {
			how = "digest-only"
		}
		if how == "digest-only" && ref.Digest == "" || how == "tag-only" && ref.Digest != "" {
			continue
		}
		p, err := place(strings.TrimRight(m.Location, "/")+rest, m.Insecure)
		if err != nil {
			return nil, err
		}
		p.NoPush = true
		out = append(out, p)
	}
	p, err := place(location+rest, t.Insecure)
	return append(out, p), err
}
