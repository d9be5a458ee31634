// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package hosts

import (
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"build.stacker.dev/internal/reference"
)

// load reads texts as files, later ones over earlier ones.
func load(t *testing.T, texts ...string) (*Config, error) {
	t.Helper()
	dir := t.TempDir()
	var o Options
	for i, text := range texts {
		o.Registries = append(o.Registries, write(t, filepath.Join(dir, strconv.Itoa(i)+".conf"), text))
	}
	return Load(o)
}

// TestShortName has the rules of containers-registries.conf(5), "Short-Name Aliasing".
func TestShortName(t *testing.T) {
	const two = `unqualified-search-registries = ["a.example", "docker.io"]` + "\n"
	digest := "@sha256:" + strings.Repeat("a", 64)
	tests := []struct {
		why   string
		files []string
		name  string
		want  string // candidates, by spaces; what begins with an exclamation mark is in the error
	}{
		{"nothing is said", nil, "busybox", ""},
		{"a name with a registry", []string{two}, "r.io/busybox", ""},
		{"localhost is a registry", []string{two}, "localhost/busybox", ""},
		{"and so is what has a port", []string{two}, "host:5000/busybox", ""},
		{"in the order of the list", []string{two}, "busybox", "a.example/busybox:latest docker.io/library/busybox:latest"},
		{"a namespace is part of a short name", []string{two}, "team/app:v1", "a.example/team/app:v1 docker.io/team/app:v1"},
		{"a digest stays", []string{two}, "app" + digest, "a.example/app" + digest + " docker.io/library/app" + digest},
		{"tag and digest stay", []string{two}, "app:v1" + digest, "a.example/app:v1" + digest + " docker.io/library/app:v1" + digest},
		{"permissive tries all", []string{two + `short-name-mode = "permissive"`}, "app", "a.example/app:latest docker.io/library/app:latest"},
		{"disabled too", []string{two + `short-name-mode = "disabled"`}, "app", "a.example/app:latest docker.io/library/app:latest"},
		{"enforcing wants no guess", []string{two + `short-name-mode = "enforcing"`}, "app:v2",
			`!"app" may mean a.example/app:v2 or docker.io/library/app:v2 (unqualified-search-registries in `},
		{"but one is no guess", []string{"unqualified-search-registries = ['a.example']\nshort-name-mode = 'enforcing'"}, "app", "a.example/app:latest"},
		{"a registry with a namespace", []string{"unqualified-search-registries = ['a.example/mine/']"}, "app", "a.example/mine/app:latest"},
		{"a later list replaces", []string{two, "unqualified-search-registries = ['b.example']"}, "app", "b.example/app:latest"},
		{"an empty one too", []string{two, "unqualified-search-registries = []"}, "app", ""},
		{"a file without one does not", []string{two, "[aliases]\nother = 'c.example/x'"}, "app", "a.example/app:latest docker.io/library/app:latest"},
		{"an alias", []string{two + "short-name-mode='enforcing'\n[aliases]\nfedora = 'f.example/fedora'"}, "fedora:41", "f.example/fedora:41"},
		{"of a name with a namespace", []string{"[aliases]\n'a/b' = 'f.example/c'"}, "a/b", "f.example/c:latest"},
		{"is for the whole name", []string{"[aliases]\n'a/b' = 'f.example/c'"}, "b", ""},
		{"with a digest", []string{"[aliases]\napp = 'f.example:5000/x'"}, "app" + digest, "f.example:5000/x" + digest},
		{"of docker.io", []string{two + "[aliases]\nbusybox = 'docker.io/library/busybox'"}, "busybox", "docker.io/library/busybox:latest"},
		{"a later alias counts", []string{"[aliases]\napp = 'a.example/x'", "[aliases]\napp = 'b.example/y'"}, "app", "b.example/y:latest"},
		{"an empty one takes it away", []string{two + "[aliases]\napp = 'a.example/x'", "[aliases]\napp = ''"}, "app", "a.example/app:latest docker.io/library/app:latest"},
		{"a malformed alias", []string{"[aliases]\napp = 'nohost'"}, "app", "!is not HOST/NAME"},
		{"an alias with a tag", []string{"[aliases]\napp = 'a.example/x:v1'"}, "app", "!is not HOST/NAME"},
		{"an alias for a full name", []string{"[aliases]\n'a.example/x' = 'b.example/x'"}, "app", "!it is no short name"},
		{"an alias for a tag", []string{"[aliases]\n'x:v1' = 'b.example/x'"}, "app", "!it is no short name"},
		{"a malformed mode", []string{"short-name-mode = 'ask'"}, "app", "!short-name-mode"},
		{"a malformed registry", []string{"unqualified-search-registries = ['https://x']"}, "app", "!begins with no host"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			c, err := load(t, tt.files...)
			var m Meanings
			if err == nil {
				m, err = c.ShortName(tt.name)
			}
			var got []string
			for _, r := range m.Candidates {
				got = append(got, r.String())
			}
			if text, bad := strings.CutPrefix(tt.want, "!"); bad {
				if err == nil || !strings.Contains(err.Error(), text) {
					t.Errorf("got %q, %v, want an error that says %q", got, err, text)
				}
				return
			}
			if err != nil || strings.Join(got, " ") != tt.want {
				t.Errorf("%s: got %q, %v, want %q", tt.name, got, err, tt.want)
			}
		})
	}
}

