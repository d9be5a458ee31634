// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"build.stacker.dev/internal/reference"
	"build.stacker.dev/internal/registry/hosts"
	"build.stacker.dev/internal/registry/registrytest"
)

// authority signs certificates for tests.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return authority{cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// issue returns a certificate and its key in PEM form.
func (a authority) issue(t *testing.T, ip string, until time.Time) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour), NotAfter: until,
		IPAddresses: []net.IP{net.ParseIP(ip)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &private.PublicKey, a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// startTLS starts a server that knows no image, so that what gets through TLS is
// answered with 404.
func startTLS(t *testing.T, config *tls.Config) string {
	t.Helper()
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.TLS = config
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

// TestTLS covers R37 and the certificate directories. Plain HTTP is allowed on
// loopback, but a failed handshake must not lead to it, nor be tried again.
func TestTLS(t *testing.T) {
	ca, otherCA := newAuthority(t), newAuthority(t)
	hour := time.Now().Add(time.Hour)
	pair := func(a authority, ip string, until time.Time) tls.Certificate {
		p, err := tls.X509KeyPair(a.issue(t, ip, until))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	clientCert, clientKey := ca.issue(t, "127.0.0.1", hour)
	pool := x509.NewCertPool()
	pool.AddCert(ca.cert)
	good := &tls.Config{Certificates: []tls.Certificate{pair(ca, "127.0.0.1", hour)}}
	mutual := &tls.Config{Certificates: good.Certificates, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	tests := []struct {
		name   string
		server *tls.Config
		files  map[string][]byte // of the certificate directory
		want   string
	}{
		{"authority", good, map[string][]byte{"ca.crt": ca.pem}, "404"},
		{"no authority", good, nil, "certificate"},
		{"other authority", good, map[string][]byte{"ca.crt": otherCA.pem}, "certificate"},
		{"expired", &tls.Config{Certificates: []tls.Certificate{pair(ca, "127.0.0.1", time.Now().Add(-time.Hour))}}, map[string][]byte{"ca.crt": ca.pem}, "expired"},
		{"wrong name", &tls.Config{Certificates: []tls.Certificate{pair(ca, "127.0.0.9", hour)}}, map[string][]byte{"ca.crt": ca.pem}, "127.0.0.9"},
		{"old", &tls.Config{Certificates: good.Certificates, MaxVersion: tls.VersionTLS11, MinVersion: tls.VersionTLS10}, map[string][]byte{"ca.crt": ca.pem}, "protocol version"},
		{"client certificate", mutual, map[string][]byte{"ca.crt": ca.pem, "client.cert": clientCert, "client.key": clientKey}, "404"},
		{"no client certificate", mutual, map[string][]byte{"ca.crt": ca.pem}, "certificate required"},
		{"client certificate without key", mutual, map[string][]byte{"ca.crt": ca.pem, "client.cert": clientCert}, "client.key"},
		{"no certificate in the file", good, map[string][]byte{"ca.crt": []byte("x")}, "ca.crt"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			address := startTLS(t, tt.server)
			dir := t.TempDir()
			for name, data := range tt.files {
				if err := os.MkdirAll(filepath.Join(dir, address), 0o700); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(dir, address, name), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			pauses := 0
			c := newClient(t, Options{CertDirs: []string{filepath.Join(dir, "none"), dir}, RootCAs: x509.NewCertPool(),
				Wait: func(context.Context, time.Duration) error { pauses++; return nil }})
			_, _, err := c.Resolve(t.Context(), parse(t, address+"/a:v1"))
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error that says %q", err, tt.want)
			}
			if pauses != 0 {
				t.Errorf("tried %d times more", pauses)
			}
		})
	}
}

func TestCertificatesOfOneHostOnly(t *testing.T) {
	dir := t.TempDir()
	ca := newAuthority(t)
	if err := os.MkdirAll(filepath.Join(dir, "r.io"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "r.io", "ca.crt"), ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	c := New(Options{CertDirs: []string{dir}})
	for address, own := range map[string]bool{"r.io": true, "r.io:5000": true, "x.r.io": false, "s.io": false} {
		config, _, err := c.hostTLS(address)
		if err != nil || (config != nil) != own {
			t.Errorf("%s: got settings %v, %v, want %v", address, config != nil, err, own)
		}
	}
}

func TestIPv6(t *testing.T) {
	l, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 on this machine: %v", err)
	}
	_ = l.Close()
	s := registrytest.New(t, registrytest.Options{Address: "::1", Auth: registrytest.Token, Username: testUser, Password: testPassword})
	s.PushImage("a", "v1", registrytest.Image{Layers: []registrytest.Layer{{Data: []byte("x")}}})
	if _, _, err := pull(newClient(t, Options{Credentials: credentials}), ref(t, s, "a:v1")); err != nil {
		t.Error(err)
	}
}

// TestPlainOnlyWhereAllowed: a host that is neither loopback nor called insecure is
// not spoken to over plain HTTP.
func TestPlainOnlyWhereAllowed(t *testing.T) {
	for address, insecure := range map[string]bool{"127.0.0.1:5000": true, "localhost": true, "[::1]:1": true, "x.localhost": true,
		"127.0.0.1.evil.com": false, "localhost.evil.com": false, "10.0.0.1": false, "r.io": false} {
		h := &host{name: address, address: address}
		if got := h.plainAllowed(); got != insecure {
			t.Errorf("%s: plain HTTP allowed %v, want %v", address, got, insecure)
		}
	}
	if (&host{address: "r.io", insecure: true}).plainAllowed() != true {
		t.Error("plain HTTP is refused for an insecure registry")
	}
	c := New(Options{})
	h, err := c.hostFor(hosts.Place{Registry: reference.DefaultRegistry})
	if err != nil || h.address != hubAddress || h.currentScheme() != "https" {
		t.Errorf("docker.io is at %s, %v", h.address, err)
	}
}
