// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/registry/auth"
	"build.stacker.dev/internal/registry/registrytest"
)

// leaks returns what of a request must not have come to a foreign server: any
// credential, in any header, path or query, and any content.
func leaks(r registrytest.Request) string {
	secrets := []string{testPassword, url.QueryEscape(testPassword), base64.StdEncoding.EncodeToString([]byte(testUser + ":" + testPassword))}
	text := r.Path + "?" + r.Query
	for name, values := range r.Header {
		switch name {
		case "Authorization", "Cookie", "Proxy-Authorization":
			return name + " in " + r.Method + " " + r.Path
		}
		text += "\n" + name + ": " + strings.Join(values, " ")
	}
	for _, s := range secrets {
		if strings.Contains(text, s) {
			return "a secret in " + r.Method + " " + r.Path
		}
	}
	if r.Length > 0 {
		return "content in " + r.Method + " " + r.Path
	}
	return ""
}

// everything does each operation of a client once: what fails, fails.
func everything(t *testing.T, s *registrytest.Server, opts Options) {
	t.Helper()
	m := memory{}
	desc := m.putImage(t, []byte("layer"), layerData(smallBlob+16))
	c := newClient(t, opts)
	name := ref(t, s, "a:v1")
	ctx := t.Context()
	_ = c.Ping(ctx, name.Registry, "")
	_, _ = c.Head(ctx, name)
	_, _, _ = c.Resolve(ctx, name)
	_, _ = readBlob(c, name, ocispec.Descriptor{MediaType: "a/b", Digest: desc.Digest, Size: 5})
	_, _ = c.Tags(ctx, name)
	_, _ = c.Referrers(ctx, name, desc.Digest, "")
	_ = c.Push(ctx, name, desc, m, PushOptions{})
	for d, data := range m {
		blob := ocispec.Descriptor{MediaType: "a/b", Digest: d, Size: int64(len(data))}
		_ = c.PutBlob(ctx, name, blob, openFrom(m, blob), BlobOptions{MountFrom: []string{"other"}})
	}
	_ = c.PutManifest(ctx, name, desc.MediaType, m[desc.Digest])
	_ = c.DeleteTag(ctx, name)
	_ = c.DeleteManifest(ctx, name.WithDigest(desc.Digest))
}

// TestLeakMatrix sends every operation of a client to foreign servers: by redirects,
// by token services and by locations of uploads; from plain and from TLS servers, with
// each kind of credentials. None of it gets there, nor does content.
func TestLeakMatrix(t *testing.T) {
	thieves := map[string]*registrytest.Server{
		"other port": registrytest.New(t, registrytest.Options{}),
		"other host": registrytest.New(t, registrytest.Options{Address: "127.0.0.2"}),
		"other TLS":  registrytest.New(t, registrytest.Options{TLS: true, Address: "127.0.0.3"}),
	}
	kinds := map[string]func(context.Context, string, string) (auth.Credentials, error){
		"password": credentials,
		"identity token": func(context.Context, string, string) (auth.Credentials, error) {
			return auth.Credentials{IdentityToken: testPassword}, nil
		},
		"registry token": func(context.Context, string, string) (auth.Credentials, error) {
			return auth.Credentials{RegistryToken: testPassword}, nil
		},
	}
	// ways are the answers of a registry that sends its clients elsewhere.
	ways := map[string]func(thief *registrytest.Server) (realm string, fault *registrytest.Fault){}
	authorized := func(r *http.Request) bool { return r.Header.Get("Authorization") != "" }
	for _, code := range []int{301, 302, 303, 307, 308} {
		ways[fmt.Sprint("redirect ", code)] = func(thief *registrytest.Server) (string, *registrytest.Fault) {
			return "", &registrytest.Fault{Match: authorized, Answer: func(w http.ResponseWriter, r *http.Request, _ http.Handler) {
				w.Header().Set("Location", thief.URL()+r.URL.Path)
				w.WriteHeader(code)
			}}
		}
	}
	ways["realm"] = func(thief *registrytest.Server) (string, *registrytest.Fault) { return thief.URL() + "/token", nil }
	ways["realm with user"] = func(thief *registrytest.Server) (string, *registrytest.Fault) {
		return strings.Replace(thief.URL(), "://", "://127.0.0.1@", 1) + "/token", nil
	}
	for name, form := range map[string]string{"absolute": "%s://%s/v2/a/blobs/uploads/1", "without scheme": "%.0s//%s/up", "with user": "%s://127.0.0.1@%s/up"} {
		ways["location "+name] = func(thief *registrytest.Server) (string, *registrytest.Fault) {
			scheme, host, _ := strings.Cut(thief.URL(), "://")
			return "", &registrytest.Fault{
				Match:  func(r *http.Request) bool { return authorized(r) && (r.Method == "POST" || r.Method == "PATCH") },
				Answer: status(202, "Location", fmt.Sprintf(form, scheme, host)),
			}
		}
	}
	cases := 0
	for way, answer := range ways {
		for to, thief := range thieves {
			if strings.HasPrefix(way, "realm") && to == "other port" {
				continue // the token service of a registry is often beside it, on another port
			}
			for kind, creds := range kinds {
				for _, tls := range []bool{false, true} {
					cases++
					t.Run(fmt.Sprintf("%s/%s/%s/TLS %v", way, to, kind, tls), func(t *testing.T) {
						realm, fault := answer(thief)
						s := registrytest.New(t, registrytest.Options{Auth: registrytest.Token, Username: testUser, Password: testPassword, TLS: tls, Realm: realm})
						opts := Options{Credentials: creds, Insecure: func(string) bool { return true }}
						if fault != nil {
							s.Inject(*fault)
						}
						thief.Requests()
						everything(t, s, opts)
						for _, r := range thief.Requests() {
							if leak := leaks(r); leak != "" {
								t.Errorf("%s has %s", to, leak)
							}
						}
						if len(s.Requests()) == 0 {
							t.Error("the registry was asked nothing: the case is void")
						}
					})
				}
			}
		}
	}
	if cases < 100 {
		t.Errorf("%d cases, want at least 100", cases)
	}
	t.Logf("%d cases", cases)
}

// TestLeaksSees: the matrix would see a leak.
func TestLeaksSees(t *testing.T) {
	s := registrytest.New(t, registrytest.Options{})
	everything(t, s, Options{})
	seen := false
	for _, r := range s.Requests() {
		seen = seen || leaks(r) != ""
	}
	if !seen {
		t.Error("uploads are not seen")
	}
	if leaks(registrytest.Request{Header: http.Header{"Authorization": {"x"}}}) == "" || leaks(registrytest.Request{Query: "p=" + url.QueryEscape(testPassword)}) == "" {
		t.Error("credentials are not seen")
	}
}
