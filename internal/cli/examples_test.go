// SPDX-FileCopyrightText: The stacker authors
// SPDX-License-Identifier: Apache-2.0

package cli_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// followed are examples whose files do not suffice: TestDocs does what their README says.
var followed = []string{"deb-package", "go-service"}

// TestExamples builds every example as a reader would, in a copy.
func TestExamples(t *testing.T) {
	files, err := filepath.Glob("../../examples/*/stacker.yaml")
	if err != nil || len(files) == 0 {
		t.Fatalf("no examples: %v", err)
	}
	program := filepath.Join(os.Getenv(homeVariable), "bin", "stacker")
	for _, f := range files {
		name := filepath.Base(filepath.Dir(f))
		if slices.Contains(followed, name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.CopyFS(filepath.Join(dir, name), os.DirFS(filepath.Dir(f))); err != nil {
				t.Fatal(err)
			}
			if name == "stacker-image" {
				imageFiles(t, filepath.Join(dir, name))
			}
			run := func(args ...string) string {
				cmd := exec.Command(program, args...)
				cmd.Dir = filepath.Join(dir, name)
				cmd.Env = append(os.Environ(), "XDG_DATA_HOME="+filepath.Join(dir, "data"), "HOME="+dir)
				out, err := cmd.CombinedOutput()
				if err != nil {
					t.Fatalf("stacker %s: %v\n%s", strings.Join(args, " "), err, out)
				}
				return string(out)
			}
			t.Cleanup(func() { run("prune", "--all") })
			run("build")
			if out := run("build", "--explain"); strings.Contains(out, "ran, because") {
				t.Errorf("the second build ran steps:\n%s", out)
			}
			if name == "hello" {
				if out := run("chroot", "hello", "/hello"); !strings.Contains(out, "Hello, world!") {
					t.Errorf("chroot hello /hello printed %q", out)
				}
			}
		})
	}
}

// imageFiles puts what examples/stacker-image tells to put beside its build files there.
func imageFiles(t *testing.T, dir string) {
	t.Helper()
	if err := copyFile(filepath.Join(os.Getenv(homeVariable), "bin", "stacker"), filepath.Join(dir, "stacker"), 0o755); err != nil {
		t.Fatal(err)
	}
	const authorities = "/etc/ssl/certs/ca-certificates.crt"
	if err := copyFile(authorities, filepath.Join(dir, filepath.Base(authorities)), 0o644); err != nil {
		need(t, "install ca-certificates: "+err.Error())
	}
}
