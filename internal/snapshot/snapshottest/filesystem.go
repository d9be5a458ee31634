// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package snapshottest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// imageSize is enough for the benchmarks; the file is sparse.
const imageSize = 1 << 30

// FileSystem makes an empty directory on a file system of the kind: "here" for that
// of temporary files, "tmpfs", "overlay", or what mkfs(8) can make, as "ext4". It
// is unmounted at the end of the test. It needs root.
func FileSystem(t testing.TB, kind string) string {
	t.Helper()
	dir := t.TempDir()
	if kind == "here" {
		return dir
	}
	at := filepath.Join(dir, "mnt")
	must(t, os.Mkdir(at, 0o755))
	switch kind {
	case "tmpfs":
		must(t, unix.Mount("tmpfs", at, "tmpfs", 0, ""))
	case "overlay":
		under := FileSystem(t, "tmpfs") // an upper directory cannot lie on an overlay, as temporary files may
		for _, d := range []string{"lower", "upper", "work"} {
			must(t, os.Mkdir(filepath.Join(under, d), 0o755))
		}
		must(t, unix.Mount("overlay", at, "overlay", 0, "lowerdir="+under+"/lower,upperdir="+under+"/upper,workdir="+under+"/work"))
	default:
		image := filepath.Join(dir, "image")
		must(t, os.WriteFile(image, nil, 0o600))
		must(t, os.Truncate(image, imageSize))
		run(t, "mkfs."+kind, image)
		run(t, "mount", "-o", "loop", image, at)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(at, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", at, err)
		}
	})
	out := filepath.Join(at, "state") // without lost+found
	must(t, os.Mkdir(out, 0o755))
	return out
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// run runs a tool, without which the test cannot be done.
func run(t testing.TB, name string, args ...string) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil && os.Getenv("CI") != "true" {
		t.Skip("needs ", name)
	}
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v\n%s", name, args, err, out)
	}
}
