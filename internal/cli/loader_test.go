// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli

import (
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"build.stacker.dev/internal/image"
)

// TestLoadIntoDocker speaks to a stand-in for docker on a socket.
func TestLoadIntoDocker(t *testing.T) {
	tests := []struct {
		name   string
		status int
		answer string
		want   string
	}{
		{"works", http.StatusOK, `{"stream":"Loaded image: app:1\n"}`, ""},
		{"no JSON", http.StatusOK, "done", ""},
		{"error", http.StatusOK, `{"stream":"x"}{"errorDetail":{"message":"no space"},"error":"no space"}`, "docker: no space"},
		{"status", http.StatusInternalServerError, `{"message":"broken"}`, "broken"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("/tmp", "socket") // its name must be short
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { _ = os.RemoveAll(dir) })
			socket := filepath.Join(dir, "s")
			l, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			got := ""
			server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { //nolint:gosec // a test
				if r.URL.Path == "/_ping" {
					return
				}
				data, _ := io.ReadAll(r.Body)
				got = r.Method + " " + r.URL.Path + " " + r.Header.Get("Content-Type") + " " + string(data)
				w.WriteHeader(tt.status)
				_, _ = io.WriteString(w, tt.answer)
			})}
			go func() { _ = server.Serve(l) }()
			defer server.Close()
			t.Setenv("DOCKER_HOST", "unix://"+socket)
			path := filepath.Join(t.TempDir(), "a.tar")
			if err := os.WriteFile(path, []byte("archive"), 0o600); err != nil {
				t.Fatal(err)
			}
			f, err := os.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			err = (&app{}).loadInto(t.Context(), f)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
			if want := "POST /images/load application/x-tar archive"; got != want {
				t.Errorf("docker got %q, want %q", got, want)
			}
		})
	}
}

func TestNothingToLoadInto(t *testing.T) {
	t.Setenv("DOCKER_HOST", "")
	t.Setenv("XDG_RUNTIME_DIR", t.TempDir())
	t.Setenv("PATH", t.TempDir())
	if _, err := os.Stat("/var/run/docker.sock"); err == nil {
		t.Skip("this machine has a docker")
	}
	err := (&app{}).loadInto(t.Context(), nil)
	for _, want := range []string{"/docker.sock", "unix:///var/run/docker.sock", "podman in PATH", "DOCKER_HOST"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want it to name %s", err, want)
		}
	}
}

func TestParseBytes(t *testing.T) {
	good := map[string]int64{"0": 0, "12": 12, "12B": 12, "1KB": 1000, "1K": 1024, "1KiB": 1024, "1.5MB": 1_500_000, "10 GB": 10_000_000_000, "1t": 1 << 40}
	for in, want := range good {
		if got, err := parseBytes(in); err != nil || got != want {
			t.Errorf("parseBytes(%q) = %d, %v, want %d", in, got, err, want)
		}
	}
	for _, in := range []string{"", "x", "-1", "1X", "GB", "1e30GB", "1 2"} {
		if got, err := parseBytes(in); err == nil {
			t.Errorf("parseBytes(%q) = %d, want an error", in, got)
		}
	}
}

func TestApplyChange(t *testing.T) {
	var c image.RunConfig
	for _, change := range []string{
		`CMD ["a","b"]`, "entrypoint run it", "ENV A=b c", `ENV Q="x y"`, "LABEL k=v", "EXPOSE 80 53/udp", `VOLUME ["/a","/b c"]`,
		"USER u:g", "WORKDIR /w", "STOPSIGNAL SIGINT",
	} {
		if err := applyChange(&c, change); err != nil {
			t.Errorf("%s: %v", change, err)
		}
	}
	var want image.RunConfig
	want.Cmd, want.Entrypoint = []string{"a", "b"}, []string{"/bin/sh", "-c", "run it"}
	want.Env, want.Labels = []string{"A=b c", "Q=x y"}, map[string]string{"k": "v"}
	want.ExposedPorts = map[string]struct{}{"80/tcp": {}, "53/udp": {}}
	want.Volumes = map[string]struct{}{"/a": {}, "/b c": {}}
	want.User, want.WorkingDir, want.StopSignal = "u:g", "/w", "SIGINT"
	if !reflect.DeepEqual(c, want) {
		t.Errorf("got %+v, want %+v", c, want)
	}
	for _, change := range []string{"", "CMD", "RUN x", "ENV a", "ENV =b", "LABEL x", "ONBUILD RUN x"} {
		if err := applyChange(&c, change); err == nil {
			t.Errorf("%q: got no error", change)
		}
	}
}

func TestParseLocation(t *testing.T) {
	tests := []struct {
		in        string
		transport transport
		path, tag string
	}{
		{"app:1", inStore, "", ""}, {"docker://app:1", inRegistry, "", ""}, {"oci:d:t", inLayout, "d", "t"}, {"oci:d", inLayout, "d", ""},
		{"docker-archive:f.tar:a/b:c", inDockerArchive, "f.tar", "a/b:c"}, {"oci-archive:f.tar", inOCIArchive, "f.tar", ""}, {"dir:a:b", inDir, "a:b", ""},
	}
	for _, tt := range tests {
		l, err := parseLocation(tt.in)
		if err != nil || l.transport != tt.transport || l.path != tt.path || l.tag != tt.tag {
			t.Errorf("parseLocation(%q) = %+v, %v", tt.in, l, err)
		}
	}
	for _, in := range []string{"", "oci:", "dir:", "docker://", "docker://A", "containers-storage://x", "oci-archive::t"} {
		if l, err := parseLocation(in); err == nil {
			t.Errorf("parseLocation(%q) = %+v, want an error", in, l)
		}
	}
}
