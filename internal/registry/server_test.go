// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package registry

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
	"build.stacker.dev/internal/reference"
)

// need returns the path of a program. The test is skipped where it is missing, but
// not in CI.
func need(t *testing.T, names ...string) []string {
	t.Helper()
	var paths []string
	for _, name := range names {
		path, err := exec.LookPath(name)
		if err != nil && os.Getenv("CI") == "true" {
			t.Fatalf("%s is not installed", name)
		}
		if err != nil {
			t.Skipf("%s is not installed", name)
		}
		paths = append(paths, path)
	}
	return paths
}

// startRegistry starts the registry of the distribution project, without TLS and
// passwords.
func startRegistry(t *testing.T, program string) (address string) {
	t.Helper()
	return startServer(t, program, "")
}

// listens is what it says when it can be asked.
var listens = regexp.MustCompile(`listening on (127\.0\.0\.1:\d+)`)

// startServer starts a registry; more is added to the http part and behind it, and %s
// in it is the directory of the test.
func startServer(t *testing.T, program, more string) (address string) {
	t.Helper()
	dir := t.TempDir()
	config := filepath.Join(dir, "config.yml")
	text := fmt.Sprintf("version: 0.1\nlog: {level: info}\nstorage:\n  filesystem: {rootdirectory: %s}\n  delete: {enabled: true}\nhttp:\n  addr: 127.0.0.1:0\n%s", filepath.Join(dir, "data"), more)
	if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program, "serve", config)
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	listening := make(chan string, 1) // where: the kernel chooses the port, so that nobody can take it before
	go func() {
		defer close(done)
		said := false
		for lines := bufio.NewScanner(stderr); lines.Scan(); {
			if m := listens.FindSubmatch(lines.Bytes()); m != nil && !said {
				said = true
				listening <- string(m[1])
			}
		}
		if !said {
			listening <- ""
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-done
		_ = cmd.Wait()
	})
	if address = <-listening; address == "" {
		t.Fatal("the registry ended before it listened")
	}
	return address
}

// TestRealServer pushes an image to the distribution project's registry, lets skopeo
// copy it, and pulls what skopeo pushed.
func TestRealServer(t *testing.T) {
	programs := need(t, "docker-registry", "skopeo")
	address := startRegistry(t, programs[0])
	dir := filepath.Join(t.TempDir(), "oci")
	l, err := layout.Create(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }()
	m := memory{}
	config := image.Config{Platform: image.HostPlatform().OCI(), RootFS: ocispec.RootFS{Type: "layers"}}
	doc := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	doc.SchemaVersion = 2
	for _, data := range [][]byte{bigLayer(), []byte("not really a tar")} {
		d := m.put(ocispec.MediaTypeImageLayer, data)
		doc.Layers = append(doc.Layers, d)
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, d.Digest)
	}
	doc.Config = m.putDocument(t, ocispec.MediaTypeImageConfig, config)
	desc := m.putDocument(t, doc.MediaType, doc)
	for _, data := range m {
		if _, err := l.Blobs().Put(data); err != nil {
			t.Fatal(err)
		}
	}
	if err := l.Tag(t.Context(), layout.Entry{Tag: "v1", Descriptor: desc}); err != nil {
		t.Fatal(err)
	}

	c := newClient(t, Options{ChunkSize: 1 << 20})
	ours := parse(t, address+"/ours/image:v1")
	if err := c.Push(t.Context(), ours, desc, l, PushOptions{}); err != nil {
		t.Fatalf("push: %v", err)
	}
	skopeo(t, programs[1], "copy", "--preserve-digests", "--src-tls-verify=false", "--dest-tls-verify=false", "docker://"+ours.String(), "docker://"+address+"/theirs/image:v2")
	skopeo(t, programs[1], "copy", "--preserve-digests", "--dest-tls-verify=false", "oci:"+dir+":v1", "docker://"+address+"/theirs/image:v3")
	for _, tag := range []string{"v2", "v3"} {
		theirs := parse(t, address+"/theirs/image:"+tag)
		got, data, err := c.Resolve(t.Context(), theirs)
		if err != nil || got.Digest != desc.Digest || got.MediaType != desc.MediaType {
			t.Fatalf("resolve %s: got %v, %v, want %v", tag, got, err, desc)
		}
		if head, err := c.Head(t.Context(), theirs); err != nil || head.Digest != desc.Digest {
			t.Errorf("head %s: got %v, %v", tag, head, err)
		}
		pulled, err := image.ParseManifest(data, got.MediaType)
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range append(pulled.Layers, pulled.Config) {
			if data, err := readBlob(c, theirs, d); err != nil || !bytes.Equal(data, m[d.Digest]) {
				t.Errorf("blob %s: got %d bytes, %v", d.Digest, len(data), err)
			}
		}
	}
	if err := c.Push(t.Context(), parse(t, address+"/mounted/image:v1"), desc, l, PushOptions{MountFrom: func(ocispec.Descriptor) []string { return []string{"ours/image"} }}); err != nil {
		t.Errorf("push with mounts: %v", err)
	}
}

