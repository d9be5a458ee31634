// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"encoding/base64"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func b64(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) }

func TestLookup(t *testing.T) {
	file := `{"auths": {
		"https://index.docker.io/v1/": {"auth": "` + b64("hub:pw") + `"},
		"r.io": {"auth": "` + b64("host:p:w") + `"},
		"r.io/a": {"auth": "` + b64("a:1") + `"},
		"r.io/a/b/c": {"auth": "` + b64("abc:2") + `"},
		"r.io:5000": {"username": "port", "password": "3"},
		"https://url.io/v2/": {"auth": "` + b64("url:4") + `"},
		"token.io": {"identitytoken": "refresh"},
		"bearer.io": {"registrytoken": "bearer"},
		"empty.io": {}
	}, "other": 1}`
	tests := []struct {
		registry, repository string
		want                 Credentials
	}{
		{"docker.io", "library/x", Credentials{Username: "hub", Password: "pw"}},
		{"r.io", "x", Credentials{Username: "host", Password: "p:w"}},
		{"r.io", "a", Credentials{Username: "a", Password: "1"}},
		{"r.io", "a/b", Credentials{Username: "a", Password: "1"}},
		{"r.io", "ab", Credentials{Username: "host", Password: "p:w"}},
		{"r.io", "a/b/c", Credentials{Username: "abc", Password: "2"}},
		{"r.io", "a/b/c/d", Credentials{Username: "abc", Password: "2"}},
		{"r.io:5000", "a", Credentials{Username: "port", Password: "3"}},
		{"r.io:5001", "a", Credentials{}},
		{"url.io", "a", Credentials{Username: "url", Password: "4"}},
		{"token.io", "a", Credentials{IdentityToken: "refresh"}},
		{"bearer.io", "a", Credentials{RegistryToken: "bearer"}},
		{"empty.io", "a", Credentials{}},
		{"unknown.io", "a", Credentials{}},
	}
	for _, tt := range tests {
		got, err := New(Source{Data: []byte(file)}).Lookup(t.Context(), tt.registry, tt.repository)
		if err != nil || got != tt.want {
			t.Errorf("%s/%s: got %+v, %v, want %+v", tt.registry, tt.repository, got, err, tt.want)
		}
	}
}

