// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package scan

import (
	"archive/zip"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"build.stacker.dev/internal/bom"
	"build.stacker.dev/internal/rootfs"
)

// tree makes a root file system of paths and contents; "-> TARGET" is a link.
func tree(t testing.TB, files map[string]string) *rootfs.Root {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		p := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		var err error
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			err = os.Symlink(target, p)
		} else {
			err = os.WriteFile(p, []byte(content), 0o755)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	root, err := rootfs.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { root.Close() })
	return root
}

// summary is an inventory as text.
func summary(inv bom.Inventory) string {
	var b strings.Builder
	if inv.OS.ID != "" {
		fmt.Fprintf(&b, "os %s %s %s\n", inv.OS.ID, inv.OS.Version, inv.OS.Name)
	}
	for _, p := range inv.Packages {
		listed := ""
		if p.Listed {
			listed = " listed"
		}
		fmt.Fprintf(&b, "%s %s %s [%s] %s from %q in %s%s\n", p.Kind, p.Name, p.Version, p.Arch, strings.Join(p.Licenses, "; "), p.Source, strings.Join(p.Found, " "), listed)
	}
	for _, f := range inv.Unowned {
		fmt.Fprintf(&b, "unowned %s\n", f.Path)
	}
	for _, n := range inv.Notes {
		fmt.Fprintf(&b, "note %s\n", n)
	}
	return b.String()
}

