// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
)

// secureServer is a registry with TLS and passwords that may remove images.
type secureServer struct {
	address string
	certDir string // as docker and podman want it for this host
	client  *Client
}

func startSecure(t *testing.T, program string) secureServer {
	t.Helper()
	dir := t.TempDir()
	ca := newAuthority(t)
	cert, key := ca.issue(t, "127.0.0.1", time.Now().Add(time.Hour))
	users, err := exec.CommandContext(t.Context(), need(t, "htpasswd")[0], "-Bbn", testUser, testPassword).Output()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"cert.pem": cert, "key.pem": key, "users": users} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	more := fmt.Sprintf("  tls: {certificate: %[1]s/cert.pem, key: %[1]s/key.pem}\nauth:\n  htpasswd: {realm: test, path: %[1]s/users}\n", dir)
	s := secureServer{address: startServer(t, program, more)}
	s.certDir = filepath.Join(dir, "certs.d", s.address)
	if err := os.MkdirAll(s.certDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(s.certDir, "ca.crt"), ca.pem, 0o600); err != nil {
		t.Fatal(err)
	}
	s.client = newClient(t, Options{Credentials: credentials, CertDirs: []string{filepath.Dir(s.certDir)}})
	return s
}

// distribution3 builds version 3 of the distribution project's registry.
func distribution3(t *testing.T) string {
	t.Helper()
	if os.Getenv("CI") != "true" && os.Getenv("STACKER_TEST_DISTRIBUTION") == "" {
		t.Skip("downloads and builds a large module: set STACKER_TEST_DISTRIBUTION=1")
	}
	program := filepath.Join(t.TempDir(), "distribution")
	cmd := exec.CommandContext(t.Context(), need(t, "go")[0], "build", "-C", "../../test/distribution", "-o", program, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatalf("build distribution: %v\n%s", err, out)
		}
		t.Skipf("distribution cannot be built here: %v", err)
	}
	return program
}

// realLayer is an archive of one file.
func realLayer(t *testing.T, name string, size int) []byte {
	t.Helper()
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	w := tar.NewWriter(z)
	data := numbered(size)
	if err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(size), Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	_, err := w.Write(data)
	if err = errors.Join(err, w.Close(), z.Close()); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// realImage makes an image that every program can unpack.
func (m memory) realImage(t *testing.T) ocispec.Descriptor {
	t.Helper()
	config := image.Config{Platform: image.HostPlatform().OCI(), RootFS: ocispec.RootFS{Type: "layers"}}
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	doc.SchemaVersion = 2
	for i := range 3 {
		packed := realLayer(t, fmt.Sprint("file", i), 2<<20+i)
		z, err := gzip.NewReader(bytes.NewReader(packed))
		if err != nil {
			t.Fatal(err)
		}
		diffID, err := digest.FromReader(z)
		if err != nil {
			t.Fatal(err)
		}
		doc.Layers = append(doc.Layers, m.put(ocispec.MediaTypeImageLayerGzip, packed))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, diffID)
	}
	doc.Config = m.putDocument(t, ocispec.MediaTypeImageConfig, config)
	return m.putDocument(t, doc.MediaType, doc)
}

// TestSecureServers does everything with both versions of the distribution project's
// registry, and lets skopeo and podman read what we push and push what we read.
func TestSecureServers(t *testing.T) {
	for name, program := range map[string]func(*testing.T) string{
		"Debian's docker-registry": func(t *testing.T) string { return need(t, "docker-registry")[0] },
		"distribution 3":           distribution3,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSecure(t, program(t))
			m := memory{}
			desc := m.realImage(t)
			ours := parse(t, s.address+"/ours/image:v1")
			anonymous := newClient(t, Options{CertDirs: []string{filepath.Dir(s.certDir)}})
			if err := anonymous.Push(t.Context(), ours, desc, m, PushOptions{}); !errors.Is(err, ErrUnauthorized) {
				t.Errorf("without a password: got %v, want ErrUnauthorized", err)
			}
			if err := s.client.Ping(t.Context(), s.address, ""); err != nil {
				t.Errorf("ping: %v", err)
			}
			if err := s.client.Push(t.Context(), ours, desc, m, PushOptions{Tags: []string{"v2"}}); err != nil {
				t.Fatal(err)
			}
			t.Run("read by skopeo", func(t *testing.T) { s.readBySkopeo(t, m, desc) })
			t.Run("podman", func(t *testing.T) { s.throughPodman(t, m, desc) })
			t.Run("referrers", func(t *testing.T) {
				note := m.putReferrer(t, desc, "text/plain", "note")
				if err := s.client.Attach(t.Context(), ours, note, m, PushOptions{}); err != nil {
					t.Fatal(err)
				}
				checkReferrers(t, s.client, ours.String(), desc.Digest, "text/plain", note)
			})
			t.Run("lists and deletes", func(t *testing.T) { s.listAndDelete(t, desc) })
		})
	}
}