// TestRegistryTables has the rules of containers-registries.conf(5) for [[registry]]:
// prefix, location, mirrors.
func TestRegistryTables(t *testing.T) {
	digest := "@sha256:" + strings.Repeat("a", 64)
	const mirrors = "[[registry]]\nlocation='r.io'\n%s[[registry.mirror]]\nlocation='all.io'\n" +
		"[[registry.mirror]]\nlocation='digest.io'\npull-from-mirror='digest-only'\n[[registry.mirror]]\nlocation='tag.io/m'\npull-from-mirror='tag-only'\n"
	tests := []struct {
		why, file, name, want string
	}{
		{"prefix without location", "[[registry]]\nprefix='r.io/a'\ninsecure=true", "r.io/a/b", "r.io/a/b insecure\n"},
		{"location without prefix", "[[registry]]\nlocation='r.io/a'\ninsecure=true", "r.io/a", "r.io/a insecure\n"},
		{"the example of the manual", "[[registry]]\nprefix='example.com/foo'\nlocation='internal.net/bar'", "example.com/foo/myimage", "internal.net/bar/myimage\n"},
		{"the longest prefix", "[[registry]]\nlocation='r.io'\nblocked=true\n[[registry]]\nlocation='r.io/a/b'", "r.io/a/b/c", "r.io/a/b/c\n"},
		{"whole components only", "[[registry]]\nlocation='r.io/a'\nblocked=true", "r.io/ab", "r.io/ab\n"},
		{"a port is another host", "[[registry]]\nlocation='r.io'\nblocked=true", "r.io:5000/a", "r.io:5000/a\n"},
		{"a prefix with a tag", "[[registry]]\nlocation='r.io/a:v1'\nblocked=true", "r.io/a:v1", "blocked"},
		{"not another tag", "[[registry]]\nlocation='r.io/a:v1'\nblocked=true", "r.io/a:v2", "r.io/a\n"},
		{"a prefix with a digest", "[[registry]]\nlocation='r.io/a" + digest + "'\nblocked=true", "r.io/a" + digest, "blocked"},
		{"a tag that moves", "[[registry]]\nprefix='r.io/a:v1'\nlocation='s.io/b:v1'", "r.io/a:v1", "s.io/b\n"},
		{"a tag that would change", "[[registry]]\nprefix='r.io/a'\nlocation='s.io/b:v1'", "r.io/a:v1", "!cannot be moved"},
		{"subdomains", "[[registry]]\nprefix='*.example.com'\ninsecure=true", "foo.bar.example.com/x/y", "foo.bar.example.com/x/y insecure\n"},
		{"not the domain", "[[registry]]\nprefix='*.example.com'\nblocked=true", "example.com/x", "example.com/x\n"},
		{"nor another one", "[[registry]]\nprefix='*.example.com'\nblocked=true", "badexample.com/x", "badexample.com/x\n"},
		{"subdomains on a port", "[[registry]]\nprefix='*.example.com'\nblocked=true", "a.example.com:5000/x", "blocked"},
		{"subdomains that move", "[[registry]]\nprefix='*.example.com'\nlocation='r.io/from'", "a.example.com/x/y", "r.io/from/x/y\n"},
		{"an exact host before them", "[[registry]]\nprefix='*.example.com'\nblocked=true\n[[registry]]\nprefix='a.example.com'", "a.example.com/x", "a.example.com/x\n"},
		{"subdomains with a path", "[[registry]]\nprefix='*.example.com/x'", "a.example.com/x", "!without a path"},
		{"an asterisk elsewhere", "[[registry]]\nprefix='example.*.com'", "a.example.com/x", "!begins with no host"},
		{"mirrors, by tag", strings.ReplaceAll(mirrors, "%s", ""), "r.io/x:v1", "all.io/x nopush\ntag.io/m/x nopush\nr.io/x\n"},
		{"mirrors, by digest", strings.ReplaceAll(mirrors, "%s", ""), "r.io/x" + digest, "all.io/x nopush\ndigest.io/x nopush\nr.io/x\n"},
		{"both settings for mirrors", strings.ReplaceAll(mirrors, "%s", "mirror-by-digest-only=true\n"), "r.io/x", "!use one of them"},
		{"mirrors by digest only, a tag", "[[registry]]\nlocation='r.io'\nmirror-by-digest-only=true\n[[registry.mirror]]\nlocation='m.io'", "r.io/x", "r.io/x\n"},
		{"an unknown way", "[[registry]]\nlocation='r.io'\n[[registry.mirror]]\nlocation='m.io'\npull-from-mirror='sometimes'", "r.io/x", "!digest-only or tag-only"},
		{"an insecure mirror", "[[registry]]\nlocation='r.io'\n[[registry.mirror]]\nlocation='m.io:80'\ninsecure=true", "r.io/x", "m.io:80/x insecure nopush\nr.io/x\n"},
		{"a mirror of subdomains", "[[registry]]\nprefix='*.example.com'\n[[registry.mirror]]\nlocation='m.io/all'", "a.example.com/x", "m.io/all/x nopush\na.example.com/x\n"},
		{"an IPv6 host", "[[registry]]\nlocation='[::1]:5000'\n[[registry.mirror]]\nlocation='[::2]:80/m'", "[::1]:5000/x", "[::2]:80/m/x nopush\n[::1]:5000/x\n"},
		{"docker.io has library in it", "[[registry]]\nprefix='docker.io/library/alpine'\nlocation='m.io/alpine'", "alpine", "m.io/alpine\n"},
		{"neither", "[[registry]]\ninsecure=true", "r.io/x", "!neither prefix nor location"},
		{"version 1", "[registries.search]\nregistries=['r.io']", "r.io/x", "!version 1"},
	}
	for _, tt := range tests {
		t.Run(tt.why, func(t *testing.T) {
			ref, err := reference.Parse(tt.name)
			if err != nil {
				t.Fatal(err)
			}
			c, err := load(t, tt.file)
			var places []Place
			if err == nil {
				places, err = c.Places(ref)
			}
			got := show(places)
			if err != nil {
				got = "!" + err.Error()
			}
			if strings.Contains(got, "is blocked by") {
				got = "blocked"
			}
			if text, bad := strings.CutPrefix(tt.want, "!"); bad && strings.HasPrefix(got, "!") && strings.Contains(got, text) {
				return
			}
			if got != tt.want {
				t.Errorf("%s: got\n%s, want\n%s", tt.name, got, tt.want)
			}
		})
	}
}
