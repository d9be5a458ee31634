// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// debianFile installs packages that make system users, set-group-id files and
// file capabilities, and run programs as these users.
const debianFile = `
debian:
  from: {type: tar, url: rootfs.tar}
  run: |
    export DEBIAN_FRONTEND=noninteractive
    apt-get update
    apt-get install -y --no-install-recommends openssh-client dbus iputils-ping man-db postfix
    rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/*
    mkdir -p /srv/owned && chown 1234:4321 /srv/owned
`

// TestDebian runs apt-get in a real distribution, as root and as plain users with
// subordinate ids and with one id: all get the same files with the same owners,
// modes, links and attributes.
func TestDebian(t *testing.T) {
	if os.Geteuid() != 0 {
		need(t, "only root can become another user")
	}
	if os.Getenv("CI") != "true" && os.Getenv("STACKER_TEST_DEBIAN") == "" {
		t.Skip("takes a minute and a mirror of Debian: set STACKER_TEST_DEBIAN=1")
	}
	if _, err := exec.LookPath("mmdebstrap"); err != nil {
		need(t, "install mmdebstrap")
	}
	dir, err := os.MkdirTemp("", "stacker-debian-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "rootfs.tar")
	if out, err := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", codename(t), base).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	asRoot := debianLayer(t, dir, "root", 0, 0)
	for _, name := range []string{plainUser, singleUser} {
		u := ensureUser(t, name, name == plainUser)
		if got := debianLayer(t, dir, name, u.uid, u.gid); got != asRoot {
			t.Errorf("root and %s got different layers:\n%s", name, firstDifference(asRoot, got))
		}
	}
	for _, want := range []string{"0 2755 0:", " usr/bin/ssh-agent", "srv/owned/", "1234:4321", "security.capability=", " usr/bin/ping ", " 6:12 var/cache/man/"} {
		if !strings.Contains(asRoot, want) {
			t.Errorf("the layer has nothing with %q", want)
		}
	}
}

// codename is this machine's release: the one whose keys it has.
func codename(t *testing.T) string {
	t.Helper()
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(line, "VERSION_CODENAME="); ok {
			return strings.Trim(strings.TrimSpace(v), `"`)
		}
	}
	t.Fatal("/etc/os-release names no release")
	return ""
}

// debianLayer builds the file as a user and lists the layer of its step.
func debianLayer(t *testing.T, dir, name string, uid, gid int) string {
	t.Helper()
	work := filepath.Join(dir, name)
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	file := strings.Replace(debianFile, "rootfs.tar", filepath.Join(dir, "rootfs.tar"), 1)
	if err := os.WriteFile(filepath.Join(work, "stacker.yaml"), []byte(file), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(work, uid, gid); err != nil {
		t.Fatal(err)
	}
	run := func(args ...string) {
		t.Helper()
		program := filepath.Join(os.Getenv(homeVariable), "bin", "stacker")
		ids := []string{"--reuid", strconv.Itoa(uid), "--regid", strconv.Itoa(gid), "--clear-groups", program}
		cmd := exec.Command("setpriv", append(ids, args...)...)
		cmd.Dir = work
		cmd.Env = append(os.Environ(), "HOME="+work, "USER="+name, "XDG_DATA_HOME="+filepath.Join(work, "data"))
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("stacker %s as %s: %v\n%s", strings.Join(args, " "), name, err, out)
		}
	}
	t.Cleanup(func() { run("prune", "--all") })
	run("build")
	l, err := layout.Open(filepath.Join(work, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := l.Resolve(context.Background(), "debian")
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Blobs().ReadAll(context.Background(), d, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	top := m.Layers[len(m.Layers)-1]
	blob, err := l.Open(context.Background(), top)
	if err != nil {
		t.Fatal(err)
	}
	defer blob.Close()
	var out bytes.Buffer
	if err := list(&out, 0, top.MediaType, blob); err != nil {
		t.Fatal(err)
	}
	return withoutSizes(out.String())
}

// withoutSizes drops the column of sizes: logs and caches differ in it.
func withoutSizes(listing string) string {
	var out strings.Builder
	for line := range strings.Lines(listing) {
		f := strings.SplitN(line, " ", 6) // LAYER: TYPE MODE UID:GID SIZE NAME…
		if len(f) == 6 {
			line = strings.Join([]string{f[1], f[2], f[3], f[5]}, " ")
		}
		out.WriteString(line)
	}
	return out.String()
}

func firstDifference(a, b string) string {
	la, lb := strings.Split(a, "\n"), strings.Split(b, "\n")
	for i := range min(len(la), len(lb)) {
		if la[i] != lb[i] {
			return "- " + la[i] + "\n+ " + lb[i]
		}
	}
	return "one has more entries than the other"
}
