// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"errors"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"build.stacker.dev/internal/registry/registrytest"
)

// TestRedirectsCarryNoCredentials is R28, the matrix of advisory class F04: neither
// another host or port nor the way back gets the Authorization header.
func TestRedirectsCarryNoCredentials(t *testing.T) {
	for _, code := range []int{301, 302, 303, 307, 308} {
		a := registrytest.New(t, registrytest.Options{Auth: registrytest.Basic, Username: testUser, Password: testPassword})
		layer := layerData(1 << 10)
		d := a.PutBlob("a", layer)
		for name, b := range map[string]*registrytest.Server{
			"other port": registrytest.New(t, registrytest.Options{}),
			"other host": registrytest.New(t, registrytest.Options{Address: "127.0.0.2"}),
		} {
			// a sends to b, b back to a, a to b again, which serves.
			b.PutBlob("a", layer)
			a.ClearFaults()
			a.Inject(registrytest.Fault{Match: isPath("/back"), Answer: status(code, "Location", b.URL()+"/v2/a/blobs/"+string(d.Digest))})
			b.Inject(registrytest.Fault{Match: isPath("/there"), Answer: status(code, "Location", a.URL()+"/back")})
			a.Inject(registrytest.Fault{Match: func(r *http.Request) bool { return isBlob(r) && r.Header.Get("Authorization") != "" },
				Answer: status(code, "Location", b.URL()+"/there")})
			a.Requests()
			data, err := readBlob(newClient(t, Options{Credentials: credentials}), ref(t, a, "a"), d)
			if err != nil || len(data) != len(layer) {
				t.Fatalf("%d %s: got %d bytes, %v", code, name, len(data), err)
			}
			for _, r := range append(b.Requests(), a.Requests()...) {
				got := r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != ""
				if got && !strings.HasPrefix(r.Path, "/v2/a/blobs/") || got && r.Status == 200 {
					t.Errorf("%d %s: %s %s has credentials", code, name, r.Method, r.Path)
				}
			}
		}
	}
}

func isPath(path string) func(*http.Request) bool {
	return func(r *http.Request) bool { return r.URL.Path == path }
}

func TestRedirectStaysAtOrigin(t *testing.T) {
	a := registrytest.New(t, registrytest.Options{Auth: registrytest.Basic, Username: testUser, Password: testPassword})
	d := a.PutBlob("a", []byte("x"))
	a.Inject(registrytest.Fault{Times: 1, Match: func(r *http.Request) bool { return r.Header.Get("Authorization") != "" },
		Answer: status(307, "Location", "/v2/a/blobs/"+string(d.Digest)+"?again")})
	if _, err := readBlob(newClient(t, Options{Credentials: credentials}), ref(t, a, "a"), d); err != nil {
		t.Errorf("a redirect within the origin must keep the credentials: %v", err)
	}
}

func TestCheckRedirect(t *testing.T) {
	tests := []struct {
		host, method, from, to string
		ok                     bool
	}{
		{"r.io", "GET", "https://r.io/a", "https://cdn.net/x", true},
		{"r.io", "GET", "https://r.io/a", "https://10.0.0.5/x", true},
		{"r.io", "GET", "https://r.io/a", "http://cdn.net/x", false},
		{"r.io", "GET", "https://r.io/a", "http://r.io/a", false},
		{"r.io", "GET", "https://r.io/a", "https://127.0.0.1/x", false},
		{"r.io", "GET", "https://r.io/a", "https://localhost:1/x", false},
		{"r.io", "GET", "https://r.io/a", "https://169.254.169.254/x", false},
		{"r.io", "GET", "https://r.io/a", "https://[::1]/x", false},
		{"r.io", "GET", "https://r.io/a", "https://[::ffff:127.0.0.1]/x", false},
		{"r.io", "GET", "https://r.io/a", "https://2130706433/x", false},
		{"r.io", "GET", "https://r.io/a", "https://127.1/x", false},
		{"r.io", "GET", "https://r.io/a", "https://u:p@cdn.net/x", false},
		{"r.io", "GET", "https://r.io/a", "file:///etc/passwd", false},
		{"r.io", "GET", "https://r.io/a", "gopher://x/", false},
		{"127.0.0.1:5000", "GET", "http://127.0.0.1:5000/a", "http://127.0.0.2/x", true},
		{"127.0.0.1:5000", "GET", "http://127.0.0.1:5000/a", "https://cdn.net/x", true},
		{"r.io", "PUT", "https://r.io/a", "https://r.io/b", false},
		{"r.io", "POST", "https://r.io/a", "https://cdn.net/b", false},
	}
	for _, tt := range tests {
		from, _ := url.Parse(tt.from)
		to, err := url.Parse(tt.to)
		if err != nil {
			t.Fatal(err)
		}
		err = checkRedirect(&host{name: tt.host, address: tt.host}, &request{method: tt.method}, from, to)
		if (err == nil) != tt.ok {
			t.Errorf("%s %s to %s: got %v, want ok %v", tt.method, tt.from, tt.to, err, tt.ok)
		}
	}
}

