// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestLoginAndLogout changes files and compares what is left of them.
func TestLoginAndLogout(t *testing.T) {
	entry := `{"auth":"` + b64("u:p:w") + `"}`
	tests := []struct {
		name, before, key, after, gone string
	}{
		{"no file", "", "r.io", `{"auths":{"r.io":` + entry + `}}`, `{"auths":{}}`},
		{"other members stay", `{"HttpHeaders":{"X":"y"},"auths":{"x.io":{"auth":"eA==","email":"e"}}}`, "r.io:5000",
			`{"HttpHeaders":{"X":"y"},"auths":{"r.io:5000":` + entry + `,"x.io":{"auth":"eA==","email":"e"}}}`,
			`{"HttpHeaders":{"X":"y"},"auths":{"x.io":{"auth":"eA==","email":"e"}}}`},
		{"other spellings go", `{"auths":{"https://r.io/v2/":{"auth":"eA=="},"r.io/team":{}}}`, "r.io",
			`{"auths":{"r.io":` + entry + `,"r.io/team":{}}}`, `{"auths":{"r.io/team":{}}}`},
		{"docker.io", `{"auths":{"docker.io":{}}}`, "docker.io", `{"auths":{"https://index.docker.io/v1/":` + entry + `}}`, `{"auths":{}}`},
		{"a path", `{"auths":null}`, "r.io/team", `{"auths":{"r.io/team":` + entry + `}}`, `{"auths":{}}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "sub", "config.json")
			if tt.before != "" {
				if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(tt.before), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			c := Credentials{Username: "u", Password: "p:w"}
			if place, err := Login(t.Context(), path, tt.key, c); err != nil || place != path {
				t.Fatalf("got %q, %v", place, err)
			}
			sameJSON(t, path, tt.after)
			if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
				t.Errorf("the file has mode %v, %v, want 0600", info.Mode(), err)
			}
			registry, repository, _ := strings.Cut(tt.key, "/")
			if got, err := New(Source{Path: path}).Lookup(t.Context(), registry, repository); err != nil || got != c {
				t.Errorf("lookup: got %+v, %v", got, err)
			}
			if found, err := Logout(t.Context(), path, tt.key); err != nil || !found {
				t.Fatalf("logout: got %v, %v", found, err)
			}
			sameJSON(t, path, tt.gone)
			if found, err := Logout(t.Context(), path, tt.key); err != nil || found {
				t.Errorf("logout again: got %v, %v", found, err)
			}
		})
	}
}

func sameJSON(t *testing.T, path, want string) {
	t.Helper()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	normal := func(data []byte) string {
		var v any
		if err := json.Unmarshal(data, &v); err != nil {
			t.Fatalf("%s: %v", data, err)
		}
		out, _ := json.Marshal(v)
		return string(out)
	}
	if got := normal(data); got != normal([]byte(want)) {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestLoginThroughHelper(t *testing.T) {
	dir := t.TempDir()
	installHelper(t, "file", `cd "`+dir+`"; case "$1" in
store) cat > stored ;;
get) read s; [ -f stored ] || { echo "credentials not found in native keychain"; exit 1; }; cat stored ;;
erase) cat > erased; rm stored ;;
esac`)
	path := filepath.Join(dir, "config.json")
	if err := os.WriteFile(path, []byte(`{"credsStore":"none","credHelpers":{"r.io":"file"}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	c := Credentials{Username: "u", Password: "secret"}
	place, err := Login(t.Context(), path, "r.io", c)
	if err != nil || !strings.Contains(place, "docker-credential-file") {
		t.Fatalf("got %q, %v", place, err)
	}
	sameJSON(t, filepath.Join(dir, "stored"), `{"ServerURL":"r.io","Username":"u","Secret":"secret"}`)
	if data, err := os.ReadFile(path); err != nil || strings.Contains(string(data), "secret") {
		t.Errorf("the file has the secret: %s, %v", data, err)
	}
	if got, err := New(Source{Path: path}).Lookup(t.Context(), "r.io", "a"); err != nil || got != c {
		t.Errorf("lookup: got %+v, %v", got, err)
	}
	if found, err := Logout(t.Context(), path, "r.io"); err != nil || !found {
		t.Errorf("logout: got %v, %v", found, err)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "erased")); err != nil || string(data) != "r.io" {
		t.Errorf("erased %q, %v", data, err)
	}
}

func TestLoginKeepsWhatItCannotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config.json")
	for _, content := range []string{"{", "[]", `{"auths":[]}`} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Login(t.Context(), path, "r.io", Credentials{Username: "u", Password: "p"}); err == nil {
			t.Errorf("%s: no error", content)
		}
		if data, _ := os.ReadFile(path); string(data) != content {
			t.Errorf("%s became %s", content, data)
		}
	}
}

// TestLoginFollowsLink: people keep such files as links into another directory.
func TestLoginFollowsLink(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "real"), []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	link := filepath.Join(dir, "config.json")
	if err := os.Symlink("real", link); err != nil {
		t.Fatal(err)
	}
	if _, err := Login(t.Context(), link, "r.io", Credentials{Username: "u", Password: "p"}); err != nil {
		t.Fatal(err)
	}
	if target, err := os.Readlink(link); err != nil || target != "real" {
		t.Errorf("the link is %q, %v", target, err)
	}
}

func TestKey(t *testing.T) {
	for in, want := range map[string]string{
		"r.io": "r.io", "https://r.io/v2/": "r.io", "localhost": "localhost", "localhost:5000": "localhost:5000", "docker.io": "docker.io",
		"index.docker.io": "docker.io", "https://index.docker.io/v1/": "docker.io", "r.io/team": "r.io/team", "[::1]:5000": "[::1]:5000",
		"": "", "alpine": "", "r.io/UPPER": "", "r.io/a:tag": "", "../x": "", "r.io:99999": "", "u@r.io": "",
	} {
		got, err := Key(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: got %q, %v, want %q", in, got, err, want)
		}
	}
}
