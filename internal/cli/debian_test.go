// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"build.stacker.dev/internal/image"
	"build.stacker.dev/internal/layout"
)

// debianPackages are in the base's cache, so that the network is used once only.
const debianPackages = "openssh-client dbus iputils-ping man-db postfix"

// debianFile installs packages that make system users, set-group-id files and
// file capabilities, and run programs as these users.
const debianFile = `
debian:
  from: {type: tar, url: rootfs.tar}
  run: |
    export DEBIAN_FRONTEND=noninteractive
    apt-get install -y --no-download --no-install-recommends ` + debianPackages + `
    rm -rf /var/lib/apt/lists/* /var/log/* /var/cache/apt /var/cache/ldconfig
    mkdir -p /srv/owned && chown 1234:4321 /srv/owned
    echo mine > /srv/mine
  bom: {generate: true}
`

// TestDebian runs apt-get in a real distribution, as root, as plain users with
// subordinate ids and with one id, and in containers with a user namespace of their own, and
// with none, as root and as a user: all get the same files with the same owners, modes, links and attributes.
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
	users := map[string]account{plainUser: ensureUser(t, plainUser, true), singleUser: ensureUser(t, singleUser, false)}
	t.Parallel()
	dir, err := os.MkdirTemp("", "stacker-debian-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	base := filepath.Join(dir, "rootfs.tar")
	fetch := "chroot \"$1\" apt-get install -y --no-install-recommends --download-only " + debianPackages
	if out, err := exec.Command("mmdebstrap", "--quiet", "--variant=minbase", "--skip=cleanup/apt", "--customize-hook="+fetch, codename(t), base).CombinedOutput(); err != nil {
		t.Fatalf("mmdebstrap: %v\n%s", err, out)
	}
	asRoot := debianLayer(t, dir, "root", 0, 0)
	for name, u := range users {
		if got := debianLayer(t, dir, name, u.uid, u.gid); got != asRoot {
			t.Errorf("root and %s got different layers:\n%s", name, firstDifference(asRoot, got))
		}
	}
	image := stackerImage(t, "stacker.yaml")
	for name, b := range map[string]box{
		"userns":      {userns: true, caps: dockerCaps, host: "stacker"},
		"docker":      {caps: dockerCaps, seccomp: dockerSeccomp(t, dockerCaps), host: "stacker"},
		"docker-user": {uid: 1000, noNew: true, seccomp: dockerSeccomp(t, nil), host: "stacker"},
	} {
		if got := debianBoxed(t, image, dir, name, b); got != asRoot {
			t.Errorf("root and a container (%s) got different layers:\n%s", name, firstDifference(asRoot, got))
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
	debianBom(t, work, run)
	return withoutSizes(listLayers(t, filepath.Join(work, "oci"), "debian", 1))
}

// debianBoxed builds the file in a container and lists the layer of its step.
func debianBoxed(t *testing.T, image, dir, name string, b box) string {
	t.Helper()
	work := filepath.Join(dir, name)
	if err := os.Mkdir(work, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "rootfs.tar"), filepath.Join(work, "rootfs.tar")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(work, "stacker.yaml"), []byte(debianFile), 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := boxed(t, image, b, work, "build", "--progress", "plain"); err != nil {
		t.Fatalf("stacker build in a container (%s): %v\n%s", name, err, out)
	}
	return withoutSizes(listLayers(t, filepath.Join(work, "oci"), "debian", 1))
}

// listLayers lists what is in the topmost layers of an image: in the last n, or in all if n is 0.
func listLayers(t *testing.T, dir, tag string, n int) string {
	t.Helper()
	ctx := context.Background()
	l, err := layout.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	d, err := l.Resolve(ctx, tag)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
	if err != nil {
		t.Fatal(err)
	}
	m, err := image.ParseManifest(raw, d.MediaType)
	if err != nil {
		t.Fatal(err)
	}
	if n == 0 {
		n = len(m.Layers)
	}
	var out bytes.Buffer
	for i, layer := range m.Layers[len(m.Layers)-n:] {
		blob, err := l.Open(ctx, layer)
		if err != nil {
			t.Fatal(err)
		}
		err = list(&out, i, layer.MediaType, blob)
		_ = blob.Close()
		if err != nil {
			t.Fatal(err)
		}
	}
	return out.String()
}

// debianBom checks the bill of materials against dpkg's own files: every package is
// in it, and no file of a package is among those that nothing owns.
func debianBom(t *testing.T, work string, run func(...string)) {
	t.Helper()
	run("grab", "debian:/var/lib/dpkg")
	status, err := os.ReadFile(filepath.Join(work, "dpkg", "status"))
	if err != nil {
		t.Fatal(err)
	}
	var doc struct {
		Packages []struct {
			Name, VersionInfo string
			ExternalRefs      []struct{ ReferenceLocator string }
		}
		Files []struct{ FileName string }
	}
	if err := json.Unmarshal(debianDocument(t, work), &doc); err != nil {
		t.Fatal(err)
	}
	have := map[string]bool{}
	for _, p := range doc.Packages {
		for _, r := range p.ExternalRefs {
			if strings.HasPrefix(r.ReferenceLocator, "pkg:deb/debian/") {
				have[p.Name+" "+p.VersionInfo] = true
			}
		}
	}
	installed := 0
	for stanza := range strings.SplitSeq(string(status), "\n\n") {
		fields := map[string]string{}
		for line := range strings.Lines(stanza) {
			k, v, _ := strings.Cut(strings.TrimSpace(line), ": ")
			fields[k] = v
		}
		if fields["Status"] != "install ok installed" {
			continue
		}
		installed++
		if name := fields["Package"] + " " + fields["Version"]; !have[name] {
			t.Errorf("the bill of materials has no %s", name)
		}
	}
	if installed < 50 || installed != len(have) {
		t.Errorf("%d packages are installed, %d in the bill of materials", installed, len(have))
	}
	unowned := map[string]bool{}
	for _, f := range doc.Files {
		unowned[strings.TrimPrefix(f.FileName, ".")] = true
	}
	if !unowned["/srv/mine"] {
		t.Error("/srv/mine belongs to something")
	}
	lists, err := filepath.Glob(filepath.Join(work, "dpkg", "info", "*.list"))
	if err != nil || len(lists) != installed {
		t.Fatalf("%d lists of files of %d packages: %v", len(lists), installed, err)
	}
	for _, l := range lists {
		data, err := os.ReadFile(l)
		if err != nil {
			t.Fatal(err)
		}
		for name := range strings.Lines(string(data)) {
			name = strings.TrimSpace(name)
			if unowned[name] || unowned["/usr"+name] {
				t.Errorf("%s is in %s, and in the bill of materials nothing owns it", name, filepath.Base(l))
			}
		}
	}
}

// debianDocument reads the SPDX document out of the layout, as any program would.
func debianDocument(t *testing.T, work string) []byte {
	t.Helper()
	ctx := context.Background()
	l, err := layout.Open(filepath.Join(work, "oci"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	subject, err := l.Resolve(ctx, "debian")
	if err != nil {
		t.Fatal(err)
	}
	list, err := l.Referrers(ctx, subject.Digest)
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if d.ArtifactType != "application/spdx+json" {
			continue
		}
		raw, err := l.Blobs().ReadAll(ctx, d, image.MaxManifestSize)
		if err != nil {
			t.Fatal(err)
		}
		m, err := image.ParseManifest(raw, d.MediaType)
		if err != nil {
			t.Fatal(err)
		}
		data, err := l.Blobs().ReadAll(ctx, m.Layers[0], 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	t.Fatalf("no SPDX document among %d artifacts", len(list))
	return nil
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