func TestSourcesInOrder(t *testing.T) {
	dir := t.TempDir()
	second := filepath.Join(dir, "second")
	if err := os.WriteFile(second, []byte(`{"auths":{"r.io":{"auth":"`+b64("second:2")+`"},"only.io":{"auth":"`+b64("only:3")+`"}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	k := New(Source{Path: filepath.Join(dir, "missing")}, Source{Data: []byte(`{"auths":{"r.io":{"auth":"` + b64("first:1") + `"}}}`)}, Source{Path: second})
	for registry, want := range map[string]string{"r.io": "first", "only.io": "only", "x.io": ""} {
		if got, err := k.Lookup(t.Context(), registry, "a"); err != nil || got.Username != want {
			t.Errorf("%s: got %+v, %v, want user %q", registry, got, err, want)
		}
	}
}

// TestBrokenFiles: advisory class F06. What cannot be read is never taken for "no
// credentials", and nothing of it is shown.
func TestBrokenFiles(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"json":   `{"auths": {"r.io": {"auth": "c2VjcmV0`,
		"array":  `[]`,
		"base64": `{"auths": {"r.io": {"auth": "secret!"}}}`,
		"colon":  `{"auths": {"r.io": {"auth": "` + b64("secret") + `"}}}`,
		"type":   `{"auths": {"r.io": "secret"}}`,
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := New(Source{Path: path}).Lookup(t.Context(), "r.io", "a")
		if err == nil || !strings.Contains(err.Error(), path) || strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), "c2Vj") {
			t.Errorf("%s: got %v, want an error that names the file and no secret", name, err)
		}
	}
	if _, err := New(Source{Path: dir}).Lookup(t.Context(), "r.io", "a"); err == nil {
		t.Error("a directory was accepted")
	}
}

// installHelper puts a script into a directory of its own and that into PATH.
func installHelper(t *testing.T, name, script string) {
	t.Helper()
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "docker-credential-"+name), []byte("#!/bin/sh\n"+script+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
}

func TestHelpers(t *testing.T) {
	installHelper(t, "good", `read s; [ "$1" = get ] || exit 9; printf '{"ServerURL":"%s","Username":"u","Secret":"pw of %s"}' "$s" "$s"`)
	installHelper(t, "token", `echo '{"Username":"<token>","Secret":"refresh"}'`)
	installHelper(t, "none", `echo "credentials not found in native keychain"; exit 1`)
	installHelper(t, "bad", `echo "no secret service" >&2; exit 1`)
	installHelper(t, "garbage", `echo secret`)
	installHelper(t, "empty", `echo '{"Username":"u"}'`)
	installHelper(t, "flood", `yes`)
	tests := []struct {
		file, registry string
		want           Credentials
		errorSays      string
	}{
		{`{"credsStore":"good"}`, "r.io", Credentials{Username: "u", Password: "pw of r.io"}, ""},
		{`{"credsStore":"good"}`, "docker.io", Credentials{Username: "u", Password: "pw of https://index.docker.io/v1/"}, ""},
		{`{"credsStore":"token"}`, "r.io", Credentials{IdentityToken: "refresh"}, ""},
		{`{"credsStore":"none"}`, "r.io", Credentials{}, ""},
		{`{"credsStore":"bad","credHelpers":{"r.io":"good"}}`, "r.io", Credentials{Username: "u", Password: "pw of r.io"}, ""},
		{`{"credsStore":"bad","credHelpers":{"other.io":"good"}}`, "r.io", Credentials{}, "no secret service"},
		{`{"credsStore":"none","auths":{"r.io":{"auth":"` + b64("a:b") + `"}}}`, "r.io", Credentials{Username: "a", Password: "b"}, ""},
		{`{"credsStore":"garbage"}`, "r.io", Credentials{}, "not JSON"},
		{`{"credsStore":"empty"}`, "r.io", Credentials{}, "not JSON with a Secret"},
		{`{"credsStore":"flood"}`, "r.io", Credentials{}, "prints too much"},
		{`{"credsStore":"absent"}`, "r.io", Credentials{}, "not installed"},
		{`{"credsStore":"../../x"}`, "r.io", Credentials{}, "not a name"},
	}
	for _, tt := range tests {
		got, err := New(Source{Data: []byte(tt.file)}).Lookup(t.Context(), tt.registry, "a")
		switch {
		case tt.errorSays == "" && (err != nil || got != tt.want):
			t.Errorf("%s: got %+v, %v, want %+v", tt.file, got, err, tt.want)
		case tt.errorSays != "" && (err == nil || !got.Anonymous() || !strings.Contains(err.Error(), tt.errorSays) || strings.Contains(err.Error(), ": secret")):
			t.Errorf("%s: got %+v, %v, want an error that says %q", tt.file, got, err, tt.errorSays)
		}
	}
}

func TestHelperThatHangs(t *testing.T) {
	installHelper(t, "hang", "exec sleep 1000")
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := New(Source{Data: []byte(`{"credsStore":"hang"}`)}).Lookup(ctx, "r.io", "a"); err == nil {
		t.Error("a helper that does not answer is no error")
	}
}

func FuzzLookup(f *testing.F) {
	f.Add([]byte(`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"}}}`), "docker.io", "library/a")
	f.Add([]byte(`{"auths":{"r.io/a":{"auth":"dTpw"}}}`), "r.io", "a/b")
	f.Fuzz(func(t *testing.T, data []byte, registry, repository string) {
		k := New(Source{Data: data})
		k.helper = func(context.Context, string, string) (Credentials, error) { return Credentials{}, nil }
		c, err := k.Lookup(t.Context(), registry, repository)
		if err != nil && !c.Anonymous() {
			t.Errorf("credentials with error %v", err)
		}
	})
}