// jar makes a zip file.
func jar(t testing.TB, files map[string]string) string {
	t.Helper()
	var b bytes.Buffer
	w := zip.NewWriter(&b)
	for name, content := range files {
		f, err := w.Create(name)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(f, content); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// rpmDatabase is the one that rpm made for the tests of package rpmdb.
func rpmDatabase(t testing.TB) string {
	t.Helper()
	f, err := os.Open("../rpmdb/testdata/rpmdb.sqlite.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestScan(t *testing.T) {
	const status = "Package: foo\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1.0\n"
	tests := []struct {
		name  string
		files map[string]string
		want  string
	}{
		{"empty", nil, ""},
		{"merged usr, both ways", map[string]string{
			"lib": "-> usr/lib", "bin": "-> /usr/bin", "usr/sbin": "-> bin", "usr/lib/x.so": "x", "usr/bin/y": "y", "usr/bin/z": "z", "usr/bin/w": "w",
			"var/lib/dpkg/status": status, "var/lib/dpkg/info/foo.list": "/.\n/lib\n/lib/x.so\n/usr/bin/y\n/usr/sbin/z\n",
			"var/lib/dpkg/info/foo.postinst": "true",
		}, "deb foo 1.0 [amd64]  from \"\" in /var/lib/dpkg/status\nunowned /usr/bin/w\nunowned /var/lib/dpkg/status\n"},
		{"diversion", map[string]string{
			"bin/sh.distrib": "old", "bin/sh": "new", "bin/local.real": "kept", "bin/local": "mine",
			"var/lib/dpkg/diversions":    "/bin/sh\n/bin/sh.distrib\ndash\n/bin/local\n/bin/local.real\n:\n",
			"var/lib/dpkg/status":        status + "\nPackage: dash\nVersion: 2\nSource: dash-src (3)\n",
			"var/lib/dpkg/info/foo.list": "/bin/sh\n/bin/local\n", "var/lib/dpkg/info/dash.list": "/bin/sh\n",
		}, "deb dash 2 []  from \"dash-src@3\" in /var/lib/dpkg/status\ndeb foo 1.0 [amd64]  from \"\" in /var/lib/dpkg/status\n" +
			"unowned /bin/local\nunowned /var/lib/dpkg/diversions\nunowned /var/lib/dpkg/status\n"},
		{"distroless", map[string]string{
			"etc/os-release": "-> ../usr/lib/os-release", "usr/lib/os-release": "ID=debian\nPRETTY_NAME=\"Distroless\"\nVERSION_ID='12'\n", "etc/file": "x",
			"var/lib/dpkg/status.d/base":         "Package: base-files\nVersion: 12.4\nArchitecture: amd64\n",
			"var/lib/dpkg/status.d/base.md5sums": "0123  usr/lib/os-release\n",
		}, "os debian 12 Distroless\ndeb base-files 12.4 [amd64]  from \"\" in /var/lib/dpkg/status.d/base\nunowned /etc/file\n"},
		{"rpm", map[string]string{
			"var/lib/rpm": "-> ../../usr/lib/sysimage/rpm", "usr/lib/sysimage/rpm/rpmdb.sqlite": rpmDatabase(t),
			"lib": "-> usr/lib", "usr/lib/hello/module": "y", "usr/bin/hello": "x", "var/log/hello.log": "a ghost",
		}, "rpm hello 1:2.10-1 [noarch] GPL-3.0-or-later from \"hello-2.10-1.src.rpm\" in /usr/lib/sysimage/rpm/rpmdb.sqlite\n" +
			"rpm hello-data 1:2.10-1 [noarch] MIT and Public Domain from \"hello-2.10-1.src.rpm\" in /usr/lib/sysimage/rpm/rpmdb.sqlite\n" +
			"unowned /usr/lib/sysimage/rpm/rpmdb.sqlite\nunowned /var/log/hello.log\n"},
		{"rpm, Berkeley DB", map[string]string{"var/lib/rpm/Packages": strings.Repeat("\x00", 12) + "\x61\x15\x06\x00" + strings.Repeat("\x00", 100)},
			"unowned /var/lib/rpm/Packages\nnote /var/lib/rpm/Packages was not read: the database is in the format of Berkeley DB, " +
				"which cannot be read: rpmdb --rebuilddb of a newer rpm converts it\n"},
		{"npm", map[string]string{
			"app/node_modules/a/package.json":                `{"name": "a", "version": "1.0.0", "license": "MIT"}`,
			"app/node_modules/a/index.js":                    "x",
			"app/node_modules/a/test/package.json":           `{"name": "fixture", "version": "9"}`,
			"app/node_modules/@s/b/package.json":             `{"name": "@s/b", "version": "2.0.0", "licenses": [{"type": "MIT"}, {"type": "ISC"}]}`,
			"app/node_modules/a/node_modules/c/package.json": `{"name": "c", "version": "3.0.0", "license": {"type": "BSD-2-Clause"}}`,
			"app/node_modules/bad/package.json":              `{"name": `,
			"app/package-lock.json": `{"lockfileVersion": 2, "packages": {"": {}, "packages/own": {}, "node_modules/own": {"link": true},
				"node_modules/a": {"version": "1.0.0"}, "node_modules/a/node_modules/d": {"version": "4.0.0"}, "node_modules/alias": {"name": "real", "version": "5"}}}`,
			"old/package-lock.json": `{"lockfileVersion": 1, "dependencies": {"e": {"version": "1", "dependencies": {"f": {"version": "2"}}}}}`,
			"yarn/yarn.lock":        "# yarn lockfile v1\n\n\"@g/h@^1.0\", \"@g/h@~1.1\":\n  version \"1.1.0\"\n  dependencies:\n    i \"1\"\n\ni@1:\n  version \"1.0.0\"\n",
		}, "npm @g/h 1.1.0 []  from \"\" in /yarn/yarn.lock listed\n" +
			"npm @s/b 2.0.0 [] MIT OR ISC from \"\" in /app/node_modules/@s/b/package.json\n" +
			"npm a 1.0.0 [] MIT from \"\" in /app/node_modules/a/package.json /app/package-lock.json\n" +
			"npm c 3.0.0 [] BSD-2-Clause from \"\" in /app/node_modules/a/node_modules/c/package.json\n" +
			"npm d 4.0.0 []  from \"\" in /app/package-lock.json listed\n" +
			"npm e 1 []  from \"\" in /old/package-lock.json listed\nnpm f 2 []  from \"\" in /old/package-lock.json listed\n" +
			"npm i 1.0.0 []  from \"\" in /yarn/yarn.lock listed\nnpm real 5 []  from \"\" in /app/package-lock.json listed\n" +
			"unowned /app/node_modules/bad/package.json\nunowned /app/package-lock.json\nunowned /old/package-lock.json\nunowned /yarn/yarn.lock\n" +
			"note /app/node_modules/bad/package.json was not read: unexpected end of JSON input\n"},
		{"python", map[string]string{
			"lib/python3/site-packages/x-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: X_Y\nVersion: 1\nLicense-Expression: MIT\n\nName: not this\n",
			"lib/python3/site-packages/x-1.dist-info/RECORD":   "x/__init__.py,sha256=a,1\n\"../../../bin/x\",,\nx-1.dist-info/METADATA,,\n",
			"lib/python3/site-packages/x/__init__.py":          "", "lib/python3/site-packages/x/extra": "", "bin/x": "",
			"lib/python3/site-packages/z-2.egg-info": "Name: z\nVersion: 2\nLicense: UNKNOWN\n",
			"srv/poetry.lock":                        "[[package]]\nname = \"p\"\nversion = \"3\"\n\n[package.dependencies]\nq = \"1\"\nname = \"no\"\n",
			"srv/Pipfile.lock":                       `{"_meta": {"sources": []}, "default": {"r": {"version": "==4"}}}`,
		}, "pypi X_Y 1 [] MIT from \"\" in /lib/python3/site-packages/x-1.dist-info/METADATA\npypi p 3 []  from \"\" in /srv/poetry.lock listed\n" +
			"pypi r 4 []  from \"\" in /srv/Pipfile.lock listed\npypi z 2 []  from \"\" in /lib/python3/site-packages/z-2.egg-info\n" +
			"unowned /lib/python3/site-packages/x/extra\nunowned /srv/Pipfile.lock\nunowned /srv/poetry.lock\n"},
		{"other locks", map[string]string{
			"a/Cargo.lock":    "version = 3\n\n[[package]]\nname = \"serde\"\nversion = \"1.0.1\"\nchecksum = \"x\"\n",
			"a/composer.lock": `{"packages": [{"name": "v/p", "version": "v1.2", "license": ["MIT", "GPL-2.0-only"]}], "packages-dev": [{"name": "v/q", "version": "2"}]}`,
			"a/Gemfile.lock":  "GIT\n  specs:\n    mine (0.1)\n\nGEM\n  remote: https://rubygems.org/\n  specs:\n    rake (13.0.6)\n    rails (7.0)\n      rake (>= 12)\n\nPLATFORMS\n    ruby\n",
			"a/go.mod":        "module x\n\ngo 1.22\n\nrequire example.com/a v1.0.0\n\nrequire (\n\texample.com/b v2.0.0 // indirect\n)\n\nreplace example.com/b => example.com/c v3.0.0\n",
			"a/go.sum":        "example.com/unused v1 h1:x\n", "b/go.sum": "example.com/d v4.0.0 h1:x\nexample.com/d v4.0.0/go.mod h1:y\n",
			"a/vendor/z/Cargo.lock": "[[package]]\nname = \"not\"\nversion = \"1\"\n", "c/Cargo.lock": "[[package]]\nversion = \"1\"\n",
		}, "cargo serde 1.0.1 []  from \"\" in /a/Cargo.lock listed\ncomposer v/p 1.2 [] MIT OR GPL-2.0-only from \"\" in /a/composer.lock listed\n" +
			"composer v/q 2 []  from \"\" in /a/composer.lock listed\ngem rails 7.0 []  from \"\" in /a/Gemfile.lock listed\n" +
			"gem rake 13.0.6 []  from \"\" in /a/Gemfile.lock listed\ngolang example.com/a v1.0.0 []  from \"\" in /a/go.mod listed\n" +
			"golang example.com/c v3.0.0 []  from \"\" in /a/go.mod listed\ngolang example.com/d v4.0.0 []  from \"\" in /b/go.sum listed\n" +
			"unowned /a/Cargo.lock\nunowned /a/Gemfile.lock\nunowned /a/composer.lock\nunowned /a/go.mod\nunowned /a/go.sum\nunowned /a/vendor/z/Cargo.lock\n" +
			"unowned /b/go.sum\nunowned /c/Cargo.lock\nnote /c/Cargo.lock was not read: a package has no name\n"},
		{"jars", map[string]string{
			"a.jar": jar(t, map[string]string{"META-INF/maven/g/a/pom.properties": "#x\ngroupId=org.g\nartifactId=a\nversion=1\n", "META-INF/MANIFEST.MF": "Bundle-SymbolicName: no\n"}),
			"b.jar": jar(t, map[string]string{"META-INF/MANIFEST.MF": "Manifest-Version: 1.0\r\nBundle-SymbolicName: org.b;singleton:=true\r\nBundle-Version: 2\r\n"}),
			"c.jar": jar(t, map[string]string{"x": "y"}), "d.jar": "no zip",
		}, "maven org.b 2 []  from \"\" in /b.jar\nmaven org.g:a 1 []  from \"\" in /a.jar\nunowned /c.jar\nunowned /d.jar\nnote /d.jar was not read: zip: not a valid zip file\n"},
		{"links that lead nowhere", map[string]string{
			"lib": "-> lib2", "lib2": "-> lib", "up": "-> ../../../etc", "var/lib/dpkg/status": status, "etc/x": "x",
			"var/lib/dpkg/info/foo.list": "/lib/x\n/up/x\n/../../etc/none\n",
		}, "deb foo 1.0 [amd64]  from \"\" in /var/lib/dpkg/status\nunowned /var/lib/dpkg/status\n"},
		{"names that are no UTF-8", map[string]string{"a\xff": "", "a\xfe": ""}, "unowned /a\\xfe\nunowned /a\\xff\n"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			inv, err := Scan(context.Background(), tree(t, tt.files))
			if err != nil {
				t.Fatal(err)
			}
			if got := summary(inv); got != tt.want {
				t.Errorf("got:\n%s\nwant:\n%s", got, tt.want)
			}
		})
	}
}

// TestScanFails has databases that must not be taken for empty ones.
func TestScanFails(t *testing.T) {
	for name, files := range map[string]map[string]string{
		"dpkg, no field":     {"var/lib/dpkg/status": "Package foo\n"},
		"dpkg, no version":   {"var/lib/dpkg/status": "Package: foo\n"},
		"dpkg, bad name":     {"var/lib/dpkg/status": "Package: ../../foo\nVersion: 1\n"},
		"dpkg, continuation": {"var/lib/dpkg/status": " x\n"},
		"dpkg, directory":    {"var/lib/dpkg/status/x": ""},
		"dpkg, diversions":   {"var/lib/dpkg/diversions": "/a\n/b\n"},
		"distroless":         {"var/lib/dpkg/status.d/x": ""},
		"apk":                {"lib/apk/db/installed": "P:x\n"},
		"apk, no field":      {"lib/apk/db/installed": "hello\n"},
		"rpm":                {"var/lib/rpm/rpmdb.sqlite": "hello"},
	} {
		inv, err := Scan(context.Background(), tree(t, files))
		if err == nil {
			t.Errorf("%s: no error, found:\n%s", name, summary(inv))
		}
	}
}

// TestGoProgram takes this test for a program.
func TestGoProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	inv, err := Scan(context.Background(), tree(t, map[string]string{"bin/x": string(data), "bin/y": "\x7fELF" + strings.Repeat("x", 1<<17)}))
	if err != nil {
		t.Fatal(err)
	}
	got := summary(inv)
	for _, want := range []string{"golang stdlib 1.", "golang build.stacker.dev ", "unowned /bin/y\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in:\n%s", want, got)
		}
	}
	if strings.Contains(got, "unowned /bin/x") {
		t.Errorf("the program is unowned:\n%s", got)
	}
}