// TestRealServerResumes breaks an upload to a real registry and continues it.
func TestRealServerResumes(t *testing.T) {
	programs := need(t, "docker-registry")
	address := startRegistry(t, programs[0])
	m := memory{}
	d := m.put("a/b", bigLayer())
	c := newClient(t, Options{ChunkSize: 1 << 20})
	r, err := c.repository(parse(t, address+"/a:v1"))
	if err != nil {
		t.Fatal(err)
	}
	u := &upload{ctx: t.Context(), repo: r, desc: d, open: openFrom(m, d), have: d.Size, whole: true, chunk: 1 << 20}
	for range 3 {
		if _, err := u.step(); err != nil {
			t.Fatal(err)
		}
	}
	u.offset = 0 // as if the answers had been lost
	if err := u.recover(fmt.Errorf("lost: %w", http.ErrHandlerTimeout)); err != nil {
		t.Fatal(err)
	}
	if u.offset != 2<<20 {
		t.Errorf("continues at %d, want %d", u.offset, 2<<20)
	}
	if err := u.run(nil); err != nil {
		t.Fatal(err)
	}
	if data, err := readBlob(c, r.ref, d); err != nil || !bytes.Equal(data, m[d.Digest]) {
		t.Errorf("got %d bytes, %v", len(data), err)
	}
}

// TestRealServerGrowing uploads a blob while it is made, in several requests.
func TestRealServerGrowing(t *testing.T) {
	address := startRegistry(t, need(t, "docker-registry")[0])
	g := &making{data: numbered(20 << 20), step: 5 << 20}
	c, to := newClient(t, Options{}), parse(t, address+"/a:v1")
	var told int64
	if err := c.PutGrowing(t.Context(), to, g, func(done int64) { told = done }); err != nil {
		t.Fatal(err)
	}
	_, d, err := g.More(t.Context(), math.MaxInt64)
	if err != nil || d == nil || told != d.Size {
		t.Fatalf("%d bytes were told of %v, %v", told, d, err)
	}
	if data, err := readBlob(c, to, *d); err != nil || !bytes.Equal(data, g.data) {
		t.Errorf("got %d bytes, %v", len(data), err)
	}
}

func parse(t *testing.T, s string) reference.Reference {
	t.Helper()
	r, err := reference.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func skopeo(t *testing.T, program string, args ...string) {
	t.Helper()
	// Without a file of its own it would read those of whoever runs the test.
	authFile := filepath.Join(t.TempDir(), "auth.json")
	if err := os.WriteFile(authFile, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program, append([]string{"--insecure-policy"}, args...)...)
	cmd.Env = append(os.Environ(), "REGISTRY_AUTH_FILE="+authFile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("skopeo %q: %v\n%s", args, err, out)
	}
}