func TestCheckRealm(t *testing.T) {
	tests := []struct {
		registry, realm string
		secret, ok      bool
	}{
		{"registry-1.docker.io", "https://auth.docker.io/token", true, true},
		{"registry.gitlab.com", "https://gitlab.com/jwt/auth", true, true},
		{"ghcr.io", "https://ghcr.io/token", true, true},
		{"r.io:5000", "https://r.io:5001/token", true, true},
		{"r.example", "https://evil.example/token", true, false},
		{"r.example", "https://evil.example/token", false, true},
		{"r.co.uk", "https://auth.co.uk/token", true, false},
		{"a.github.io", "https://b.github.io/token", true, false},
		{"10.0.0.1", "https://10.0.0.2/token", true, false},
		{"r.example", "http://r.example/token", true, false},
		{"r.example", "http://r.example/token", false, false},
		{"r.example", "https://169.254.169.254/latest", false, false},
		{"r.example", "https://10.0.0.5/token", false, false},
		{"r.example", "https://localhost/token", false, false},
		{"r.example", "https://0x7f.1/token", false, false},
		{"10.0.0.1", "https://10.0.0.1/token", true, true},
		{"r.example", "file:///etc/passwd", false, false},
		{"r.example", "https:opaque", false, false},
		{"r.example", "//r.example/token", false, false},
		{"r.example", "https://u:p@r.example/token", false, false},
		{"r.example", "https://../token", false, false},
		{"r.example", "https://partner.example/token", true, true},
		{"127.0.0.1:5000", "https://127.0.0.1:5001/token", true, true},
		{"127.0.0.1:5000", "https://127.0.0.2:5001/token", true, false},
	}
	c := New(Options{TokenHosts: func(registry, host string) bool {
		return registry == "r.example" && host == "partner.example"
	}})
	for _, tt := range tests {
		realm, err := url.Parse(tt.realm)
		if err != nil {
			t.Fatal(err)
		}
		r := &repository{client: c, host: &host{name: tt.registry, address: tt.registry, scheme: "https"}}
		if err := r.checkRealm(realm, tt.secret); (err == nil) != tt.ok {
			t.Errorf("%s names %s (secret %v): got %v, want ok %v", tt.registry, tt.realm, tt.secret, err, tt.ok)
		}
	}
}

// TestForeignRealmGetsNothing: R27, a registry that names another one's token service.
func TestForeignRealmGetsNothing(t *testing.T) {
	thief := registrytest.New(t, registrytest.Options{Address: "127.0.0.2"})
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Realm: thief.URL() + "/token"})
	s.PushImage("a", "v1", registrytest.Image{})
	if _, _, err := newClient(t, Options{Credentials: credentials}).Resolve(t.Context(), ref(t, s, "a:v1")); err == nil {
		t.Error("resolved")
	}
	if r := thief.Requests(); len(r) != 0 {
		t.Errorf("the other service got %v", r)
	}
}

// TestTokenServiceNeedsTrust: F01, the token service's certificate counts as well.
func TestTokenServiceNeedsTrust(t *testing.T) {
	service := registrytest.New(t, registrytest.Options{TLS: true})
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Realm: service.URL() + "/token"})
	s.PushImage("a", "v1", registrytest.Image{})
	_, _, err := newClient(t, Options{Credentials: credentials}).Resolve(t.Context(), ref(t, s, "a:v1"))
	if err == nil || !strings.Contains(err.Error(), "certificate") {
		t.Errorf("got %v, want an error about the certificate", err)
	}
	if r := service.Requests(); len(r) != 0 {
		t.Errorf("the service got %v", r)
	}
}

func TestRefusedForEver(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token})
	s.PushImage("a", "v1", registrytest.Image{})
	s.Inject(registrytest.Fault{Match: isManifest, Answer: func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		r.Header.Del("Authorization")
		next.ServeHTTP(w, r)
	}})
	if _, _, err := newClient(t, Options{}).Resolve(t.Context(), ref(t, s, "a:v1")); !errors.Is(err, ErrUnauthorized) {
		t.Errorf("got %v, want ErrUnauthorized", err)
	}
	if n := len(s.Requests()); n > 4 {
		t.Errorf("%d requests, want at most 4", n)
	}
}

func TestBadChallenges(t *testing.T) {
	for _, header := range []string{"", "Negotiate", `Bearer realm="`, `Bearer realm=":"`, `Bearer realm="file:///x"`, "Bearer"} {
		s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token})
		s.PushImage("a", "v1", registrytest.Image{})
		s.Inject(registrytest.Fault{Answer: status(401, "WWW-Authenticate", header)})
		if _, _, err := newClient(t, Options{Credentials: credentials}).Resolve(t.Context(), ref(t, s, "a:v1")); err == nil {
			t.Errorf("%q: no error", header)
		}
		if n := len(s.Requests()); n > 2 {
			t.Errorf("%q: %d requests", header, n)
		}
	}
}

// TestLearnKeepsNewToken: of several requests that a dead token fails, the first one
// renews it, and the others must not throw that away.
func TestLearnKeepsNewToken(t *testing.T) {
	r := &repository{host: &host{tokens: map[string]token{"s": {value: "new"}}}}
	header := http.Header{"Www-Authenticate": {`Bearer realm="https://r.io/token"`}}
	for used, kept := range map[string]bool{"Bearer old": true, "": true, "Bearer new": false} {
		r.host.tokens["s"] = token{value: "new"}
		if err := r.learn(header, used, []string{"s"}); err != nil {
			t.Fatal(err)
		}
		if _, ok := r.host.tokens["s"]; ok != kept {
			t.Errorf("after %q was refused: kept %v, want %v", used, ok, kept)
		}
	}
}