// A value of many lines is not copied for each of them.
func TestLongField(t *testing.T) {
	const lines = 20_000
	text := "Package: a\nDescription: x\n" + strings.Repeat(" y\n", lines) + "Version: 1\n"
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	got, err := parseControl(text)
	runtime.ReadMemStats(&after)
	if err != nil || len(got) != 1 || got[0]["description"] != "x"+strings.Repeat("\ny", lines) || got[0]["version"] != "1" {
		t.Fatalf("got %.100v, %v", got, err)
	}
	if used, most := after.TotalAlloc-before.TotalAlloc, uint64(100*len(text)); used > most {
		t.Errorf("it took %d bytes of memory for %d bytes, want at most %d", used, len(text), most)
	}
}

// FuzzDatabases and FuzzLock want no panic and an end.
func FuzzDatabases(f *testing.F) {
	f.Add("Package: a\nVersion: 1\nLicense: x\n y\n\n")
	f.Add("P:a\nV:1\nF:x\nR:y\n\n")
	f.Fuzz(func(_ *testing.T, text string) {
		_, _ = parseControl(text)
		_ = copyrightLicenses("Format: x\n" + text)
		_ = parseOSRelease(text)
		_, _ = pythonMetadata(text)
		s := &scanner{files: map[string]*file{}, links: map[string]string{}, dirs: map[string]string{}}
		_ = s.apkInstalled("x", text)
		_ = s.pythonRecord("x", text)
		s.ownListed("x", text, nil)
	})
}

func FuzzLock(f *testing.F) {
	names := []string{"package-lock.json", "yarn.lock", "Cargo.lock", "Pipfile.lock", "composer.lock", "Gemfile.lock", "go.mod", "go.sum"}
	f.Add([]byte(`{"packages": {"node_modules/a": {"license": [["x"]]}}, "dependencies": {"a": {"dependencies": {}}}}`))
	f.Add([]byte("# yarn lockfile v1\na@1:\n  version \"1\"\n"))
	f.Add([]byte("GEM\n    a (1)\n"))
	f.Add([]byte("require (\na v1\n)\nreplace a => b v2\n"))
	f.Fuzz(func(_ *testing.T, data []byte) {
		for _, n := range names {
			_, _ = lockFiles(n)(data)
		}
		_ = npmLicenses(data)
	})
}
