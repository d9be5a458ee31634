// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package hosts

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"build.stacker.dev/internal/reference"
)

// show prints places, one for each line.
func show(places []Place) string {
	var b strings.Builder
	for _, p := range places {
		fmt.Fprintf(&b, "%s%s/%s", p.Registry, p.Prefix, p.Repository)
		for name, set := range map[string]bool{" plain": p.Plain} {
			if set {
				b.WriteString(name)
			}
		}
		if p.Insecure {
			b.WriteString(" insecure")
		}
		if p.NoPull {
			b.WriteString(" nopull")
		}
		if p.NoPush {
			b.WriteString(" nopush")
		}
		for _, f := range p.CAs {
			b.WriteString(" ca=" + filepath.Base(f))
		}
		for _, c := range p.Certificates {
			b.WriteString(" cert=" + filepath.Base(c[0]) + "+" + filepath.Base(c[1]))
		}
		for name, v := range p.Header {
			b.WriteString(" " + name + "=" + strings.Join(v, "|"))
		}
		b.WriteByte('\n')
	}
	return b.String()
}

func write(t *testing.T, path, content string) string {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

const registriesConf = `
unqualified-search-registries = ["docker.io"]
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "mirror.example:5000/hub"
insecure = true
[[registry.mirror]]
location = "second.example"
pull-from-mirror = "digest-only"

[[registry]]
prefix = "r.io/moved"
location = "new.example/here"
[[registry]]
prefix = "r.io"
insecure = true
mirror-by-digest-only = true
[[registry.mirror]]
location = "m.example/r"
[[registry]]
prefix = "*.bad.example"
blocked = true
[[registry]]
prefix = "good.bad.example"
`

func TestRegistriesConf(t *testing.T) {
	dir := t.TempDir()
	c, err := Load(Options{Registries: []string{
		write(t, filepath.Join(dir, "registries.conf"), registriesConf), filepath.Join(dir, "missing"),
		write(t, filepath.Join(dir, "more.conf"), "[[registry]]\nlocation='later.example'\nblocked=true"),
	}})
	if err != nil {
		t.Fatal(err)
	}
	digest := "@sha256:" + strings.Repeat("a", 64)
	for name, want := range map[string]string{
		"alpine":                   "mirror.example:5000/hub/library/alpine insecure nopush\ndocker.io/library/alpine\n",
		"docker.io/a/b" + digest:   "mirror.example:5000/hub/a/b insecure nopush\nsecond.example/a/b nopush\ndocker.io/a/b\n",
		"r.io/a":                   "r.io/a insecure\n",
		"r.io/a" + digest:          "m.example/r/a nopush\nr.io/a insecure\n",
		"r.io/moved/a/b":           "new.example/here/a/b\n",
		"r.io/moved":               "new.example/here\n",
		"r.io/movedaway":           "r.io/movedaway insecure\n",
		"r.io:5000/a":              "r.io:5000/a\n",
		"x.bad.example/a":          "blocked",
		"good.bad.example/a":       "good.bad.example/a\n",
		"bad.example/a":            "bad.example/a\n",
		"later.example/a":          "blocked",
		"other.example/a" + digest: "other.example/a\n",
	} {
		ref, err := reference.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		places, err := c.Places(ref)
		got := show(places)
		if err != nil && strings.Contains(err.Error(), "blocked by "+dir) {
			got = "blocked"
		}
		if got != want {
			t.Errorf("%s: got\n%s%v, want\n%s", name, got, err, want)
		}
	}
}

func TestBadFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"version 1":     "[registries.search]\nregistries = ['a']",
		"no TOML":       "[[registry",
		"nothing":       "[[registry]]\nblocked = true",
		"no host":       "[[registry]]\nprefix = '../x'",
		"asterisk path": "[[registry]]\nprefix = '*.a.b/c'",
		"mirror":        "[[registry]]\nprefix = 'a.b'\n[[registry.mirror]]\ninsecure = true",
		"when":          "[[registry]]\nprefix = 'a.b'\n[[registry.mirror]]\nlocation='c.d'\npull-from-mirror='sometimes'",
	} {
		path := write(t, filepath.Join(dir, "registries.conf"), content)
		if _, err := Load(Options{Registries: []string{path}}); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: got %v, want an error that names the file", name, err)
		}
	}
	if _, err := Load(Options{Registries: []string{dir}}); err == nil {
		t.Error("a directory was read")
	}
}

func TestHostsToml(t *testing.T) {
	dir := t.TempDir()
	write(t, filepath.Join(dir, "docker.io", "hosts.toml"), `
server = "https://registry-1.docker.io"
[host."https://b.example"]
  capabilities = ["pull", "resolve"]
  ca = "ca.crt"
[host."http://a.example:5000/hub"]
  skip_verify = true
  [host."http://a.example:5000/hub".header]
    X-Team = ["one", "two"]
[host."https://c.example/v2/proxy"]
  capabilities = ["push"]
  override_path = true
  client = [["c.crt", "c.key"], ["both.pem", ""]]
`)
	write(t, filepath.Join(dir, "r.io_5000_", "hosts.toml"), `ca = ["/x/1.crt", "2.crt"]`)
	write(t, filepath.Join(dir, "bad.example", "hosts.toml"), `[host."ftp://x"]`)
	c, err := Load(Options{HostDirs: []string{filepath.Join(dir, "none"), dir}})
	if err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{
		"alpine": "b.example/library/alpine nopush ca=ca.crt\na.example:5000/hub/v2/library/alpine plain insecure X-Team=one|two\n" +
			"c.example/v2/proxy/library/alpine nopull cert=c.crt+c.key cert=both.pem+both.pem\ndocker.io/library/alpine\n",
		"r.io:5000/a":   "r.io:5000/a ca=1.crt ca=2.crt\n",
		"r.io/a":        "r.io/a\n",
		"bad.example/a": "error",
	} {
		ref, err := reference.Parse(name)
		if err != nil {
			t.Fatal(err)
		}
		places, err := c.Places(ref)
		got := show(places)
		if err != nil {
			got = "error"
		}
		if got != want {
			t.Errorf("%s: got\n%s%v, want\n%s", name, got, err, want)
		}
	}
	write(t, filepath.Join(dir, "_default", "hosts.toml"), `[host."https://all.example"]`)
	ref, _ := reference.Parse("unknown.example/a")
	if places, err := c.Places(ref); err != nil || show(places) != "all.example/a\nunknown.example/a\n" {
		t.Errorf("_default: got %s%v", show(places), err)
	}
}

func FuzzFiles(f *testing.F) {
	f.Add(registriesConf, `server = "https://r.io"`, "r.io/a")
	f.Add("short-name-mode='enforcing'\n[aliases]\na='b.io/c'", "", "a:v1")
	f.Fuzz(func(t *testing.T, conf, toml, name string) {
		ref, err := reference.Parse(name)
		if err != nil {
			return
		}
		dir := t.TempDir()
		write(t, filepath.Join(dir, "_default", "hosts.toml"), toml)
		c, err := Load(Options{Registries: []string{write(t, filepath.Join(dir, "conf"), conf)}, HostDirs: []string{dir}})
		if err != nil {
			return
		}
		short, err := c.ShortName(name)
		for _, r := range short.Candidates {
			if again, perr := reference.Parse(r.String()); err == nil && (perr != nil || again != r) {
				t.Errorf("%q may be %+v: %v", name, r, perr)
			}
		}
		places, err := c.Places(ref)
		for _, p := range places {
			if err == nil && !reference.ValidRegistry(p.Registry) {
				t.Errorf("place %+v", p)
			}
		}
	})
}