// readBySkopeo compares every byte of what we pushed, and pulls what skopeo pushes.
func (s secureServer) readBySkopeo(t *testing.T, m memory, desc ocispec.Descriptor) {
	program := need(t, "skopeo")[0]
	dir := filepath.Join(t.TempDir(), "dir")
	creds := testUser + ":" + testPassword
	skopeo(t, program, "copy", "--preserve-digests", "--src-cert-dir", s.certDir, "--src-creds", creds, "docker://"+s.address+"/ours/image:v1", "dir:"+dir)
	for d, data := range m {
		name := d.Encoded()
		if d == desc.Digest {
			name = "manifest.json"
		}
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || !bytes.Equal(got, data) {
			t.Errorf("%s: got %d bytes, %v, want %d", name, len(got), err, len(data))
		}
	}
	skopeo(t, program, "copy", "--preserve-digests", "--dest-cert-dir", s.certDir, "--dest-creds", creds, "dir:"+dir, "docker://"+s.address+"/theirs/image:v1")
	s.checkPull(t, s.address+"/theirs/image:v1", func(d ocispec.Descriptor, data []byte) {
		if !bytes.Equal(data, m[d.Digest]) {
			t.Errorf("skopeo's %s differs", d.Digest)
		}
	})
}

// checkPull pulls everything of an image.
func (s secureServer) checkPull(t *testing.T, name string, check func(d ocispec.Descriptor, data []byte)) ocispec.Manifest {
	t.Helper()
	d, data, err := s.client.Resolve(t.Context(), parse(t, name))
	if err != nil {
		t.Fatal(err)
	}
	doc, err := image.ParseManifest(data, d.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range append(doc.Layers, doc.Config) {
		data, err := readBlob(s.client, parse(t, name), b)
		if err != nil {
			t.Errorf("blob %s: %v", b.Digest, err)
		}
		check(b, data)
	}
	return doc
}

// throughPodman pulls our image with podman, pushes it again, and pulls that.
func (s secureServer) throughPodman(t *testing.T, m memory, desc ocispec.Descriptor) {
	if os.Geteuid() != 0 {
		t.Skip("only root can run podman with a store of its own here")
	}
	program := need(t, "podman")[0]
	dir, err := os.MkdirTemp("/tmp", "podman") // its runroot must be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	podman := func(args ...string) {
		t.Helper()
		args = append([]string{"--root", dir + "/root", "--runroot", dir + "/run", "--storage-driver", "vfs"}, args...)
		if out, err := exec.CommandContext(t.Context(), program, args...).CombinedOutput(); err != nil {
			t.Fatalf("podman %q: %v\n%s", args, err, out)
		}
	}
	creds := testUser + ":" + testPassword
	name := s.address + "/ours/image:v1"
	podman("pull", "--quiet", "--cert-dir", s.certDir, "--creds", creds, name)
	podman("push", "--quiet", "--cert-dir", s.certDir, "--creds", creds, name, "docker://"+s.address+"/podman/image:v1")
	doc, err := image.ParseManifest(m[desc.Digest], desc.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	var configs []image.Config
	for _, raw := range [][]byte{m[doc.Config.Digest], nil} {
		if raw == nil {
			s.checkPull(t, s.address+"/podman/image:v1", func(d ocispec.Descriptor, data []byte) {
				if image.OCIMediaType(d.MediaType) == ocispec.MediaTypeImageConfig {
					raw = data
				}
			})
		}
		c, err := image.ParseConfig(raw)
		if err != nil {
			t.Fatal(err)
		}
		configs = append(configs, c)
	}
	if !slices.Equal(configs[0].RootFS.DiffIDs, configs[1].RootFS.DiffIDs) {
		t.Errorf("podman's image has the layers %v, want %v", configs[1].RootFS.DiffIDs, configs[0].RootFS.DiffIDs)
	}
}

// listAndDelete removes a tag, where the server can do that, and the image.
func (s secureServer) listAndDelete(t *testing.T, desc ocispec.Descriptor) {
	name := parse(t, s.address+"/ours/image:v2")
	tags, err := s.client.Tags(t.Context(), name)
	if err != nil || !slices.Contains(tags, "v1") || !slices.Contains(tags, "v2") {
		t.Errorf("tags are %q, %v", tags, err)
	}
	err = s.client.DeleteTag(t.Context(), name)
	if err != nil && !errors.Is(err, ErrUnsupported) {
		t.Errorf("delete tag: %v", err)
	}
	if _, _, rerr := s.client.Resolve(t.Context(), name); errors.Is(rerr, ErrNotFound) != (err == nil) {
		t.Errorf("after DeleteTag said %v: resolve says %v", err, rerr)
	}
	if _, _, err := s.client.Resolve(t.Context(), parse(t, s.address+"/ours/image:v1")); err != nil {
		t.Errorf("the other tag is gone: %v", err)
	}
	if err := s.client.DeleteManifest(t.Context(), name.WithDigest(desc.Digest)); err != nil {
		t.Error(err)
	}
	if _, _, err := s.client.Resolve(t.Context(), parse(t, s.address+"/ours/image:v1")); !errors.Is(err, ErrNotFound) {
		t.Errorf("after the image was removed: got %v, want ErrNotFound", err)
	}
}
